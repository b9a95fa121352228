"""How a run is told when it has ended: what ran, for result.json, the report, and the command that repeats it."""

from __future__ import annotations

import logging
import platform
import shlex
from collections.abc import Collection
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

import ray_bilstm
from ray_bilstm import checkpoint, report, run_directory
from ray_bilstm.config import Config, iter_flags
from ray_bilstm.corpus import Corpus

if TYPE_CHECKING:
    from ray_bilstm.worker import Job

logger = logging.getLogger(__name__)


def describe(job: Job, corpus: Corpus) -> dict[str, Any]:
    """What ran, as result.json says it."""
    config, training = job.config, job.config.training
    return {
        "name": f"{config.run.num_workers}p-{job.accelerator.name}",
        "device": job.accelerator.name,
        "backend": job.accelerator.backend,
        "num_workers": config.run.num_workers,
        "amp_opt_level": config.run.amp_opt_level,
        "head": config.model.head,
        "seed": training.seed,
        "batch_size": training.batch_size,
        "train_epochs": training.train_epochs,
        "teacher": job.teaching.described if job.teaching else None,
        "versions": {
            "ray_bilstm": ray_bilstm.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "ray": metadata.version("ray"),
            "torch_npu": _version("torch_npu"),
        },
        "corpus": {
            "path": corpus.path,
            "embedded_sample": corpus.embedded_sample,
            "scheme": corpus.scheme,
            "sha256": corpus.sha256,
            "sentences": {split: len(sentences) for split, sentences in corpus.splits.items()},
        },
        "warnings": list(corpus.warnings),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def finish(job: Job, result: dict[str, Any], command: str, evaluation: dict[str, Any] | None = None) -> None:
    """The report, and last the result, which does not depend on the report."""
    history, config = run_directory.read_history(job.path), job.config
    try:
        page = report.render_report(result, history, config.to_dict(), evaluation, command=command_of(command, config))
        checkpoint.write_file(job.path / run_directory.REPORT, page)
    except Exception:
        logger.warning("%s: not written; the run has its result", job.path / run_directory.REPORT, exc_info=True)
    run_directory.close_run(job.path, result)


_OF_ONE_START = ("output_dir", "storage_path", "overwrite", "resume", "stop_after", "distributed", "local_rank")


def command_of(command: str, config: Config, *, without: Collection[str] = ()) -> str:
    """The command that repeats a run, with a flag for every setting that is not its default."""
    settings = config.to_dict()
    words = [command]
    for flag in iter_flags():
        value, name = settings[flag.section][flag.name], f"--{flag.name.replace('_', '-')}"
        if flag.name in (*_OF_ONE_START, *without) or value == flag.default:
            continue
        words.append(name if flag.type is bool else f"{name} {shlex.quote(str(value))}")
    return " ".join(words)
