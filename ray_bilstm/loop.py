"""The training loop: plain PyTorch, one process or many, no Ray.

`fit` is the story: an epoch of steps, a score on dev, a record, and again. With torch.distributed initialised, every
rank runs it on its own shard: gradients are averaged, counts are added, and all ranks take the same decisions. Random
numbers of an epoch are drawn from (seed, epoch, rank), so that a resumed run repeats what an uninterrupted one would
have done.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_bilstm.accelerator import ACCELERATORS, synchronize
from ray_bilstm.batches import Shard, TrainingSet, iter_eval_batches
from ray_bilstm.collective import copy_from_first, rank, sum_over_ranks, world_size
from ray_bilstm.config import TrainingConfig
from ray_bilstm.ensemble import Ensemble
from ray_bilstm.metrics import Counts, Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.step import Step, make_step

WARMUP_STEPS = 10
"""First steps of a run that its sentences a second leave out: memory is claimed and kernels are chosen in them."""
CHECK_EVERY = 50
"""Steps between two looks at the losses; each look waits for the device."""
EVAL_BATCH_SIZE = 64

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
    loss_scale: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """`scale` and `good_steps` of a dynamic loss scale; empty without one"""


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
    copy_from_first([weight.detach() for weight in model.parameters()])
    precision.prepare(model)
    if progress.weights:
        precision.load_state_dict(progress.weights)
    step = make_step(model, config, precision)
    names = [name for name, (_, master) in precision.weights.items() if master.requires_grad]
    _load_moments(step.optimizer, names, progress.moments)
    if precision.loss_scale:
        precision.loss_scale.load_state_dict(progress.loss_scale)
    step.prepare(train)

    while progress.epoch < config.train_epochs and not _out_of_patience(progress, config):
        epoch = progress.epoch + 1
        torch.manual_seed(epoch_seed(config.seed, epoch, rank()))
        record = train_epoch(step, train, epoch=epoch)
        started = time.perf_counter()
        scores = scorer.scores(evaluate(model, dev, scorer, precision=precision))
        record["seconds"]["evaluation"] = time.perf_counter() - started

        f1 = scores["entity"]["f1"]
        progress.epoch = epoch
        progress.weights = precision.state_dict()
        progress.moments = _moments(step.optimizer, names)
        progress.loss_scale = precision.loss_scale.state_dict() if precision.loss_scale else {}
        record["best"] = f1 > progress.best_f1
        if record["best"]:
            progress.best_epoch, progress.best_f1, progress.best_weights = epoch, f1, progress.weights
        record["dev"] = {"entity": scores["entity"], "token": scores["token"]}
        on_epoch(record, progress)
    return progress


def train_epoch(step: Step, train: TrainingSet, *, epoch: int) -> Record:
    """One pass over the training sentences; the losses, the learning rate and the throughput of it."""
    step.model.train()
    device, world = step.precision.device, world_size()
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
        learning_rate = scheduled((epoch - 1) * len(train) + len(losses), len(train), step.config)
        step.set_learning_rate(learning_rate)
        loss, norm = step(batch)
        losses.append(loss)
        norms.append(norm)
        sizes.append(batch.sentences)
        if len(losses) % CHECK_EVERY == 0:
            _check(losses, norms, CHECK_EVERY, epoch, step.precision)
    synchronize(device)
    ended = time.perf_counter()
    if len(losses) % CHECK_EVERY:
        _check(losses, norms, len(losses) % CHECK_EVERY, epoch, step.precision)

    mean_losses, weights = sum_over_ranks(torch.stack(losses).cpu()) / world, torch.tensor(sizes)
    counted, norm = mean_losses.isfinite(), torch.stack(norms).cpu()
    taken = norm[norm.isfinite()]
    return {
        "epoch": epoch,
        "train_loss": float((mean_losses * weights)[counted].sum() / weights[counted].sum().clamp(min=1)),
        "learning_rate": learning_rate,
        "gradient_norm": float(taken.mean()) if len(taken) else 0.0,
        "steps": len(losses),
        "skipped_steps": len(norm) - len(taken),
        "first_step_loss": float(mean_losses[0]) if counted[0] else None,
        "measured_sentences": sum(sizes[skipped:]),
        "sentences_per_second": sum(sizes[skipped:]) / (ended - measured_from),
        "seconds": {"train": ended - started},
    }


@torch.no_grad()
def evaluate(model: BiLstmCrf | Ensemble, shard: Shard, scorer: Scorer, *, precision: Precision) -> Counts:
    """Counts over all ranks' shards; every sentence counts once, however many ranks there are."""
    model.eval()
    counts = scorer.zero()
    accelerator = ACCELERATORS[precision.device.type]
    shapes = accelerator.padded_lengths if accelerator.fixed_shapes else None
    for batch in iter_eval_batches(shard, batch_size=EVAL_BATCH_SIZE, shapes=shapes):
        with precision.autocast():
            predicted_BL = model.decode(batch)
        gold, predicted, lengths = (ids.cpu().numpy() for ids in (batch.tags_BL, predicted_BL, batch.lengths_B))
        mask = np.arange(gold.shape[1]) < lengths[:, None]
        counts = counts + scorer.count(gold[mask], predicted[mask], lengths)
    return scorer.from_array(sum_over_ranks(torch.from_numpy(counts.to_array())).numpy())


def scheduled(step: int, epoch_steps: int, config: TrainingConfig) -> float:
    """The learning rate of a step, counted from the start of training: a linear rise over the warm-up, then half a
    cosine down to 0 at the end of the last epoch."""
    steps = epoch_steps * config.train_epochs
    warmup = round(config.warmup * steps)
    falling = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
    share = (step + 1) / warmup if step < warmup else falling
    return config.learning_rate * share


def _check(losses: list[Tensor], norms: list[Tensor], count: int, epoch: int, precision: Precision) -> None:
    """Look at the last `count` steps: all finite, or with a loss scale, which skips those that are not, some."""
    loss_finite, norm_finite = (torch.isfinite(torch.stack(values[-count:])).cpu() for values in (losses, norms))
    finite = loss_finite & norm_finite
    advice = "The last checkpoint is sound. Lower --learning-rate, or use --amp-opt-level O0"
    if precision.loss_scale:
        may_recover = (
            bool(loss_finite.any()) and epoch == 1 and count < CHECK_EVERY
        )  # while a dynamic scale still falls
        if not finite.any() and not may_recover:
            raise TrainingError(
                f"all of the last {count} steps up to epoch {epoch}, step {len(losses)}, overflowed float16, at a loss"
                f" scale of {float(precision.loss_scale.scale):g}. {advice}"
            )
    elif not finite.all():
        place = len(losses) - count + finite.tolist().index(False)
        what, got = ("loss", losses[place]) if not torch.isfinite(losses[place]) else ("gradient", norms[place])
        raise TrainingError(f"the {what} is not finite at epoch {epoch}, step {place + 1}: got {float(got)}. {advice}")


def _out_of_patience(progress: Progress, config: TrainingConfig) -> bool:
    return 0 < config.patience <= progress.epoch - progress.best_epoch


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """What the random numbers of an epoch are drawn from."""
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
