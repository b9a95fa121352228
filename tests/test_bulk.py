"""Tagging files over a cluster: real Ray, with 2 CPUs and 2 GPUs that exist for Ray alone."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import on_ray
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from ray_bilstm import Tagger, bulk, cli, cli_bulk
from ray_bilstm.accelerator import ACCELERATORS
from ray_bilstm.bulk_directory import MANIFEST
from ray_bilstm.loop import TrainingError
from ray_bilstm.sample import generate

pytestmark = on_ray.WARNINGS
PART_BYTES = 3000


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def texts():
    return ["".join(characters) for characters, _ in generate(seed=7, train=300, dev=0, test=0)["train"]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, texts):
    """A third of the texts as text, as JSON lines and as Parquet."""
    folder = tmp_path_factory.mktemp("in")
    (folder / "a.txt").write_text("".join(f"{text}\n" for text in texts[:100]), encoding="utf-8")
    records = [json.dumps({"text": text, "id": i}, ensure_ascii=False) + "\n" for i, text in enumerate(texts[100:200])]
    (folder / "b.jsonl").write_text("".join(records), encoding="utf-8")
    pq.write_table(pa.table({"text": texts[200:]}), folder / "c.parquet", row_group_size=30)
    return folder


@pytest.fixture(scope="module")
def expected(trained, texts):
    """What the model says of each text alone."""
    tagger = Tagger.load(trained)
    return [[entity._asdict() for entity in tagger.predict(text)] for text in texts]


def tagged(folder):
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    assert all(path.suffix == ".jsonl" for path in files), "no unfinished file is left"
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def same(found, texts, expected):
    """Equal texts and entities in the same order; scores agree to rounding."""
    assert [record["text"] for record in found] == texts
    for record, entities in zip(found, expected, strict=True):
        scores = [entity.pop("score") for entity in record["entities"]]
        assert record["entities"] == [{k: v for k, v in entity.items() if k != "score"} for entity in entities]
        assert scores == pytest.approx([entity["score"] for entity in entities], abs=1e-4)
    return True


def test_two_workers_give_what_one_text_at_a_time_gives(trained, inputs, texts, expected, tmp_path):
    seen = []
    options = {"num_workers": 2, "device": "cpu", "part_bytes": PART_BYTES}
    counts = bulk.tag_files(trained, [inputs], tmp_path / "out", on_part=seen.append, **options)
    found = tagged(tmp_path / "out")
    assert [record.get("id") for record in found[100:200]] == list(range(100)), "other keys are kept"
    assert same(found, texts, expected)
    assert counts[:3] == (len(texts), sum(map(len, texts)), sum(map(len, expected)))
    assert counts.parts == counts.all_parts == len(seen) > 8
    assert [one.parts for one in seen] == list(range(1, counts.parts + 1))
    assert (counts.found_parts, counts.faults) == (0, ())
    again = bulk.tag_files(trained, [inputs], tmp_path / "out", **options)
    assert (again.parts, again.sentences, again.found_parts) == (0, 0, counts.all_parts)


KILLED = """
import os, signal, sys
from ray_bilstm import bulk
def on_part(counts):
    if counts.parts == 3:
        os.kill(os.getpid(), signal.SIGKILL)
model, inputs, out, size = sys.argv[1:]
bulk.tag_files(model, [inputs], out, num_workers=2, device="cpu", part_bytes=int(size), on_part=on_part)
"""


def test_a_killed_run_is_gone_on_with(trained, inputs, texts, expected, tmp_path, cluster):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, trained, inputs, out, str(PART_BYTES)],
        env=os.environ | {"RAY_ADDRESS": cluster, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=200,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in out.glob("0*.jsonl")}
    assert len(before) >= 3
    counts = bulk.tag_files(trained, [inputs], out, num_workers=2, device="cpu")
    assert 3 <= counts.found_parts < counts.all_parts
    assert counts.parts == counts.all_parts - counts.found_parts
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "what was there has been kept"
    assert same(tagged(out), texts, expected)


def test_a_worker_that_dies_is_replaced(trained, inputs, texts, expected, tmp_path):
    killed = []

    def kill_one(counts):
        if not killed:
            killed.append(next(pid for pid, words in processes() if words.startswith("ray::MapWorker")))
            os.kill(killed[0], signal.SIGKILL)

    options = {"num_workers": 1, "device": "cpu", "part_bytes": PART_BYTES, "on_part": kill_one}
    counts = bulk.tag_files(trained, [inputs], tmp_path / "out", **options)
    assert killed
    assert counts.parts == counts.all_parts
    assert counts.sentences == len(texts)
    assert same(tagged(tmp_path / "out"), texts, expected)


def test_a_part_at_which_workers_die_is_left_out(trained, inputs, tmp_path):
    """Each death leaves a temporary file; the worker is called here, without an actor."""
    claim = {"model": str(trained), "chosen": ACCELERATORS["cpu"], "threads": 1, "scores": True}
    worker, output = bulk.Worker(**claim), tmp_path / "0001-a.txt-00001.jsonl"
    row = {"source": str(inputs / "a.txt"), "begin": 0, "end": 300, "first": 1, "output": str(output)}
    for death in range(bulk.MOST_DEATHS):
        found = worker(pa.Table.from_pylist([row]))
        assert found["fault"] == [""]
        assert output.exists()
        output.unlink()
        (tmp_path / f".{output.name}.{death:08}").write_text("", encoding="utf-8")
    (fault,) = worker(pa.Table.from_pylist([row]))["fault"]
    assert fault.startswith(f"{inputs}/a.txt:1: 3 workers died at the part that begins here: killed, or out")
    assert not output.exists()


def processes():
    """Of this test: descendants of this process, with their command lines."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append((child.pid, " ".join(child.cmdline())))
    return found


def predict_job(*words):
    return cli.bulk_job(list(map(str, words)), description="jobs/predict.py")


def test_the_job_prints_one_line_and_shows_progress(trained, inputs, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli_bulk, "SECONDS_LOG", 0.0)
    out = tmp_path / "out"
    words = [trained, inputs / "a.txt", "--output-dir", out, "--num_workers", 1, "--device", "cpu", "--no-scores"]
    assert predict_job(*words) == 0
    shown = capsys.readouterr()
    characters = sum(map(len, texts[:100]))
    entities = sum(len(record["entities"]) for record in tagged(out))
    assert shown.out.startswith(f"{out}: 100 sentences, {characters:,} characters, {entities:,} entities, ")
    assert shown.out.endswith(" characters/s\n")
    assert shown.out.count("\n") == 1
    assert shown.err.startswith("100%  1 of 1 parts, 100 sentences, ")
    assert all("score" not in entity for record in tagged(out) for entity in record["entities"])
    assert predict_job(*words) == 0
    assert capsys.readouterr().out.endswith("; 1 of 1 parts were there\n")
    assert predict_job(*words[:-1]) == 1
    assert f"error: {out}: holds parts of other work: they are without scores; pass" in capsys.readouterr().err


def test_progress_on_a_terminal_is_one_line_that_ends(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = iter([0.0, 1.0, 11.0, 11.1, 11.2])
    monkeypatch.setattr(cli_bulk.time, "monotonic", lambda: next(clock))
    progress = cli_bulk._Progress()
    for parts in (1, 2, 3, 4):  # too early, shown, too soon, the last
        progress(bulk.Counts(sentences=parts, characters=9 * parts, parts=parts, all_parts=4, seconds=3.0))
    first, last = capsys.readouterr().err.removeprefix("\r").split("\r")
    assert first.rstrip() == " 50%  2 of 4 parts, 2 sentences, 18 characters, 6 characters/s"
    assert last.rstrip() == "100%  4 of 4 parts, 4 sentences, 36 characters, 12 characters/s"
    assert last.endswith("\n")


def test_bad_input_is_said_and_the_rest_is_tagged(trained, inputs, texts, tmp_path, capsys):
    bad = tmp_path / "bad.txt"
    bad.write_bytes("王芳\n".encode() + b"\xff\n")
    worse = tmp_path / "worse.jsonl"
    worse.write_text('{"text": "王芳"}\n{}\n', encoding="utf-8")
    words = [bad, inputs / "a.txt", worse, "--output-dir", tmp_path / "out", "--device", "cpu"]
    assert predict_job(trained, *words) == 1
    shown = capsys.readouterr()
    first, second = (line for line in shown.err.splitlines() if line.startswith("error"))  # there may be progress
    assert first.startswith(f"error: {bad}:2: got byte 0xFF, expected UTF-8")
    assert second.startswith(f"error: {worse}:2: ")
    assert ": 100 sentences, " in shown.out
    assert [record["text"] for record in tagged(tmp_path / "out")] == texts[:100]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--device", "cpu"], "error: nowhere: got no such file, expected a file or a folder of texts"),
        (["{inputs}", "--device", "npu"], "error: "),
        (
            ["{inputs}", "--device", "cuda", "--num-workers", "3"],
            "error: --num-workers 3 x 1 GPU does not fit: the cluster",
        ),
        (["{inputs}", "--device", "cpu", "--num-workers", "33"], "error: --num-workers 33 x 0.0625 CPU does not fit"),
    ],
)
def test_what_does_not_go_is_said_in_a_line(trained, inputs, tmp_path, words, message, capsys):
    words = [word.format(inputs=inputs) for word in words]
    assert predict_job(trained, *words, "--output-dir", tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists(), "nothing has begun"


def test_a_damaged_model_is_said_before_anything_starts(trained, inputs, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert predict_job(tmp_path / "model", inputs, "--output-dir", tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/model: got no model.safetensors, expected")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the cluster's GPUs are none")
def test_a_worker_without_its_device_says_so(trained, inputs, tmp_path):
    with pytest.raises(TrainingError, match=r"a worker failed: .*torch sees no cuda device"):
        bulk.tag_files(trained, [inputs / "a.txt"], tmp_path / "out", num_workers=1, device="cuda")


def test_an_input_that_changes_meanwhile_is_refused(trained, tmp_path):
    source = tmp_path / "some.txt"
    source.write_text("王芳\n" * 10, encoding="utf-8")
    with pytest.raises(bulk.TextError, match=r"some\.txt: has changed while it was read: run again with --overwrite"):
        bulk.tag_files(
            trained, [source], tmp_path / "out", device="cpu", on_part=lambda counts: source.write_text("李强\n")
        )


def test_empty_files_are_no_work(trained, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    counts = bulk.tag_files(trained, [tmp_path / "empty.txt"], tmp_path / "out", device="cpu")
    assert counts[:6] == (0, 0, 0, 0, 0, 0)
