"""A run kept below a URI: in a folder, and in S3, whose server is moto's; with real Ray in the end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import on_ray
import pytest
import ray
from pyarrow import fs
from test_faults import SMALL, assert_undisturbed, finish, run_whole, start, wait_for_epoch, workers_of
from test_saving import CONFIG, is_same, make_sequence

from ray_bilstm import run_directory, saving
from ray_bilstm.checkpoint import MODEL, PREVIOUS, STATE
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.run_directory import BEST, EVENTS, HISTORY, LAST, RESULT, START, STOP, RunError, RunStopped
from ray_bilstm.storage import WORKER, Exchange, Storage, fetch, open_storage
from ray_bilstm.train import train

pytestmark = on_ray.WARNINGS


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """URI of an empty bucket of a server of this machine; the credentials are in the environment."""
    pytest.importorskip("moto.server", reason="an S3 server: pip install 'moto[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    server = subprocess.Popen(words, stdout=log, stderr=log)
    secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in secrets.items():
            patch.setenv(name, value)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.05)
        options = f"endpoint_override=127.0.0.1%3A{port}&scheme=http&region=us-east-1"
        system, _ = fs.FileSystem.from_uri(f"s3://bucket?{options}&allow_bucket_creation=true")
        system.create_dir("bucket")
        yield f"s3://bucket/{{}}?{options}"
    server.kill()
    server.wait()


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path) -> str:
    """Of nothing yet."""
    if request.param == "folder":
        return (tmp_path / "kept").as_uri()
    name: str = request.getfixturevalue("s3").format(tmp_path.name)
    return name


def names(uri: str) -> list[str]:
    """Of all objects of the run `a`."""
    return Storage(uri, "a")._names("")


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_files_go_there_and_come_back(uri, tmp_path) -> None:
    ours = write(
        tmp_path / "a", last__x_json="1", best__x_json="2", history_jsonl="{}\n", result_json="汉", other_txt=""
    )
    (ours / "last" / ".x.json.abc.partial").write_text("half")
    storage = Storage(uri, "a")
    assert names(uri) == []
    assert not storage.holds_run()
    storage.push_all(ours)
    assert list(storage.known) == ["best/x.json", "last/x.json", HISTORY, RESULT], "the result comes last"
    assert names(uri) == sorted(storage.known)
    assert storage.holds_run()
    other = Storage(uri, "a")
    other.pull(tmp_path / "part", LAST, HISTORY, "none")
    assert sorted(path.name for path in (tmp_path / "part").rglob("*")) == [HISTORY, LAST, "x.json"]
    other.pull(tmp_path / "all")
    assert {name: (tmp_path / "all" / name).read_bytes() for name in names(uri)} == {
        name: (ours / name).read_bytes() for name in storage.known
    }
    storage.remove(RESULT, "none")
    assert not storage.has(RESULT)
    assert storage.has(HISTORY)


def test_what_is_there_is_not_put_there_again(uri, tmp_path) -> None:
    ours = write(tmp_path / "a", history_jsonl="1", last__x_json="2")
    storage = Storage(uri, "a")
    storage.push(ours, HISTORY, LAST)
    write(tmp_path / "theirs", history_jsonl="3", last__x_json="3")
    Storage(uri, "a").push(tmp_path / "theirs", HISTORY, LAST)
    write(ours, last__x_json="4")
    storage.push(ours, HISTORY, LAST)
    storage.pull(tmp_path / "got")
    assert [(tmp_path / "got" / name).read_text() for name in (HISTORY, "last/x.json")] == ["3", "4"]


def test_a_writer_killed_anywhere_leaves_a_state(uri, tmp_path, vocab, monkeypatch) -> None:
    """Killed after each number of objects: a later process finds where an epoch ended, the earlier or the later one."""
    before, _, _, after = make_sequence(vocab)
    ours, kinds = tmp_path / "a", (LAST, BEST, HISTORY)
    ours.mkdir()
    saving.save(ours, before, config=CONFIG, vocab=vocab)
    Storage(uri, "a").push(ours, *kinds)
    saving.save(ours, after, config=CONFIG, vocab=vocab)
    assert (ours / LAST / PREVIOUS).exists()
    whole = Storage(uri, "b")
    whole.push(ours, *kinds)
    folders = [name.partition("/")[0] for name in whole.known]
    assert folders == [LAST] * 4 + [BEST] * 3 + [HISTORY]
    assert list(whole.known)[3] == f"{LAST}/{STATE}", "behind its model, before what can be made from it"
    storage, put, left = Storage(uri, "a"), Storage._put, 0
    storage.pull(tmp_path / "known")

    def put_or_die(self: Storage, name: str, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        known = len(self.known)
        put(self, name, data)
        left -= self.known.keys() != known

    monkeypatch.setattr(Storage, "_put", put_or_die)
    seen = []
    for points in range(20):
        left, found = points, tmp_path / f"found{points}"
        try:
            storage.push(ours, *kinds)
            finished = True
        except KeyboardInterrupt:
            finished = False
        Storage(uri, "a").pull(found)
        progress = saving.take_up(found, config=CONFIG, vocab=vocab)
        assert is_same(progress, before) or is_same(progress, after)
        seen.append(progress.epoch)
        assert run_directory.read_history(found) == progress.history
        if finished:
            break
    assert finished
    assert seen[0] == 1
    assert seen[-1] == 3
    assert sorted(seen) == seen
    assert PREVIOUS not in {Path(name).name for name in names(uri)}


def test_both_sides_meet_there(uri, tmp_path) -> None:
    driver, rank_0 = tmp_path / "driver" / "a", tmp_path / "rank_0"
    for folder in (driver, rank_0):
        folder.mkdir(parents=True)
    exchange, theirs = Exchange(Storage(uri, "a"), driver), Storage(uri, "a")
    asked = theirs.asked_to_stop()
    run_directory.write_event(driver, "ours")
    run_directory.write_event(rank_0, "theirs")
    theirs.push(write(rank_0, history_jsonl='{"epoch": 1}\n', last__x_json="1"), LAST, HISTORY)
    theirs.push(rank_0, EVENTS, under=WORKER)
    exchange(ending=False)
    assert not (driver / HISTORY).exists(), "it has only just looked"
    exchange.looked -= 60
    exchange(ending=False)
    assert run_directory.read_history(driver) == [{"epoch": 1}]
    assert not (driver / LAST).exists()
    assert not asked()
    run_directory.ask_to_stop(driver)
    run_directory.write_event(rank_0, "again")
    theirs.push(rank_0, EVENTS, under=WORKER)
    exchange(ending=True)
    assert [event["text"] for event in run_directory.read_events(driver)] == ["ours", "theirs", "again"]
    assert (driver / LAST / "x.json").read_text() == "1"
    assert theirs.has(STOP)
    assert not asked(), "it has looked a moment ago"
    assert theirs.asked_to_stop()()
    Storage(uri, "a").pull(tmp_path / "seen")
    assert len(run_directory.read_events(tmp_path / "seen")) == 3


def test_a_stop_is_seen(uri, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ray_bilstm.storage.SECONDS", -1.0)
    asked = Storage(uri, "a").asked_to_stop()
    assert not asked()
    Storage(uri, "a").push(write(tmp_path / "a", _stop=""), STOP)
    assert asked()


def test_a_storage_that_fails_for_a_moment_ends_nothing(tmp_path) -> None:
    """The driver looks again; rank 0 is told when it has something to save."""
    (tmp_path / "kept").write_text("no folder")
    storage = Storage((tmp_path / "kept").as_uri(), "a")
    (tmp_path / "a").mkdir()
    run_directory.write_event(tmp_path / "a", "to be put there")
    exchange = Exchange(storage, tmp_path / "a")
    exchange.looked -= 60
    exchange(ending=False)
    with pytest.raises(RunError, match=r"kept/a: the storage cannot be used: "):
        exchange(ending=True)
    run_directory.write_history(tmp_path / "a", [])
    with pytest.raises(RunError, match=r"kept/a: the storage cannot be used: .*[Nn]ot a directory"):
        storage.push(tmp_path / "a", HISTORY)


@pytest.mark.parametrize(
    ("value", "got"),
    [("/shared/runs", "'/shared/runs'"), ("", "''"), ("s3://key:secret@bucket/x", "'s3://key:secret@bucket/x'")],
)
def test_what_is_no_plain_uri_is_refused(value: str, got: str) -> None:
    with pytest.raises(ConfigError, match=rf"^storage_path is {got}: expected a URI without user or password, such as"):
        Config().with_fields(storage_path=value)


def test_replacing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^overwrite does not reach below storage_path: choose another name for"):
        Config().with_fields(storage_path="s3://bucket/x", overwrite=True)


def test_a_run_that_is_there_is_kept(uri, tmp_path) -> None:
    Storage(uri, "a").push(write(tmp_path / "a", history_jsonl="1\n"), HISTORY)
    config = Config().with_fields(storage_path=uri)
    with pytest.raises(RunError, match=r"/a.*: holds a run, expected nothing: choose another name for --output-dir"):
        open_storage(config, tmp_path / "b" / "a")
    assert fetch(config, tmp_path / "c" / "a") is not None
    assert (tmp_path / "c" / "a" / HISTORY).read_text() == "1\n"
    assert open_storage(config.with_fields(resume=True), tmp_path / "b" / "a") is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda uri: uri.replace("bucket", "nobucket"), "nobucket/x/a.*: the storage cannot be used: .*nobucket"),
        (lambda uri: "s3x://bucket/x", "s3x://bucket/x/a: the storage cannot be used: Unrecognized filesystem type"),
    ],
)
def test_a_storage_that_is_not_there_is_one_line(s3, tmp_path, change, reason: str) -> None:
    storage = Storage(change(s3.format("x")), "a")
    run_directory.write_history(tmp_path, [])
    with pytest.raises(RunError, match=reason) as error:
        storage.push(tmp_path, HISTORY)
    assert "\n" not in str(error.value)


def test_names_cannot_lead_out_of_the_folder(s3, tmp_path) -> None:
    import boto3

    uri = s3.format(tmp_path.name)
    endpoint = re.search(r"endpoint_override=([^&]*)", uri)[1].replace("%3A", ":")
    client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
    client.put_object(Bucket="bucket", Key=f"{tmp_path.name}/a/best/../../../evil", Body=b"1")
    with pytest.raises(RunError, match=r"holds 'best/\.\./\.\./\.\./evil', expected the files of a run"):
        Storage(uri, "a").pull(tmp_path / "here" / "deep" / "a")
    assert not list(tmp_path.rglob("evil"))


@pytest.fixture(scope="module")
def cluster(s3):
    """After the server: workers inherit its credentials."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_run_goes_on_on_another_machine(s3, cluster, tmp_path) -> None:
    """The driver's folder is gone, as it is on another machine; rank 0's is a new one with each start."""
    expected = run_whole(tmp_path / "expected", 1, train_epochs=3)
    uri = s3.format(tmp_path.name)
    config = Config().with_fields(**SMALL | {"train_epochs": 3}, storage_path=uri)
    first, second = tmp_path / "first" / "a", tmp_path / "second" / "a"
    with pytest.raises(RunStopped, match="stopped after epoch 2, all of it saved"):
        train(config.with_fields(output_dir=str(first), stop_after=2))
    assert {f"{LAST}/{STATE}", f"{BEST}/{MODEL}", HISTORY} < set(names(uri))
    assert not {RESULT, STOP, START} & set(names(uri))
    with pytest.raises(RunError, match="holds a run, expected nothing"):
        train(config.with_fields(output_dir=str(second)))
    told: list[str] = []
    result, path = train(config.with_fields(output_dir=str(second), resume=True), on_event=told.append)
    assert path == second
    assert told == ["going on with 1 worker after epoch 2", f"kept at {Storage(uri, 'a')} too"]
    assert [event["text"] for event in result["events"]] == told[:1]
    assert_undisturbed(second, expected)
    Storage(uri, "a").pull(tmp_path / "copy")
    assert_undisturbed(tmp_path / "copy", expected)
    told.clear()
    again, _ = train(config.with_fields(output_dir=str(tmp_path / "third" / "a"), resume=True), on_event=told.append)
    assert again == json.loads((second / RESULT).read_text(encoding="utf-8"))
    assert told == [f"{tmp_path / 'third' / 'a'} holds a finished run: nothing to resume, nothing changed"]


@pytest.mark.slow
def test_rank_0_is_killed_and_the_driver_asked_to_stop(s3, cluster, tmp_path) -> None:
    epochs = 24  # of half a second: a wish travels through the storage for some seconds
    expected = run_whole(tmp_path / "expected", 2, train_epochs=epochs)
    path, uri = tmp_path / "first" / "a", s3.format(tmp_path.name)
    words = ["--num-workers", "2", "--train-epochs", str(epochs), "--storage-path", uri]
    process = start(path, *words)
    wait_for_epoch(path, 2, process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    wait_for_epoch(path, 4, process)
    os.kill(process.pid, signal.SIGTERM)
    code, shown = finish(process)
    assert code == 128 + signal.SIGTERM, shown
    assert "going on with 2 workers after epoch" in shown
    path = tmp_path / "second" / "a"
    code, shown = finish(start(path, *words, "--resume"))
    assert code == 0, shown
    Storage(uri, "a").pull(tmp_path / "copy")
    assert_undisturbed(tmp_path / "copy", expected)
