"""One rank of a run, in a process that Ray Train started.

It pulls its shard, runs `loop.fit` and scores the best model, or in a throughput run `perf.measure`. Rank 0 writes the
run directory: the history and both model directories after every epoch. A worker that Ray starts after a failure goes
on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
import ray.util
import torch
from torch import nn

from ray_bilstm import accelerator, collective, dataset, loop, perf, run_directory, saving, start, storage, stream
from ray_bilstm.accelerator import Accelerator
from ray_bilstm.backend import assigned_devices
from ray_bilstm.batches import Shard, TrainingSet
from ray_bilstm.config import Config
from ray_bilstm.mentions import MentionReplacement
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.storage import Storage
from ray_bilstm.vocab import Vocab
from ray_bilstm.watch import Watch

Record = dict[str, Any]


class Teaching(NamedTuple):
    """A teacher, and what it says of train."""

    described: Record
    """part of result.json"""
    counts: ray.ObjectRef
    """of `teacher.Counts`"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What the driver tells its workers."""

    config: Config
    path: Path
    """run directory, which rank 0 and the driver both reach, or else `storage`"""
    accelerator: Accelerator
    threads: int
    vocab: Vocab
    """of train: the model's"""
    tags: tuple[str, ...]
    """of all splits: dev and test may hold tags that the model cannot give"""
    lengths: dict[str, np.ndarray]
    """tokens of each sentence, by split"""
    window: int | None
    """sentences of a window of train, which is then streamed from disk"""
    started: bool = False
    """whether the driver left weights to start from"""
    plan: perf.Plan | None = None
    """of a throughput run"""
    teaching: Teaching | None = None
    storage: Storage | None = None
    """where rank 0 puts what it saves, if `path` is the driver's alone"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What rank 0 tells the driver when it has ended."""

    figures: Record
    """parts of result.json"""
    entered: float
    """time at which the worker began, in seconds since 1970"""
    data_seconds: float
    train_seconds: float
    evaluation_seconds: float


def run(settings: dict[str, Any]) -> Outcome | None:
    """The training function of the TorchTrainer; `settings` holds a Job. None where the run was asked to stop."""
    entered = time.time()
    with _own_folder(settings["job"]) as job:
        return _run(job, entered)


def _run(job: Job, entered: float) -> Outcome | None:
    precision, training, shards = enter(job)
    device = precision.device
    model = BiLstmCrf(job.config.model, job.vocab)
    load_start(job, model)
    model.to(device)
    if job.plan:
        data_seconds = time.time() - entered
        measured = perf.measure(
            model,
            train=training,
            config=job.config.training,
            precision=precision,
            plan=job.plan,
            trace_folder=job.path / run_directory.TRACE,
        )
        return Outcome(
            figures={**describe(model, precision), **measured, "peak_memory_bytes": peak_memory(device)},
            entered=entered,
            data_seconds=data_seconds,
            train_seconds=measured["measured_seconds"],
            evaluation_seconds=0.0,
        )
    scorer = Scorer(job.tags, job.vocab.scheme)
    progress = saving.take_up(job.path, config=job.config, vocab=job.vocab)
    _put(job)
    data_seconds = time.time() - entered

    def on_save(progress: loop.Progress) -> None:
        if collective.rank() == 0:
            saving.save(job.path, progress, config=job.config, vocab=job.vocab)
            _put(job)

    def on_epoch(record: Record, progress: loop.Progress) -> None:
        on_save(progress)
        ray.train.report(
            {
                "epoch": record["epoch"],
                "dev_entity_f1": record["dev"]["entity"]["f1"],
                "placement_group": ray.util.get_current_placement_group().id.hex(),
            }
        )

    try:
        loop.fit(
            model,
            train=training,
            dev=shards["dev"],
            scorer=scorer,
            config=job.config.training,
            precision=precision,
            progress=progress,
            on_epoch=on_epoch,
            watch=_watch(job, progress),
            on_save=on_save,
        )
    except loop.Stopped:
        return None
    started, history = time.time(), progress.history
    precision.load_state_dict(progress.best_weights)
    counts = {split: loop.evaluate(model, shard, scorer, precision=precision) for split, shard in shards.items()}
    return Outcome(
        figures={
            **describe(model, precision),
            "num_workers": collective.world_size(),
            "best_epoch": progress.best_epoch,
            "epochs_run": progress.epoch,
            **{split: scorer.scores(count) for split, count in counts.items()},
            "sentences_per_second": throughput(history),
            "peak_memory_bytes": peak_memory(device),
        },
        entered=entered,
        data_seconds=data_seconds,
        train_seconds=sum(record["seconds"]["train"] for record in history),
        evaluation_seconds=sum(record["seconds"]["evaluation"] for record in history) + time.time() - started,
    )


@contextlib.contextmanager
def _own_folder(job: Job) -> Iterator[Job]:
    """Where the run is kept in a storage, `job` in a folder of this process's own, which rank 0 begins with what is
    there; under Ray's own folder of the worker, so that it goes with Ray where the process is killed."""
    if job.storage is None:
        yield job
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        own = Path(folder)
        if collective.rank() == 0:
            job.storage.pull(own, run_directory.LAST, run_directory.BEST, run_directory.HISTORY, run_directory.START)
            job.storage.pull(own, run_directory.EVENTS, under=storage.WORKER)
        yield dataclasses.replace(job, path=own)


def _put(job: Job) -> None:
    """Rank 0's part of the run, into its storage, if it has one: last/ first."""
    if job.storage and collective.rank() == 0:
        job.storage.push(job.path, run_directory.LAST, run_directory.BEST, run_directory.HISTORY)
        job.storage.push(job.path, run_directory.EVENTS, under=storage.WORKER)


def enter(job: Job) -> tuple[Precision, TrainingSet, dict[str, Shard]]:
    """Prepare this process and its device, pull this rank's part of the data, and seed the random numbers."""
    torch.set_num_threads(job.threads)
    accelerator.keep_freed_memory()
    device = accelerator.worker_device(job.accelerator, assigned_devices(job.accelerator))
    precision = _precision(job, device)
    training, shards = _pull(job, device)
    torch.manual_seed(job.config.training.seed)
    return precision, training, shards


def load_start(job: Job, model: nn.Module) -> None:
    """What the driver found outside, on rank 0, of which the others copy."""
    if job.started and collective.rank() == 0:
        start.load_start(job.path / run_directory.START, model)


def describe(model: nn.Module, precision: Precision) -> Record:
    """What computes, as result.json says it."""
    return {
        "device_name": accelerator.device_name(precision.device),
        "dtype": str(precision.dtype).removeprefix("torch."),
        "lstm_dtype": str(precision.dtype if precision.half_lstm else torch.float32).removeprefix("torch."),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes, of the rank that held most."""
    return int(collective.max_over_ranks(torch.tensor(accelerator.peak_memory_bytes(device))))


def _precision(job: Job, device: torch.device) -> Precision:
    run, half = job.config.run, torch.float32
    if run.amp_opt_level != "O0":
        half = accelerator.half_dtype(job.accelerator, run.amp_dtype)
    half_lstm = accelerator.half_lstm(job.accelerator, run.lstm_dtype, half, level=run.amp_opt_level)
    return Precision(run.amp_opt_level, dtype=half, device=device, half_lstm=half_lstm)


def _pull(job: Job, device: torch.device) -> tuple[TrainingSet, dict[str, Shard]]:
    """This rank's part of train, and of dev and test."""
    training = job.config.training
    training_set = TrainingSet(
        _windows(job, device),
        job.lengths["train"],
        batch_size=training.batch_size,
        seed=training.seed,
        rank=collective.rank(),
        world_size=collective.world_size(),
        window=job.window,
        shapes=job.accelerator.padded_lengths,
        fixed_rows=job.accelerator.fixed_shapes,
        augment=_augmentation(job),
        token_dropout=training.token_dropout,
    )
    return training_set, {split: _pull_split(job, split, device) for split in job.lengths if split != "train"}


def _augmentation(job: Job) -> MentionReplacement | None:
    share = job.config.training.mention_replacement
    return MentionReplacement(job.vocab, share) if share else None


def _windows(job: Job, device: torch.device) -> Callable[[], Iterable[Shard]]:
    """This rank's part of train: read from disk in each epoch, or held as one window."""
    if job.window:
        return partial(
            stream.iter_windows,
            job.path / run_directory.STREAM,
            job.lengths["train"],
            window=job.window,
            rank=collective.rank(),
            world_size=collective.world_size(),
            device=device,
        )
    shard = _pull_split(job, "train", device)
    if job.teaching:
        own = ray.get(job.teaching.counts).of(shard.rows, job.lengths["train"])
        shard = shard.with_lessons(*own, weight=job.config.training.teacher_weight)
    return lambda: [shard]


def _pull_split(job: Job, split: str, device: torch.device) -> Shard:
    iterator = ray.train.get_dataset_shard(split)
    rank, world_size = collective.rank(), collective.world_size()
    return dataset.pull_shard(iterator, job.lengths[split], rank=rank, world_size=world_size, device=device)


def _watch(job: Job, progress: loop.Progress) -> Watch:
    asked = job.storage.asked_to_stop() if job.storage else partial(run_directory.is_asked_to_stop, job.path)

    def stop() -> bool:
        enough = job.config.run.stop_after is not None and progress.epoch >= job.config.run.stop_after
        return enough or (collective.rank() == 0 and asked())

    told: list[int] = []

    def draining() -> bool:
        info = ray.train.get_preemption_info()
        if info and collective.rank() == 0 and info.preempted_ranks != told:
            told[:] = info.preempted_ranks
            names = ", ".join(map(str, told))
            run_directory.write_event(job.path, f"the node of worker {names} is to be taken away: saving as it goes")
        return info is not None

    return Watch(stop=stop, draining=draining)


def throughput(history: list[Record]) -> float:
    """Sentences over seconds of all measured steps."""
    sentences = sum(record["measured_sentences"] for record in history)
    seconds = sum(record["measured_sentences"] / record["sentences_per_second"] for record in history)
    return float(sentences / seconds)
