"""The statistics of a corpus: every figure of a small invented one counted by hand, and those of ResumeNER."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_bilstm.check import check, format_check
from ray_bilstm.corpus import Corpus, Sentence, read_corpus

TRAIN = """王 B-NAME
二 E-NAME
在 O
沪 S-LOC

在 O

王 B-NAME
二 E-NAME
在 O
沪 O

在 O

在 O
"""  # sentences at lines 1, 6, 8, 13, 15
DEV = """在 O

王 O
鑫 S-NAME
\u3000 O
鑫 S-NAME
淼 O
"""  # at lines 1, 3
TEST = """沪 S-LOC
在 B-ORG

淼 O

鑫 S-NAME
"""  # at lines 1, 4, 6


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    for split, text in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    return read_corpus(tmp_path, scheme="BMES")


def relative(report: Any, corpus: Corpus) -> Any:
    """The report without the folder in its paths."""
    return json.loads(json.dumps(report).replace(f"{corpus.path}/", ""))


def test_check(corpus: Corpus) -> None:
    report = relative(check(corpus), corpus)
    train, dev, test = report["splits"]["train"], report["splits"]["dev"], report["splits"]["test"]
    assert train == {
        "file": "train.txt",
        "format": "columns",
        "sha256": corpus.sha256["train"],
        "sentences": 5,
        "tokens": 11,
        "entities": {"LOC": 1, "NAME": 2},
        "longest": {"tokens": 4, "place": "train.txt:1"},
        "lengths": {"p50": 1, "p90": 4, "p99": 4, "max": 4},
        "duplicates": {
            "sentences": 3,
            "tagged_differently": 1,
            "places": [
                ["train.txt:1", "train.txt:8"],
                ["train.txt:6", "train.txt:13"],
                ["train.txt:6", "train.txt:15"],
            ],
        },
        "illegal_transitions": {"count": 0, "places": []},
    }
    assert (dev["tokens"], dev["entities"], dev["longest"]) == (6, {"NAME": 2}, {"tokens": 5, "place": "dev.txt:3"})
    assert dev["unseen_tokens"] == {"distinct": 3, "occurrences": 4, "examples": ["鑫", "\u3000", "淼"]}
    assert dev["tags_train_lacks"] == {"S-NAME": "dev.txt:4"}
    assert test["unseen_tokens"] == {"distinct": 2, "occurrences": 2, "examples": ["淼", "鑫"]}
    assert test["tags_train_lacks"] == {"B-ORG": "test.txt:2", "S-NAME": "test.txt:6"}
    assert test["entities"] == {"LOC": 1, "NAME": 1}
    assert test["illegal_transitions"]["count"] == 1
    assert test["illegal_transitions"]["places"] == ["test.txt:3: B-ORG ends the sentence"]


def test_check_of_the_whole(corpus: Corpus) -> None:
    report = relative(check(corpus), corpus)
    assert (report["scheme"], report["embedded_sample"]) == ("BMES", False)
    assert report["tags"] == ["B-NAME", "B-ORG", "E-NAME", "O", "S-LOC", "S-NAME"]
    assert report["duplicates_across"] == [
        {"splits": ["train", "dev"], "sentences": 1, "tagged_differently": 0, "places": [["train.txt:6", "dev.txt:1"]]},
        {"splits": ["train", "test"], "sentences": 0, "tagged_differently": 0, "places": []},
        {"splits": ["dev", "test"], "sentences": 0, "tagged_differently": 0, "places": []},
    ]
    assert report["warnings"] == [warning.replace(f"{corpus.path}/", "") for warning in corpus.warnings]
    assert len(report["warnings"]) == 3


def test_format_check(corpus: Corpus) -> None:
    text = format_check(relative(check(corpus), corpus))
    head, counts, entities, findings = text.split("\n\n")
    assert head == f"{corpus.path}: columns, scheme BMES, 6 tags"
    assert counts.split("\n") == [
        "                                  train  dev  test",
        "sentences                             5    2     3",
        "tokens                               11    6     4",
        "tokens a sentence, median             1    1     1",
        "  90th percentile                     4    5     2",
        "  99th percentile                     4    5     2",
        "  longest                             4    5     2",
        "duplicates within                     3    0     0",
        "illegal transitions                   0    0     1",
        "tokens unseen in train, distinct      -    3     2",
        "  occurrences                         -    4     2",
        "tags train lacks                      -    1     2",
    ]
    assert entities.split("\n") == [
        "entities  train  dev  test",
        "LOC           1    0     1",
        "NAME          2    2     1",
        "all           3    2     2",
    ]
    assert findings.split("\n") == [
        "longest sentence of train: 4 tokens at train.txt:1",
        "longest sentence of dev: 5 tokens at dev.txt:3",
        "longest sentence of test: 2 tokens at test.txt:1",
        r"dev tokens unseen in train, such as: 鑫 '\u3000' 淼",
        "test tokens unseen in train, such as: 淼 鑫",
        "3 sentences within train (1 tagged differently):",
        "  train.txt:8 repeats train.txt:1",
        "  train.txt:13 repeats train.txt:6",
        "  train.txt:15 repeats train.txt:6",
        "1 sentence of dev also in train (0 tagged differently):",
        "  dev.txt:1 repeats train.txt:6",
        "warning: test.txt:3: B-ORG ends the sentence: illegal in BMES, no entity is read there",
        "warning: dev.txt:4: dev has known types; tags that train lacks: S-NAME (line 4)",
        "warning: test.txt:2: test has the type ORG, which train lacks; tags that train lacks: "
        "B-ORG (line 2), S-NAME (line 6)",
    ]


def test_many_duplicates_are_counted_and_some_shown() -> None:
    sentence = Sentence(("在",), ("O",), 1)
    corpus = Corpus(
        path="embedded sample",
        train=[sentence] * 9 + [sentence._replace(line=2)] * 1000,
        dev=[sentence],
        test=[sentence],
        scheme="BIO",
        files={split: f"embedded sample/{split}" for split in ("train", "dev", "test")},
        sha256=dict.fromkeys(("train", "dev", "test"), ""),
        embedded_sample=True,
    )
    report = check(corpus)
    assert report["splits"]["train"]["format"] == "generated"
    assert report["splits"]["train"]["duplicates"]["sentences"] == 1008
    assert len(report["splits"]["train"]["duplicates"]["places"]) == 5
    text = format_check(report)
    assert "1,008 sentences within train" in text
    assert "  and 1,003 more" in text
    assert text.startswith("embedded sample: generated, scheme BIO, ")


def test_resume_ner(resume_ner: Path) -> None:
    report = check(read_corpus(resume_ner))
    splits = report["splits"]
    assert [split["sentences"] for split in splits.values()] == [3821, 463, 477]
    assert [split["tokens"] for split in splits.values()] == [124_099, 13_890, 15_100]
    assert [split["longest"]["tokens"] for split in splits.values()] == [178, 178, 167]
    assert [split["illegal_transitions"]["count"] for split in splits.values()] == [2, 0, 0]
    assert len(report["tags"]) == 28
    assert list(splits["train"]["entities"]) == ["CONT", "EDU", "LOC", "NAME", "ORG", "PRO", "RACE", "TITLE"]
    across = {tuple(pair["splits"]): pair["sentences"] for pair in report["duplicates_across"]}
    assert across == {("train", "dev"): 1, ("train", "test"): 5, ("dev", "test"): 1}
