"""The directory of tagged parts: names, what is still to do, and what is refused."""

import json
import os
import shutil

import pytest

from ray_bilstm.bulk_directory import MANIFEST, model_digest, open_directory
from ray_bilstm.ensemble_directory import write_ensemble
from ray_bilstm.parts import find_sources
from ray_bilstm.run_directory import RunError


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("甲\n" * 20, encoding="utf-8")
    (folder / "inner" / "a.txt").write_text("乙\n" * 20, encoding="utf-8")
    return [folder / "a.txt", folder / "inner" / "a.txt"]


@pytest.fixture
def open_with(tmp_path, trained, inputs):
    """`open_directory` on tmp_path/out, with settings that a test replaces."""

    def call(**changed):
        given = {"inputs": inputs, "model": trained, "scores": True, "part_bytes": 30} | changed
        return open_directory(tmp_path / "out", find_sources(given.pop("inputs")), **given)

    return call


def test_names_say_input_and_part_and_sort_as_the_inputs(open_with):
    names = [task.output.name for task in open_with()]
    assert names[:2] == ["0001-a.txt-00001.jsonl", "0001-a.txt-00002.jsonl"]
    assert names == sorted(names)
    assert len(names) == len(set(names)) == 6


def test_more_digits_where_it_takes_them(open_with, inputs, tmp_path):
    (inputs[0]).write_text("甲\n" * 100_001, encoding="utf-8")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    names = [task.output.name for task in open_with(part_bytes=1)]
    assert names == sorted(names)


def test_the_same_work_goes_on(open_with, tmp_path):
    tasks = open_with()
    tasks[0].output.write_text("done", encoding="utf-8")
    (tmp_path / "out" / f".{tasks[1].output.name}.x1y2z3").write_text("half", encoding="utf-8")
    assert open_with(part_bytes=10**6) == tasks, "the cut is that of the manifest"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [tasks[0].output.name, MANIFEST]


def test_other_work_is_refused_and_overwritten_when_asked(open_with, inputs, trained, tmp_path):
    tasks = open_with()
    tasks[0].output.write_text("done", encoding="utf-8")
    other = tmp_path / "model"
    shutil.copytree(trained, other)
    config = other / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    changes = {
        "they are of another model": {"model": other},
        "they are with scores": {"scores": False},
        f"they are with {inputs[1]}": {"inputs": inputs[:1]},
        f"they are without {config}": {"inputs": [*inputs, config]},
        "the inputs came in another order": {"inputs": inputs[::-1]},
    }
    for sentence, change in changes.items():
        with pytest.raises(RunError, match=f"out: holds parts of other work: {sentence}.*; pass --overwrite"):
            open_with(**change)
    os.utime(inputs[0], ns=(1, 1))
    with pytest.raises(RunError, match=f"{inputs[0]} has changed since; pass --overwrite"):
        open_with()
    assert tasks[0].output.read_text(encoding="utf-8") == "done"
    assert len(open_with(overwrite=True, part_bytes=10**6)) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MANIFEST]
    assert len(open_with()) == 2


def test_a_copy_of_the_model_elsewhere_is_the_same_model(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("another card", encoding="utf-8")
    assert model_digest(tmp_path / "model") == model_digest(trained)
    write_ensemble(tmp_path / "both", [trained, trained])
    assert model_digest(tmp_path / "both") != model_digest(trained)


def test_a_directory_of_other_things_is_refused(open_with, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("precious", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(
            RunError, match=r"out: holds files and no manifest\.json, expected a new or empty directory"
        ):
            open_with(overwrite=overwrite)
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({"format": 2}), encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest\.json: not the manifest of tagged parts: ValueError\('format 2"):
        open_with()
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="out: got a file, expected a directory"):
        open_with()
