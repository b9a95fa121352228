"""Model directories: what is written comes back, and whatever is damaged is named."""

import dataclasses
import json
import os
import re
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_bilstm
from ray_bilstm import checkpoint
from ray_bilstm.checkpoint import CONFIG, MODEL, STATE, VOCAB, CheckpointError
from ray_bilstm.config import Config
from ray_bilstm.loop import Progress
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.vocab import Vocab

FILES = (MODEL, CONFIG, VOCAB)


def write(directory, vocab, **fields):
    """A model directory with random weights, and those weights."""
    config = Config().with_fields(**{"embedding_size": 8, "bigram_size": 4, "hidden_size": 6} | fields)
    torch.manual_seed(0)
    weights = {name: weight.detach() for name, weight in BiLstmCrf(config.model, vocab).named_parameters()}
    checkpoint.write_model(directory, weights, config=config, vocab=vocab)
    return weights


@pytest.mark.parametrize("fields", [{}, {"num_layers": 2, "head": "softmax"}])
def test_a_model_comes_back(tmp_path, vocab, fields):
    weights = write(tmp_path / "new" / "best", vocab, **fields)
    model, same_vocab = checkpoint.read_model(str(tmp_path / "new" / "best"))
    assert same_vocab == vocab
    assert not model.training
    assert (model.config.embedding_size, model.config.num_layers) == (8, fields.get("num_layers", 1))
    got = dict(model.named_parameters())
    assert got.keys() == weights.keys()
    assert all(torch.equal(got[name], weights[name]) for name in weights)
    assert sorted(path.name for path in (tmp_path / "new" / "best").iterdir()) == sorted(FILES)


def test_weights_are_replaced(tmp_path, vocab):
    weights = write(tmp_path, vocab)
    changed = {name: weight + 1 for name, weight in weights.items()}
    config = Config().with_fields(embedding_size=8, bigram_size=4, hidden_size=6)
    checkpoint.write_model(tmp_path, changed, config=config, vocab=vocab)
    model, _ = checkpoint.read_model(tmp_path)
    assert torch.equal(model.emission.weight, changed["emission.weight"])


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "last byte cut": lambda path: path.write_bytes(path.read_bytes().rstrip()[:-1]),
    "noise": lambda path: path.write_bytes(b"\xff\xfe\x00" * 50),
    "other JSON": lambda path: path.write_text("[1, 2]", encoding="utf-8"),
    "empty object": lambda path: path.write_text("{}", encoding="utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_model_file_is_named(tmp_path, vocab, name, damage):
    write(tmp_path, vocab)
    DAMAGE[damage](tmp_path / name)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))) as caught:
        checkpoint.read_model(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_named(tmp_path, damage):
    checkpoint.write_state(tmp_path, Progress(epoch=1, weights={"a": torch.ones(30)}))
    DAMAGE[damage](tmp_path / STATE)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))) as caught:
        checkpoint.read_state(tmp_path)
    assert STATE in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_model_is_noticed(tmp_path, sentences, vocab, name):
    write(tmp_path / "one", vocab)
    write(tmp_path / "two", Vocab.build(sentences[:2], scheme="BMES", bigram_min_count=0), embedding_size=9)
    os.replace(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(CheckpointError, match=r"one/model\.safetensors: not what was written: .*of another model"):
        checkpoint.read_model(tmp_path / "one")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_model_is_noticed_without_a_digest(tmp_path, sentences, vocab, name):
    weights = write(tmp_path / "one", vocab)
    (tmp_path / "one" / MODEL).write_bytes(safetensors.torch.save(weights))
    weights = write(tmp_path / "two", Vocab.build(sentences[:2], scheme="BMES", bigram_min_count=0), embedding_size=9)
    (tmp_path / "two" / MODEL).write_bytes(safetensors.torch.save(weights))
    checkpoint.read_model(tmp_path / "one")
    os.replace(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(CheckpointError, match=r"one/model\.safetensors: .*shape.*not of one model"):
        checkpoint.read_model(tmp_path / "one")


@pytest.mark.parametrize(
    "model", [3, {"head": "mlp"}, {"hidden_size": 0}, {"hidden_size": "6"}, {"hidden": 6}, {"num_layers": True}]
)
def test_settings_that_no_model_has_are_refused(tmp_path, vocab, model):
    write(tmp_path, vocab)
    (tmp_path / CONFIG).write_text(json.dumps({"format": 1, "model": model}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / CONFIG))):
        checkpoint.read_model(tmp_path)


@pytest.mark.parametrize("best_epoch", [2, 3])
def test_a_state_comes_back(tmp_path, best_epoch):
    """Whether the last epoch is the best or not."""
    weights, best = {"a.b": torch.randn(3, 2), "c": torch.tensor(1.5)}, {"a.b": torch.zeros(3, 2), "c": torch.ones(())}
    progress = Progress(
        epoch=3,
        best_epoch=best_epoch,
        best_f1=0.1 + 0.2,
        weights=weights,
        best_weights=weights if best_epoch == 3 else best,
        moments={"a.b.exp_avg": torch.randn(3, 2), "c.step": torch.tensor(7.0)},
    )
    checkpoint.write_state(tmp_path, progress)
    got = checkpoint.read_state(tmp_path)
    assert (got.epoch, got.best_epoch, got.best_f1) == (3, best_epoch, 0.1 + 0.2)
    for kind in ("weights", "best_weights", "moments"):
        ours, theirs = getattr(got, kind), getattr(progress, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(monkeypatch, tmp_path, function, error):
    path = tmp_path / "file"
    checkpoint.write_file(path, "old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        checkpoint.write_file(path, "new")
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text(encoding="utf-8") == "old"
    checkpoint.write_file(path, b"new")
    assert [each.read_text(encoding="utf-8") for each in tmp_path.iterdir()] == ["new"]


def test_nothing_is_pickled():
    sources = {path.name: path.read_text(encoding="utf-8") for path in Path(ray_bilstm.__file__).parent.glob("*.py")}
    pattern = re.compile(r"\bimport pickle|\bpickle\.|torch\.(load|save)\b|joblib|\.pkl\b|\.pt\b|cloudpickle|dill")
    assert {name: pattern.findall(text) for name, text in sources.items() if pattern.search(text)} == {}


def header(size: int) -> bytes:
    return size.to_bytes(8, "little")


def tensors_file(described: dict) -> bytes:
    """A safetensors file of this header and 16 bytes of tensors."""
    text = json.dumps(described).encode()
    return header(len(text)) + text + bytes(16)


def entry(**fields) -> dict:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields


HOSTILE = {
    "a header of exabytes": (header(2**60) + b"{}", "cannot be read as safetensors: .*header too large"),
    "a header of all memory": (header(2**40) + b"{}" * 50, "cannot be read as safetensors: .*header too large"),
    "a header beyond the file": (header(5000) + b"{}", "cannot be read as safetensors: .*invalid header length"),
    "a header that is no JSON": (header(4) + b"\x80abc", "cannot be read as safetensors: .*invalid UTF-8"),
    "a deep header": (header(60_000) + b"[" * 60_000, "cannot be read as safetensors: "),
    "tensors beyond the file": (tensors_file({"a": entry(data_offsets=[0, 1 << 40])}), "cannot be read as safetensors"),
    "tensors before the file": (tensors_file({"a": entry(data_offsets=[-8, 8])}), "cannot be read as safetensors"),
    "more elements than bytes": (tensors_file({"a": entry(shape=[1 << 40])}), "cannot be read as safetensors"),
    "a size that overflows": (tensors_file({"a": entry(shape=[1 << 40, 1 << 40])}), "cannot be read as safetensors"),
    "an unknown type": (tensors_file({"a": entry(dtype="PICKLE")}), "cannot be read as safetensors"),
    "overlapping tensors": (tensors_file({"a": entry(), "b": entry()}), "cannot be read as safetensors"),
    "bytes that no tensor owns": (tensors_file({"a": entry()}), "cannot be read as safetensors"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_of_tensors_is_refused(tmp_path, vocab, what):
    write(tmp_path, vocab)
    data, message = HOSTILE[what]
    for name, read in ((MODEL, checkpoint.read_model), (STATE, checkpoint.read_state)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"(?s)^{re.escape(str(tmp_path / name))}: {message}"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "crf/../../x", "a\x00b", "x" * 10_000])
def test_names_of_tensors_are_names_only(tmp_path, vocab, name):
    """None becomes a path; what the model does not have is refused."""
    weights = write(tmp_path / "model", vocab)
    (tmp_path / "model" / MODEL).write_bytes(safetensors.torch.save(weights | {name: torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"has shape \(2,\), expected None from config\.json and vocab\.json"):
        checkpoint.read_model(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight[:-1], r"'emission.bias' has shape \(\d+,\), expected \(\d+,\).*not of one model"),
        (lambda weight: weight[None], r"'emission.bias' has shape \(1, \d+\), expected \(\d+,\).*not of one model"),
        (lambda weight: weight.double(), r"emission.bias is torch.float64, expected torch.float32"),
        (lambda weight: weight.long(), r"emission.bias is torch.int64, expected torch.float32"),
    ],
)
def test_weights_of_another_shape_or_type_are_refused(tmp_path, vocab, change, message):
    weights = write(tmp_path, vocab)
    weights["emission.bias"] = change(weights["emission.bias"]).contiguous()
    (tmp_path / MODEL).write_bytes(safetensors.torch.save(weights))
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(tmp_path / MODEL))}: {message}"):
        checkpoint.read_model(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 10**7, r"model\.safetensors: .* expected \(40000000,\) .*not of one model"),
        ("hidden_size", 10**17, r"config\.json: not the settings of a model that can be: .*overflow"),
        ("hidden_size", 10**30, r"config\.json: not the settings of a model that can be: .*"),
        (
            "num_layers",
            10**9,
            r"config\.json: not the settings .*: num_layers is 1000000000, but .* has",
        ),
    ],
)
def test_settings_of_a_model_larger_than_memory_are_refused_without_making_it(tmp_path, vocab, field, value, message):
    weights = write(tmp_path, vocab)
    (tmp_path / MODEL).write_bytes(safetensors.torch.save(weights))
    settings = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    settings["model"][field] = value
    (tmp_path / CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read_model(tmp_path)


@pytest.mark.parametrize(("name", "message"), [(CONFIG, "not the settings of a model"), (VOCAB, "not a vocabulary")])
def test_deep_json_is_refused(tmp_path, vocab, name, message):
    write(tmp_path, vocab)
    (tmp_path / name).write_text('{"model": ' + "[" * 100_000, encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(tmp_path / name))}: {message}"):
        checkpoint.read_model(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory, vocab):
    folder = tmp_path_factory.mktemp("written")
    return {name: (folder / name).read_bytes() for name in FILES if write(folder, vocab)}


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=300)
def test_no_changed_bit_gives_another_model(written, vocab, name, place, bit):
    """It is refused, or it is in what a model is not made from."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for file, content in written.items():
            (path / file).write_bytes(content)
        changed = bytearray(written[name])
        changed[int(place * len(changed))] ^= 1 << bit
        (path / name).write_bytes(changed)
        try:
            model, words = checkpoint.read_model(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}")
            return
    weights = safetensors.torch.load(written[MODEL])
    assert words == vocab
    assert {"embedding_size": 8, "hidden_size": 6}.items() <= dataclasses.asdict(model.config).items()
    assert all(torch.equal(weight, weights[key]) for key, weight in model.named_parameters())
