"""One trial of a search, in a process that Ray Tune started: a run of `train.train`, told of to Ray Tune as it goes.

A trial that goes on from an earlier attempt first repeats what that one scored, so that ASHA and Optuna know it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.repeater import TRIAL_INDEX

from ray_bilstm import run_directory, search_directory, train
from ray_bilstm.config import Config
from ray_bilstm.search_directory import read_status, trial_path
from ray_bilstm.space import Choices, Plan, Trial, rounded
from ray_bilstm.study import FAILED, STOPPED

EPOCH, SCORE = "epoch", "dev_entity_f1"

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What every trial is told."""

    config: Config
    plan: Plan
    path: Path
    trials: list[Trial]
    """of a grid or random search: those to run"""
    shared: dict[int, train.Shared]
    """by `bigram_min_count`"""

    def trial(self, parameters: Record) -> Trial:
        """What Ray Tune's `parameters` stand for."""
        if "number" in parameters:
            return self.trials[parameters["number"]]
        config = {
            name: parameters[name] if isinstance(axis, Choices) or axis.whole else rounded(parameters[name], axis)
            for name, axis in self.plan.axes.items()
        }
        return Trial(config, self.plan.seeds[parameters[TRIAL_INDEX]])


def run_trial(parameters: Record, *, search: Search) -> None:
    """One trial; why it fails is noted beside its result."""
    trial = search.trial(parameters)
    try:
        with _alone(search, trial):
            _run_rest(search, trial)
    except Exception as error:
        if read_status(trial_path(search.path, trial)) != STOPPED:  # else its workers were taken away
            line = str(error).strip().split("\n")[-1]
            expected = type(error).__module__.startswith("ray_bilstm.")
            reason = line if expected else f"{type(error).__name__}: {line}"
            search_directory.write_status(search.path, trial, FAILED, reason)
        raise


def _run_rest(search: Search, trial: Trial) -> None:
    """Report what the trial scored in an earlier attempt, then run the rest of its epochs."""
    path = trial_path(search.path, trial)
    settings = {**trial.config, "seed": trial.seed, "output_dir": str(path), "resume": True}
    config = search.config.with_fields(**settings)
    epochs = config.training.train_epochs
    for record in run_directory.read_history(path):
        if record["epoch"] < epochs:
            ray.tune.report({EPOCH: record["epoch"], SCORE: record["dev"]["entity"]["f1"]})
    if read_status(path) != STOPPED:
        shared = search.shared[config.data.bigram_min_count]
        result, _ = train.train(config, shared=shared, callbacks=[_Report(epochs)])
        ray.tune.report({EPOCH: epochs, SCORE: result["dev"]["entity"]["f1"]})


@contextlib.contextmanager
def _alone(search: Search, trial: Trial) -> Iterator[None]:
    """Optuna may suggest the same twice: the second waits, and then finds the result."""
    with (search.path / search_directory.TUNE / f"{trial.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Report(TuneReportCallback):  # type: ignore[misc]
    """Passes every epoch but the last on to Ray Tune: that one ends with the result, and must not be cut short."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def after_report(self, run_context: Any, metrics: list[Record], checkpoint: Any) -> None:
        if metrics[0][EPOCH] < self.epochs:
            super().after_report(run_context, metrics, checkpoint)
