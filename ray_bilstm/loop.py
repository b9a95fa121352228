"""The training loop: plain PyTorch, one process or many, no Ray.

`fit` is the story: an epoch of steps, a score on dev, a record, and again. With torch.distributed initialised, every
rank runs it on its own shard: gradients are averaged by DistributedDataParallel, counts are added, and all ranks take
the same decisions. Random numbers of an epoch are drawn from (seed, epoch, rank), so that a resumed run repeats what
an uninterrupted one would have done.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ray_bilstm.accelerator import synchronize
from ray_bilstm.batches import Shard, TrainingSet, iter_eval_batches
from ray_bilstm.config import TrainingConfig
from ray_bilstm.metrics import Counts, Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision

WARMUP_STEPS = 10
"""First steps of a run that its sentences a second leave out: memory is claimed and kernels are chosen in them."""
CHECK_EVERY = 50
"""Steps between two looks at the losses; each look waits for the device."""
EVAL_BATCH_SIZE = 128

Record = dict[str, Any]


class TrainingError(RuntimeError):
    """Training cannot go on."""


@dataclasses.dataclass(kw_only=True)
class Progress:
    """Where a run stands: all that a later process needs to go on with it."""

    epoch: int = 0
    """epochs done"""
    best_epoch: int = 0
    best_f1: float = -1.0
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """float32 weights after `epoch`, on the cpu"""
    best_weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    moments: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """the optimiser's state, as `NAME.exp_avg`, `NAME.exp_avg_sq` and `NAME.step`"""


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of `values` over all ranks, on each of them."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest `value` of all ranks, on each of them."""
    if world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def fit(
    model: BiLstmCrf,
    *,
    train: TrainingSet,
    dev: Shard,
    scorer: Scorer,
    config: TrainingConfig,
    precision: Precision,
    progress: Progress,
    on_epoch: Callable[[Record, Progress], None],
) -> Progress:
    """Train up to `config.train_epochs` epochs, from where `progress` stands. `on_epoch` is called on every rank with
    the epoch's line of the history. Raises TrainingError when a loss is not finite."""
    precision.prepare(model)
    if progress.weights:
        precision.load_state_dict(progress.weights)
    trained = precision.trained()
    optimizer = torch.optim.AdamW(
        trained, lr=0.0, weight_decay=config.weight_decay, fused=precision.device.type in ("cpu", "cuda")
    )
    names = [name for name, (_, master) in precision.weights.items() if master.requires_grad]
    _load_moments(optimizer, names, progress.moments)
    forward = DistributedDataParallel(model) if world_size() > 1 else model

    while progress.epoch < config.train_epochs and not _out_of_patience(progress, config):
        epoch = progress.epoch + 1
        torch.manual_seed(_epoch_seed(config.seed, epoch, rank()))
        record = train_epoch(forward, train, optimizer, epoch=epoch, config=config, precision=precision)
        started = time.perf_counter()
        scores = scorer.scores(evaluate(model, dev, scorer, precision=precision))
        record["seconds"]["evaluation"] = time.perf_counter() - started

        f1 = scores["entity"]["f1"]
        progress.epoch = epoch
        progress.weights = precision.state_dict()
        progress.moments = _moments(optimizer, names)
        record["best"] = f1 > progress.best_f1
        if record["best"]:
            progress.best_epoch, progress.best_f1, progress.best_weights = epoch, f1, progress.weights
        record["dev"] = {"entity": scores["entity"], "token": scores["token"]}
        on_epoch(record, progress)
    return progress


def train_epoch(
    forward: nn.Module,
    train: TrainingSet,
    optimizer: torch.optim.Optimizer,
    *,
    epoch: int,
    config: TrainingConfig,
    precision: Precision,
) -> Record:
    """One pass over the training sentences; the losses, the learning rate and the throughput of it."""
    forward.train()
    device, world = precision.device, world_size()
    skipped = min(WARMUP_STEPS, len(train) // 2) if epoch == 1 else 0
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    sizes: list[int] = []
    synchronize(device)
    started = measured_from = time.perf_counter()
    for batch in train.batches(epoch):
        if len(losses) == skipped and skipped:
            synchronize(device)
            measured_from = time.perf_counter()
        learning_rate = _set_learning_rate(optimizer, (epoch - 1) * len(train) + len(losses), len(train), config)
        with precision.autocast():
            # Gradients are averaged over ranks: this way the average is that of the mean loss of the global batch.
            loss = forward(batch).sum() * (world / batch.sentences)
        norms.append(precision.step(loss, optimizer, clip_norm=config.clip_norm))
        losses.append(loss.detach())
        sizes.append(batch.sentences)
        if len(losses) % CHECK_EVERY == 0:
            _check_finite(losses, CHECK_EVERY, epoch)
    synchronize(device)
    ended = time.perf_counter()
    _check_finite(losses, len(losses) % CHECK_EVERY, epoch)

    mean_losses = sum_over_ranks(torch.stack(losses)).cpu() / world
    return {
        "epoch": epoch,
        "train_loss": float((mean_losses * torch.tensor(sizes)).sum() / sum(sizes)),
        "learning_rate": learning_rate,
        "gradient_norm": float(torch.stack(norms).nanmean()),
        "steps": len(losses),
        "first_step_loss": float(mean_losses[0]),
        "measured_sentences": sum(sizes[skipped:]),
        "sentences_per_second": sum(sizes[skipped:]) / (ended - measured_from),
        "seconds": {"train": ended - started},
    }


@torch.no_grad()
def evaluate(model: BiLstmCrf, shard: Shard, scorer: Scorer, *, precision: Precision) -> Counts:
    """Counts over all ranks' shards; every sentence counts once, however many ranks there are."""
    model.eval()
    counts = scorer.zero()
    for batch in iter_eval_batches(shard, batch_size=EVAL_BATCH_SIZE):
        with precision.autocast():
            predicted_BL = model.decode(batch)
        gold, predicted, lengths = (ids.cpu().numpy() for ids in (batch.tags_BL, predicted_BL, batch.lengths_B))
        mask = np.arange(gold.shape[1]) < lengths[:, None]
        counts = counts + scorer.count(gold[mask], predicted[mask], lengths)
    total = sum_over_ranks(torch.from_numpy(counts.to_array()).to(precision.device))
    return scorer.from_array(total.cpu().numpy())


def _set_learning_rate(optimizer: torch.optim.Optimizer, step: int, epoch_steps: int, config: TrainingConfig) -> float:
    """A linear rise over the warm-up, then half a cosine down to 0 at the end of the last epoch."""
    steps = epoch_steps * config.train_epochs
    warmup = round(config.warmup * steps)
    falling = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
    share = (step + 1) / warmup if step < warmup else falling
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * share
    return config.learning_rate * share


def _check_finite(losses: list[Tensor], count: int, epoch: int) -> None:
    """Look at the last `count` losses."""
    if not count:
        return
    finite = torch.isfinite(torch.stack(losses[-count:])).tolist()
    if not all(finite):
        step = len(losses) - count + finite.index(False) + 1
        raise TrainingError(
            f"the loss is not finite at epoch {epoch}, step {step}: got {float(losses[step - 1])}."
            " The last checkpoint is sound. Lower --learning-rate, or use --amp-opt-level O0"
        )


def _out_of_patience(progress: Progress, config: TrainingConfig) -> bool:
    return 0 < config.patience <= progress.epoch - progress.best_epoch


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


def _moments(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    named = ((f"{names[i]}.{kind}", value) for i, values in state.items() for kind, value in values.items())
    return {name: value.to("cpu", copy=True) for name, value in named}


def _load_moments(optimizer: torch.optim.Optimizer, names: list[str], moments: dict[str, Tensor]) -> None:
    if moments:
        kinds = ("step", "exp_avg", "exp_avg_sq")
        state = {i: {kind: moments[f"{name}.{kind}"] for kind in kinds} for i, name in enumerate(names)}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
