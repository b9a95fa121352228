"""The directory of a search: an ordinary run directory for every trial, and what they add up to.

search.json    the settings that all trials share, and what varies
trials/NAME/   run directories, and in each trial.json: what is its own, and how it stands
study.json     the statistics (`study.py`); study.html, study-scores.svg and study-curves.svg show them
best/          the model of the best configuration's best-dev seed
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from ray_bilstm import ending, figures, run_directory
from ray_bilstm.checkpoint import write_file
from ray_bilstm.config import Config
from ray_bilstm.run_directory import RunError
from ray_bilstm.space import Plan, Trial
from ray_bilstm.study import FINISHED, make_study
from ray_bilstm.study_page import render_study

SEARCH, TRIALS, TRIAL, STUDY, BEST = "search.json", "trials", "trial.json", "study.json", "best"
PAGE, SCORES, CURVES = "study.html", "study-scores.svg", "study-curves.svg"
TUNE = ".tune"
"""What Ray Tune keeps while the search runs."""

Record = dict[str, Any]


def check_search(path: Path, config: Config, plan: Plan) -> None:
    """Raises RunError where `path` holds a run, or a search that this one neither resumes nor extends.

    A search may be resumed with more seeds, values or samples, not with other settings or other axes.
    """
    if not (path / SEARCH).exists():
        if (path / run_directory.CONFIG).exists() or (path / STUDY).exists():
            raise RunError(f"{path}: holds a run, expected an empty or new directory: choose another --output-dir")
        return
    if not config.run.resume:
        raise RunError(
            f"{path}: holds a search, expected an empty or new directory: choose another --output-dir, or pass --resume"
        )
    before, now = run_directory.read_json(path / SEARCH), _describe(config, plan)
    pairs = [
        (name, before.get(part, {}).get(name), value)
        for part in ("data", "model", "training", "plan")
        for name, value in now[part].items()
    ]
    changed = [f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new]
    if changed:
        raise RunError(f"{path}: cannot resume with other settings: {'; '.join(changed)}")


def open_search(path: Path, config: Config, plan: Plan) -> None:
    """Make `path` ready. Raises RunError as `check_search` does, and where it cannot be written."""
    check_search(path, config, plan)
    try:
        described = {**_describe(config, plan), "command": _command(config, plan)}
        write_file(path / SEARCH, json.dumps(described, ensure_ascii=False, indent=2) + "\n")
        shutil.rmtree(path / TUNE, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def _describe(config: Config, plan: Plan) -> Record:
    settings = config.to_dict()
    own = {"seed", "shard_memory", *plan.axes}
    kept = ("data", "model", "training")
    shared = {part: {name: value for name, value in settings[part].items() if name not in own} for part in kept}
    return {**shared, "plan": {"varies": sorted(plan.axes), "search": plan.search, "scheduler": plan.scheduler}}


def _command(config: Config, plan: Plan) -> str:
    """The command that repeats the search."""
    command = ending.command_of("python -m ray_bilstm tune", config, without=("seed", "batch_size", *plan.axes))
    return f"{command} {shlex.join(plan.words())}"


def trial_path(path: Path, trial: Trial) -> Path:
    return path / TRIALS / trial.name


def write_status(path: Path, trial: Trial, status: str, reason: str | None = None) -> None:
    """How a trial stands; `result.json` beside it outweighs this."""
    record = {"config": trial.config, "seed": trial.seed, "status": status, "reason": reason}
    write_file(trial_path(path, trial) / TRIAL, json.dumps(record, ensure_ascii=False, indent=2) + "\n")


def read_trial(folder: Path) -> Record | None:
    """A trial as `study.make_study` wants it; None where `folder` holds none."""
    if not (folder / TRIAL).is_file():
        return None
    trial = run_directory.read_json(folder / TRIAL)
    result = run_directory.read_result(folder) if run_directory.is_finished(folder) else None
    if result:
        trial |= {"status": FINISHED, "reason": None}
        for split in ("dev", "test"):
            result[split].pop("confusion", None)  # in the run directory
    curve = [record["dev"]["entity"]["f1"] for record in run_directory.read_history(folder)]
    path = f"{folder.parent.name}/{folder.name}"
    return {**trial, "path": path, "result": result, "curve": curve, "dev_entity_f1": max(curve, default=0.0)}


def read_status(folder: Path) -> str | None:
    """How the trial in `folder` stands; None where there is none."""
    trial = read_trial(folder)
    return str(trial["status"]) if trial else None


def read_trials(path: Path) -> list[Record]:
    """All trials of the search. Raises RunError where there are none."""
    found = [read_trial(folder) for folder in sorted((path / TRIALS).glob("*/"))]
    trials = [trial for trial in found if trial]
    if not trials:
        raise RunError(f"{path}: got no trials, expected the --output-dir of `python -m ray_bilstm tune`")
    return trials


def read_study(path: Path) -> Record:
    """The study of a search, from its trials, or from study.json alone where they are gone."""
    if (path / STUDY).is_file() and not (path / TRIALS).is_dir():
        return run_directory.read_json(path / STUDY)
    return make_study(read_trials(path))


def best_models(path: Path) -> list[Path]:
    """The model directories of the best configuration, a finished seed each. Raises RunError where there are none."""
    study = make_study(read_trials(path))
    if study["best"] is None:
        raise RunError(f"{path}: got no finished trial, expected a search with at least one")
    best = study["configurations"][study["best"]]["config"]
    trials = [trial for trial in study["trials"] if trial["config"] == best and trial["status"] == FINISHED]
    return [path / trial["path"] / run_directory.BEST for trial in trials]


def write_study(path: Path) -> Record:
    """study.json, the page, the plots and best/, from the trials; returns the study."""
    study = make_study(read_trials(path))
    write_file(path / STUDY, json.dumps(study, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    write_page(path, study)
    write_file(path / SCORES, figures.draw_scores(study))
    write_file(path / CURVES, figures.draw_curves(study))
    if study["best_trial"]:
        _replace_folder(path / study["best_trial"] / run_directory.BEST, path / BEST)
    return study


def write_page(path: Path, study: Record) -> Path:
    """study.html; returns its path."""
    search = run_directory.read_json(path / SEARCH) if (path / SEARCH).is_file() else {}
    write_file(path / PAGE, render_study(study, search))
    return path / PAGE


def _replace_folder(source: Path, target: Path) -> None:
    """A copy of `source` at `target`, whole or not at all."""
    fresh = target.with_name(f".{target.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fresh, target)
