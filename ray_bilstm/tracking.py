"""A run, told to TensorBoard (`--tensorboard`) and to MLflow (`--mlflow`) as its epochs end.

`Trackers` is what the driver of a run calls: when its directory is there, after each epoch, when all is written, and
whatever happens at its end. Only the driver writes. What is wrong before training is an error; from then on a tracker
that fails is told of in a warning, and the run goes on.

A series is named by where its number stands in a line of the history: `train_loss`, `dev/entity/f1`. A resumed run
goes on with its series: the history is the truth, and what a series lacks of it is added.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ray_bilstm import run_directory
from ray_bilstm.checkpoint import write_file
from ray_bilstm.config import Config, ConfigError

logger = logging.getLogger(__name__)

EXPERIMENT = "ray_bilstm"
STORE, ARTIFACTS = "mlflow.db", "mlartifacts"
"""Beside the run directory, where nothing else names a tracking server."""
ASIDE = ("epoch", "best", "per_type", "confusion")
"""What no series is made of."""

Record = dict[str, Any]


class Tracker(Protocol):
    """Any of its methods may raise."""

    def begin(self, path: Path, config: Config, history: list[Record]) -> None:
        """The run in the directory `path` begins, or goes on behind the epochs of `history`."""

    def epoch(self, record: Record) -> None:
        """An epoch has ended with this line of the history."""

    def finish(self, history: list[Record], result: Record) -> None:
        """All files of the run are written."""

    def close(self, error: BaseException | None) -> None:
        """Nothing more comes; `error` is what has ended the run, if anything has."""


class Trackers:
    """Those that the settings ask for. Use it in a `with`."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError where a package is missing or a tracking server cannot be used."""
        check_packages(config)
        self.trackers: dict[str, Tracker] = {}
        if config.run.tensorboard:
            self.trackers["tensorboard"] = TensorBoard()
        if config.run.mlflow is not None:
            self.trackers["mlflow"] = MLflow(config)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        for name, tracker in self.trackers.items():
            with _warned(name, "This is not noted there"):
                tracker.close(error)

    def begin(self, path: Path, config: Config) -> None:
        """Raises ConfigError where a tracker cannot begin."""
        history = run_directory.read_history(path) if run_directory.can_resume(path) else []
        for name, tracker in self.trackers.items():
            try:
                tracker.begin(path, config, history)
            except Exception as error:
                raise ConfigError(f"--{name} cannot begin: {_line(error)}. Mend it, or leave the flag out") from error

    def epoch(self, record: Record) -> None:
        for name, tracker in self.trackers.items():
            with _warned(name, "Training goes on, and what is missing there is told after the next epoch"):
                tracker.epoch(record)

    def finish(self, path: Path, result: Record) -> None:
        for name, tracker in self.trackers.items():
            with _warned(name, f"The run is whole, in {path}, but not there"):
                tracker.finish(run_directory.read_history(path), result)


def check_packages(config: Config) -> None:
    """Raises ConfigError where a flag needs a package that is not installed."""
    if config.run.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError("--tensorboard needs tensorboardX, which is not installed: pip install tensorboardX")
    if config.run.mlflow is not None and importlib.util.find_spec("mlflow") is None:
        raise ConfigError("--mlflow needs mlflow-skinny, which is not installed: pip install 'ray_bilstm[mlflow]'")


@contextlib.contextmanager
def _warned(name: str, then: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("--%s: %s. %s", name, _line(error), then)


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def numbers(record: Record, before: str = "") -> dict[str, float]:
    """The numbers of a line of the history, or of a result, by where they stand."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if name in ASIDE:
            continue
        if isinstance(value, dict):
            found |= numbers(value, f"{before}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[before + name] = float(value)
    return found


class TensorBoard:
    """Event files in RUN/tensorboard, of float32 numbers.

    A run that goes on writes them anew from the history, behind a mark at which readers forget what they have read.
    Written line by line in the calling thread: a thread of its own, as a SummaryWriter has, hangs on a full disk.
    """

    def __init__(self) -> None:
        self.writer: Any = None

    def begin(self, path: Path, config: Config, history: list[Record]) -> None:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self.folder, self.config, self.told = path / run_directory.TENSORBOARD, config, list[Record]()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # by default two files of one second share a name
        self.writer = EventsWriter(str(self.folder / "events"), filename_suffix=f".{time.time_ns()}")
        self._write(0, session_log=SessionLog(status=SessionLog.START))
        lines = config.to_json().splitlines(keepends=True)
        self._write(0, summary=summary.text("config", "".join(f"    {line}" for line in lines)))
        for record in history:
            self.epoch(record)

    def epoch(self, record: Record) -> None:
        from tensorboardX import summary

        for name, value in numbers(record).items():
            self._write(record["epoch"], summary=summary.scalar(name, value))
        self.writer.flush()
        self.told.append(record)

    def finish(self, history: list[Record], result: Record) -> None:
        if history != self.told:  # an epoch was done again after a failure, or could not be written
            self.close(None)
            self.begin(self.folder.parent, self.config, history)

    def close(self, error: BaseException | None) -> None:
        if self.writer:
            self.writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.writer.write_event(Event(wall_time=time.time(), step=step, **content))


class MLflow:
    """A run of an MLflow experiment: settings as parameters, a metric for each series, the result and its files.

    RUN/mlflow.json names it, for a resumed run to go on with. An epoch that could not be told is told with the next.
    """

    def __init__(self, config: Config) -> None:
        """Raises ConfigError where the tracking server cannot be reached."""
        name = self.name = str(config.run.mlflow)
        if "@" in name.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                "mlflow holds a user or password, and settings are written into the run directory: put it into"
                " MLFLOW_TRACKING_URI, and give --mlflow alone"
            )
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # by default a server that is gone costs minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.client: Any = None
        self.run_id, self.waiting = "", list[Record]()
        uri = os.environ.get("MLFLOW_TRACKING_URI") if name == "auto" else name
        if uri:
            try:
                self.client = MlflowClient(uri)
                self.client.search_experiments(max_results=1)
            except Exception as error:
                where = "what MLFLOW_TRACKING_URI names" if name == "auto" else repr(name)
                raise ConfigError(
                    f"mlflow is {name!r}: {where} cannot be used as a tracking server: {_line(error)}."
                    " Start it, give another, or leave --mlflow out"
                ) from error

    def begin(self, path: Path, config: Config, history: list[Record]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.path = path
        artifacts = None
        if self.client is None:
            self.client = MlflowClient(f"sqlite:///{path.parent.absolute() / STORE}")
            artifacts = (path.parent / ARTIFACTS).absolute().as_uri()
        if not self._take_up():
            experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT), artifacts)
            self.run_id = self.client.create_run(experiment, run_name=path.name).info.run_id
            settings = [
                Param(f"{section}.{field}", str(value))
                for section, fields in config.to_dict().items()
                for field, value in fields.items()
            ]
            self.client.log_batch(self.run_id, params=settings)
            write_file(path / run_directory.MLFLOW, json.dumps({"run_id": self.run_id}) + "\n")
        told = {metric.step for metric in self.client.get_metric_history(self.run_id, "train_loss")}
        self.waiting = [record for record in history if record["epoch"] not in told]
        self._tell()

    def epoch(self, record: Record) -> None:
        self.waiting.append(record)
        self._tell()

    def finish(self, history: list[Record], result: Record) -> None:
        self._tell()
        self._log(numbers(result, "result/"), 0)
        for name in (run_directory.RESULT, run_directory.CONFIG, run_directory.HISTORY, run_directory.REPORT):
            if (self.path / name).exists():
                self.client.log_artifact(self.run_id, str(self.path / name))
        self.client.log_artifacts(self.run_id, str(self.path / run_directory.BEST), run_directory.BEST)

    def close(self, error: BaseException | None) -> None:
        if self.run_id:
            stopped = isinstance(error, (run_directory.RunStopped, KeyboardInterrupt))
            status = "KILLED" if stopped else "FAILED" if error else "FINISHED"
            self.client.set_terminated(self.run_id, status)

    def _take_up(self) -> bool:
        """Go on with the MLflow run of an earlier start, if the tracking server has it."""
        if not (self.path / run_directory.MLFLOW).exists():
            return False
        run_id = run_directory.read_json(self.path / run_directory.MLFLOW)["run_id"]
        try:
            self.client.update_run(run_id, status="RUNNING")
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self.run_id = run_id
        return True

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=artifacts))
            except Exception:  # another run has been faster
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _tell(self) -> None:
        while self.waiting:
            self._log(numbers(self.waiting[0]), self.waiting[0]["epoch"])
            del self.waiting[0]

    def _log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run_id, [Metric(name, value, now, step) for name, value in values.items()])
