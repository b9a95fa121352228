"""A run directory is not overwritten by accident, and says what it holds."""

import json

import pytest

from ray_bilstm import run_directory
from ray_bilstm.checkpoint import STATE
from ray_bilstm.config import Config
from ray_bilstm.run_directory import BEST, CONFIG, EVALUATION, HISTORY, LAST, REPLACED, RESULT, RunError


def fill(path, *, result=None, note="first"):
    """What a run leaves; without `result`, a run that was killed."""
    for name in (BEST, LAST):
        (path / name).mkdir(parents=True)
        (path / name / "model.safetensors").write_text(note, encoding="utf-8")
    (path / LAST / STATE).write_text(note, encoding="utf-8")
    run_directory.write_history(path, [{"epoch": 1, "note": note}])
    (path / EVALUATION).write_text('{"split": "test"}', encoding="utf-8")
    if result:
        run_directory.close_run(path, result)


def config(**fields):
    return Config().with_fields(**fields)


def names(path):
    return sorted(each.name for each in path.iterdir())


def test_a_new_directory_gets_the_settings(tmp_path):
    path = tmp_path / "a" / "b"
    run_directory.open_run(path, config(batch_size=5))
    assert names(path) == [CONFIG]
    assert Config.from_dict(run_directory.read_config(path)) == config(batch_size=5)
    run_directory.open_run(path, config(batch_size=6))  # it holds no run yet
    assert run_directory.read_config(path)["training"]["batch_size"] == 6


@pytest.mark.parametrize(("result", "state"), [({"name": "x"}, "a finished run"), (None, "an unfinished run")])
def test_a_run_is_not_overwritten(tmp_path, result, state):
    run_directory.open_run(tmp_path, config())
    fill(tmp_path, result=result)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=rf"{tmp_path}: holds {state}.*--output-dir.*--overwrite or --resume"):
        run_directory.open_run(tmp_path, config(batch_size=5))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_overwriting_keeps_the_earlier_run_until_the_new_one_has_ended(tmp_path):
    run_directory.open_run(tmp_path, config())
    fill(tmp_path, result={"name": "first"})
    (tmp_path / "mine.txt").write_text("not of the run", encoding="utf-8")
    run_directory.open_run(tmp_path, config(overwrite=True))
    assert names(tmp_path) == sorted([REPLACED, CONFIG, "mine.txt"])
    assert not run_directory.is_finished(tmp_path)
    assert run_directory.read_result(tmp_path / REPLACED) == {"name": "first"}
    assert run_directory.read_evaluation(tmp_path / REPLACED) == {"split": "test"}
    assert run_directory.read_evaluation(tmp_path) == {}

    fill(tmp_path, note="second")  # killed
    run_directory.open_run(tmp_path, config(overwrite=True))
    assert names(tmp_path) == sorted([REPLACED, CONFIG, "mine.txt"])
    assert run_directory.read_history(tmp_path / REPLACED) == [{"epoch": 1, "note": "first"}], "not the killed one"

    fill(tmp_path, note="third", result={"name": "third"})
    assert run_directory.read_result(tmp_path) == {"name": "third"}
    assert names(tmp_path) == sorted([BEST, CONFIG, EVALUATION, HISTORY, LAST, RESULT, "mine.txt"])


def test_a_run_is_resumed_with_its_settings_only(tmp_path):
    run_directory.open_run(tmp_path, config(batch_size=5, num_workers=2))
    assert not run_directory.can_resume(tmp_path)
    fill(tmp_path)
    assert run_directory.can_resume(tmp_path)
    with pytest.raises(RunError, match="other settings: hidden_size was 128 and is 7; batch_size was 5 and is 64"):
        run_directory.open_run(tmp_path, config(resume=True, hidden_size=7))
    run_directory.open_run(tmp_path, config(resume=True, batch_size=5, num_workers=8))
    assert run_directory.read_history(tmp_path) == [{"epoch": 1, "note": "first"}]


def test_resuming_in_an_empty_directory_starts_a_run(tmp_path):
    run_directory.open_run(tmp_path, config(resume=True))
    assert names(tmp_path) == [CONFIG]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 3}'])
def test_resuming_needs_readable_settings(tmp_path, text):
    fill(tmp_path)
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=f"{tmp_path / CONFIG}: not the settings of a run"):
        run_directory.open_run(tmp_path, config(resume=True))


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match=f"{tmp_path / 'file' / 'run'}: cannot be written"):
        run_directory.open_run(tmp_path / "file" / "run", config())


def test_history_comes_back_without_a_half_written_line(tmp_path):
    assert run_directory.read_history(tmp_path) == []
    records = [{"epoch": 1, "dev": {"f1": 0.5}}, {"epoch": 2}]
    run_directory.write_history(tmp_path, records)
    with (tmp_path / HISTORY).open("a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "de')
    assert run_directory.read_history(tmp_path) == records


def test_a_run_is_followed_to_its_end(tmp_path, monkeypatch):
    """Each look finds one more epoch, and at first an event; the last look comes after the end."""
    looks = []
    monkeypatch.setattr(run_directory.time, "sleep", lambda seconds: None)

    def stop():
        if not looks:
            run_directory.write_event(tmp_path, "after 3 epochs")
        looks.append({"epoch": len(looks) + 4})
        run_directory.write_history(tmp_path, [*before, *looks])
        return len(looks) == 4

    before = [{"epoch": epoch} for epoch in (1, 2, 3)]
    run_directory.write_history(tmp_path, before)
    run_directory.write_event(tmp_path, "before it was followed")
    found = list(run_directory.follow(tmp_path, stop=stop))
    assert [line.get("epoch") or line["text"] for line in found] == ["after 3 epochs", 4, 5, 6, 7]


@pytest.mark.parametrize("text", [None, "", "[1]", '{"a"'])
def test_an_unreadable_result_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / RESULT).write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=f"{tmp_path / RESULT}"):
        run_directory.read_result(tmp_path)


def test_a_result_that_is_no_json_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        run_directory.close_run(tmp_path, {"f1": float("nan")})
    assert not run_directory.is_finished(tmp_path)
    run_directory.close_run(tmp_path, {"path": "简历"})
    assert json.loads((tmp_path / RESULT).read_text(encoding="utf-8")) == {"path": "简历"}


def test_the_default_path_names_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_directory.choose_path("here", "1p-cpu") == tmp_path / "here"
    path = run_directory.choose_path(None, "1p-cpu")
    assert path.parent == tmp_path / "runs"
    assert path.name.startswith("1p-cpu-20")
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run_directory.choose_path(None, "1p-cpu").parent == tmp_path / "home" / "runs"
