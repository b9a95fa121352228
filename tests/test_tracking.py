"""Runs as TensorBoard and MLflow are told of them: what they hold is what the history says, after a resume too."""

import importlib.util
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import on_ray
import pytest
import ray

from ray_bilstm import cli, perf, run_directory, tracking
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.corpus import write_sentences
from ray_bilstm.sample import sample_corpus
from ray_bilstm.train import measure, train

pytestmark = [
    *on_ray.WARNINGS,
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),  # of MLflow's own
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]
SMALL = {"embedding_size": 8, "bigram_size": 4, "hidden_size": 8, "batch_size": 48, "device": "cpu", "train_epochs": 3}
RECORDS = [
    {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "first_step_loss": None,
        "seconds": {"train": 0.5},
        "dev": {"entity": {"precision": 0.1, "recall": 0.2, "f1": 0.3 + epoch}},
        "best": True,
    }
    for epoch in (1, 2, 3)
]


@pytest.fixture(scope="module")
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder, sample = tmp_path_factory.mktemp("corpus"), sample_corpus()
    for split, count in (("train", 120), ("dev", 20), ("test", 20)):
        write_sentences(folder / f"{split}.char.bmes", sample.splits[split][:count], scheme="BMES")
    return folder


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return pytest.importorskip("mlflow", reason="tells MLflow of a run: pip install '.[mlflow]'")


def series_of(records):
    """What the history holds, by the name of the series: (step, value) pairs."""
    found = {}
    for record in records:
        for name, value in tracking.numbers(record).items():
            found.setdefault(name, []).append((record["epoch"], value))
    return found


def events_in(folder: Path):
    """The scalars of TensorBoard's own reader, and the text."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={reader.SCALARS: 0, reader.TENSORS: 0})
    events.Reload()
    tags = events.Tags()
    (text,) = events.Tensors("config/text_summary")
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)] for name in tags["scalars"]
    }, text.tensor_proto.string_val[0].decode()


def as_float32(series):
    return {name: [(step, float(np.float32(value))) for step, value in pairs] for name, pairs in series.items()}


def begun(path: Path, records, **settings):
    """Trackers of a run of which `records` are done."""
    config = Config().with_fields(**settings)
    trackers = tracking.Trackers(config)
    for tracker in trackers.trackers.values():
        tracker.begin(path, config, records)
    return trackers


def test_series_are_named_by_where_their_numbers_stand() -> None:
    assert tracking.numbers(RECORDS[0]) == {
        "train_loss": 1.0,
        "seconds/train": 0.5,
        **{f"dev/entity/{name}": value for name, value in (("precision", 0.1), ("recall", 0.2), ("f1", 1.3))},
    }


@pytest.mark.parametrize(("flag", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow-skinny")])
@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_missing_package_is_told_before_anything_starts(
    flag, package, command, monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main([command, f"--{flag}", "--output-dir", str(tmp_path / "run")]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert f"error: --{flag} needs {package}, which is not installed: pip install" in told.err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def followed(cluster, data_dir, tmp_path_factory):
    """A run that was stopped after two epochs and resumed: its result, its directory, TensorBoard's as it stopped."""
    path = tmp_path_factory.mktemp("followed") / "run"
    asked = {"tensorboard": True, "mlflow": "auto" if importlib.util.find_spec("mlflow") else None}
    settings = {**SMALL, **asked, "data_dir": str(data_dir), "output_dir": str(path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(run_directory.RunStopped):
            train(Config().with_fields(**settings, stop_after=2))
        before = shutil.copytree(path / "tensorboard", path.parent / "before")
        result, _ = train(Config().with_fields(**settings, resume=True))
    return result, path, before


def test_tensorboard_holds_the_history(followed) -> None:
    _, path, before = followed
    history = run_directory.read_history(path)
    assert len(history) == 3
    assert events_in(before)[0] == as_float32(series_of(history[:2])), "a run can be watched"
    series, text = events_in(path / "tensorboard")
    assert series == as_float32(series_of(history))
    assert {"train_loss", "learning_rate", "gradient_norm", "sentences_per_second"} <= set(series)
    assert {f"dev/{kind}/{part}" for kind in ("entity", "token") for part in ("precision", "recall", "f1")} <= set(
        series
    )
    assert json.loads(text)["run"]["tensorboard"] is True


def test_an_epoch_that_was_done_again_is_shown_as_the_history_has_it(tmp_path) -> None:
    trackers = begun(tmp_path, [], tensorboard=True)
    for record in RECORDS:
        trackers.epoch(record)
    again = [*RECORDS[:2], {**RECORDS[2], "train_loss": 7.0}]
    run_directory.write_history(tmp_path, again)
    trackers.finish(tmp_path, {})
    assert events_in(tmp_path / "tensorboard")[0] == as_float32(series_of(again))


def test_who_has_read_the_old_files_forgets_them(tmp_path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with begun(tmp_path, RECORDS[:2], tensorboard=True):
        pass
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("train_loss")) == 2
    (old,) = (tmp_path / "tensorboard").iterdir()
    aside = old.read_bytes()
    with begun(tmp_path, RECORDS, tensorboard=True):
        old.write_bytes(aside)
        events.Reload()
        assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3]


def test_a_tracker_that_fails_ends_no_run(tmp_path, caplog) -> None:
    with begun(tmp_path, [], tensorboard=True) as trackers:
        trackers.trackers["tensorboard"].writer.close()
        trackers.trackers["tensorboard"].writer = None
        with caplog.at_level(logging.WARNING):
            trackers.epoch(RECORDS[0])
    assert "--tensorboard: " in caplog.text and "Training goes on" in caplog.text


def metrics_in(client, run_id, names):
    return {name: [(one.step, one.value) for one in client.get_metric_history(run_id, name)] for name in names}


def test_mlflow_holds_the_history_the_result_and_the_model(mlflow, followed, tmp_path) -> None:
    result, path, _ = followed
    client = mlflow.MlflowClient(f"sqlite:///{path.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("ray_bilstm").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run"), "one run, of both starts"
    assert run.data.params["training.batch_size"] == "48"
    history = series_of(run_directory.read_history(path))
    assert metrics_in(client, run.info.run_id, history) == history
    assert run.data.metrics["result/test/entity/f1"] == result["test"]["entity"]["f1"]
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {"best", "config.json", "history.jsonl", "report.html", "result.json"}
    kept = Path(client.download_artifacts(run.info.run_id, "best/model.safetensors", str(tmp_path)))
    assert kept.read_bytes() == (path / "best" / "model.safetensors").read_bytes()


def test_a_server_that_goes_away_costs_a_warning_and_no_epoch(mlflow, tmp_path, monkeypatch, caplog) -> None:
    with begun(tmp_path, [], mlflow=f"sqlite:///{tmp_path / 'store.db'}") as trackers:
        client, run_id = trackers.trackers["mlflow"].client, trackers.trackers["mlflow"].run_id
        trackers.epoch(RECORDS[0])
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(client, "log_batch", lambda *args, **kwargs: 1 / 0)
            trackers.epoch(RECORDS[1])
        assert "--mlflow: division by zero. Training goes on" in caplog.text
        trackers.epoch(RECORDS[2])
        assert metrics_in(client, run_id, ["train_loss"]) == {"train_loss": [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]}


@pytest.mark.parametrize(("given", "environment"), [("http://127.0.0.1:9", None), ("auto", "http://127.0.0.1:9")])
def test_a_server_that_cannot_be_reached_is_told_before_training(
    given, environment, mlflow, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if environment:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    assert cli.main(["train", "--output-dir", str(tmp_path / "run"), f"--mlflow={given}"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert "cannot be used as a tracking server" in told.err and "leave --mlflow out" in told.err
    assert not (tmp_path / "run").exists()


def test_passwords_stay_out_of_the_settings(mlflow) -> None:
    with pytest.raises(ConfigError, match="put it into MLFLOW_TRACKING_URI"):
        tracking.Trackers(Config().with_fields(mlflow="https://me:secret@example.org/"))


def test_a_throughput_run_has_nothing_to_tell() -> None:
    with pytest.raises(ConfigError, match="no epochs to tell of: leave --tensorboard and --mlflow out"):
        measure(Config().with_fields(tensorboard=True), perf.Plan(warmup_steps=1, measured_steps=1))


def test_overwrite_sets_aside_what_trackers_have_of_the_earlier_run(tmp_path) -> None:
    run_directory.close_run(tmp_path, {})
    begun(tmp_path, RECORDS, tensorboard=True)
    (tmp_path / "mlflow.json").write_text("{}", encoding="utf-8")
    run_directory.open_run(tmp_path, Config().with_fields(overwrite=True))
    kept = {"config.json", run_directory.REPLACED}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert {path.name for path in (tmp_path / run_directory.REPLACED).iterdir()} == {
        *("result.json", "mlflow.json", "tensorboard")
    }
