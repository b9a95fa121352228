"""The same recipe and the same commands on words instead of characters, another language, scheme and formats."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ray_bilstm import Tagger
from ray_bilstm.corpus import Sentence, write_sentences
from ray_bilstm.tags import from_spans, to_spans

ROOT = Path(__file__).parent.parent
FIRST = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Radia", "Ken")
LAST = ("Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Knuth", "Perlman", "Thompson")
ORGS = ("Bell Labs", "Acme Corporation of Ohio", "Xerox", "Northern Rail", "Institute of Technology")
TITLES = ("chief engineer", "director", "vice president of sales", "professor")
FORMS = ("{n} joined {o} as {t} .", "{t} {n} left {o} .", "Since 1998 {n} has been {t} at {o} .", "Nobody came .")


def make_sentence(draw: random.Random, line: int) -> Sentence:
    parts = {
        "{n}": ("PER", f"{draw.choice(FIRST)} {draw.choice(LAST)}"),
        "{o}": ("ORG", draw.choice(ORGS)),
        "{t}": ("TITLE", draw.choice(TITLES)),
    }
    tokens, spans = [], []
    for word in draw.choice(FORMS).split():
        type, text = parts.get(word, ("", word))
        spans += [(len(tokens), len(tokens) + len(text.split()), type)] if type else []
        tokens += text.split()
    return Sentence(tuple(tokens), tuple(from_spans(spans, len(tokens), "BIO")), line)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """BIO in columns with CRLF line ends, in JSON lines and in Parquet."""
    folder, draw = tmp_path_factory.mktemp("english"), random.Random(1)
    for name, count in (("train.bio", 300), ("dev.jsonl", 60), ("test.parquet", 60)):
        write_sentences(folder / name, [make_sentence(draw, i) for i in range(count)], scheme="BIO")
    columns = folder / "train.bio"
    columns.write_bytes(columns.read_bytes().replace(b"\n", b"\r\n"))
    return folder


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_english_words_are_learnt_from_another_directory(data_dir, tmp_path) -> None:
    settings = ["--data-dir", str(data_dir), "--device", "cpu", "--train-epochs", "6", "--batch-size", "16"]
    sizes = ["--embedding-size", "32", "--bigram-size", "16", "--hidden-size", "32"]
    command = [sys.executable, str(ROOT / "jobs" / "train_1p.py"), *settings, *sizes, "--output-dir", "run"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["test"]["entity"]["f1"] > 0.9
    assert set(result["test"]["per_type"]) == {"PER", "ORG", "TITLE"}

    tagger = Tagger.load(tmp_path / "run" / "best")
    words = ["Since", "1998", "Grace", "Turing", "has", "been", "chief", "engineer", "at", "Xerox", "."]
    (tags,) = tagger.tag([words])
    assert to_spans(tags, tagger.vocab.scheme) == [(2, 4, "PER"), (6, 8, "TITLE"), (9, 10, "ORG")]
