"""What happens to a run: it is stopped, killed, moved to fewer workers; and ends as if nothing had happened.

Real Ray: one cluster of 2 CPUs for the runs in this process, one of its own for each in another.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import on_ray
import pytest
import ray

from ray_bilstm import run_directory
from ray_bilstm.checkpoint import CONFIG, MODEL, STATE
from ray_bilstm.config import Config
from ray_bilstm.run_directory import BEST, LAST, RunError, RunStopped, read_events, read_history
from ray_bilstm.train import train

pytestmark = on_ray.WARNINGS
ROOT = Path(__file__).parent.parent
SMALL = {
    "device": "cpu",
    "embedding_size": 16,
    "bigram_size": 8,
    "hidden_size": 16,
    "batch_size": 8,
    "train_epochs": 6,
    "learning_rate": 0.01,
}
"""88 steps an epoch on the sample, so one look in the middle of each; everything that is random by default stays so."""
WORDS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run_whole(path: Path, workers: int, **fields) -> Path:
    train(Config().with_fields(**SMALL | fields, num_workers=workers, output_dir=str(path)))
    return path


@pytest.fixture(scope="module")
def one(cluster, tmp_path_factory) -> Path:
    """An undisturbed run of one worker."""
    return run_whole(tmp_path_factory.mktemp("one") / "run", 1)


@pytest.fixture(scope="module")
def two(cluster, tmp_path_factory) -> Path:
    """An undisturbed run of two."""
    return run_whole(tmp_path_factory.mktemp("two") / "run", 2)


def timeless(path: Path) -> list[dict]:
    """The history without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "sentences_per_second")} for line in read_history(path)
    ]


def digests(path: Path) -> dict[str, str]:
    return {name: hashlib.sha256((path / name / MODEL).read_bytes()).hexdigest() for name in (BEST, LAST)}


def assert_undisturbed(path: Path, expected: Path) -> None:
    """Both runs ended with the same weights, history and figures, and nothing stayed behind."""
    assert timeless(path) == timeless(expected)
    assert digests(path) == digests(expected)
    results = [json.loads((run / "result.json").read_text(encoding="utf-8")) for run in (path, expected)]
    for name in ("dev", "test", "best_epoch", "epochs_run"):
        assert results[0][name] == results[1][name], name
    assert not [file.name for file in path.iterdir() if file.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_two_runs_of_one_seed_have_the_same_weights(request, workers: int, tmp_path) -> None:
    expected = request.getfixturevalue("one" if workers == 1 else "two")
    assert_undisturbed(run_whole(tmp_path / "again", workers), expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_four_epochs_and_two_are_six(request, workers: int, tmp_path) -> None:
    expected = request.getfixturevalue("one" if workers == 1 else "two")
    config = Config().with_fields(**SMALL, num_workers=workers, output_dir=str(tmp_path / "run"))
    with pytest.raises(RunStopped, match=r"stopped after epoch 4, all of it saved: .*--resume") as stopped:
        train(config.with_fields(stop_after=4))
    assert stopped.value.code == 75
    assert not run_directory.is_finished(tmp_path / "run")
    assert [line["epoch"] for line in read_history(tmp_path / "run")] == [1, 2, 3, 4]
    told: list[str] = []
    seen: list[dict] = []
    result, _ = train(config.with_fields(resume=True), on_event=told.append, on_epoch=seen.append)
    assert_undisturbed(tmp_path / "run", expected)
    assert told == [f"going on with {workers} worker{'s' * (workers > 1)} after epoch 4"]
    assert [event["text"] for event in result["events"]] == told
    assert [line["epoch"] for line in seen] == [5, 6], "what was told before is not told again"


@pytest.mark.slow
def test_another_number_of_workers_goes_on_with_the_same_problem(one, tmp_path) -> None:
    config = Config().with_fields(**SMALL, output_dir=str(tmp_path / "run"))
    with pytest.raises(RunStopped):
        train(config.with_fields(stop_after=3, num_workers=1))
    train(config.with_fields(resume=True, num_workers=2))
    history, expected = timeless(tmp_path / "run"), timeless(one)
    assert history[:3] == expected[:3]
    for name in ("epoch", "steps", "learning_rate"):
        assert [line[name] for line in history] == [line[name] for line in expected]
    assert history[3]["train_loss"] == pytest.approx(expected[3]["train_loss"], rel=0.2)


def test_a_finished_run_says_so_and_stays_as_it_is(two) -> None:
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in two.rglob("*") if file.is_file()}
    words = [sys.executable, "-m", "ray_bilstm", "train", *WORDS, "--resume", "--output-dir", str(two)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"{two} holds a finished run: nothing to resume, nothing changed" in done.stdout
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in two.rglob("*") if file.is_file()}


@pytest.mark.parametrize("finished", [True, False])
def test_epochs_cannot_be_added_to_a_schedule(two, tmp_path, finished: bool) -> None:
    """The learning rate has fallen to 0 over 6 epochs: what 4 more would do, no run of 10 does."""
    subprocess.run(["cp", "-r", two, tmp_path / "run"], check=True)
    if not finished:
        (tmp_path / "run" / "result.json").unlink()
    config = Config().with_fields(**SMALL, output_dir=str(tmp_path / "run"), resume=True)
    with pytest.raises(RunError, match=r"train_epochs was 6 and is 10.*schedule.*--stop-after"):
        train(config.with_fields(train_epochs=10))


@pytest.mark.slow
def test_what_a_killed_writer_left_undone_is_done(one, tmp_path) -> None:
    """The state is of epoch 4, and best/ and the history are behind it."""
    path = tmp_path / "run"
    config = Config().with_fields(**SMALL, output_dir=str(path))
    with pytest.raises(RunStopped):
        train(config.with_fields(stop_after=4))
    lines = (path / "history.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (path / "history.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    (path / BEST / MODEL).unlink()
    train(config.with_fields(resume=True))
    assert_undisturbed(path, one)


def start(path: Path, *words: str) -> subprocess.Popen:
    """A run in a session of its own, as a terminal would have it."""
    command = [sys.executable, "-m", "ray_bilstm", "train", *WORDS, "--output-dir", str(path), *words]
    environment = os.environ | {"RAY_ADDRESS": "local", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def wait_for_epoch(path: Path, epoch: int, process: subprocess.Popen) -> None:
    """Raises where it does not come."""
    deadline = time.monotonic() + 120
    while len(read_history(path)) < epoch:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.02)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    try:
        shown, _ = process.communicate(timeout=150)
    finally:
        process.kill()
    return process.returncode, shown


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_nothing(two, tmp_path, number: signal.Signals) -> None:
    """Ctrl-C reaches the whole group of the terminal; a scheduler's SIGTERM the driver."""
    path = tmp_path / "run"
    process = start(path, "--num-workers", "2")
    wait_for_epoch(path, 2, process)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    code, shown = finish(process)
    assert code == 128 + number, shown
    assert f"{number.name}: saving, then stopping" in shown
    assert f"all of it saved: the same command with --resume --output-dir {path} goes on" in shown
    assert "Traceback" not in shown
    assert 2 <= len(read_history(path)) < 6
    code, shown = finish(start(path, "--num-workers", "2", "--resume"))
    assert code == 0, shown
    assert_undisturbed(path, two)
    assert len(read_events(path)) == 1


@pytest.mark.slow
def test_a_killed_driver_is_resumed(two, tmp_path) -> None:
    path = tmp_path / "run"
    process = start(path, "--num-workers", "2")
    wait_for_epoch(path, 2, process)
    process.kill()
    process.communicate()
    assert (path / LAST / STATE).exists()
    assert (path / CONFIG).exists()
    assert not run_directory.is_finished(path)
    code, shown = finish(start(path, "--num-workers", "2", "--resume"))
    assert code == 0, shown
    assert_undisturbed(path, two)


def descendants(pid: int) -> dict[int, str]:
    """The processes that `pid` has started, or they in turn: their command lines."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):
            continue
    found, level = {}, {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= {child: names[child] for child in level}
    return found


def workers_of(pid: int) -> list[int]:
    return sorted(child for child, name in descendants(pid).items() if name.startswith("ray::RayTrainWorker"))


def test_a_killed_worker_is_replaced(two, tmp_path) -> None:
    path = tmp_path / "run"
    process = start(path, "--num-workers", "2")
    wait_for_epoch(path, 2, process)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    code, shown = finish(process)
    assert code == 0, shown
    assert_undisturbed(path, two)
    died, again = (event["text"] for event in read_events(path))
    assert re.fullmatch(DIED, died)
    assert re.fullmatch(r"going on with 2 workers after epoch \d( and 50 steps of the next)?", again)
    assert f"\n{died}\n" in shown, "the person is told"
    assert f"\n{again}\n" in shown


@pytest.mark.slow
def test_a_worker_killed_once_too_often_ends_the_run(two, tmp_path) -> None:
    path = tmp_path / "run"
    process = start(path, "--num-workers", "2", "--max-failures", "0")
    wait_for_epoch(path, 2, process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    code, shown = finish(process)
    assert code == 1, shown
    assert re.search(r"\nworker [01] was killed, .*; --max-failures 0 allows no more\n", shown)
    assert re.search(r"\nerror: worker [01] was killed.*What was saved is resumed with --resume\n", shown)
    code, shown = finish(start(path, "--num-workers", "2", "--resume"))
    assert code == 0, shown
    assert_undisturbed(path, two)


NODES = """
import json, sys, threading, time
import ray
from ray.cluster_utils import Cluster
from ray_bilstm.config import Config
from ray_bilstm.run_directory import read_history
from ray_bilstm.train import train

fields, what = json.loads(sys.argv[1]), sys.argv[2]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
leaving = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
from pathlib import Path
path, ended = Path(fields["output_dir"]), []

def work():
    try:
        train(Config().with_fields(**fields), on_event=print)
    except Exception as error:
        print("error:", error)
    ended.append(True)

thread = threading.Thread(target=work)
thread.start()
while len(read_history(path)) < 2 and not ended:
    time.sleep(0.05)
if what == "drain":
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason
    deadline = int(1000 * (time.time() + 12))
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = GcsClient(address=cluster.address)
    print("draining", client.drain_node(leaving.node_id, reason, "taken back", deadline))
    time.sleep(9)
cluster.remove_node(leaving, allow_graceful=False)
if what != "shrink":
    cluster.add_node(num_cpus=1)
thread.join()
ray.shutdown()
cluster.shutdown()
"""


def run_on_nodes(path: Path, what: str, **fields) -> list[str]:
    """A run of two workers on two nodes, of which one goes; the events."""
    settings = json.dumps({**SMALL, **fields, "num_workers": 2, "output_dir": str(path)})
    words = [sys.executable, "-c", NODES, settings, what]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert run_directory.is_finished(path), done.stdout + done.stderr
    return [event["text"] for event in read_events(path)]


DIED = r"worker [01] was killed, .* lost its node; the workers are started again as soon as they fit"


@pytest.mark.slow
def test_a_node_that_goes_is_replaced(two, tmp_path) -> None:
    *died, again = run_on_nodes(tmp_path / "run", "remove")
    assert_undisturbed(tmp_path / "run", two)
    assert died
    assert all(re.fullmatch(DIED, text) for text in died)
    assert again.startswith("going on with 2 workers after epoch")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_taken_away_gives_time_to_save(cluster, tmp_path) -> None:
    """Ray drains it, and 12 seconds later it is gone."""
    expected = run_whole(tmp_path / "whole", 2, train_epochs=40)
    warned, *_, again = run_on_nodes(tmp_path / "run", "drain", train_epochs=40)
    assert_undisturbed(tmp_path / "run", expected)
    assert re.fullmatch(r"the node of worker [01] is to be taken away: saving as it goes", warned)
    assert again.startswith("going on with 2 workers after epoch")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_elastic_run_goes_on_with_fewer_workers(two, tmp_path) -> None:
    """Nobody replaces the node: the same problem goes on with one worker."""
    *died, again = run_on_nodes(tmp_path / "run", "shrink", min_workers=1)
    assert died
    assert again.startswith("going on with 1 worker after epoch")
    assert json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["num_workers"] == 1
    history, expected = timeless(tmp_path / "run"), timeless(two)
    assert history[:2] == expected[:2]
    for name in ("epoch", "steps", "learning_rate"):
        assert [line[name] for line in history] == [line[name] for line in expected]
    assert history[-1]["train_loss"] == pytest.approx(expected[-1]["train_loss"], rel=0.3)
