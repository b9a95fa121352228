"""Workers that fail: what is told, which failures are worth another try, and the sentence that ends a run.

Ray Train starts all workers again after a failure, up to --max-failures times, and they go on from last/. What this
project itself raises (a loss that is not finite, a full disk, a device that is not there) would only be raised again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.exceptions
import ray.train

from ray_bilstm import run_directory
from ray_bilstm.loop import TrainingError

OURS = "ray_bilstm."


class Failures(ray.train.UserCallback):  # type: ignore[misc]
    """Beside Ray Train's controller: notes each failure in the events of the run, and ends what would fail again."""

    def __init__(self, path: Path, *, most: int) -> None:
        self.path, self.most, self.count = path, most, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises an error of our own, which Ray Train takes as the end of the run."""
        rank, error = cause(worker_exceptions)
        if type(error).__module__.startswith(OURS):
            raise error
        self.count += 1
        then = "the workers are started again as soon as they fit"
        if self.count > self.most:
            then = f"--max-failures {self.most} allows no more"
        run_directory.write_event(self.path, f"worker {rank} {describe(error)}; {then}")


def cause(failures: Mapping[int, Exception]) -> tuple[int, Exception]:
    """The rank, and the error, that others may follow from: one of our own, or the death of a worker, first."""

    def order(item: tuple[int, Exception]) -> tuple[bool, bool, int]:
        return (not type(item[1]).__module__.startswith(OURS), not _has_died(item[1]), item[0])

    return min(failures.items(), key=order)


def describe(error: Exception) -> str:
    """What happened to a worker, to be read after its number."""
    if not _has_died(error):
        lines = str(error).strip().split("\n") or [""]
        return f"failed: {type(error).__name__}: {lines[-1]}"
    return "was killed, ran out of memory or lost its node"


def _has_died(error: Exception) -> bool:
    return isinstance(getattr(error, "health_check_failure", error), ray.exceptions.RayActorError)


def explain(error: ray.train.TrainingFailedError) -> TrainingError:
    """One sentence for what ended a run: the exception of a worker, or the last line of a traceback."""
    rank, failure = cause(getattr(error, "worker_failures", None) or {0: error})
    if _has_died(failure):
        return TrainingError(f"worker {rank} {describe(failure)}. What was saved is resumed with --resume")
    failure = getattr(failure, "controller_failure", failure)  # while the ranks were joining
    if type(failure).__name__ == "WorkerGroupStartupFailedError":
        return TrainingError(
            "a worker died while the ranks were joining: killed, or out of memory. Ray's logs (by default under"
            " /tmp/ray/session_latest/logs) say more"
        )
    if type(failure).__name__ == "WorkerGroupStartupTimeoutError":
        return TrainingError(
            "the workers found no room: the cluster has lost a node, or others use it. What was saved is resumed with"
            " --resume, with as many --num-workers as there is room for"
        )
    failure = getattr(failure, "cause", failure)
    line = str(failure).strip().split("\n")[-1]
    if type(failure).__module__.startswith(OURS):
        return TrainingError(line)
    name, _, message = line.partition(": ")
    return TrainingError(message if name.startswith(OURS) else f"a worker failed: {line}")
