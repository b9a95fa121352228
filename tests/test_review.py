"""The last look at a finished run: what it writes, and that a run does not fail by it."""

import json
import types
from pathlib import Path

import pytest
import torch

from ray_bilstm import Tagger, ending, report, review
from ray_bilstm.config import Config
from ray_bilstm.corpus import Corpus


@pytest.fixture
def make_corpus(sentences):
    def make(dev, test) -> Corpus:
        return Corpus(path="here", train=sentences, dev=dev, test=test, scheme="BMES", files={}, sha256={})

    return make


@pytest.fixture
def run(tmp_path, trained) -> Path:
    """A run directory that has only its best model."""
    (tmp_path / "best").symlink_to(trained)
    return tmp_path


def test_it_scores_test_as_the_run_does_and_writes_it(run, make_corpus, sentences) -> None:
    changed = sentences[0]._replace(tags=("B-ORG", "E-ORG", *sentences[0].tags[2:]))
    test = [changed, *sentences[1:]]
    record = review.review(run, make_corpus(sentences, test), threads=1)
    assert json.loads((run / "evaluation.json").read_text(encoding="utf-8")) == record
    expected = Tagger.load(run / "best").score(test)["entity"]
    assert record["entity"]["f1"] == pytest.approx(expected["f1"], abs=1e-9) and 0 < expected["f1"] < 1
    assert (record["split"], record["sentences_of_split"], record["sentences_wrong"]) == ("test", 8, 1)
    assert [mistake["kind"] for mistake in record["errors"][0]["mistakes"]] == ["type"]
    assert record["seen"]["seen"]["support"] > 0


def test_dev_stands_in_where_there_is_no_test(run, make_corpus, sentences) -> None:
    record = review.review(run, make_corpus(sentences[:5], []), threads=1)
    assert (record["split"], record["sentences"]) == ("dev", 5)


def test_of_a_large_split_it_reads_the_first(run, make_corpus, sentences, monkeypatch) -> None:
    monkeypatch.setattr(review, "MOST_SENTENCES", 3)
    record = review.review(run, make_corpus([], sentences), threads=1)
    assert (record["sentences"], record["sentences_of_split"]) == (3, 8)


def test_a_failure_is_told_and_leaves_nothing(run, make_corpus, sentences, monkeypatch, caplog) -> None:
    (run / "evaluation.json").write_text("of an earlier attempt")
    monkeypatch.setattr(review, "evaluate", lambda *_, **__: 1 / 0)
    before = torch.get_num_threads()
    assert review.review(run, make_corpus([], sentences), threads=before + 1) == {
        "failed": "ZeroDivisionError: division by zero"
    }
    assert not (run / "evaluation.json").exists()
    assert torch.get_num_threads() == before
    assert "evaluation.json: not written" in caplog.text


def test_a_report_that_cannot_be_drawn_costs_no_result(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(report, "render_report", lambda *_, **__: 1 / 0)
    ending.finish(types.SimpleNamespace(path=tmp_path, config=Config()), {"name": "x"}, "command", {})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert "report.html: not written" in caplog.text
