"""The driver while workers train: here a thread stands in for them."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from ray_bilstm import attend, run_directory
from ray_bilstm.checkpoint import write_state
from ray_bilstm.loop import Progress
from ray_bilstm.run_directory import RunStopped


class Trainer:
    """Writes an epoch, then has `work` decide what it returns."""

    def __init__(self, path, work) -> None:
        self.path, self.work = path, work

    def fit(self) -> SimpleNamespace:
        run_directory.write_event(self.path, "going on")
        run_directory.write_history(self.path, [{"epoch": 1}])
        return SimpleNamespace(return_value=self.work())


def test_what_is_written_is_told_and_what_is_returned_comes_back(tmp_path) -> None:
    seen: list = []
    told = {"on_epoch": seen.append, "on_event": seen.append}
    assert attend.fit(Trainer(tmp_path, lambda: "figures"), tmp_path, stoppable=True, **told) == "figures"
    assert seen == ["going on", {"epoch": 1}]


def test_what_the_trainer_raises_is_raised(tmp_path) -> None:
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        attend.fit(Trainer(tmp_path, fail), tmp_path, stoppable=True)


def stop_when_asked(path) -> None:
    """A worker that saves and stops once the driver asks it to."""
    deadline = time.monotonic() + 30
    while not run_directory.is_asked_to_stop(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    write_state(path / "last", Progress(epoch=7))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_the_workers_to_stop(tmp_path, number) -> None:
    before, told = signal.getsignal(number), []

    def work() -> None:
        os.kill(os.getpid(), number)
        stop_when_asked(tmp_path)

    with pytest.raises(RunStopped, match=r"stopped after epoch 7, all of it saved: .*--resume") as stopped:
        attend.fit(Trainer(tmp_path, work), tmp_path, stoppable=True, on_event=told.append)
    assert stopped.value.code == 128 + number
    assert f"{number.name}: saving, then stopping; Ctrl-C again leaves at once" in told
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_leaves_at_once(tmp_path) -> None:
    ended = threading.Event()

    def work() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            stop_when_asked(tmp_path)
        ended.wait(30)

    with pytest.raises(KeyboardInterrupt):
        attend.fit(Trainer(tmp_path, work), tmp_path, stoppable=True)
    ended.set()


@pytest.fixture
def ctrl_c():
    """As a terminal has it: a job in a shell's background ignores it from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_run_that_keeps_nothing_is_ended_by_the_first(tmp_path) -> None:
    ended = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait(30)

    with pytest.raises(KeyboardInterrupt):
        attend.fit(Trainer(tmp_path, work), tmp_path, stoppable=False)
    ended.set()
    assert not run_directory.is_asked_to_stop(tmp_path)


def test_a_run_that_was_stopped_before_its_first_step_says_so(tmp_path) -> None:
    with pytest.raises(RunStopped, match="stopped before its first step") as stopped:
        attend.stopped(tmp_path)
    assert stopped.value.code == attend.STOPPED == 75
