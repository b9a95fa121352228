"""While the workers train: the driver tells what they write down, and passes on that it is asked to stop.

Ctrl-C and SIGTERM ask the workers, through a file in the run directory, to save and stop; a second Ctrl-C leaves at
once, and what was saved last is what is resumed. Ray Train's own answer to Ctrl-C is to kill the workers.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ray_bilstm import checkpoint, run_directory
from ray_bilstm.run_directory import RunStopped

STOPPED = 75
"""Exit code of a run that was stopped as planned: EX_TEMPFAIL, try again later. By a signal: 128 + its number."""

Record = dict[str, Any]


def fit(
    trainer: Any,
    path: Path,
    *,
    stoppable: bool,
    on_epoch: Callable[[Record], None] | None = None,
    on_event: Callable[[str], None] | None = None,
    sync: Callable[..., None] | None = None,
) -> Any:
    """What rank 0 returns from `trainer.fit()`, which runs in a thread: signals reach the main one only. Meanwhile
    `sync(ending=...)` is called again and again, where the workers write elsewhere than in `path`.

    A run that is not `stoppable` keeps nothing to go on with, and Ctrl-C ends it at once. Raises what it raises,
    RunStopped where a signal has ended the run, and KeyboardInterrupt at a second Ctrl-C.
    """
    outcome: Future[Any] = Future()

    def work() -> None:
        try:
            outcome.set_result(trainer.fit().return_value)
        except BaseException as error:
            outcome.set_exception(error)

    with _signals_to(path, on_event, listen=stoppable) as received:
        lines = run_directory.follow(path, stop=outcome.done, sync=sync)
        threading.Thread(target=work, name="trainer", daemon=True).start()
        for line in lines:
            if "epoch" in line and on_epoch:
                on_epoch(line)
            elif "text" in line and on_event:
                on_event(line["text"])
    value = outcome.result()
    if value is None and received:
        stopped(path, by=received[0])
    return value


def stopped(path: Path, *, by: signal.Signals | None = None) -> NoReturn:
    """Raises RunStopped, with how to go on."""
    done = "before its first step"
    if run_directory.can_resume(path):
        done = checkpoint.read_state(path / run_directory.LAST).place()
    raise RunStopped(
        f"stopped {done}, all of it saved: the same command with --resume --output-dir {path} goes on",
        code=STOPPED if by is None else 128 + by,
    )


@contextlib.contextmanager
def _signals_to(path: Path, on_event: Callable[[str], None] | None, *, listen: bool) -> Iterator[list[signal.Signals]]:
    """The signals that have asked the run at `path` to stop; none where this is not the main thread."""
    received: list[signal.Signals] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received and on_event:
            on_event(f"{signal.Signals(number).name}: saving, then stopping; Ctrl-C again leaves at once")
        received.append(signal.Signals(number))
        run_directory.ask_to_stop(path)

    if not listen or threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
