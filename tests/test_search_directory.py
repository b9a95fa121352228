"""The directory of a search: what may be resumed, how trials stand, and what is kept of the best."""

import json

import pytest

from ray_bilstm import run_directory, search_directory
from ray_bilstm.config import Config
from ray_bilstm.run_directory import RunError
from ray_bilstm.search_directory import check_search, open_search, read_study, read_trials, trial_path, write_status
from ray_bilstm.space import Plan, Trial, parse_axes

PLAN = Plan(seeds=(1, 2), axes=parse_axes(["batch_size=16,32"]))


def config(**fields):
    return Config().with_fields(**fields)


def leave(path, trial, f1, *, status="finished"):
    """What a trial leaves behind."""
    folder = trial_path(path, trial)
    write_status(path, trial, status)
    scores = {"entity": {"f1": f1}, "token": {"f1": f1}}
    run_directory.write_history(folder, [{"epoch": 1, "dev": {"entity": {"f1": f1}}}])
    for model in ("best", "last"):
        (folder / model).mkdir()
        (folder / model / "model.safetensors").write_text(trial.name, encoding="utf-8")
    if status == "finished":
        run_directory.close_run(folder, {"dev": {**scores, "confusion": {"tags": []}}, "test": scores})


def test_a_search_is_resumed_or_extended_and_not_changed(tmp_path) -> None:
    open_search(tmp_path, config(), PLAN)
    with pytest.raises(RunError, match=rf"{tmp_path}: holds a search.*--output-dir, or pass --resume"):
        check_search(tmp_path, config(), PLAN)
    more = Plan(seeds=(1, 2, 3), axes=parse_axes(["batch_size=16,32,64"]))
    open_search(tmp_path, config(resume=True, seed=7, batch_size=8), more)
    with pytest.raises(RunError, match="other settings: hidden_size was 128 and is 64"):
        check_search(tmp_path, config(resume=True, hidden_size=64), PLAN)
    with pytest.raises(RunError, match=r"varies was \['batch_size'\] and is \['batch_size', 'dropout'\]"):
        check_search(tmp_path, config(resume=True), Plan(axes=parse_axes(["batch_size=16", "dropout=0.1"])))
    with pytest.raises(RunError, match="scheduler was 'none' and is 'asha'"):
        check_search(tmp_path, config(resume=True), Plan(axes=PLAN.axes, scheduler="asha"))


def test_a_run_is_not_made_a_search(tmp_path) -> None:
    run_directory.open_run(tmp_path, config())
    with pytest.raises(RunError, match="holds a run, expected an empty or new directory"):
        open_search(tmp_path, config(resume=True), PLAN)


def test_trials_are_read_with_how_they_stand(tmp_path) -> None:
    open_search(tmp_path, config(), PLAN)
    with pytest.raises(RunError, match=r"got no trials, expected the --output-dir of"):
        read_trials(tmp_path)
    leave(tmp_path, Trial({"batch_size": 16}, 1), 0.5)
    leave(tmp_path, Trial({"batch_size": 16}, 2), 0.3, status="stopped")
    write_status(tmp_path, Trial({"batch_size": 32}, 1), "failed", "a worker failed")
    found = {(trial["config"]["batch_size"], trial["seed"]): trial for trial in read_trials(tmp_path)}
    assert [found[key]["status"] for key in ((16, 1), (16, 2), (32, 1))] == ["finished", "stopped", "failed"]
    assert [found[key]["dev_entity_f1"] for key in ((16, 1), (16, 2), (32, 1))] == [0.5, 0.3, 0.0]
    assert found[16, 1]["path"] == "trials/batch_size=16,seed=1"
    assert "confusion" not in found[16, 1]["result"]["dev"]
    assert found[32, 1]["reason"] == "a worker failed"
    write_status(tmp_path, Trial({"batch_size": 16}, 1), "stopped")
    assert read_trials(tmp_path)[0]["status"] == "finished", "a result outweighs what is said of it"


def test_a_study_is_written_with_the_best_model_and_read_without_its_trials(tmp_path) -> None:
    open_search(tmp_path, config(), PLAN)
    for batch_size, scores in ((16, (0.5, 0.9)), (32, (0.8, 0.81))):
        for seed, f1 in enumerate(scores, 1):
            leave(tmp_path, Trial({"batch_size": batch_size}, seed), f1)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "of an earlier study").write_text("", encoding="utf-8")
    study = search_directory.write_study(tmp_path)
    assert study["configurations"][study["best"]]["config"] == {"batch_size": 32}
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["model.safetensors"]
    assert (tmp_path / "best" / "model.safetensors").read_text(encoding="utf-8") == "batch_size=32,seed=2"
    written = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert written == study == read_study(tmp_path)
    assert set(written["configurations"][0]["dev"]["entity_f1"]) == {"mean", "sd", "min", "max", "low95", "high95"}
    assert all({"config", "seed", "status", "result"} <= set(trial) for trial in written["trials"])
    (tmp_path / "trials").rename(tmp_path / "elsewhere")
    assert read_study(tmp_path) == study
