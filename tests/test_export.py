"""An exported model says what the model says, without torch."""

import re
import shutil
import sys

import fresh_process
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import Tagger, checkpoint, cli, onnx_tagger, recursions, tags
from ray_bilstm.config import Config
from ray_bilstm.ensemble_directory import write_ensemble
from ray_bilstm.export import ExportError, check_export, export
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.onnx_tagger import OnnxTagger

pytest.importorskip("onnx", reason="export needs onnx: pip install '.[export]'")
pytest.importorskip("onnxruntime", reason="exported models run in onnxruntime: pip install '.[export]'")


def write_model(path, vocab, **settings):
    """A model of random weights, whose emissions are far enough apart to matter."""
    sizes = {"embedding_size": 12, "bigram_size": 6, "hidden_size": 10} | settings
    config = Config().with_fields(**sizes)
    torch.manual_seed(3)
    model = BiLstmCrf(config.model, vocab)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    checkpoint.write_model(path, dict(model.named_parameters()), config=config, vocab=vocab)
    return path


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({}, lambda vocab: vocab),
        ({"num_layers": 2, "head": "softmax"}, lambda vocab: vocab.__class__(**{**vars_of(vocab), "bigrams": ()})),
        ({"num_layers": 3}, lambda vocab: vocab.with_outside("龘靐", ["龘靐"])),
    ],
)
def test_any_model_on_texts_of_random_lengths(tmp_path, vocab, settings, change):
    model = write_model(tmp_path / "model", change(vocab), **settings)
    export(model, tmp_path / "onnx", shapes=[(3, 200)])
    check = check_export(model, tmp_path / "onnx")
    assert check.equal
    assert check.difference < 1e-4
    texts = ["", "王芳：女，汉族，硕士。", "龘靐😀" * 20, "女"]
    fixed = OnnxTagger(tmp_path / "onnx", model="model-3x200.onnx")
    tagger = Tagger.load(model)
    assert fixed.tag(texts) == tagger.tag(texts)
    found = tagger.predict(texts, scores=False)
    assert [[(*one, None) for one in entities] for entities in fixed.predict(texts)] == found
    assert fixed.predict(texts[1]) == fixed.predict([list(texts[1])])[0]
    with pytest.raises(ValueError, match="got a text of 201 characters, expected at most 200"):
        fixed.tag(["王" * 201])


def test_the_check_tells_another_model(tmp_path, vocab):
    model, other = (write_model(tmp_path / name, vocab, hidden_size=size) for name, size in (("a", 10), ("b", 12)))
    export(model, tmp_path / "onnx")
    check = check_export(other, tmp_path / "onnx")
    assert check.difference > 1e-2
    assert not check.equal


def vars_of(vocab):
    return {name: getattr(vocab, name) for name in vocab.__dataclass_fields__}


def test_nothing_in_nothing_out(tmp_path, trained):
    export(trained, tmp_path / "onnx")
    tagger = OnnxTagger(tmp_path / "onnx")
    assert tagger.predict("") == tagger.predict([]) == tagger.tag([]) == []
    assert tagger.tag(["", ""]) == [[], []]


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.4]),
)
def test_viterbi_is_that_of_the_model(lengths, T, seed, forbidden):
    random = np.random.default_rng(seed)
    emissions_BLT = random.normal(size=(len(lengths), max(1, *lengths), T)).astype(np.float32)
    scores = [random.normal(size=size).astype(np.float32) for size in ((T, T), T, T)]
    scores[0][random.random((T, T)) < forbidden] = recursions.ILLEGAL
    lengths_B = np.array(lengths)
    got_BL = onnx_tagger.viterbi(emissions_BLT, lengths_B, *scores)
    expected_BL, _ = recursions.viterbi(*map(torch.from_numpy, (emissions_BLT, lengths_B, *scores)))
    for got_L, expected_L, length in zip(got_BL, expected_BL.numpy(), lengths, strict=True):
        assert got_L[:length].tolist() == expected_L[:length].tolist()


@given(st.sampled_from(sorted(tags.SCHEMES)), st.data())
def test_entities_are_read_off_any_tags_as_the_scheme_has_it(scheme, data):
    rule = tags.SCHEMES[scheme]
    names = ["O", *(f"{prefix}-{type}" for type in ("A", "B-C") for prefix in {*rule.begin, *rule.inside})]
    scorer, tagger = Scorer(names, scheme), OnnxTagger.__new__(OnnxTagger)
    tagger.tags = names
    tagger.continues_TT, tagger.begins_T, tagger.ends_T = scorer.continues_TT, scorer.begins_T, scorer.ends_T
    ids = np.array(data.draw(st.lists(st.integers(0, len(names) - 1), max_size=8)), np.int64)
    found = [(start, end, type) for _, type, start, end in tagger._entities("x" * len(ids), ids)]
    assert found == tags.to_spans([names[i] for i in ids], scheme)


def test_a_fresh_process_without_torch(tmp_path, trained, sentences):
    """Moved elsewhere, without the project on the path."""
    export(trained, tmp_path / "onnx")
    (tmp_path / "onnx").rename(tmp_path / "moved")
    texts = ["".join(sentence.tokens) for sentence in sentences]
    program = (
        "import json, sys; sys.modules.update(torch=None, ray=None, ray_bilstm=None)\n"
        "from tagger import OnnxTagger\n"
        "print(json.dumps(OnnxTagger(sys.argv[1]).predict(json.load(sys.stdin))))"
    )
    moved = tmp_path / "moved"
    found = fresh_process.answer(program, moved, told=texts, folder=tmp_path.anchor, path=moved)
    expected = [[list(entity[:4]) for entity in entities] for entities in Tagger.load(trained).predict(texts)]
    assert found == expected
    assert any(expected)


def test_what_cannot_be_exported_is_named(tmp_path, trained, monkeypatch):
    write_ensemble(tmp_path / "two", [trained, trained])
    with pytest.raises(ExportError, match=f"{tmp_path}/two: got an ensemble, expected one model"):
        export(tmp_path / "two", tmp_path / "onnx")
    with pytest.raises(ExportError, match=f"{tmp_path}: exists, expected a new or empty directory"):
        export(trained, tmp_path)
    monkeypatch.setattr("ray_bilstm.export.write_file", fail)
    with pytest.raises(OSError, match="No space"):
        export(trained, tmp_path / "onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match="export needs onnx: pip install"):
        export(trained, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["two"], "nothing is left behind"


def fail(path, content):
    raise OSError(28, "No space left on device")


def test_the_command(tmp_path, trained, capsys, monkeypatch):
    shutil.copytree(trained, tmp_path / "best")
    assert cli.main(["export", str(tmp_path / "best"), "--shapes", "1x8", "2x64", "--soc-version", "Ascend910B3"]) == 0
    first, *atc = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{tmp_path}/best-onnx: 64 random texts, emissions within \S+, equal tags", first)
    assert atc == [
        f"(cd {tmp_path}/best-onnx && atc --framework=5 --model=model-{rows}x{length}.onnx"
        f" --output=model-{rows}x{length} --input_format=ND"
        f' --input_shape="chars:{rows},{length};bigrams:{rows},{length};lengths:{rows}" --soc_version=Ascend910B3)'
        for rows, length in ((1, 8), (2, 64))
    ]
    card = (tmp_path / "best-onnx" / "README.md").read_text(encoding="utf-8")
    assert all(line.split("atc ")[1].split(" --soc")[0] in card for line in atc)
    monkeypatch.setattr("ray_bilstm.cli_export.TOLERANCE", 0.0)
    assert cli.main(["export", str(tmp_path / "best"), "--output-dir", str(tmp_path / "other")]) == 1
    assert "the export is not the model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "best"), "--shapes", "8by128"])
    assert "got '8by128', expected texts x characters" in capsys.readouterr().err
