"""Searches on real Ray, each in a process of its own, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_bilstm import cli, tune
from ray_bilstm.config import Config
from ray_bilstm.predict import Tagger
from ray_bilstm.run_directory import HISTORY, RESULT, read_config, read_history, read_result
from ray_bilstm.search_directory import read_trials
from ray_bilstm.space import Plan, Trial, parse_axes
from ray_bilstm.trial import Search

ROOT = Path(__file__).parent.parent
SMALL = ["--device", "cpu", *("--embedding-size", "16", "--bigram-size", "8", "--hidden-size", "16")]
PROGRAM = """
import json, sys
import ray
from ray_bilstm.cli import main
ray.init("local", **json.loads(sys.argv[1]), include_dashboard=False, log_to_driver=False)
codes = [main(["tune", *words]) for words in json.loads(sys.argv[2])]
print("exit codes", codes)
"""


def start(*searches, **cluster) -> subprocess.Popen:
    """A process that runs searches, one after the other, on a Ray cluster without a dashboard."""
    words = [sys.executable, "-c", PROGRAM, json.dumps(cluster), json.dumps([[*SMALL, *words] for words in searches])]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def finish(process: subprocess.Popen, *, timeout: int) -> tuple[str, str]:
    """What it printed, without the lines in which Ray wonders at how many processes it starts."""
    try:
        shown, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    lines = shown.splitlines(keepends=True)
    return "".join(line for line in lines if "(raylet)" not in line), errors


def statuses(path: Path, name: str) -> dict:
    return {(trial["config"][name], trial["seed"]): trial["status"] for trial in read_trials(path)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "hidden=3"], "error: 'hidden' cannot vary in a search: expected one of"),
        (["--set", "dropout=0.1..0.3"], "error: dropout is 0.1..0.3: a grid has no ranges; list the values, or choose"),
        (["--batch-sizes", "16", "--set", "batch_size=8"], "error: batch_size is given twice"),
        (["--batch_sizes", "16,x"], "error: batch_size is 'x': expected int"),
        (["--seeds", "1,1"], "error: seeds are 1, 1: expected one or more, each once"),
        (["--scheduler", "asha", "--train-epochs", "3", "--grace-epochs", "3"], "error: grace_epochs is 3: expected"),
        (["--data-dir", "nowhere"], "error: nowhere: got nothing, expected a folder"),
    ],
)
def test_errors_are_one_line(arguments, message: str, capsys) -> None:
    assert cli.main(["tune", "--device", "cpu", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_optuna_is_asked_for_by_its_name(monkeypatch, capsys) -> None:
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["tune", "--search", "optuna"]) == 1
    assert "pip install 'ray_bilstm[optuna]'" in capsys.readouterr().err


def test_what_ray_tune_suggests_is_a_trial(tmp_path) -> None:
    axes = parse_axes(["learning_rate=log:1e-3..1e-2", "hidden_size=8..16", "head=crf,softmax"])
    plan = Plan(seeds=(5, 7), axes=axes, search="optuna")
    search = Search(config=Config(), plan=plan, path=tmp_path, trials=[], shared={})
    suggested = {"head": "softmax", "hidden_size": 9, "learning_rate": 0.00299999, "__trial_index__": 1}
    assert search.trial(suggested) == Trial({"learning_rate": 0.003, "hidden_size": 9, "head": "softmax"}, 7)
    domains = {name: tune._domain(axis) for name, axis in axes.items()}
    for _ in range(50):
        drawn = {name: domain.sample() for name, domain in domains.items()}
        config = search.trial({**drawn, "__trial_index__": 0}).config
        assert 0.001 <= config["learning_rate"] <= 0.01
        assert config["hidden_size"] in range(8, 17)


@pytest.mark.slow
def test_a_search_that_cannot_fit_one_with_a_trial_that_fails_and_one_of_students(tmp_path, capsys) -> None:
    path, students = tmp_path / "search", tmp_path / "students"
    too_many = ["--num-workers", "9", "--device", "cuda", "--output-dir", str(path)]
    at_once = ["--num-workers", "3", "--device", "cuda", "--max-concurrent", "3", "--output-dir", str(path)]
    failing = ["--seeds", "3", "--batch-sizes", "48", "--set", "learning_rate=0.02,1e38", "--train-epochs", "2"]
    taught = ["--seeds", "4", "--batch-sizes", "48", "--train-epochs", "2", "--teacher", str(path / "best")]
    searches = [too_many, at_once, [*failing, "--output-dir", str(path)], [*taught, "--output-dir", str(students)]]
    shown, errors = finish(start(*searches, num_cpus=2, num_gpus=8), timeout=290)
    assert "exit codes [1, 1, 0, 0]" in shown.splitlines(), shown + errors
    assert "error: --num-workers 9 x 1 GPU does not fit: the cluster has 8 GPU on 1 node, which holds 8" in errors
    assert "error: --max-concurrent 3 x --num-workers 3 = 9 workers do not fit: the cluster holds 8." in errors
    assert "Traceback" not in errors

    assert statuses(path, "learning_rate") == {(0.02, 3): "finished", (1e38, 3): "failed"}
    reason = "the loss is not finite at epoch 1, step"
    assert f"failed: batch_size=48, learning_rate=1e+38, seed 3: {reason}" in shown
    assert str(path / "study.json") in shown.splitlines()
    assert shown.splitlines()[-2] == str(students / "study.json")
    (student,) = read_trials(students)
    teacher = read_result(students / student["path"])["teacher"]
    assert (teacher["path"], teacher["models"]) == (str(path / "best"), 1)
    study = json.loads((path / "study.json").read_text(encoding="utf-8"))
    (trial,) = (trial for trial in study["trials"] if trial["status"] == "finished")
    assert study["configurations"][study["best"]]["config"] == {"batch_size": 48, "learning_rate": 0.02}
    assert study["best_trial"] == trial["path"]
    result = read_result(path / trial["path"])
    assert (result["seed"], result["batch_size"]) == (3, 48)
    assert Config.from_dict(read_config(path / trial["path"])).training.learning_rate == 0.02
    Tagger.load(path / "best").predict("王芳：女，汉族")
    assert not [*path.glob(".tune"), *path.glob("trials/*/.ray")]
    assert (path / "study-scores.svg").exists()

    assert cli.main(["study", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed in shown, "study prints what the search printed"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_asha_stops_trials_without_a_dashboard(tmp_path) -> None:
    """Ray's own cleaning up after a stopped trial needs the dashboard; later trials would wait for its workers."""
    words = ["--seeds", "1,2", "--batch-sizes", "32,700", "--train-epochs", "25", "--learning-rate", "0.02"]
    asha = ["--scheduler", "asha", "--grace-epochs", "2", "--output-dir", str(tmp_path)]
    shown, errors = finish(start([*words, *asha], num_cpus=2), timeout=900)
    assert "exit codes [0]" in shown.splitlines(), shown + errors
    trials = read_trials(tmp_path)
    stopped = [trial for trial in trials if trial["status"] == "stopped"]
    assert len(trials) == 4
    assert {trial["status"] for trial in trials} == {"finished", "stopped"}
    for trial in stopped:
        assert 2 <= len(trial["curve"]) < 25
        assert not (tmp_path / trial["path"] / RESULT).exists()
        assert f"stopped: batch_size={trial['config']['batch_size']}, seed {trial['seed']} after" in shown
        Tagger.load(tmp_path / trial["path"] / "best")
    assert not [*tmp_path.glob(".tune"), *tmp_path.glob("trials/*/.ray")]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_search_goes_on_where_it_was_on_one_cpu(tmp_path) -> None:
    words = ["--seeds", "1,2,3", "--batch-sizes", "48", "--train-epochs", "20", "--output-dir", str(tmp_path)]
    process, deadline = start(words, num_cpus=1), time.monotonic() + 500
    first, second, third = (tmp_path / "trials" / f"batch_size=48,seed={seed}" for seed in (1, 2, 3))
    while len(read_history(second)) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = (second / HISTORY).read_text(encoding="utf-8")
    kept = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    assert statuses(tmp_path, "batch_size") == {(48, 1): "finished", (48, 2): "unfinished"}
    assert not third.exists()

    shown, errors = finish(start(words, [*words, "--resume"], num_cpus=1), timeout=600)
    assert "exit codes [1, 0]" in shown.splitlines(), shown + errors
    assert "holds a search, expected an empty or new directory" in errors
    assert "2 trials to run, 1 at a time" in shown
    assert set(statuses(tmp_path, "batch_size").values()) == {"finished"}
    assert kept == {file: file.stat().st_mtime_ns for file in first.rglob("*")}, "a finished trial is not run again"
    assert (second / HISTORY).read_text(encoding="utf-8").startswith(before), "its epochs are not run again"
    assert [len(read_history(path)) for path in (first, second, third)] == [20, 20, 20]
