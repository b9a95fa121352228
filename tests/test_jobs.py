"""Jobs submitted to a running cluster, as a user does it: `ray start --head`, `ray job submit`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from ray_bilstm.corpus import write_sentences
from ray_bilstm.sample import sample_corpus

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture(scope="module")
def short_dir():
    """A folder with a short name: Ray's sockets lie in it, and their paths may not be long."""
    folder = tempfile.mkdtemp(prefix="ray-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def submit(tmp_path_factory, short_dir):
    """A function that submits a job to a cluster of its own on loopback and gives the finished command."""
    logs, port = tmp_path_factory.mktemp("head"), free_port()
    environment = os.environ | {
        "RAY_TMPDIR": str(short_dir),  # else other Ray programs of this machine would join the cluster
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    head = [
        BIN / "ray",
        "start",
        "--head",
        f"--port={free_port()}",
        "--num-cpus=2",
        "--block",
        "--node-ip-address=127.0.0.1",
    ]
    with (logs / "head.log").open("w") as log:
        process = subprocess.Popen(
            [
                *head,
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={port}",
                f"--dashboard-agent-listen-port={free_port()}",
            ],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:

        def submit(*entrypoint: str) -> subprocess.CompletedProcess[str]:
            words = [BIN / "ray", "job", "submit", "--working-dir", ROOT, "--", *entrypoint]
            return subprocess.run(words, capture_output=True, text=True, timeout=280, env=environment, cwd=logs)

        deadline = time.monotonic() + 150
        while (ready := submit("true")).returncode:  # the head is up some seconds before its job agent
            assert process.poll() is None, (logs / "head.log").read_text()
            assert time.monotonic() < deadline, ready.stdout + ready.stderr
            time.sleep(1)
        yield submit
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder, sample = tmp_path_factory.mktemp("corpus"), sample_corpus()
    for split, sentences in sample.splits.items():
        write_sentences(folder / f"{split}.char.bmes", sentences[:100], scheme="BMES")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("entrypoint", [("python", "jobs/train_8p.py"), ("jobs/train_8p.py", "--num-workers", "2")])
def test_a_submitted_job_trains(submit, data_dir, tmp_path, entrypoint) -> None:
    flags = ["--device", "cpu", "--train-epochs", "2", "--data-dir", str(data_dir), "--output-dir", str(tmp_path)]
    done = submit(*entrypoint, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    workers = 2 if "2" in entrypoint else 8
    assert f"| {workers}p-cpu | 0." in done.stdout
    assert f"{tmp_path}/result.json" in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["num_workers"] == workers


@pytest.mark.slow
def test_a_submitted_job_with_a_bad_data_dir_fails_with_one_line(submit) -> None:
    done = submit("python", "jobs/train_8p.py", "--data-dir", "/nowhere")
    assert done.returncode != 0
    lines = {line for line in done.stdout.splitlines() if line.startswith("error:")}  # Ray repeats the end of the log
    assert lines == {"error: /nowhere: got nothing, expected a folder with train, dev and test files"}
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_a_submitted_job_searches(submit, data_dir, tmp_path) -> None:
    words = ["--seeds", "1", "--batch-sizes", "16,32", "--train-epochs", "1", "--device", "cpu"]
    done = submit("jobs/tune.py", *words, "--data-dir", str(data_dir), "--output-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tmp_path}/study.json" in done.stdout
    assert (tmp_path / "best" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_submitted_job_tags_files(submit, trained, tmp_path) -> None:
    (tmp_path / "some.txt").write_text("王芳：女，汉族，硕士。\n", encoding="utf-8")
    done = submit("jobs/predict.py", str(trained), str(tmp_path / "some.txt"), "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tmp_path}/out: 1 sentences, 11 characters, 3 entities, " in done.stdout
    (line,) = (tmp_path / "out" / "0001-some.txt-00001.jsonl").read_text(encoding="utf-8").splitlines()
    assert [entity["text"] for entity in json.loads(line)["entities"]] == ["王芳", "汉族", "硕士"]


def test_the_cluster_file_is_valid_for_ray() -> None:
    private = pytest.importorskip("ray.autoscaler._private.util")
    cluster = private.prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8")))
    private.validate_config(cluster)
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("--resources='{\"NPU\": 8}'" in command for command in starts)
    assert all("export PATH=~/ray_bilstm_venv/bin:$PATH" in command for command in starts), "jobs look for python there"
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "RAY_enable_autoscaler_v2=0" in starts[0], "v2 counts the head as a worker, and starts one too few"


def test_a_machine_without_cann_starts_too() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    for command in (cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]):
        before, _, _ = command.partition("ray start")
        shown = subprocess.run(["bash", "-ec", f"{before} echo $PATH $RAY_AUTH_MODE"], capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        assert "/ray_bilstm_venv/bin:" in shown.stdout
        assert shown.stdout.endswith(" token\n")


def test_the_example_for_kuberay_is_yaml() -> None:
    text = (ROOT / "docs" / "kuberay.yaml").read_text(encoding="utf-8")
    assert text.startswith("# NOT RUN")
    job = yaml.safe_load(text)
    assert job["kind"] == "RayJob"
    worker = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    declared = json.loads(json.loads(worker["rayStartParams"]["resources"].strip("'")))
    assert declared == {"NPU": int(limits["huawei.com/Ascend910"])}
