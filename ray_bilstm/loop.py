"""The training loop: plain PyTorch, one process or many, no Ray.

`fit` is the story: an epoch of steps, a score on dev, a record, and again. With torch.distributed initialised, every
rank runs it on its own shard: gradients are averaged, counts are added, and all ranks take the same decisions. Random
numbers of an epoch are drawn from (seed, epoch, rank), and an epoch that is left in the middle keeps where they stand,
so that a resumed run repeats what an uninterrupted one would have done.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_bilstm.accelerator import ACCELERATORS, random_state, set_random_state, synchronize
from ray_bilstm.batches import Batch, Shard, TrainingSet, iter_eval_batches
from ray_bilstm.collective import copy_from_first, rank, stack_over_ranks, sum_over_ranks, world_size
from ray_bilstm.config import TrainingConfig
from ray_bilstm.ensemble import Ensemble
from ray_bilstm.frozen import POSITIONS, SENTENCES
from ray_bilstm.metrics import Counts, Scorer
from ray_bilstm.model import BiLstmCrf, frozen
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


class Stopped(Exception):
    """Training was asked to stop, and what it has done is saved."""


class Wish(enum.IntEnum):
    """What is asked of a run when it looks at its losses."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    """save, and stop"""


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
    history: list[Record] = dataclasses.field(default_factory=list)
    """the lines of the epochs done"""
    begun: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """of an epoch that was left in the middle, what its steps so far gave: `losses` (means over ranks), `norms`,
    `seconds` (all, and those measured) and `random`, where the random numbers of each rank stand; else empty"""

    @property
    def steps(self) -> int:
        """steps done of the epoch that comes next"""
        return len(self.begun.get("losses", ()))

    def place(self) -> str:
        """Where it stands, in words."""
        return f"after epoch {self.epoch}" + (f" and {self.steps} steps of the next" if self.steps else "")


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
    watch: Callable[[], Wish] = lambda: Wish.GO_ON,
    on_save: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train up to `config.train_epochs` epochs, from where `progress` stands. `on_epoch` is called on every rank with
    the epoch's line of the history. `watch` says the same on all ranks, before each epoch and every CHECK_EVERY steps;
    `on_save` is called on every rank where it wants an epoch saved in the middle. Raises TrainingError when a loss is
    not finite, and Stopped when `watch` says so."""
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

    def keep_state() -> None:
        progress.weights = precision.state_dict()
        progress.moments = _moments(step.optimizer, names)
        progress.loss_scale = precision.loss_scale.state_dict() if precision.loss_scale else {}

    def on_look(begun: Callable[[], dict[str, Tensor]]) -> None:
        wish = watch()
        if wish is not Wish.GO_ON:
            progress.begun = begun()
            keep_state()
            on_save(progress)
        if wish is Wish.STOP:
            raise Stopped

    while progress.epoch < config.train_epochs and not _out_of_patience(progress, config):
        if watch() is Wish.STOP:
            raise Stopped
        epoch, begun = progress.epoch + 1, progress.begun
        torch.manual_seed(epoch_seed(config.seed, epoch, rank()))
        record = train_epoch(step, train, epoch=epoch, begun=begun, on_look=on_look)
        started = time.perf_counter()
        scores = scorer.scores(evaluate(model, dev, scorer, precision=precision))
        record["seconds"]["evaluation"] = time.perf_counter() - started

        f1 = scores["entity"]["f1"]
        progress.epoch, progress.begun = epoch, {}
        keep_state()
        record["best"] = f1 > progress.best_f1
        if record["best"]:
            progress.best_epoch, progress.best_f1, progress.best_weights = epoch, f1, progress.weights
        record["dev"] = {"entity": scores["entity"], "token": scores["token"]}
        progress.history.append(record)
        on_epoch(record, progress)
    return progress


def train_epoch(
    step: Step,
    train: TrainingSet,
    *,
    epoch: int,
    begun: dict[str, Tensor] | None = None,
    on_look: Callable[[Callable[[], dict[str, Tensor]]], None] | None = None,
) -> Record:
    """One pass over the training sentences; the losses, the learning rate and the throughput of it. An epoch that was
    `begun` goes on; at each look at the losses but the last, `on_look` gets what tells where it stands."""
    step.model.train()
    device = step.precision.device
    skipped = min(WARMUP_STEPS, len(train) // 2) if epoch == 1 else 0
    before = begun or {"losses": torch.empty(0), "norms": torch.empty(0), "seconds": torch.zeros(2)}
    losses, norms = (list(before[name].to(device)) for name in ("losses", "norms"))
    batches = train.batches(epoch)
    sizes = [next(batches).sentences for _ in losses]
    if begun:
        _resume_random(begun["random"], device, seed=(step.config.seed, epoch, rank(), len(losses)))
    synchronize(device)
    started, measured_from = (time.perf_counter() - seconds for seconds in before["seconds"].tolist())

    def tell() -> dict[str, Tensor]:
        now = time.perf_counter()
        return {
            "losses": _mean_losses(before["losses"], losses),
            "norms": torch.stack(norms).cpu(),
            "seconds": torch.tensor([now - started, now - measured_from], dtype=torch.float64),
            "random": stack_over_ranks(random_state(device)),
        }

    for batch in batches:
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
            if on_look and len(losses) < len(train):
                on_look(tell)
    synchronize(device)
    ended = time.perf_counter()
    if len(losses) % CHECK_EVERY:
        _check(losses, norms, len(losses) % CHECK_EVERY, epoch, step.precision)

    mean_losses, weights = _mean_losses(before["losses"], losses), torch.tensor(sizes)
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
    counts = scorer.zero()
    with precision.autocast(), frozen(model):
        for batch in _iter_eval_batches(shard, precision.device):
            predicted_BL = model.decode(batch)
            gold, predicted, lengths = (ids.cpu().numpy() for ids in (batch.tags_BL, predicted_BL, batch.lengths_B))
            mask = np.arange(gold.shape[1]) < lengths[:, None]
            counts = counts + scorer.count(gold[mask], predicted[mask], lengths)
    return scorer.from_array(sum_over_ranks(torch.from_numpy(counts.to_array())).numpy())


def _iter_eval_batches(shard: Shard, device: torch.device) -> Iterator[Batch]:
    accelerator = ACCELERATORS[device.type]
    if device.type == "cpu":
        return iter_eval_batches(shard, batch_size=SENTENCES, positions=POSITIONS)
    shapes = accelerator.padded_lengths if accelerator.fixed_shapes else None
    return iter_eval_batches(shard, batch_size=EVAL_BATCH_SIZE, shapes=shapes)


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


def _mean_losses(before: Tensor, losses: list[Tensor]) -> Tensor:
    """The mean over ranks of each step's loss, of which the first are known already: (S,), on the cpu."""
    return torch.cat([before, sum_over_ranks(torch.stack(losses[len(before) :]).cpu()) / world_size()])


def _resume_random(states: Tensor, device: torch.device, *, seed: tuple[int, ...]) -> None:
    """Random numbers go on where they stood; on another number of ranks, from `seed`."""
    if len(states) == world_size():
        set_random_state(states[rank()], device)
    else:
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


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
