"""Seeds x batch sizes, or any other settings -> Ray Tune -> an ordinary run directory a trial -> a study.

Every trial is a run of `train.train` with a TorchTrainer of its own, driven from a process that claims next to nothing.
How many run at a time is worked out beforehand, so that their claims fit side by side; the corpus is read and encoded
once, before the first of them, so that no Ray Data task waits for a CPU that a worker holds. What ran is told from the
run directories alone: a search that was interrupted is started anew, and each trial goes on from where it stands there.

    search(config, Plan(seeds=(1, 2, 3), axes=parse_axes(["batch_size=16,64"])))
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.tune
from ray.tune.search import Repeater
from ray.util.placement_group import PlacementGroup, remove_placement_group

from ray_bilstm import cluster, launch, run_directory, search_directory, start, stream, tracking, train
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.corpus import Corpus
from ray_bilstm.run_directory import RunError
from ray_bilstm.search_directory import read_status, trial_path
from ray_bilstm.space import Axis, Choices, Plan, Trial
from ray_bilstm.study import FAILED, FINISHED, STOPPED, UNFINISHED
from ray_bilstm.trial import EPOCH, SCORE, Search, run_trial
from ray_bilstm.vocab import Vocab

REDUCTION = 3
"""ASHA lets a third of the trials pass."""
QUIET = ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_SIGINT_HANDLER")
LOUD = ("RAY_AIR_NEW_OUTPUT", "TUNE_PRINT_ALL_TRIAL_ERRORS")
"""Ray Tune prints nothing and leaves Ctrl-C alone when the former are 1 and the latter 0."""

Record = dict[str, Any]


def search(
    config: Config,
    plan: Plan,
    *,
    on_start: Callable[[Corpus], None] | None = None,
    on_coverage: Callable[[Record], None] | None = None,
    on_plan: Callable[[int, int], None] | None = None,
    on_trial: Callable[[Record], None] | None = None,
) -> tuple[Record, Path]:
    """Run all trials of `plan`, each with the other settings of `config`. Returns the study and its directory.

    `on_start` gets the corpus, `on_coverage` what knowledge from outside covers of it, `on_plan` the number of trials
    to run and of those at a time, `on_trial` each that has ended, as the study has it. A trial that fails does not end
    the search. Raises what `train.train` raises, and RunError where no trial has finished.
    """
    _check(config, plan)
    if config.run.output_dir is not None:
        search_directory.check_search(run_directory.choose_path(config.run.output_dir, ""), config, plan)
    corpus = train.load_corpus(config.data)
    if on_start:
        on_start(corpus)
    begin = start.read_start(config, corpus)
    outside = start.coverage(begin, start.make_vocab(corpus, begin, config), corpus, config)
    if outside and on_coverage:
        on_coverage(outside)
    launch.connect(config)
    chosen, _, config = launch.fit_to_cluster(config)
    path = run_directory.choose_path(config.run.output_dir, f"search-{config.run.num_workers}p-{chosen.name}")
    trials = _list_trials(plan, path)
    count = plan.samples * len(plan.seeds) if plan.search == "optuna" else len(trials)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots, claim = cluster.plan_trials(chosen, config.run.num_workers, nodes, most=count, asked=plan.max_concurrent)
    search_directory.open_search(path, config, plan)
    if on_plan:
        on_plan(count, slots)
    if count:
        shared = _encode(corpus, begin, config, plan, claim)
        _run_trials(Search(config=config, plan=plan, path=path, trials=trials, shared=shared), slots, on_trial)
    study = search_directory.write_study(path)
    if study["best"] is None:
        reason = next((trial["reason"] for trial in study["trials"] if trial["reason"]), "all were stopped")
        raise RunError(f"{path}: no trial has finished: {reason}")
    return study, path


def _check(config: Config, plan: Plan) -> None:
    """Raises ConfigError for what a search cannot do."""
    if config.run.overwrite:
        raise ConfigError("overwrite is True: a search replaces none; choose another --output-dir, or pass --resume")
    tracking.check_packages(config)
    if config.run.min_workers is not None:
        raise ConfigError("min_workers: the workers of a search are planned beforehand; give --num-workers alone")
    if plan.scheduler == "asha" and plan.grace_epochs >= _most_epochs(config, plan):
        raise ConfigError(
            f"grace_epochs is {plan.grace_epochs}: expected less than the {_most_epochs(config, plan)} train_epochs"
        )
    if plan.search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise ConfigError("--search optuna needs optuna, which is not installed: pip install 'ray_bilstm[optuna]'")


def _list_trials(plan: Plan, path: Path) -> list[Trial]:
    """Those to run of a grid or random search. To ASHA finished ones repeat what they scored, for its comparisons."""
    trials = [] if plan.search == "optuna" else plan.trials()
    if plan.scheduler == "asha":
        return trials
    return [trial for trial in trials if not run_directory.is_finished(trial_path(path, trial))]


def _most_epochs(config: Config, plan: Plan) -> int:
    axis = plan.axes.get("train_epochs", Choices((config.training.train_epochs,)))
    return int(max(axis.values) if isinstance(axis, Choices) else axis.high)


def _encode(
    corpus: Corpus, begin: start.Start | None, config: Config, plan: Plan, claim: cluster.Claim
) -> dict[int, train.Shared]:
    axis = plan.axes.get("bigram_min_count", Choices((config.data.bigram_min_count,)))
    shared, lengths_N = {}, np.array([len(sentence.tokens) for sentence in corpus.train])
    streamed = stream.plan_window(lengths_N, config) is not None
    tags = Vocab.build(corpus.train, scheme=corpus.scheme, bigram_min_count=0)
    teaching = train.ask_teacher(config, tags, corpus.train, lengths_N)
    for count in axis.values if isinstance(axis, Choices) else ():
        vocab = start.make_vocab(corpus, begin, config.with_fields(bigram_min_count=count))
        scored = vocab.with_tags_of([*corpus.dev, *corpus.test])
        datasets = train.encode(corpus, scored, without_train=streamed)
        shared[count] = train.Shared(corpus=corpus, start=begin, datasets=datasets, claim=claim, teaching=teaching)
    return shared


def _run_trials(search: Search, slots: int, on_trial: Callable[[Record], None] | None) -> None:
    plan, scheduler = search.plan, None
    if plan.scheduler == "asha":
        scheduler = ray.tune.schedulers.ASHAScheduler(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=_most_epochs(search.config, plan),
            grace_period=plan.grace_epochs,
            reduction_factor=REDUCTION,
        )
    strategy: Record = {"max_concurrent_trials": slots, "scheduler": scheduler}
    space = {"number": ray.tune.grid_search(list(range(len(search.trials))))}
    if plan.search == "optuna":
        space, strategy = {}, strategy | _optuna(search)
    os.environ.update(dict.fromkeys(QUIET, "1") | dict.fromkeys(LOUD, "0"))
    driven = ray.tune.with_resources(ray.tune.with_parameters(run_trial, search=search), {"CPU": cluster.DRIVER_SHARE})
    tuner = ray.tune.Tuner(
        driven,
        param_space=space,
        tune_config=ray.tune.TuneConfig(**strategy),
        run_config=ray.tune.RunConfig(
            name="trials",
            storage_path=str(search.path / search_directory.TUNE),
            callbacks=[_Notes(search, on_trial)],
            verbose=0,
        ),
    )
    tuner.fit()
    shutil.rmtree(search.path / search_directory.TUNE, ignore_errors=True)
    for folder in (search.path / search_directory.TRIALS).iterdir():  # those that were stopped did not clean up
        shutil.rmtree(folder / ".ray", ignore_errors=True)
        (folder / run_directory.STREAM).unlink(missing_ok=True)


def _optuna(search: Search) -> Record:
    """Optuna suggests configurations to be run with all seeds and judged by their mean; those that ran before first."""
    from ray.tune.search.optuna import OptunaSearch

    plan, earlier = search.plan, []
    with contextlib.suppress(RunError):
        for trial in search_directory.read_trials(search.path):
            if trial["config"] not in earlier:
                earlier.append(trial["config"])
    suggests = OptunaSearch(
        {name: _domain(axis) for name, axis in plan.axes.items()},
        points_to_evaluate=earlier or None,
        metric=SCORE,
        mode="max",
        seed=plan.seeds[0] + len(earlier),  # else a resumed search would suggest the same again
    )
    samples = max(plan.samples, len(earlier)) * len(plan.seeds)
    return {"search_alg": Repeater(suggests, repeat=len(plan.seeds)), "num_samples": samples}


def _domain(axis: Axis) -> Any:
    if isinstance(axis, Choices):
        return ray.tune.choice(list(axis.values))
    if axis.whole:
        return (ray.tune.lograndint if axis.log else ray.tune.randint)(int(axis.low), int(axis.high) + 1)
    return (ray.tune.loguniform if axis.log else ray.tune.uniform)(axis.low, axis.high)


class _Notes(ray.tune.Callback):  # type: ignore[misc]
    """Writes down how trials stand."""

    def __init__(self, search: Search, on_trial: Callable[[Record], None] | None) -> None:
        self.search, self.on_trial = search, on_trial

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self.search.trial(trial.config)
        if read_status(trial_path(self.search.path, known)) != STOPPED:
            search_directory.write_status(self.search.path, known, UNFINISHED)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self.search.trial(trial.config)
        finished = run_directory.is_finished(trial_path(self.search.path, known))
        search_directory.write_status(self.search.path, known, FINISHED if finished else STOPPED)
        self._end(known, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self.search.trial(trial.config)
        if read_status(trial_path(self.search.path, known)) == UNFINISHED:  # it could not say why
            reason = "the process that drove the trial died: killed, or out of memory"
            search_directory.write_status(self.search.path, known, FAILED, reason)
        self._end(known, trial)

    def _end(self, known: Trial, trial: Any) -> None:
        _free_workers(trial)
        record = search_directory.read_trial(trial_path(self.search.path, known))
        if self.on_trial and record:
            self.on_trial(record)


def _free_workers(trial: Any) -> None:
    """Remove the placement group of a trial's workers, which outlives a trial that was stopped.

    Ray Train has a process that looks after that, through the dashboard: without one, or with two Ray clusters on this
    machine, later trials would wait for ever.
    """
    group = (trial.last_result or {}).get("placement_group")
    if group:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))
