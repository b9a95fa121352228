"""Which failure is told, which is tried again, and the sentence that ends a run."""

import pytest
import ray.exceptions
from ray.train import TrainingFailedError, WorkerGroupError

from ray_bilstm import failures
from ray_bilstm.checkpoint import CheckpointError
from ray_bilstm.failures import Failures, explain
from ray_bilstm.loop import TrainingError
from ray_bilstm.run_directory import read_events

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of Ray's own


class HealthCheckFailure(Exception):
    """As Ray Train wraps the death of a worker."""

    def __init__(self) -> None:
        super().__init__("A worker health check failed")
        self.health_check_failure = ray.exceptions.RayActorError(None, "The actor died: SIGKILL")


COLLATERAL = RuntimeError("Traceback ...\nConnection closed by peer [127.0.0.1]")
OURS = CheckpointError("/runs/x: cannot be written: No space left on device: make room there")


def test_the_death_of_a_worker_comes_before_what_follows_from_it() -> None:
    died = HealthCheckFailure()
    assert failures.cause({0: COLLATERAL, 1: died}) == (1, died)
    assert failures.cause({0: died, 1: OURS, 2: COLLATERAL}) == (1, OURS)
    assert failures.cause({3: COLLATERAL, 2: COLLATERAL}) == (2, COLLATERAL)


def test_what_would_fail_again_ends_the_run(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="No space left"):
        Failures(tmp_path, most=3).after_exception(None, {0: OURS, 1: COLLATERAL})
    assert read_events(tmp_path) == []


def test_each_failure_is_noted_and_the_last_as_such(tmp_path) -> None:
    beside = Failures(tmp_path, most=1)
    beside.after_exception(None, {0: COLLATERAL, 1: HealthCheckFailure()})
    beside.after_exception(None, {0: COLLATERAL})
    assert [event["text"] for event in read_events(tmp_path)] == [
        "worker 1 was killed, ran out of memory or lost its node; the workers are started again as soon as they fit",
        "worker 0 failed: RuntimeError: Connection closed by peer [127.0.0.1]; --max-failures 1 allows no more",
    ]


def test_a_disk_that_takes_no_event_does_not_end_the_run(tmp_path) -> None:
    Failures(tmp_path / "gone", most=1).after_exception(None, {0: COLLATERAL})
    assert not (tmp_path / "gone").exists()


class ControllerFailure(TrainingFailedError):
    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.controller_failure = failure


class WorkerGroupStartupTimeoutError(Exception):
    """Ray Train's, by its name."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            WorkerGroupError("", {0: COLLATERAL, 1: HealthCheckFailure()}),
            "^worker 1 was killed, ran out of memory or lost its node. What was saved is resumed with --resume$",
        ),
        (WorkerGroupError("", {0: COLLATERAL}), r"^a worker failed: Connection closed by peer \[127.0.0.1\]$"),
        (WorkerGroupError("", {0: COLLATERAL, 1: OURS}), "^/runs/x: cannot be written: No space left on device"),
        (ControllerFailure(OURS), "^/runs/x: cannot be written: No space left on device"),
        (ControllerFailure(WorkerGroupStartupTimeoutError()), "^the workers found no room: .* --resume, with as many"),
    ],
)
def test_a_run_ends_with_one_sentence(error: Exception, message: str) -> None:
    got = explain(error)
    assert isinstance(got, TrainingError)
    with pytest.raises(TrainingError, match=message):
        raise got
