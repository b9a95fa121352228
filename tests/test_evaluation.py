"""The report on a model: consistent with itself, with `metrics.py`, and with counting by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import Tagger, cli, corpus, evaluation
from ray_bilstm.evaluation import evaluate, format_evaluation
from ray_bilstm.formats import Sentence
from ray_bilstm.predict import Entity
from ray_bilstm.tags import Span, from_spans, to_spans

TAGS = ["O", *(f"{prefix}-{type}" for type in "AB" for prefix in "BMES")]


def spans_of(draw, length):
    edges = sorted(draw(st.sets(st.integers(0, length))))
    return [Span(a, b, draw(st.sampled_from("AB"))) for a, b in zip(edges[::2], edges[1::2], strict=False)]


@st.composite
def cases(draw):
    """Labelled sentences and what a model says of them."""
    sentences, predicted = [], []
    for line in range(draw(st.integers(0, 4))):
        text = draw(st.text("甲乙丙", max_size=6))
        tags = from_spans(spans_of(draw, len(text)), len(text), "BMES")
        sentences.append(Sentence(tuple(text), tuple(tags), line + 1))
        predicted.append([Entity(text[a:b], type, a, b, 0.5) for a, b, type in spans_of(draw, len(text))])
    return sentences, predicted


def total(scores):
    return scores["support"]


@given(cases())
def test_the_parts_add_up(case):
    sentences, predicted = case
    report = evaluate(sentences, predicted, tags=TAGS, scheme="BMES", train=sentences[:1], errors=100)
    json.dumps(report, allow_nan=False)
    matrix = np.array(report["types"]["matrix"])
    kinds = report["mistakes"]
    found, support = sum(map(len, predicted)), report["entity"]["support"]
    correct = round(report["entity"]["recall"] * support)
    assert correct == round(report["entity"]["precision"] * found)
    assert sum(kinds["gold"].values()) == support - correct
    assert sum(kinds["predicted"].values()) == found - correct
    assert kinds["gold"]["spurious"] == kinds["predicted"]["missed"] == 0
    assert matrix[:-1].sum() == support
    assert matrix[-1].sum() == kinds["predicted"]["spurious"]
    assert matrix[:, -1].sum() == kinds["gold"]["missed"]
    assert sum(map(total, report["per_type"].values())) == sum(map(total, report["seen"].values())) == support
    wrong = [(e["line"], len(e["mistakes"])) for e in report["errors"]]
    assert [count for _, count in wrong] == sorted((count for _, count in wrong), reverse=True)
    assert (len(wrong) > 0) == (support + found > 2 * correct)
    assert report["sentences_wrong"] == len(wrong)
    for error in report["errors"]:
        told = [error["correct"], [m["gold"] for m in error["mistakes"]], [m["predicted"] for m in error["mistakes"]]]
        right, gold, guessed = ({Span(e["start"], e["end"], e["type"]) for e in part if e} for part in told)
        place = error["line"] - 1
        assert sorted(right | gold) == to_spans(sentences[place].tags, "BMES")
        assert sorted(right | guessed) == [Span(*entity[2:4], entity.type) for entity in predicted[place]]
        assert all(e["score"] == 0.5 for e in (*told[0], *told[2]) if e)
    for row in (report["entity"], *report["per_type"].values()):
        assert row["low95"] is None or 0 <= row["low95"] <= row["high95"] <= 1
    assert format_evaluation(report, path="x").count("x:") == len(wrong)


def test_intervals_are_those_of_resampled_sentences():
    """Against drawing the sentences themselves."""
    random = np.random.default_rng(1)
    both = random.integers(0, 3, (40, 2))
    counts_SK3 = np.stack((both + random.integers(0, 2, both.shape), both + random.integers(0, 2, both.shape), both), 2)
    expected = []
    for _ in range(4000):
        drawn = counts_SK3[random.integers(0, 40, 40)].sum(0)
        expected.append([2 * c / (g + p) for g, p, c in (drawn.sum(0), *drawn)])
    expected = np.quantile(expected, [0.025, 0.975], axis=0).T
    whole = evaluation._intervals(counts_SK3)
    assert np.abs(np.array(whole) - expected).max() < 0.01


def test_what_train_has_counts_as_seen():
    sentences = [Sentence(tuple("甲乙丙"), ("S-A", "S-A", "S-B"), 1)]
    train = [Sentence(tuple("甲丙"), ("S-A", "S-A"), 1)]  # 丙 is known as another type
    predicted = [[Entity("甲", "A", 0, 1, 0.9), Entity("丙", "A", 2, 3, 0.9)]]
    seen = evaluate(sentences, predicted, tags=TAGS, scheme="BMES", train=train)["seen"]
    assert seen["seen"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert seen["unseen"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 2}
    assert "seen" not in evaluate(sentences, predicted, tags=TAGS, scheme="BMES")


def test_the_worst_sentence_comes_first_and_tells_why():
    sentences = [Sentence(tuple("甲乙"), ("S-A", "O"), 7), Sentence(tuple("甲乙"), ("S-A", "S-B"), 8)]
    sentences.append(sentences[0]._replace(line=9))
    predicted = [[Entity("甲", "B", 0, 1, 0.6)], [Entity("甲乙", "B", 0, 2, 0.5)], [Entity("甲", "B", 0, 1, 0.7)]]
    report = evaluate(sentences, predicted, tags=TAGS, scheme="BMES", errors=2)
    assert [error["line"] for error in report["errors"]] == [8, 9]
    assert report["errors"][1]["mistakes"] == [
        {
            "kind": "type",
            "gold": {"text": "甲", "start": 0, "end": 1, "type": "A"},
            "predicted": {"text": "甲", "start": 0, "end": 1, "type": "B", "score": 0.7},
        }
    ]
    text = format_evaluation(report, path="here")
    assert text.endswith("here:9: 甲乙\n  type: 甲 A, predicted 甲 B 0.70")


def test_the_command(tmp_path, trained, sentences, capsys):
    folder = tmp_path / "corpus"
    folder.mkdir()
    changed = sentences[0]._replace(tags=("B-ORG", "E-ORG", *sentences[0].tags[2:]))
    for split, part in (("train", sentences), ("dev", sentences), ("test", [changed, *sentences[1:]])):
        corpus.write_sentences(folder / f"{split}.bmes", part, scheme="BMES")
    assert cli.main(["evaluate", str(trained), str(folder), "--json", str(tmp_path / "report.json")]) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    test, _, _ = corpus.read_sentences(folder / "test.bmes")
    scores = Tagger.load(trained).score(test)
    assert report["confusion"] == scores["confusion"]
    assert report["entity"].items() >= scores["entity"].items()
    assert f"{folder}/test.bmes:1: 王芳" in text
    assert "  type: 王芳 ORG, predicted 王芳 NAME " in text
    assert "unseen in train" in text
    assert report["mistakes"]["gold"]["type"] == 1
    file = str(folder / "test.bmes")
    assert cli.main(["evaluate", str(trained), file, "--errors", "0"]) == 0
    assert "--train" in capsys.readouterr().out
    assert cli.main(["evaluate", str(trained), file, "--train", str(folder), "--errors", "0", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["errors"] == []
    assert printed["seen"] == report["seen"]


def test_the_sample_is_scored_where_no_data_is_named(trained, capsys):
    assert cli.main(["evaluate", str(trained), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sentences"] == 150
    assert len(report["errors"]) == 10


def test_other_schemes_are_converted(tmp_path, trained, sentences, capsys):
    corpus.convert_file(_write(tmp_path / "a.bmes", sentences), tmp_path / "a.bio", scheme="BIO")
    assert cli.main(["evaluate", str(trained), str(tmp_path / "a.bio"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entity"]["f1"] == 1.0


def _write(path, sentences):
    corpus.write_sentences(path, sentences, scheme="BMES")
    return path
