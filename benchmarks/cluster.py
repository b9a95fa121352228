#!/usr/bin/env python3
"""A cluster of several machines, as a user has it: `ray up`, `ray job submit`, a machine that is cut off, `ray down`.

sudo .venv/bin/python benchmarks/cluster.py --json cluster.json    # a file outside /tmp, which is another one inside

The machines are namespaces of this one (machines.py): each has its own address, raylet, home, /tmp and sshd; all see
one shared folder. cluster.yaml is filled in for them and Ray started with it over ssh. The desk outside submits
jobs/train_8p.py through `ray dashboard`, undisturbed; then again, and cuts one machine off once two epochs are done:
eight workers still fit on the others, and must end with the same weights. Plugged in again, the machine must come back.
Then an elastic run, of which two machines are cut off: it must go on with fewer workers. And one as the first, whose
--output-dir lies in a folder that the machines do not share: the run is kept in S3, which moto serves at the desk.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import machines
import pyarrow.fs as fs
from machines import DESK, KEY, SHARED, Machine
from measuring import make_parser, report

from ray_bilstm import Tagger, read_corpus
from ray_bilstm.corpus import write_sentences
from ray_bilstm.run_directory import BEST, LAST, read_events, read_history, read_result
from ray_bilstm.sample import sample_corpus
from ray_bilstm.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CLUSTER = Path("/mnt/cluster.yaml")
COUNT, CPUS, WORKERS = 4, 3, 8
SMALL = {"embedding_size": 16, "bigram_size": 8, "hidden_size": 16, "batch_size": 16, "train_epochs": 30}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
PATIENCE = 400
S3 = f"{DESK}:9000"
KEPT = f"s3://bucket/runs?endpoint_override={S3.replace(':', '%3A')}&scheme=http&region=us-east-1"
SECRETS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


def fill_in(nodes: list[Machine]) -> None:
    """cluster.yaml with the lines that it marks filled in, and without NPUs."""
    head, *workers = nodes
    size = f"--num-cpus={CPUS} --object-store-memory={200 << 20}"
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    for old, new in {
        "192.0.2.10 ": head.address,
        "- 192.0.2.11\n": "\n    ".join(f"- {node.address}" for node in workers) + "\n",
        "    - 192.0.2.12\n": "",
        "ssh_user: ubuntu": "ssh_user: root",
        "~/.ssh/id_rsa": str(KEY),
        "workers: 2 ": f"workers: {len(workers)} ",
        "--resources='{\"NPU\": 8}'": size,
        ' "torch_npu==2.13.0"': "",
    }.items():
        if old not in text:
            raise SystemExit(f"cluster.yaml has no {old!r} any more")
        text = text.replace(old, new)
    CLUSTER.write_text(text, encoding="utf-8")


def desk(*words: object, seconds: float = PATIENCE) -> str:
    """What a command prints that is given outside the cluster. Raises SystemExit with it where it fails."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([*map(str, words)], cwd=ROOT, timeout=seconds, **pipes)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def wait_for_nodes(count: int) -> float:
    """The time at which there are as many."""
    deadline = time.time() + PATIENCE
    while True:
        with contextlib.suppress(SystemExit, ValueError):  # while the tunnel is not there yet
            nodes = json.loads(desk("ray", "list", "nodes", "--format=json"))
            if sum(node["state"] == "ALIVE" for node in nodes) == count:
                return time.time()
        if time.time() > deadline:
            raise SystemExit(f"there are not {count} nodes")
        time.sleep(1)


@contextlib.contextmanager
def cluster(nodes: list[Machine]) -> Iterator[dict[str, float]]:
    """The seconds that its start has taken; commands given meanwhile reach it."""
    os.environ |= {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
        "RAY_AUTH_MODE": "token",
    }
    fill_in(nodes)
    for node in nodes:
        (node.home / "ray_bilstm_venv").symlink_to(BIN.parent)
    desk("ray", "get-auth-token", "--generate")
    started = time.time()
    desk("ray", "up", "--yes", CLUSTER)
    seconds = {"ray up": time.time() - started}
    with subprocess.Popen(
        ["ray", "dashboard", CLUSTER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as tunnel:
        try:
            yield seconds | {"all nodes": wait_for_nodes(len(nodes)) - started}
        finally:
            tunnel.terminate()
    desk("ray", "exec", CLUSTER, "~/ray_bilstm_venv/bin/ray stop")
    desk("ray", "down", "--yes", CLUSTER)
    since = time.time()
    while left := [node.name for node in nodes if "raylet" in node.run("ps ax")]:
        if time.time() - since > PATIENCE:
            raise SystemExit(f"Ray is still there on {', '.join(left)}")
        time.sleep(1)
    tell("down", {"seconds until the last raylet has ended": time.time() - since})


@contextlib.contextmanager
def object_storage() -> Iterator[None]:
    """S3 with an empty bucket, at the desk."""
    os.environ |= SECRETS
    host, port = S3.split(":")
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", port], stderr=subprocess.DEVNULL
    ) as s3:
        try:
            system, _ = fs.FileSystem.from_uri(KEPT + "&allow_bucket_creation=true")
            deadline = time.time() + PATIENCE
            while True:
                with contextlib.suppress(OSError):  # while it starts
                    system.create_dir("bucket")
                    break
                if time.time() > deadline:
                    raise SystemExit(f"there is no S3 at {S3}")
            yield
        finally:
            s3.kill()


class Run:
    """A job that trains."""

    def __init__(self, name: str, workers: str, *, kept: bool = False) -> None:
        self.path, self.started = Path("/tmp") / name if kept else SHARED / name, time.time()  # the desk's own /tmp
        self.storage = Storage(KEPT, name) if kept else None
        flags = ["--data-dir", SHARED / "corpus", "--output-dir", self.path, "--num-workers", workers, *FLAGS]
        if kept:
            flags += ["--storage-path", KEPT]
        environment = ["--runtime-env-json", json.dumps({"env_vars": SECRETS})]
        words = ["ray", "job", "submit", *environment, "--working-dir", ".", "--", "python", "jobs/train_8p.py"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen([*words, "--device", "cpu", *map(str, flags)], cwd=ROOT, **pipes)

    def look(self) -> None:
        """Have `path` hold what the run has saved."""
        if self.storage:
            self.storage.pull(self.path)

    def wait_for_epoch(self, epoch: int) -> None:
        deadline = time.time() + PATIENCE
        while len(read_history(self.path)) < epoch:
            if self.process.poll() is not None or time.time() > deadline:
                self.process.kill()
                raise SystemExit(self.process.communicate()[0])
            time.sleep(0.1)
            self.look()

    def end(self) -> dict[str, object]:
        """What became of it. Raises SystemExit with what it said where it did not end well."""
        shown, _ = self.process.communicate(timeout=2 * PATIENCE)
        if self.process.returncode:
            raise SystemExit(shown)
        self.look()
        result = read_result(self.path)
        for name in (BEST, LAST):
            Tagger.load(self.path / name).predict("王芳：女，汉族，硕士。")
        return {
            "workers": result["num_workers"],
            "epochs": len(read_history(self.path)),
            "seconds": time.time() - self.started,
            "dev_entity_f1": result["dev"]["entity"]["f1"],
            "events": [event["text"] for event in read_events(self.path)],
            "sha256": hashlib.sha256((self.path / BEST / "model.safetensors").read_bytes()).hexdigest(),
        }


def cut(run: Run, *nodes: Machine) -> dict[str, object]:
    """Cut machines off from a run in which two epochs are done; what becomes of it."""
    run.wait_for_epoch(2)
    since = time.time()
    for node in nodes:
        node.cut_off()
    ended = run.end()
    again = [event["time"] for event in read_events(run.path) if event["text"].startswith("going on")]
    return ended | {"going_on_seconds": again[-1] - since, "cut_off": [node.name for node in nodes]}


def main() -> int:
    parser = make_parser(__doc__)
    options = parser.parse_args()
    if why := machines.missing():
        parser.error(why)
    machines.go_inside()
    splits = (read_corpus(options.data_dir) if options.data_dir else sample_corpus()).splits
    (SHARED / "corpus").mkdir()
    for split, sentences in splits.items():
        write_sentences(SHARED / "corpus" / f"{split}.char.bmes", sentences, scheme="BMES")
    nodes = [Machine(number) for number in range(1, COUNT + 1)]
    with cluster(nodes) as start:
        tell("start", start)
        whole = tell("undisturbed", Run("whole", str(WORKERS)).end())
        one = tell("one machine cut off", cut(Run("one", str(WORKERS)), nodes[-1]))
        since = time.time()
        nodes[-1].plug_in()
        back = tell("plugged in again", {"seconds": wait_for_nodes(COUNT) - since})
        elastic = tell("elastic, two machines cut off", cut(Run("two", f"2..{WORKERS}"), *nodes[-2:]))
        for node in nodes[-2:]:
            node.plug_in()
        wait_for_nodes(COUNT)
        with object_storage():
            kept = tell("no shared folder, one machine cut off", cut(Run("kept", str(WORKERS), kept=True), nodes[-1]))
        nodes[-1].plug_in()
        wait_for_nodes(COUNT)
    equal = all(run["sha256"] == whole["sha256"] and run["workers"] == WORKERS for run in (one, kept))
    print(f"the weights of the disturbed runs are {'' if equal else 'not '}those of the undisturbed one")
    figures = {
        "start": start,
        "undisturbed": whole,
        "cut_off": one,
        "plugged_in": back,
        "elastic": elastic,
        "kept": kept,
    }
    report(options.json, ratios={}, figures=figures | {"equal": equal, "nodes": COUNT, "cpus": CPUS, "settings": SMALL})
    return 0 if equal and elastic["workers"] < WORKERS else 1


def tell(name: str, figures: dict) -> dict:
    shown = {key: f"{value:.1f}" if isinstance(value, float) and value > 1 else value for key, value in figures.items()}
    print(f"{name}: {shown}", flush=True)
    return figures


if __name__ == "__main__":
    sys.exit(main())
