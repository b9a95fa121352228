#!/usr/bin/env python3
"""Half an hour of training while a worker is killed every minute: is anything lost, and is anything left behind?

python benchmarks/soak.py --minutes 30 --every 60 --json soak.json        # Linux

One run of two workers; about every `--every` seconds, at a random moment, one of its workers gets a SIGKILL. In the end
the run gets a SIGTERM. Then: its history holds each epoch once; its models load and its files are whole; no process of
it, and so no port, and no shared memory is there any more; and its driver's memory has not grown.
"""

import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

from faults import Run, workers_of
from measuring import make_parser, report

from ray_bilstm import Tagger
from ray_bilstm.checkpoint import PARTIAL
from ray_bilstm.run_directory import read_events, read_history

MARK = "RAY_BILSTM_SOAK"
PATIENCE = 120
"""Seconds that a killed worker may take to be replaced, and a run to leave nothing behind."""


def marked(mark):
    """Processes that descend from the run, whoever their parent is now, by the environment that they were born with."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
        except OSError:
            continue
    return found


def shared_memory():
    return set(os.listdir("/dev/shm"))


def resident(pid):
    """MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def disturb(run, *, minutes, every, random):
    """Kill workers until the time is over. Seconds until each was replaced, and the driver's memory by time."""
    end, recoveries, memory = time.time() + 60 * minutes, [], []
    while time.time() < end:
        wait_until(time.time() + every * random.uniform(0.5, 1.5), run, memory)
        if not (workers := workers_of(run.process.pid)):
            continue
        before, since = restarts(run.path), time.time()
        os.kill(random.choice(workers), signal.SIGKILL)
        while restarts(run.path) == before:
            if run.process.poll() is not None or time.time() - since > PATIENCE:
                sys.exit(f"not replaced: {run.end()}")
            time.sleep(0.1)
        recoveries.append(time.time() - since)
        epochs = len(read_history(run.path))
        print(f"killed; {recoveries[-1]:.1f} s later the workers go on, after epoch {epochs}", flush=True)
    return recoveries, memory


def restarts(path):
    return sum(event["text"].startswith("going on") for event in read_events(path))


def wait_until(moment, run, memory):
    while time.time() < moment:
        memory.append(resident(run.process.pid))
        time.sleep(1)


def faults_of(path, kills):
    """What is wrong with the files of a run that was stopped."""
    epochs = [line["epoch"] for line in read_history(path)]
    if epochs != list(range(1, len(epochs) + 1)):
        yield f"the history has a gap or repeats an epoch: {epochs}"
    for file in path.rglob("*"):
        if file.name.endswith(PARTIAL):
            yield f"{file} is half-written"
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
    for name in ("best", "last"):
        Tagger.load(path / name).predict("沈遥：女")
    if (told := restarts(path)) != kills:
        yield f"{kills} workers were killed, the events tell of {told}"


def left_behind(mark, before):
    """What is still there of a run that has ended, given some time to go."""
    deadline = time.time() + PATIENCE
    while (found := sorted(_left(mark, before))) and time.time() < deadline:
        time.sleep(1)
    return found


def _left(mark, before):
    yield from (f"process {pid}: {command}" for pid, command in marked(mark).items())
    yield from (f"/dev/shm/{name}" for name in shared_memory() - before)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two kills, half of it to twice less")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the workers")
    options = parser.parse_args()
    mark = os.environ[MARK] = uuid.uuid4().hex
    before = shared_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        run = Run(path, options.data_dir, "--train-epochs", "100000", "--max-failures", "100000").wait_for_epoch(2)
        chance = random.Random(options.seed)
        recoveries, memory = disturb(run, minutes=options.minutes, every=options.every, random=chance)
        run.process.send_signal(signal.SIGTERM)
        run.end(128 + signal.SIGTERM)
        os.environ.pop(MARK)
        found = [*faults_of(path, len(recoveries)), *left_behind(mark, before)]
        epochs = len(read_history(path))
    part = max(1, len(memory) // 4)
    first, last = statistics.median(memory[part : 2 * part] or memory), statistics.median(memory[-part:])
    print(f"{epochs} epochs, {len(recoveries)} workers killed, each replaced", end="")
    print(f": seconds median {statistics.median(recoveries):.1f}, most {max(recoveries):.1f}" if recoveries else "")
    print(f"driver's memory: {first:.0f} MiB in the second quarter, {last:.0f} MiB in the last")
    if last > 1.1 * first:
        found.append("the driver's memory grows")
    print("\n".join(found) or "nothing lost, nothing left behind")
    figures = {"epochs": epochs, "killed": len(recoveries), "seconds": recoveries, "driver_mib": [first, last]}
    report(options.json, ratios={}, figures={**figures, "minutes": options.minutes, "faults": found})
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
