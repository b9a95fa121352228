"""Config -> Ray Train's TorchTrainer -> result.

The driver does what needs doing once: it reads the corpus, encodes it through Ray Data, works out what each worker may
claim, starts the trainer, passes on the history as it grows, and writes the result last. The workers: `worker.py`.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train

from ray_bilstm import (
    attend,
    card,
    checkpoint,
    cluster,
    dataset,
    ending,
    perf,
    review,
    run_directory,
    start,
    storage,
    stream,
    teacher,
    tracking,
    worker,
)
from ray_bilstm.config import Config, ConfigError, DataConfig
from ray_bilstm.corpus import Corpus, Sentence, read_corpus
from ray_bilstm.failures import Failures, explain
from ray_bilstm.launch import connect, fit_to_cluster, make_trainer
from ray_bilstm.sample import sample_corpus
from ray_bilstm.start import Start
from ray_bilstm.vocab import Vocab
from ray_bilstm.worker import Job, Outcome, Teaching

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """What the runs of a search have in common, made once before the first of them starts."""

    corpus: Corpus
    start: Start | None
    """what each starts from"""
    datasets: dict[str, ray.data.Dataset]
    """the splits, encoded"""
    claim: cluster.Claim
    """of a worker, small enough that runs at the same time fit side by side"""
    teaching: Teaching | None = None


def train(
    config: Config,
    *,
    shared: Shared | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
    on_start: Callable[[Corpus], None] | None = None,
    on_coverage: Callable[[Record], None] | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    on_event: Callable[[str], None] | None = None,
) -> tuple[Record, Path]:
    """Train, select on dev, score on test. Returns the content of result.json and the run directory.

    `on_start` gets the corpus before training, `on_coverage` what knowledge from outside covers of it, where some was
    asked for, `on_epoch` each line of the history, `on_event` what interrupts the run and how it goes on, all in the
    calling thread. Ctrl-C and SIGTERM, and `--stop-after`, save all that was done and raise RunStopped.
    A run of a search gets what it has in `shared` with others, and `callbacks` that run beside Ray Train's controller.
    Raises CorpusError, ConfigError, ClusterError, AcceleratorError, RunError, TrainingError, EmbeddingsError or
    CheckpointError, with a sentence each.
    """
    started = time.time()
    if config.run.output_dir is not None and config.run.resume:
        given = run_directory.choose_path(config.run.output_dir, "")
        kept = storage.fetch(config, given)
        if run_directory.is_finished(given):
            run_directory.check_free(given, config)
            if kept:
                kept.push_all(given)  # what may not have got there when the run ended
            if on_event:
                on_event(f"{given} holds a finished run: nothing to resume, nothing changed")
            return run_directory.read_result(given), given
    with tracking.Trackers(config) as trackers:
        result, job, corpus = run(
            worker.run,
            config,
            started,
            shared=shared,
            callbacks=callbacks,
            trackers=trackers,
            on_start=on_start,
            on_coverage=on_coverage,
            on_epoch=on_epoch,
            on_event=on_event,
        )
        result["events"] = run_directory.read_events(job.path)
        text = card.render_card(result, job.config.to_dict())
        try:
            for model in (run_directory.BEST, run_directory.LAST):
                checkpoint.write_file(job.path / model / checkpoint.CARD, text)
            evaluation = review.review(job.path, corpus, threads=job.threads)
            ending.finish(job, result, "python -m ray_bilstm train", evaluation)
        except OSError as error:
            raise run_directory.RunError(
                f"{job.path}: the result cannot be written: {error.strerror or error}: make room, then --resume"
            ) from error
        trackers.finish(job.path, result)
        if job.storage:
            job.storage.push_all(job.path)
            if on_event:
                on_event(f"kept at {job.storage} too")
    return result, job.path


def measure(
    config: Config, plan: perf.Plan, *, on_start: Callable[[Corpus], None] | None = None
) -> tuple[Record, Path]:
    """Throughput of training steps, and where their time goes (see `perf.py`); nothing is scored, no model is kept.

    Returns the content of result.json and the run directory, whose `trace/` has what the profiler saw, if it was asked
    to look. Raises what `train` raises.
    """
    if config.run.resume:
        raise ConfigError("resume is True: a throughput run keeps nothing to go on with; leave it out")
    if config.run.storage_path is not None:
        raise ConfigError("a throughput run keeps nothing: leave --storage-path out")
    if config.run.tensorboard or config.run.mlflow is not None:
        raise ConfigError("a throughput run has no epochs to tell of: leave --tensorboard and --mlflow out")
    result, job, _ = run(worker.run, config, time.time(), prefix="perf-", plan=plan, on_start=on_start)
    ending.finish(job, result, "python jobs/perf_1p.py")
    return result, job.path


def run(
    function: Callable[[dict[str, Any]], Outcome | None],
    config: Config,
    started: float,
    *,
    prefix: str = "",
    corpus: Corpus | None = None,
    plan: perf.Plan | None = None,
    shared: Shared | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
    trackers: tracking.Trackers | None = None,
    on_start: Callable[[Corpus], None] | None = None,
    on_coverage: Callable[[Record], None] | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    on_event: Callable[[str], None] | None = None,
) -> tuple[Record, Job, Corpus]:
    """Read, connect, encode, run `function` on the workers.

    Returns the content of result.json, what the workers were told, and the corpus, which is that of the settings by
    default; `prefix` begins the name of a run directory that is not given; `trackers` are told of its epochs.
    """
    if config.run.output_dir is not None:  # a default path is new; a given one is looked at before the work begins
        run_directory.check_free(run_directory.choose_path(config.run.output_dir, ""), config)
    corpus = shared.corpus if shared else corpus or load_corpus(config.data)
    if on_start:
        on_start(corpus)
    begin = shared.start if shared else start.read_start(config, corpus)
    vocab = start.make_vocab(corpus, begin, config)
    outside = start.coverage(begin, vocab, corpus, config)
    covered = {"outside": outside} if outside else {}
    if outside and on_coverage:
        on_coverage(outside)
    read = time.time()
    connect(config)
    chosen, claim, config = fit_to_cluster(config)
    claim = shared.claim if shared else claim
    name = f"{config.run.num_workers}p-{chosen.name}"
    path = run_directory.choose_path(config.run.output_dir, prefix + name)
    run_directory.open_run(path, config)
    kept = storage.open_storage(config, path)
    if trackers:
        trackers.begin(path, config)
    connected = time.time()

    if config.run.resume and run_directory.can_resume(path):
        run_directory.check_same_vocab(path, vocab)
    scored = vocab.with_tags_of([*corpus.dev, *corpus.test])
    splits = [(split, part) for split, part in corpus.splits.items() if part]
    lengths = {split: np.array([len(sentence.tokens) for sentence in part], np.int32) for split, part in splits}
    job = Job(
        config=config,
        path=path,
        accelerator=chosen,
        threads=claim.threads,
        vocab=vocab,
        tags=scored.tags,
        lengths=lengths,
        window=stream.plan_window(lengths["train"], config),
        started=begin is not None,
        plan=plan,
        teaching=shared.teaching if shared else ask_teacher(config, vocab, corpus.train, lengths["train"]),
        storage=kept,
    )
    if job.window and kept:
        raise ConfigError("storage_path: workers stream a training set from a shared folder; raise --shard-memory")
    if job.window and config.run.min_workers:
        raise ConfigError(
            "min_workers: a training set that is streamed is written for one number of workers; give that one alone,"
            " or raise --shard-memory"
        )
    try:
        if begin:
            start.write_start(path / run_directory.START, begin, vocab)
            if kept:
                kept.push(path, run_directory.START)
        if job.window:
            _write_stream(job, corpus.train, scored, job.window)
        datasets = shared.datasets if shared else encode(corpus, scored, without_train=bool(job.window))
        encoded = time.time()
        on_line = _each_of(trackers.epoch if trackers else None, on_epoch)
        outcome = _run_workers(function, job, claim, datasets, callbacks, on_line, on_event)
    finally:
        for name in (run_directory.STREAM, run_directory.START, run_directory.STOP):
            (path / name).unlink(missing_ok=True)
        if kept:
            kept.remove(run_directory.START, run_directory.STOP, storage.WORKER + run_directory.EVENTS)

    seconds = {
        "startup": connected - read + outcome.entered - encoded,
        "data": read - started + encoded - connected + outcome.data_seconds,
        "train": outcome.train_seconds,
        "evaluation": outcome.evaluation_seconds,
        "total": time.time() - started,
    }
    first_step = {"first_step_at": outcome.entered + outcome.data_seconds}  # in seconds since 1970
    return ending.describe(job, corpus) | covered | outcome.figures | {"seconds": seconds} | first_step, job, corpus


def _each_of(*functions: Callable[[Record], None] | None) -> Callable[[Record], None]:
    def call(record: Record) -> None:
        for function in functions:
            if function:
                function(record)

    return call


def load_corpus(data: DataConfig) -> Corpus:
    """The corpus of the settings. Raises CorpusError."""
    return sample_corpus() if data.data_dir is None else read_corpus(data.data_dir, scheme=data.scheme)


def encode(corpus: Corpus, vocab: Vocab, *, without_train: bool = False) -> dict[str, ray.data.Dataset]:
    """The splits, through Ray Data; `vocab` knows the tags of all of them."""
    left_out = "train" if without_train else ""
    splits = {split: part for split, part in corpus.splits.items() if part and split != left_out}
    return {split: dataset.make_dataset(sentences, vocab) for split, sentences in splits.items()}


def ask_teacher(config: Config, vocab: Vocab, sentences: Sequence[Sentence], lengths: np.ndarray) -> Teaching | None:
    """The teacher of `config`, if it has one, and what it says of the training sentences, in Ray's object store.

    Raises what `teacher.read_teacher` raises.
    """
    if config.data.teacher is None:
        return None
    model, own = teacher.read_teacher(config, vocab, lengths)
    return Teaching(teacher.describe(config), ray.put(teacher.teach(model, own, sentences)))


def _write_stream(job: Job, sentences: Sequence[Sentence], vocab: Vocab, window: int) -> None:
    """Train, where it is larger than the workers may hold, on disk."""
    path, lengths_N, workers = job.path / run_directory.STREAM, job.lengths["train"], job.config.run.num_workers
    try:
        stream.write_windows(path, sentences, vocab, lengths_N, window=window, world_size=workers)
    except OSError as error:
        expected = "room there for a training set larger than --shard-memory"
        raise run_directory.RunError(f"{path}: got {error.strerror or error}, expected {expected}") from error


def _run_workers(
    function: Callable[[dict[str, Any]], Outcome | None],
    job: Job,
    claim: cluster.Claim,
    datasets: dict[str, ray.data.Dataset],
    callbacks: Sequence[ray.train.UserCallback],
    on_epoch: Callable[[Record], None] | None,
    on_event: Callable[[str], None] | None,
) -> Outcome:
    """Fit a TorchTrainer; what rank 0 returns. Raises TrainingError, or RunStopped where it returns nothing."""
    folder, run = job.path / ".ray", job.config.run
    few, most = run.min_workers, run.max_failures
    trainer = make_trainer(
        function,
        {"job": job},
        chosen=job.accelerator,
        num_workers=(few, run.num_workers) if few else run.num_workers,
        claim=claim,
        storage=folder,
        callbacks=[*callbacks, Failures(job.path, most=most)],
        max_failures=most,
        datasets=datasets,
        dataset_config=dataset.whole_dataset_config(),
    )
    try:
        outcome: Outcome | None = attend.fit(
            trainer,
            job.path,
            stoppable=function is worker.run and job.plan is None,
            on_epoch=on_epoch,
            on_event=on_event,
            sync=storage.Exchange(job.storage, job.path) if job.storage else None,
        )
    except ray.train.TrainingFailedError as error:
        raise explain(error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome or attend.stopped(job.path)
