"""Real Ray: a language model, a tagger that starts from it, a tagger that starts from vectors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import on_ray
import pytest
import ray
import torch

from ray_bilstm import checkpoint, cli, run_directory
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.predict import Tagger
from ray_bilstm.pretrain import pretrain
from ray_bilstm.run_directory import RunError
from ray_bilstm.sample import sample_corpus
from ray_bilstm.train import train

pytestmark = on_ray.WARNINGS
ROOT = Path(__file__).parent.parent
SIZES = {"embedding_size": 16, "bigram_size": 8, "hidden_size": 16}
SMALL = {**SIZES, "dropout": 0.0, "token_dropout": 0.0, "learning_rate": 0.02, "batch_size": 48, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """The sentences of the sample, and characters that it lacks."""
    path = tmp_path_factory.mktemp("text") / "raw.txt"
    sentences = ["".join(sentence.tokens) for sentence in sample_corpus().train[:300]]
    path.write_text("\n".join([*sentences, *["龘靐齉爩，龘靐齉爩。"] * 20]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pretrained(text, tmp_path_factory):
    """A finished run of one worker: result, directory, epochs as the caller saw them."""
    path, seen = tmp_path_factory.mktemp("pretrained") / "run", []
    config = Config().with_fields(**SMALL, output_dir=str(path), train_epochs=2)
    result, _ = pretrain(config, [text], on_epoch=seen.append)
    return result, path, seen


def test_a_pretraining_leaves_a_model_that_describes_itself(pretrained, text) -> None:
    result, path, seen = pretrained
    assert sorted(p.name for p in path.iterdir()) == ["best", "config.json", "history.jsonl", "result.json"]
    assert json.loads((path / "result.json").read_text(encoding="utf-8")) == result
    assert seen == run_directory.read_history(path)
    assert [record["epoch"] for record in seen] == [1, 2]
    perplexities = [record["held_out"]["perplexity"] for record in seen]
    assert result["held_out"]["perplexity"] == perplexities[1] < perplexities[0]
    assert list(result["corpus"]["sha256"]) == [str(text)]
    config, vocab, weights = checkpoint.read_weights(path / "best")
    assert (config.hidden_size, config.num_layers) == (16, 1)
    assert weights["char_embedding.weight"].shape == (len(vocab.chars) + 2, 16)
    assert "龘" in vocab.chars
    assert not [name for name in (path / "best").iterdir() if str(text).encode() in name.read_bytes()]
    with pytest.raises(checkpoint.CheckpointError, match="not a tagger: start one from it with --init-from"):
        Tagger.load(path / "best")


def test_two_workers_have_the_losses_of_one(pretrained, text, tmp_path) -> None:
    _, _, seen = pretrained
    config = Config().with_fields(**SMALL, output_dir=str(tmp_path / "run"), train_epochs=2, num_workers=2)
    history = []
    pretrain(config, [text], on_epoch=history.append)
    for ours, theirs in zip(history, seen, strict=True):
        assert ours["steps"] == theirs["steps"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["held_out"]["perplexity"] == pytest.approx(theirs["held_out"]["perplexity"], rel=1e-3)
        assert ours["held_out"]["predictions"] == theirs["held_out"]["predictions"]


def first_loss(path: Path) -> float:
    return run_directory.read_history(path)[0]["first_step_loss"]


def test_a_tagger_starts_from_it_and_goes_on(pretrained, tmp_path) -> None:
    _, start, _ = pretrained
    given, seen = tmp_path / "tagger", []
    settings = {**SMALL, "init_from": str(start), "output_dir": str(given), "batch_size": 256}
    result, path = train(Config().with_fields(**settings, train_epochs=2), on_coverage=seen.append)
    assert result["outside"] == seen[0]
    assert result["outside"]["init_from"] == str(start)
    assert result["outside"]["added_characters"] >= 4
    assert not (path / run_directory.START).exists()
    tagger = Tagger.load(path / "best")
    _, vocab, weights = checkpoint.read_weights(start / "best")
    outside = weights["char_embedding.weight"][vocab.chars.index("龘") + 2]
    place = tagger.vocab.outside_chars.index("龘")
    assert torch.equal(tagger.model.char_embedding.outside[place], outside)
    card = (path / "best" / "README.md").read_text(encoding="utf-8")
    assert "Knowledge from outside: init_from run." in card
    assert not [name for name in (path / "best").iterdir() if str(start).encode() in name.read_bytes()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_vectors_of_a_file_resume_and_two_workers(tmp_path) -> None:
    chars = sorted({token for sentence in sample_corpus().train for token in sentence.tokens})
    torch.manual_seed(0)
    rows = [f"{char} {' '.join(f'{x:.4f}' for x in torch.randn(16).tolist())}" for char in [*chars[::2], "龘"]]
    (tmp_path / "vectors.txt").write_text("\n".join(rows), encoding="utf-8")
    settings = {**SMALL, "embeddings": str(tmp_path / "vectors.txt"), "batch_size": 256}
    whole, _ = train(Config().with_fields(**settings, output_dir=str(tmp_path / "whole"), train_epochs=2))
    assert whole["outside"]["added_characters"] == 1
    assert whole["outside"]["splits"]["train"]["known_characters"] == len(chars[::2])

    both = {**settings, "output_dir": str(tmp_path / "two"), "train_epochs": 2, "num_workers": 2}
    train(Config().with_fields(**both))
    assert first_loss(tmp_path / "two") == pytest.approx(first_loss(tmp_path / "whole"), rel=1e-4)

    (tmp_path / "whole" / "result.json").unlink()
    without = {**both, "embeddings": None, "output_dir": str(tmp_path / "whole"), "num_workers": 1, "resume": True}
    with pytest.raises(RunError, match="other --embeddings or --init-from"):
        train(Config().with_fields(**without))
    again, _ = train(Config().with_fields(**{**without, "embeddings": settings["embeddings"]}))
    assert again["test"] == whole["test"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"resume": True}, "resume is True"), ({"storage_path": "s3://bucket/runs"}, "storage_path is set")],
)
def test_pretraining_keeps_nothing_to_resume(text, fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(Config().with_fields(**fields), [text])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_from_another_directory(text, tmp_path, capsys) -> None:
    sizes = ["--embedding-size", "16", "--bigram-size", "8", "--hidden-size", "16", "--device", "cpu"]
    words = ["pretrain", str(text), "--output-dir", "start", "--train-epochs", "1", *sizes]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    run = [sys.executable, "-m", "ray_bilstm"]
    done = subprocess.run([*run, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "start a tagger from it with --init-from" in done.stdout
    assert (tmp_path / "start" / "result.json").is_file()
    words = ["train", "--init-from", str(tmp_path / "start"), "--output-dir", str(tmp_path / "tagger"), *sizes]
    assert cli.main([*words, "--train-epochs", "1", "--batch-size", "256"]) == 0
    shown = capsys.readouterr().out
    assert "characters and" in shown and "join the vocabulary" in shown
    assert cli.main([*words[:-4], "--hidden-size", "24", "--overwrite"]) == 1
    assert "set --hidden-size 16" in capsys.readouterr().err


def test_a_tagger_reads_a_lexicon(tmp_path) -> None:
    """Two workers; the model directory knows the words, and its scores are those of the run."""
    corpus = sample_corpus()
    words = {"".join(s.tokens[i : i + 2]) for s in corpus.train[:200] for i in range(len(s.tokens) - 1)}
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("".join(f"{word} 3 n\n" for word in sorted(words)), encoding="utf-8")
    seen = []
    settings = {**SMALL, "lexicon": str(lexicon), "num_workers": 2, "train_epochs": 2}
    settings["output_dir"] = str(tmp_path / "r")
    result, path = train(Config().with_fields(**settings), on_coverage=seen.append)
    assert seen == [result["outside"]]
    assert result["outside"]["words"] >= result["outside"]["own_words"] > 100
    scores = Tagger.load(path / "best").score(corpus.test)
    assert scores["entity"]["f1"] == pytest.approx(result["test"]["entity"]["f1"], abs=1e-9)
    card = (path / "best" / "README.md").read_text(encoding="utf-8")
    assert "Knowledge from outside: lexicon words.txt." in card
    with pytest.raises(ConfigError, match="a language model reads none"):
        pretrain(Config().with_fields(lexicon=str(lexicon)), [lexicon])
