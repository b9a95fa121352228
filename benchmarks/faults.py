#!/usr/bin/env python3
"""Faults, each put on a real run: does it end as if nothing had happened, and how soon does it go on?

python benchmarks/faults.py --rounds 2 --json faults.json

A run of two workers is disturbed once two of its epochs are done: stopped, killed, robbed of a node or of its disk.
What needs a person, a second start with --resume, is counted from that start. *recovered*: it ended with a result.json;
*equal*: weights by hash, history but for clocks, and figures are those of an undisturbed run; *seconds*: until the
workers go on, start of Ray included where Ray was gone. The small disk needs the right to mount one.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import make_parser, report

from ray_bilstm.run_directory import read_events, read_history

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"embedding_size": 16, "bigram_size": 8, "hidden_size": 16, "batch_size": 8, "train_epochs": 40}
FIELDS = {"device": "cpu", "num_workers": 2, **SMALL}
PATIENCE = 240
NODES = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray_bilstm.config import Config
from ray_bilstm.run_directory import read_history
from ray_bilstm.train import train

fields, drain = json.loads(sys.argv[1]), sys.argv[2] == "drain"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
leaving = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
path = Path(fields["output_dir"])
thread = threading.Thread(target=train, args=(Config().with_fields(**fields),))
thread.start()
while len(read_history(path)) < 2 and thread.is_alive():
    time.sleep(0.05)
if drain:
    reason, deadline = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), int(1000 * (time.time() + 12))
    GcsClient(address=cluster.address).drain_node(leaving.node_id, reason, "taken back", deadline)
    time.sleep(9)
(path / "fault").write_text(str(time.time()))
cluster.remove_node(leaving, allow_graceful=False)
cluster.add_node(num_cpus=1)
thread.join()
ray.shutdown()
cluster.shutdown()
"""


class Gone(Exception):
    """A run that did not end as it should."""


def flags(data_dir):
    fields = FIELDS | ({"data_dir": data_dir} if data_dir else {})
    return [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]


class Run:
    """A run in a session of its own, as a terminal has it."""

    def __init__(self, path, data_dir, *words):
        command = [sys.executable, "-m", "ray_bilstm", "train", *flags(data_dir), "--output-dir", str(path), *words]
        environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
        self.path, self.started = path, time.time()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)

    def wait_for_epoch(self, epoch):
        while len(read_history(self.path)) < epoch:
            if self.process.poll() is not None or time.time() - self.started > PATIENCE:
                self.process.kill()
                raise Gone(self.process.communicate()[0])
            time.sleep(0.02)
        return self

    def end(self, code=0):
        try:
            shown, _ = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        if self.process.returncode != code:
            raise Gone(shown)
        return shown


def workers_of(pid):
    """The worker processes of a run, among the processes that it has started."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
    found, level = [], {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += [child for child in level if names[child].startswith(b"ray::RayTrainWorker")]
    return sorted(found)


def going_on(path, since):
    """Seconds from then until the workers went on."""
    return next(event["time"] for event in read_events(path) if event["text"].startswith("going on")) - since


def resume(path, data_dir):
    run = Run(path, data_dir, "--resume")
    run.end()
    return going_on(path, run.started)


def stopped(number):
    def trial(path, data_dir):
        run = Run(path, data_dir).wait_for_epoch(2)
        (os.killpg if number == signal.SIGINT else os.kill)(run.process.pid, number)
        run.end(128 + number)
        return resume(path, data_dir)

    return trial


def worker_killed(path, data_dir):
    run = Run(path, data_dir).wait_for_epoch(2)
    since = time.time()
    os.kill(workers_of(run.process.pid)[-1], signal.SIGKILL)
    run.end()
    return going_on(path, since)


def driver_killed(path, data_dir):
    run = Run(path, data_dir).wait_for_epoch(2)
    run.process.kill()
    run.process.communicate()
    return resume(path, data_dir)


def node_gone(how):
    def trial(path, data_dir):
        fields = json.dumps(FIELDS | {"output_dir": str(path)} | ({"data_dir": data_dir} if data_dir else {}))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", NODES, fields, how]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
        if not (path / "result.json").exists():
            raise Gone(done.stdout + done.stderr)
        return going_on(path, float((path / "fault").read_text()))

    return trial


def state_damaged(path, data_dir):
    Run(path, data_dir, "--stop-after", "3").end(75)
    state = path / "last" / "train_state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    seconds = resume(path, data_dir)
    if not any(event["text"].startswith("warning: ") for event in read_events(path)):
        raise Gone("no one was warned")
    return seconds


def directory_vanished(path, data_dir):
    run = Run(path, data_dir).wait_for_epoch(2)
    path.rename(path.with_name("elsewhere"))
    if "is gone, moved or no longer mounted" not in run.end(1) or path.exists():
        raise Gone("the sentence is not there, or the directory is there again")
    path.with_name("elsewhere").rename(path)
    return resume(path, data_dir)


def disk_full(path, data_dir):
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path], check=True)
    try:
        run = Run(path, data_dir).wait_for_epoch(2)
        with contextlib.suppress(OSError), (path / "fills").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        if "cannot be written: No space left on device: make room there" not in run.end(1):
            raise Gone("the sentence is not there")
        (path / "fills").unlink()
        seconds = resume(path, data_dir)
        shutil.copytree(path, path.with_name("copy"))
    finally:
        subprocess.run(["umount", path], check=True)
    shutil.copytree(path.with_name("copy"), path, dirs_exist_ok=True)
    return seconds


FAULTS = {
    "Ctrl-C, --resume": stopped(signal.SIGINT),
    "SIGTERM, --resume": stopped(signal.SIGTERM),
    "worker killed": worker_killed,
    "node removed": node_gone("remove"),
    "node drained, then removed": node_gone("drain"),
    "driver killed, --resume": driver_killed,
    "newest state damaged, --resume": state_damaged,
    "directory vanished, --resume": directory_vanished,
    "disk full, --resume": disk_full,
}


def outcome(path):
    """What must be the same in two runs."""
    clocks = ("seconds", "sentences_per_second")
    history = [{name: value for name, value in line.items() if name not in clocks} for line in read_history(path)]
    weights = [
        hashlib.sha256((path / name / "model.safetensors").read_bytes()).hexdigest() for name in ("best", "last")
    ]
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    return history, weights, [result[name] for name in ("dev", "test", "best_epoch")]


def try_once(fault, expected, data_dir):
    with tempfile.TemporaryDirectory() as folder:
        try:
            seconds = FAULTS[fault](Path(folder, "run"), data_dir)
        except (Gone, StopIteration, subprocess.SubprocessError) as error:
            print(f"{fault}: {error}", file=sys.stderr)
            return {"recovered": False, "equal": False, "seconds": None}
        return {"recovered": True, "equal": outcome(Path(folder, "run")) == expected, "seconds": seconds}


def main() -> int:
    parser = make_parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("--only", choices=tuple(FAULTS), action="append", help="try this one (again for more)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Run(Path(folder, "run"), options.data_dir).end()
        expected = outcome(Path(folder, "run"))
    rows = {}
    print(f"{'fault':32}{'tried':>7}{'recovered':>11}{'equal':>7}{'seconds':>9}")
    for fault in options.only or FAULTS:
        trials = [try_once(fault, expected, options.data_dir) for _ in range(options.rounds)]
        row = {"tried": len(trials)} | {name: sum(trial[name] for trial in trials) for name in ("recovered", "equal")}
        seconds = [trial["seconds"] for trial in trials if trial["recovered"]]
        rows[fault] = row | {"seconds": statistics.median(seconds) if seconds else None}
        shown = f"{rows[fault]['seconds']:9.1f}" if seconds else f"{'–':>9}"
        print(f"{fault:32}{row['tried']:7}{row['recovered']:11}{row['equal']:7}{shown}", flush=True)
    report(options.json, ratios={}, figures={"faults": rows, "settings": FIELDS})
    return 0 if all(row["equal"] == row["tried"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
