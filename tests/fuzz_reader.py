#!/usr/bin/env python3
"""The readers of files, fed with what libFuzzer makes up as it sees which lines of theirs are reached.

pip install atheris                                     # on Linux and macOS
python tests/fuzz_reader.py columns -runs=1000000       # or jsonl, parquet, text; -help=1 tells libFuzzer's flags

A labelled file gives sentences, which can be written and read again, or complaints, each of which names the file and a
line of it; texts to tag are read or refused the same way. Anything else, more than 10 seconds and more than 4 GiB end
the run, and what led to it is left in the working directory as crash-*, timeout-* or oom-*.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ray_bilstm"]):
    from ray_bilstm import corpus, formats, tags, texts

SENTENCES = [
    formats.Sentence(("沈", "遥", "，", "女"), ("B-NAME", "E-NAME", "O", "S-SEX"), 1),
    formats.Sentence(("New York", "😀"), ("S-LOC", "O"), 6),
]
SUFFIXES = {"columns": ".bmes", "jsonl": ".jsonl", "parquet": ".parquet", "text": ".txt"}
RAW = {
    "columns": ["-DOCSTART- -X- O\n\nEU NNP B-ORG\n  O\n", "\ufeff王\tB-NAME\r\n二\tI-NAME\r\n\r\n"],
    "jsonl": [
        '{"text": "王二", "entities": [{"start": 0, "end": 2, "type": "NAME", "text": "王二"}]}\n',
        '{"text": "王二", "label": [[0, 2, "NAME"]]}\n{"tokens": ["a"], "tags": ["B-X"]}\n',
        '{"text": "王", "entities": [{"start_offset": 0, "end_offset": 1, "label": "X"}]}\n',
    ],
    "parquet": [],
    "text": ["沈遥，女。\n\n", "\ufeffa\r\nb\x00\n"],
}


def write_seeds(kind: str, folder: Path) -> None:
    """Files that are right, to start from."""
    for number, text in enumerate(RAW[kind]):
        (folder / f"raw-{number}").write_bytes(text.encode())
    for scheme in tags.SCHEMES if kind != "text" else ():
        written = folder / f"{scheme}{SUFFIXES[kind]}"
        found = [s._replace(tags=tuple(tags.convert(s.tags, "BMES", scheme))) for s in SENTENCES]
        corpus.write_sentences(written, found, scheme=scheme)


def check_corpus(path: Path) -> None:
    """`path` is read and says what it holds, or what is wrong with it."""
    try:
        sentences, scheme, warnings = corpus.read_sentences(path)
    except corpus.CorpusError as error:
        _, *complaints = str(error).splitlines()
        assert complaints, error
        for complaint in complaints:
            assert_names_line(complaint.strip(), path)
        return
    assert sentences
    for warning in warnings:
        assert_names_line(warning, path)
    again = path.with_name("again.jsonl")
    corpus.write_sentences(again, sentences, scheme=scheme)
    read = corpus.read_sentences(again, scheme=scheme)[0]
    assert [(s.tokens, s.tags) for s in read] == [(s.tokens, s.tags) for s in sentences]


def check_texts(path: Path, formats: tuple[str, ...]) -> None:
    """The same of what `predict` reads."""
    for format in formats:
        with path.open("rb") as file:
            try:
                for text in texts.iter_texts(file, str(path), format):
                    "".join(text.text).encode()
            except texts.TextError as error:
                (line,) = str(error).splitlines()
                assert_names_line(line, path)


def assert_names_line(note: str, path: Path) -> None:
    if note.startswith("and ") and note.endswith(" more"):
        return
    assert note.startswith(f"{path}:"), note
    assert int(note.removeprefix(f"{path}:").partition(":")[0]) >= 1, note
    note.encode()


def main() -> None:
    kind = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if kind not in SUFFIXES:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        write_seeds(kind, seeds)
        path = Path(folder, f"input{SUFFIXES[kind]}")

        def try_one(data: bytes) -> None:
            path.write_bytes(data)
            if kind != "text":
                check_corpus(path)
            check_texts(path, ("parquet",) if kind == "parquet" else ("text", "jsonl", "conll"))

        longest = 4096 if kind == "parquet" else 512
        limits = ["-timeout=10", "-rss_limit_mb=4096", f"-max_len={longest}"]
        atheris.Setup([*sys.argv, *limits, str(seeds)], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
