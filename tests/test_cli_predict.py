"""`python -m ray_bilstm predict`: any format in, any format out."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_bilstm import Tagger, cli, cli_predict, corpus


@pytest.fixture(scope="module")
def texts(sentences):
    return ["".join(sentence.tokens) for sentence in sentences]


@pytest.fixture(scope="module")
def expected(trained, texts):
    return [[e._asdict() for e in entities] for entities in Tagger.load(trained).predict(texts, scores=False)]


def predict(*words) -> int:
    return cli.main(["predict", *map(str, words)])


def objects(text: str) -> list:
    return [json.loads(line) for line in text.splitlines()]


def bare(entities):
    return [entity | {"score": None} for entity in entities]


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "bmes", "parquet"])
def test_every_format_of_input(tmp_path, trained, sentences, texts, expected, capsys, suffix):
    source = tmp_path / f"some.{suffix}"
    if suffix == "txt":
        source.write_text("\n".join(texts), encoding="utf-8")
    else:
        corpus.write_sentences(source, sentences, scheme="BMES")
    assert predict(trained, source) == 0
    found = objects(capsys.readouterr().out)
    assert ["".join(line.get("text", line.get("tokens"))) for line in found] == texts
    assert [bare(line["entities"]) for line in found] == expected
    assert all(0 < entity["score"] <= 1 for line in found for entity in line["entities"])


@pytest.mark.parametrize("suffix", ["jsonl", "bmes"])
def test_what_is_written_is_a_corpus_file(tmp_path, trained, sentences, texts, suffix, capsys):
    (tmp_path / "a.txt").write_text("\n".join(texts[:3]), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(texts[3:]), encoding="utf-8")
    out = tmp_path / f"out.{suffix}"
    assert predict(trained, tmp_path / "a.txt", tmp_path / "b.txt", "-o", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    found, scheme, _ = corpus.read_sentences(out)
    assert scheme == "BMES"
    assert [(s.tokens, s.tags) for s in found] == [(s.tokens, s.tags) for s in sentences]


def test_a_page(tmp_path, trained, texts, capsys):
    assert predict(trained, "--text", texts[0], "--text", texts[1], "-o", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<li>") == 2
    assert ">王芳</mark>" in page
    assert predict(trained, "--text", texts[0], "--format", "html") == 0
    assert ">王芳</mark>" in capsys.readouterr().out


class Stdin(io.TextIOWrapper):
    terminal = False

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_standard_input(trained, texts, expected, capsys, monkeypatch, terminal):
    stdin = Stdin(io.BytesIO("\r\n".join(texts).encode()), encoding="ascii")
    stdin.terminal = terminal
    monkeypatch.setattr(sys, "stdin", stdin)
    assert predict(trained, "--no-scores") == 0
    found = objects(capsys.readouterr().out)
    assert [line["text"] for line in found] == texts
    assert [bare(line["entities"]) for line in found] == expected


def test_progress_of_long_work(tmp_path, trained, texts, capsys, monkeypatch):
    source = tmp_path / "some.txt"
    source.write_text("\n".join(texts), encoding="utf-8")
    assert predict(trained, source) == 0
    assert capsys.readouterr().err == "", "short work shows none"
    clock = iter(range(0, 10**6, 4))
    monkeypatch.setattr(cli_predict.time, "monotonic", lambda: next(clock))
    assert predict(trained, source) == 0
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1].startswith(f"100%  {len(texts)} texts, {sum(map(len, texts))} characters, ")
    assert len(shown) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["王芳：女"],
            "error: 王芳：女: got no such file, expected a file of texts: a text itself is given with --text",
        ),
        (["."], "error: .: got a folder, expected a file of texts"),
        (
            ["--text", "王", "-o", "no/such/folder/x.jsonl"],
            "error: no/such/folder/x.jsonl: got no folder no/such/folder",
        ),
        (
            ["--text", "王", "-o", "x.parquet"],
            "error: x.parquet: got the suffix '.parquet', expected one of .jsonl .json .bmes",
        ),
        (["--text", "王\t芳", "--format", "conll"], r"error: text 1: columns cannot hold the token '\t'"),
    ],
)
def test_what_does_not_go_is_said_in_a_line(trained, words, message, capsys):
    assert predict(trained, *words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_a_file_that_cannot_be_read_to_the_end_leaves_no_output(tmp_path, trained, capsys):
    (tmp_path / "bad.txt").write_bytes("王芳\n".encode() + b"\xff\n")
    assert predict(trained, tmp_path / "bad.txt", "-o", tmp_path / "out.jsonl") == 1
    assert f"error: {tmp_path}/bad.txt:2: got byte 0xFF" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


def test_a_pipe_in_a_fresh_process_in_another_folder(tmp_path, trained, texts, expected):
    done = subprocess.run(
        [sys.executable, "-m", "ray_bilstm", "predict", trained, "--no-scores"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        input="\n".join(texts).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert [bare(line["entities"]) for line in objects(done.stdout.decode())] == expected
    assert done.stderr == b""
