"""Real Ray: one cluster for the module, with 2 CPUs and 8 GPUs that exist for Ray alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import on_ray
import pytest
import ray
import ray.train
import ray.train.torch
import torch

from ray_bilstm import cli, collective, dataset, run_directory, stream
from ray_bilstm.batches import TrainingSet
from ray_bilstm.checkpoint import PREVIOUS, STATE
from ray_bilstm.cluster import ClusterError
from ray_bilstm.config import Config
from ray_bilstm.corpus import Corpus, write_sentences
from ray_bilstm.ensemble_directory import write_ensemble
from ray_bilstm.launch import passed_on
from ray_bilstm.loop import TrainingError
from ray_bilstm.predict import Tagger
from ray_bilstm.run_directory import RunError, read_config
from ray_bilstm.sample import sample_corpus
from ray_bilstm.train import train
from ray_bilstm.vocab import Vocab

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

pytestmark = on_ray.WARNINGS
ROOT = Path(__file__).parent.parent
SMALL = {
    "embedding_size": 16,
    "bigram_size": 8,
    "hidden_size": 16,
    "dropout": 0.0,
    "token_dropout": 0.0,
    "mention_replacement": 0.0,
    "learning_rate": 0.02,
    "batch_size": 48,
    "device": "cpu",
}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, num_gpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """A corpus whose dev has a type that train lacks, and fewer sentences than there are workers."""
    folder, sample = tmp_path_factory.mktemp("corpus"), sample_corpus()
    write_sentences(folder / "train.char.bmes", sample.train[:203], scheme="BMES")
    strange = sample.dev[0]._replace(tokens=("甲", "乙"), tags=("S-NEW", "O"))
    write_sentences(folder / "dev.char.bmes", [*sample.dev[:4], strange], scheme="BMES")
    write_sentences(folder / "test.char.bmes", sample.test[:30], scheme="BMES")
    return folder


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A finished run of one worker: result, directory, epochs as the caller saw them."""
    path, seen = tmp_path_factory.mktemp("run"), []
    config = Config().with_fields(**SMALL, data_dir=str(data_dir), output_dir=str(path), train_epochs=3)
    result, _ = train(config, on_epoch=seen.append)
    return result, path, seen


def test_a_run_leaves_what_the_contract_says(run, data_dir) -> None:
    result, path, seen = run
    model = ["README.md", "config.json", "model.safetensors", "vocab.json"]
    assert sorted(p.name for p in path.iterdir()) == [
        *("best", "config.json", "evaluation.json", "history.jsonl", "last", "report.html", "result.json")
    ]
    assert sorted(p.name for p in (path / "best").iterdir()) == model
    assert sorted(p.name for p in (path / "last").iterdir()) == sorted([*model, STATE, PREVIOUS])
    assert json.loads((path / "result.json").read_text(encoding="utf-8")) == result
    assert seen == run_directory.read_history(path)
    assert [record["epoch"] for record in seen] == [1, 2, 3]
    assert Config.from_dict(json.loads((path / "config.json").read_text())).training.batch_size == 48
    assert (result["name"], result["device"], result["backend"], result["dtype"]) == (
        "1p-cpu",
        "cpu",
        "gloo",
        "float32",
    )
    assert result["corpus"]["sentences"] == {"train": 203, "dev": 5, "test": 30}
    assert not result["corpus"]["embedded_sample"]
    assert any("NEW" in warning for warning in result["warnings"])
    assert result["dev"]["per_type"]["NEW"]["support"] == 1
    seconds = result["seconds"]
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds[part] for part in ("startup", "data", "train", "evaluation")) <= seconds["total"]
    best = max(seen, key=lambda record: record["dev"]["entity"]["f1"])
    assert result["best_epoch"] == best["epoch"]
    assert result["dev"]["entity"] == best["dev"]["entity"], "the scored model is the best one, not the last"


def test_what_is_shown_to_others_does_not_name_the_folders_of_this_machine(run, data_dir) -> None:
    _, path, _ = run
    assert data_dir.is_absolute()
    assert str(data_dir) in (path / "config.json").read_text(encoding="utf-8"), "the run's own settings do"
    for file in (path / "report.html", *(path / "best").iterdir(), *(path / "last").iterdir()):
        for folder in (data_dir.parent, path.parent, Path.home()):
            assert f"{folder}/".encode() not in file.read_bytes(), file.name
    assert f">.../{data_dir.name}<" in (path / "report.html").read_text(encoding="utf-8")


def test_a_throughput_run_scores_nothing_and_keeps_no_model(data_dir, tmp_path, capsys) -> None:
    words = ["--data-dir", str(data_dir), "--output-dir", str(tmp_path / "perf"), "--device", "cpu", "--profile"]
    small = ["--embedding-size", "16", "--bigram-size", "8", "--hidden-size", "16", "--batch-size", "48"]
    steps = ["--warmup-steps", "2", "--measured-steps", "6"]
    assert cli.perf_job([*words, *small, *steps], description="", num_workers=2) == 0
    folder = tmp_path / "perf"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "report.html", "result.json", "trace"]
    assert len(list((folder / "trace").glob("rank[01].*.pt.trace.json"))) == 2
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert (result["name"], result["num_workers"], result["measured_steps"]) == ("2p-cpu", 2, 6)
    assert result["sentences_per_second"] > 0
    assert {"collective", "idle"} <= {phase for phase, seconds in result["breakdown"].items() if seconds > 0}
    shown = capsys.readouterr().out
    assert "| 2p-cpu | – | – |" in shown
    assert "collective" in shown
    assert cli.perf_job([*words, "--resume"], description="", num_workers=2) == 1
    assert "error: resume is True: a throughput run keeps nothing to go on with" in capsys.readouterr().err


def test_a_report_that_is_written_again_is_the_one_of_the_run(run, capsys) -> None:
    """The command that repeats the run too, which stands in none of its files."""
    page = run[1] / "report.html"
    before = page.read_text(encoding="utf-8")
    assert "--batch-size" in before and "--train-epochs" in before
    page.unlink()
    assert cli.main(["report", str(run[1])]) == 0
    assert page.read_text(encoding="utf-8") == before


def test_the_contract_checker_finds_nothing(run) -> None:
    checker = ROOT.parent / "shared" / "check_contract.py"
    if not checker.exists():
        pytest.skip("the contract's own checker is not beside the repository")
    done = subprocess.run([sys.executable, checker, run[1]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_saved_model_scores_what_the_run_reported(run) -> None:
    result, path, _ = run
    scores = Tagger.load(path / "best").score(_corpus(result).test)
    assert scores["entity"] == result["test"]["entity"]
    evaluation = run_directory.read_evaluation(path)
    assert evaluation["entity"]["f1"] == pytest.approx(result["test"]["entity"]["f1"], abs=1e-9)
    page = (path / "report.html").read_text(encoding="utf-8")
    assert page.count('<p class="soft">line ') == min(200, evaluation["sentences_wrong"]) > 0


def _corpus(result) -> Corpus:
    from ray_bilstm.corpus import read_corpus

    return read_corpus(result["corpus"]["path"])


def test_a_finished_run_is_safe(run, data_dir) -> None:
    result, path, _ = run
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    config = Config().with_fields(**SMALL, data_dir=str(data_dir), output_dir=str(path), train_epochs=3)
    with pytest.raises(RunError, match="holds a finished run"):
        train(config)
    again, _ = train(config.with_fields(resume=True))
    assert again == result
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_run_that_ended_before_its_result_is_resumed(run, data_dir, tmp_path) -> None:
    result, path, _ = run
    subprocess.run(["cp", "-r", f"{path}/.", tmp_path], check=True)
    (tmp_path / "result.json").unlink()
    fields = {**SMALL, "data_dir": str(data_dir), "output_dir": str(tmp_path), "train_epochs": 3, "resume": True}
    with pytest.raises(RunError, match="hidden_size was 16 and is 32"):
        train(Config().with_fields(**{**fields, "hidden_size": 32}))
    with pytest.raises(RunError, match="another corpus"):
        train(Config().with_fields(**{**fields, "data_dir": None}))
    again, _ = train(Config().with_fields(**fields))
    assert {split: again[split] for split in ("dev", "test")} == {split: result[split] for split in ("dev", "test")}
    assert len(run_directory.read_history(tmp_path)) == 3


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_more_workers_solve_the_same_problem(run, data_dir, tmp_path, workers: int) -> None:
    one, _, alone = run
    fields = {**SMALL, "data_dir": str(data_dir), "output_dir": str(tmp_path), "train_epochs": 3}
    result, _ = train(Config().with_fields(**fields, num_workers=workers))
    history = run_directory.read_history(tmp_path)
    assert result["num_workers"] == workers
    assert history[0]["first_step_loss"] == pytest.approx(alone[0]["first_step_loss"], rel=1e-6)
    losses = [[record["train_loss"] for record in records] for records in (history, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert [record["steps"] for record in history] == [record["steps"] for record in alone]
    for split in ("dev", "test"):
        tokens = np.array(result[split]["confusion"]["matrix"]).sum()
        assert tokens == np.array(one[split]["confusion"]["matrix"]).sum(), "every sentence is scored once"
        assert result[split]["entity"]["f1"] == pytest.approx(one[split]["entity"]["f1"], abs=0.05)


def _note_rows(settings) -> None:
    """A worker that notes which sentences it is given in two epochs."""
    rank, size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    lengths = settings["lengths"]
    place = {"rank": rank, "world_size": size}
    shard = dataset.pull_shard(ray.train.get_dataset_shard("train"), lengths, device=torch.device("cpu"), **place)
    training = TrainingSet(lambda: [shard], lengths, batch_size=64, seed=1, **place)
    epochs = [[batch.rows.tolist() for batch in training.batches(epoch)] for epoch in (1, 2)]
    tokens = [sum(int(batch.lengths_B.sum()) for batch in training.batches(1))]
    Path(settings["folder"], f"{rank}.json").write_text(json.dumps([epochs, tokens]))


def test_every_sentence_is_seen_once_an_epoch(tmp_path) -> None:
    workers = 8
    sentences = [sentence for sentence in sample_corpus().train for _ in range(6)][:3821]
    lengths = np.array([len(s.tokens) for s in sentences], np.int32)
    vocab = Vocab.build(sentences, scheme="BMES", bigram_min_count=2)
    trainer = ray.train.torch.TorchTrainer(
        _note_rows,
        train_loop_config={"lengths": lengths, "folder": str(tmp_path)},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 2 / workers}),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "ray")),
        datasets={"train": dataset.make_dataset(sentences, vocab)},
        dataset_config=dataset.whole_dataset_config(),
    )
    trainer.fit()
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(workers)]
    for epoch in (0, 1):
        steps = [rank[0][epoch] for rank in ranks]
        assert len({len(rows) for rows in steps}) == 1, "all ranks take the same number of steps"
        seen = [row for rows in steps for step in rows for row in step]
        assert sorted(seen) == list(range(3821))
    tokens = [rank[1][0] for rank in ranks]
    assert max(tokens) < 1.05 * min(tokens)


@pytest.mark.slow
def test_a_training_set_larger_than_its_memory_is_streamed(run, data_dir, tmp_path, monkeypatch) -> None:
    """In windows of 96 of the 203 sentences; one worker sees what two see, and no file stays behind."""
    _, _, whole = run
    monkeypatch.setattr(stream, "plan_window", lambda lengths_N, config: 96)
    histories = []
    for workers in (1, 2):
        path = tmp_path / str(workers)
        fields = {**SMALL, "data_dir": str(data_dir), "output_dir": str(path), "train_epochs": 3}
        train(Config().with_fields(**fields, num_workers=workers))
        histories.append(run_directory.read_history(path))
        assert not [file for file in path.iterdir() if file.name.startswith(".")]
    assert [record["steps"] for record in histories[0]] == [5, 5, 5] == [record["steps"] for record in whole]
    one, two = ([record["train_loss"] for record in records] for records in histories)
    assert one == pytest.approx(two, rel=1e-3)
    assert one[-1] < one[0]
    assert one != pytest.approx([record["train_loss"] for record in whole], rel=1e-3), "other batches"


@pytest.fixture(scope="module")
def teacher(run, tmp_path_factory) -> Path:
    """Two models that vote: those of the finished run."""
    path = tmp_path_factory.mktemp("teacher") / "ensemble"
    write_ensemble(path, [run[1] / "best", run[1] / "last"])
    return path


@pytest.mark.slow
def test_a_student_is_the_same_on_any_number_of_workers(run, teacher, data_dir, tmp_path) -> None:
    _, _, alone = run
    histories = {}
    for workers in (1, 2, 8):
        path = tmp_path / str(workers)
        fields = {**SMALL, "data_dir": str(data_dir), "output_dir": str(path), "train_epochs": 3}
        result, _ = train(Config().with_fields(**fields, num_workers=workers, teacher=str(teacher), teacher_weight=0.5))
        histories[workers] = run_directory.read_history(path)
        described = result["teacher"]
        assert (described["path"], described["models"], described["weight"]) == (str(teacher), 2, 0.5)
        for file in (file for model in ("best", "last") for file in (path / model).iterdir()):
            assert str(teacher).encode() not in file.read_bytes(), file
        assert "it learnt from 2 models that vote." in (path / "best" / "README.md").read_text(encoding="utf-8")
        assert read_config(path)["data"]["teacher"] == str(teacher)
    losses = {workers: [record["train_loss"] for record in records] for workers, records in histories.items()}
    for workers in (2, 8):
        assert histories[workers][0]["first_step_loss"] == pytest.approx(histories[1][0]["first_step_loss"], rel=1e-6)
        assert losses[workers] == pytest.approx(losses[1], rel=1e-3)
    assert losses[1][-1] < losses[1][0]
    assert losses[1] != pytest.approx([record["train_loss"] for record in alone], rel=1e-3)


@pytest.mark.slow
def test_a_student_is_resumed_with_its_teacher(teacher, data_dir, tmp_path) -> None:
    fields = {**SMALL, "data_dir": str(data_dir), "output_dir": str(tmp_path), "train_epochs": 2}
    config = Config().with_fields(**fields, teacher=str(teacher))
    result, _ = train(config)
    (tmp_path / "result.json").unlink()
    with pytest.raises(RunError, match=r"cannot resume with other settings: teacher was '.*' and is None"):
        train(config.with_fields(resume=True, teacher=None))
    again, _ = train(config.with_fields(resume=True))
    assert {part: again[part] for part in ("dev", "test", "teacher")} == {
        part: result[part] for part in ("dev", "test", "teacher")
    }


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_sentence_goes_to_exactly_one_rank(world_size: int) -> None:
    sentences = sample_corpus().train[:301]
    lengths = np.array([len(s.tokens) for s in sentences], np.int32)
    vocab = Vocab.build(sentences, scheme="BMES", bigram_min_count=1)
    iterator = dataset.make_dataset(sentences, vocab).iterator()
    seen = []
    for rank in range(world_size):
        shard = dataset.pull_shard(iterator, lengths, rank=rank, world_size=world_size, device=torch.device("cpu"))
        seen += shard.rows.tolist()
        batch = shard.batch(shard.rows[:1], 200, sentences=1)
        first, length = sentences[shard.rows[0]], int(batch.lengths_B[0])
        assert [vocab.chars[i - 2] for i in batch.chars_BL[0, :length].tolist()] == list(first.tokens)
        assert [vocab.tags[i] for i in batch.tags_BL[0, :length].tolist()] == list(first.tags)
    assert sorted(seen) == list(range(301))


def test_too_many_workers_are_refused_with_the_arithmetic(data_dir, tmp_path) -> None:
    fields = {**SMALL, "data_dir": str(data_dir), "output_dir": str(tmp_path / "run"), "device": "cuda"}
    with pytest.raises(ClusterError, match=r"--num-workers 9 x 1 GPU .* 8 GPU on 1 node, which holds 8 workers"):
        train(Config().with_fields(**fields, num_workers=9))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path) -> None:
    fields = {**SMALL, "data_dir": str(data_dir), "output_dir": str(tmp_path), "learning_rate": 1e38}
    with pytest.raises(TrainingError, match=r"^the loss is not finite at epoch 1, step \d+: got .*learning-rate"):
        train(Config().with_fields(**fields))
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "events.jsonl").exists(), "it would not be finite again, so nothing is tried again"


DYING = """
import os, signal, sys, time
import ray_bilstm.launch
from ray_bilstm import backend, cli, collective

class DyingBackend(backend.CollectiveBackend):
    def on_start(self, worker_group, backend_config):
        worker_group.execute_single(1, die_when_joining)
        super().on_start(worker_group, backend_config)

class DyingConfig(backend.CollectiveConfig):
    backend_cls = DyingBackend

def die_when_joining():
    def join(*arguments, **settings):
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    collective.join = join

ray_bilstm.launch.CollectiveConfig = DyingConfig
words = ["--device", "cpu", "--num-workers", "2", "--max-failures", "0", "--output-dir", sys.argv[1]]
sys.exit(cli.main(["train", *words]))
"""


def test_a_worker_killed_while_ranks_meet_is_an_error_and_no_hang(tmp_path) -> None:
    """Rank 1 is killed while rank 0 waits for it; rank 0 would wait for five minutes."""
    words, started = [sys.executable, "-c", DYING, tmp_path / "run"], time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "error: a worker died while the ranks were joining" in done.stderr
    assert time.monotonic() - started < collective.TIMEOUT.total_seconds() / 2
    assert not (tmp_path / "run" / "result.json").exists()


def test_workers_of_a_running_cluster_import_what_the_driver_imports(monkeypatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    monkeypatch.setenv("PYTHONPATH", "tests/simulated_npu:/opt/mine")
    folders = f"{Path('tests/simulated_npu').absolute()}:/opt/mine"
    expected = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "PYTHONPATH": folders + ":${PYTHONPATH}"}
    assert passed_on() == expected
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert passed_on() == {}, "whoever submits a job sets its environment"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--amp-opt-level", "O2", "--amp-dtype", "float16"], "error: float16 is not to be had on this cpu: use"),
        (["--device", "cuda"], "error: torch sees no cuda device on this machine: check `nvidia-smi`"),
        (["--device", "npu"], "error: torch_npu is not installed: pip install 'ray_bilstm[npu]'"),
        (["--batch-size", "0"], "error: batch_size is 0: expected 1 or more"),
        (["--data_dir", "nowhere"], "error: nowhere: got nothing, expected a folder"),
        (["--teacher", "nowhere"], "error: nowhere: got no model.safetensors, config.json, vocab.json, expected"),
        (["--resume", "--overwrite"], "error: overwrite and resume exclude each other"),
        (["--output-dir", "/proc/none"], "error: /proc/none: cannot be written: No such file or directory"),
    ],
)
def test_errors_are_one_line(arguments, message: str, capsys) -> None:
    assert cli.main(["train", "--device", "cpu", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_resume_ner_is_learnt(resume_ner, tmp_path) -> None:
    """A fifth of the default recipe's epochs; the full one is in the README's table of results."""
    config = Config().with_fields(data_dir=str(resume_ner), device="cpu", train_epochs=6, output_dir=str(tmp_path))
    result, _ = train(config)
    assert result["corpus"]["sentences"] == {"train": 3821, "dev": 463, "test": 477}
    assert len(result["test"]["confusion"]["tags"]) == 28
    assert result["test"]["entity"]["f1"] > 0.91
    assert result["test"]["token"]["f1"] > 0.94
    assert [warning.split(":")[1] for warning in result["warnings"]] == ["62391", "64413"]


ONE_CPU = """
import ray, sys
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
from ray_bilstm.cli import main
sys.exit(main(["train", "--device", "cpu", "--train-epochs", "1", "--num-workers", "2", "--output-dir", sys.argv[1]]))
"""


@pytest.mark.slow
def test_one_cpu_is_enough(tmp_path) -> None:
    """Workers that claim all of the only CPU must not wait for a data task that needs it."""
    words = [sys.executable, "-c", ONE_CPU, tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("result.json")
    assert "embedded sample" in done.stdout
