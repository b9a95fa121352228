"""Throughput: sentences a second of steps after a warm-up, and where the time of a step goes. Plain PyTorch, no Ray.

What is counted: distinct training sentences of all ranks over wall time of whole training steps (batch, forward,
backward, collective, optimiser), with the device synchronised before and after, and nothing else running in between.
The breakdown comes from further steps, since to time a part is to wait for it.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_bilstm.accelerator import profiler, synchronize
from ray_bilstm.batches import Batch, TrainingSet
from ray_bilstm.collective import average, barrier, copy_from_first, rank, world_size
from ray_bilstm.config import TrainingConfig
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.step import Step, make_step, summed_loss

PHASES = ("data", "forward", "crf", "backward", "idle", "collective", "optimiser")
"""Parts of a step, in order; idle: waiting for the slowest rank."""
PROFILED_STEPS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    warmup_steps: int
    measured_steps: int
    trace: bool = False
    """whether a profiler watches a few further steps of each rank"""


def measure(
    model: BiLstmCrf,
    *,
    train: TrainingSet,
    config: TrainingConfig,
    precision: Precision,
    plan: Plan,
    trace_folder: Path,
) -> dict[str, Any]:
    """Throughput of all ranks together and breakdown of this one; with `plan.trace`, a trace in `trace_folder`."""
    copy_from_first([weight.detach() for weight in model.parameters()])
    precision.prepare(model)
    step = make_step(model, config, precision)
    step.prepare(train)
    model.train()
    batches = _endless(train)

    for batch in itertools.islice(batches, plan.warmup_steps):
        step(batch)
    synchronize(precision.device)
    barrier()
    started, cpu_started, sentences = time.perf_counter(), time.process_time(), 0
    for batch in itertools.islice(batches, plan.measured_steps):
        step(batch)
        sentences += batch.sentences
    synchronize(precision.device)
    barrier()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started

    breakdown = _break_down(step, model, itertools.islice(batches, plan.measured_steps))
    if plan.trace:
        with profiler(precision.device, trace_folder, name=f"rank{rank()}"):
            for batch in itertools.islice(batches, PROFILED_STEPS):
                step(batch)
            synchronize(precision.device)
    return {
        "sentences_per_second": sentences / seconds,
        "warmup_steps": plan.warmup_steps,
        "measured_steps": plan.measured_steps,
        "measured_sentences": sentences,
        "measured_seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "breakdown": breakdown,
    }


def _endless(train: TrainingSet) -> Iterator[Batch]:
    for epoch in itertools.count(1):
        yield from train.batches(epoch)


def _break_down(step: Step, model: BiLstmCrf, batches: Iterator[Batch]) -> dict[str, float]:
    """Mean seconds a step of each phase on this rank, none of them recorded."""
    config, precision = step.config, step.precision
    seconds = dict.fromkeys(PHASES, 0.0)
    steps, last = 0, time.perf_counter()

    def end(phase: str) -> None:
        nonlocal last
        synchronize(precision.device)
        now = time.perf_counter()
        seconds[phase] += now - last
        last = now

    for batch in batches:
        end("data")
        share = world_size() / batch.sentences
        with precision.autocast():
            if config.adversarial:  # it goes forward and backward more than once: no phase of its own
                loss = summed_loss(model, batch, config) * share
                end("forward")
            else:
                emissions_BLT = model.emissions(batch)
                end("forward")
                loss = model.loss(emissions_BLT, batch).sum() * share
                end("crf")
        precision.clear()
        precision.backward(loss)
        end("backward")
        if world_size() > 1:
            barrier()
            end("idle")
            average(precision.gradients())
            end("collective")
        precision.update(step.optimizer, clip_norm=config.clip_norm)
        end("optimiser")
        steps += 1
    return {phase: seconds[phase] / steps for phase in PHASES}
