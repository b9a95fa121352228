"""Raw text -> a language model for taggers to start from (`--init-from`), through the same TorchTrainer as theirs.

The run directory has config.json, history.jsonl, result.json and, in best/, the model directory of the epoch with the
lowest perplexity on the held-out sentences: weights, shape, characters and bigrams.

    pretrain(Config().with_fields(train_epochs=3, dropout=0.1), ["news.txt"])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray.train
from torch import Tensor

from ray_bilstm import checkpoint, collective, language_model, run_directory, tracking, train, worker
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.corpus import Corpus
from ray_bilstm.language_model import LanguageModel
from ray_bilstm.raw_text import read_text
from ray_bilstm.worker import Job, Outcome

Record = dict[str, Any]


def pretrain(
    config: Config,
    texts: Sequence[str | Path],
    *,
    on_start: Callable[[Corpus], None] | None = None,
    on_coverage: Callable[[Record], None] | None = None,
    on_epoch: Callable[[Record], None] | None = None,
) -> tuple[Record, Path]:
    """Train both language models on `texts`. Returns the content of result.json and the run directory.

    `--head`, `--data-dir`, `--scheme`, `--patience` and `--num-layers` (there is one) mean nothing here. The callbacks
    are those of `train.train`, and so is what is raised.
    """
    if config.run.resume:
        raise ConfigError("resume is True: pretraining keeps nothing to go on with; leave it out")
    if config.run.storage_path is not None:
        raise ConfigError("storage_path is set, but pretraining writes to a shared folder: leave it out")
    if config.data.lexicon is not None:
        raise ConfigError("lexicon is set, but a language model reads none: give --lexicon to train")
    config = config.with_fields(num_layers=1, token_dropout=0.0, mention_replacement=0.0, adversarial=0.0)
    with tracking.Trackers(config) as trackers:
        result, job, _ = train.run(
            run_worker,
            config,
            time.time(),
            prefix="pretrain-",
            corpus=read_text(texts),
            trackers=trackers,
            on_start=on_start,
            on_coverage=on_coverage,
            on_epoch=on_epoch,
        )
        run_directory.close_run(job.path, result)
        trackers.finish(job.path, result)
    return result, job.path


def run_worker(settings: dict[str, Any]) -> Outcome:
    """One rank: the training function of the TorchTrainer; `settings` holds a Job."""
    entered = time.time()
    job: Job = settings["job"]
    precision, training, shards = worker.enter(job)
    model = LanguageModel(job.config.model, job.vocab)
    worker.load_start(job, model)
    model.to(precision.device)
    data_seconds = time.time() - entered
    history: list[Record] = []

    def on_epoch(record: Record, weights: dict[str, Tensor]) -> None:
        history.append(record)
        if collective.rank() == 0:
            if record["best"]:
                checkpoint.write_model(job.path / run_directory.BEST, weights, config=job.config, vocab=job.vocab)
            run_directory.write_history(job.path, history)
        ray.train.report({"epoch": record["epoch"], "perplexity": record["held_out"]["perplexity"]})

    language_model.fit(
        model,
        train=training,
        held_out=shards["dev"],
        config=job.config.training,
        precision=precision,
        on_epoch=on_epoch,
    )
    best = min(history, key=lambda record: float(record["held_out"]["perplexity"]))
    return Outcome(
        figures={
            **worker.describe(model, precision),
            "best_epoch": best["epoch"],
            "held_out": best["held_out"],
            "sentences_per_second": worker.throughput(history),
            "peak_memory_bytes": worker.peak_memory(precision.device),
        },
        entered=entered,
        data_seconds=data_seconds,
        train_seconds=sum(record["seconds"]["train"] for record in history),
        evaluation_seconds=sum(record["seconds"]["evaluation"] for record in history),
    )
