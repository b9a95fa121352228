"""A run directory: where it is, whether it may be written, its history and its result.

config.json    every setting in force
history.jsonl  one line an epoch
events.jsonl   what interrupted the run, and how it went on; none in most runs
best/ last/    model directories (`checkpoint.py`)
evaluation.json  what the best model gets wrong on test (`review.py`)
report.html    the run on one page
tensorboard/   event files, and mlflow.json the run of MLflow, where they were asked for (`tracking.py`)
trace/         what the profiler saw, of a throughput run that was asked for it
result.json    the figures; written last: its presence means the run ended well
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray_bilstm.checkpoint import VOCAB, has_state, write_file
from ray_bilstm.config import Config
from ray_bilstm.vocab import Vocab

CONFIG, HISTORY, RESULT, EVALUATION, REPORT, BEST, LAST, TRACE, TENSORBOARD, MLFLOW = (
    "config.json",
    "history.jsonl",
    "result.json",
    "evaluation.json",
    "report.html",
    "best",
    "last",
    "trace",
    "tensorboard",
    "mlflow.json",
)
STREAM = ".train.parquet"
"""The training set while a run streams it."""
START = ".start.safetensors"
"""What the model starts from, for rank 0."""
EVENTS = "events.jsonl"
FILES, FOLDERS = (RESULT, HISTORY, EVENTS, CONFIG, EVALUATION, REPORT, MLFLOW), (BEST, LAST, TENSORBOARD)
"""What --overwrite replaces."""
STOP = ".stop"
"""While it is there, the run is asked to stop."""
REPLACED = ".replaced"
"""Where --overwrite keeps the earlier run until the new one has ended well."""


class RunError(RuntimeError):
    """A run directory that must not be written, or cannot be resumed."""


class RunStopped(Exception):
    """A run that was asked to stop: all it did is saved."""

    def __init__(self, message: str, *, code: int) -> None:
        """`code`: what a command exits with."""
        super().__init__(message)
        self.code = code


def choose_path(output_dir: str | None, name: str) -> Path:
    """`output_dir`, else runs/NAME-TIMESTAMP: here, or in the home directory where this is the temporary copy of a
    working directory that Ray made for a submitted job and will delete."""
    if output_dir is not None:
        return Path(output_dir).expanduser().absolute()
    here = Path.cwd()
    root = Path.home() if "working_dir_files" in here.parts else here
    return root / "runs" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_free(path: Path, config: Config) -> None:
    """Raises RunError where `path` holds a run that `config` neither resumes nor replaces."""
    holds = _parts(path)
    if holds and config.run.resume:
        _check_same(path, config)
    elif holds and not config.run.overwrite:
        state = "a finished run" if RESULT in holds else "an unfinished run"
        raise RunError(
            f"{path}: holds {state} ({', '.join(holds)}), expected an empty or new directory:"
            " choose another --output-dir, or pass --overwrite or --resume"
        )


def open_run(path: Path, config: Config) -> None:
    """Make `path` ready for a run with `config`. Raises RunError where it is not free or cannot be written."""
    check_free(path, config)
    try:
        if config.run.overwrite and _parts(path):
            _set_aside(path)
        write_file(path / CONFIG, config.to_json())
        (path / STOP).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def _parts(path: Path) -> list[str]:
    return [name for name in (RESULT, HISTORY, LAST, BEST) if (path / name).exists()]


def _check_same(path: Path, config: Config) -> None:
    """A run is resumed as the optimisation problem that it was."""
    try:
        before = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        pairs = [
            (name, before[section][name], value)
            for section in ("model", "training")
            for name, value in config.to_dict()[section].items()
        ]
        pairs.append(("teacher", before["data"].get("teacher"), config.data.teacher))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / CONFIG}: not the settings of a run: {error!r}") from error
    changed = {name: f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new}
    if changed:
        why = ""
        if "train_epochs" in changed:
            why = (
                ". The learning rate's schedule spans all epochs and cannot be lengthened: start a run of as many"
                " as you want, and take it in parts with --stop-after"
            )
        raise RunError(f"{path}: cannot resume with other settings: {'; '.join(changed.values())}{why}")


def check_same_vocab(path: Path, vocab: Vocab) -> None:
    """Raises RunError where the run at `path` was trained with another vocabulary, so on another corpus or from another
    start."""
    try:
        before = Vocab.from_json((path / LAST / VOCAB).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path / LAST / VOCAB}: cannot be read: {error}") from error
    if before != vocab:
        raise RunError(
            f"{path}: cannot resume on another corpus or with other --embeddings or --init-from:"
            f" they give another vocabulary than {LAST}/{VOCAB}"
        )


def _set_aside(path: Path) -> None:
    aside = path / REPLACED
    if aside.exists():  # an earlier replacement failed: what it set aside is the run that ended well
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(path / name, ignore_errors=True)
        return
    aside.mkdir()
    for name in (*FILES, *FOLDERS):
        with contextlib.suppress(FileNotFoundError):
            os.replace(path / name, aside / name)


def is_finished(path: Path) -> bool:
    return (path / RESULT).is_file()


def can_resume(path: Path) -> bool:
    return has_state(path / LAST)


def ask_to_stop(path: Path) -> None:
    """Have the workers of the run at `path` save what they have done and stop."""
    with contextlib.suppress(OSError):
        (path / STOP).touch()


def is_asked_to_stop(path: Path) -> bool:
    return (path / STOP).exists()


def write_event(path: Path, text: str) -> None:
    """Note what has happened to the run, for a person. A disk that takes nothing more must not end the run here."""
    add_event(path, {"time": round(time.time(), 3), "text": text})


def add_event(path: Path, event: dict[str, Any]) -> None:
    """Add an event that was noted, here or elsewhere."""
    line = json.dumps(event, ensure_ascii=False) + "\n"
    with contextlib.suppress(OSError):
        handle = os.open(path / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode("utf-8"))
        finally:
            os.close(handle)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the events."""
    return _read_lines(path / EVENTS)


def read_result(path: Path) -> dict[str, Any]:
    """Raises RunError where there is no readable result."""
    return read_json(path / RESULT)


def read_config(path: Path) -> dict[str, Any]:
    """Raises RunError where there are no readable settings."""
    return read_json(path / CONFIG)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RunError where it is none or cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected the JSON of a run: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: got {type(value).__name__}, expected an object")
    return value


def read_evaluation(path: Path) -> dict[str, Any]:
    """What `review.py` left; nothing of a run that has none. Raises RunError where it cannot be read."""
    return read_json(path / EVALUATION) if (path / EVALUATION).exists() else {}


def read_history(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the history; a line that was being written is left out."""
    return _read_lines(path / HISTORY)


def _read_lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    write_file(path / HISTORY, "".join(json.dumps(record) + "\n" for record in history))


def follow(
    path: Path, *, stop: Callable[[], bool], sync: Callable[..., None] | None = None
) -> Iterator[dict[str, Any]]:
    """Events, and records of the history, that are written from now on, until `stop()` is true and all are given.

    `sync(ending=...)` is called before each look, where others write them elsewhere."""
    return _follow({path / name: len(_read_lines(path / name)) for name in (EVENTS, HISTORY)}, stop, sync)


def _follow(
    files: dict[Path, int], stop: Callable[[], bool], sync: Callable[..., None] | None
) -> Iterator[dict[str, Any]]:
    while True:
        ending = stop()
        if sync:
            sync(ending=ending)
        for file, known in files.items():
            lines = _read_lines(file)
            yield from lines[known:]
            files[file] = max(known, len(lines))
        if ending:
            return
        time.sleep(0.1)


def close_run(path: Path, result: dict[str, Any]) -> None:
    """Write the result; what --overwrite set aside goes."""
    write_file(path / RESULT, json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    shutil.rmtree(path / REPLACED, ignore_errors=True)
