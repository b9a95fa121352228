"""Reading, writing and finding corpora: what is tolerated, what is refused and how it is said, what survives."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_bilstm.corpus import (
    CorpusError,
    Sentence,
    convert_file,
    find_files,
    read_corpus,
    read_sentences,
    write_sentences,
)
from ray_bilstm.tags import SCHEMES, Span, from_spans

GOOD = "王 B-NAME\n二 E-NAME\n在 O\n\n沪 S-LOC\n"  # lines 1 to 3, and 5
SENTENCES = [
    Sentence(("王", "二", "在"), ("B-NAME", "E-NAME", "O"), 1),
    Sentence(("沪",), ("S-LOC",), 5),
]
SUFFIXES = (".bmes", ".tsv", ".jsonl", ".parquet")


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def folder(path: Path, train: str | bytes = GOOD, dev: str | bytes = GOOD, test: str | bytes = GOOD) -> Path:
    for split, data in (("train", train), ("dev", dev), ("test", test)):
        write(path / f"{split}.char.bmes", data)
    return path


def complaints(data_dir: Path, **options: str) -> list[str]:
    """The lines of the error that reading `data_dir` ends with, the folder cut off."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(data_dir, **options)
    return str(caught.value).replace(f"{data_dir}{os.sep}", "").split("\n  ")


def complaint(path: Path, data: str | bytes, **options: str) -> str:
    """The one complaint about a file of `data`."""
    with pytest.raises(CorpusError) as caught:
        read_sentences(write(path, data), **options)
    summary, one = str(caught.value).replace(f"{path.parent}{os.sep}", "").split("\n  ")
    assert summary == "1 fault in the corpus; correct the lines below and run again"
    return one


def tokens_and_tags(sentences: list[Sentence]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [sentence[:2] for sentence in sentences]


# Columns --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        GOOD + "\n",
        GOOD.rstrip("\n"),
        GOOD.replace(" ", "\t"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r\n").rstrip("\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace(" ", "   "),
        GOOD.replace("\n", " \n"),
        GOOD.replace(" ", "\t").replace("\n", " \n"),
        GOOD.replace(" ", " NN _ "),
        GOOD.replace("二 ", "二\t"),
    ],
)
def test_columns_are_read_however_they_are_written(tmp_path: Path, data: str) -> None:
    assert read_sentences(write(tmp_path / "a.txt", data)) == (SENTENCES, "BMES", [])


def test_several_blank_lines_and_document_starts(tmp_path: Path) -> None:
    data = "-DOCSTART- -X- O\n\n\n \n王 NN S-NAME\n\n\r\n\t\n-DOCSTART-\n-DOC- NN O\n- NN O\n# NN O\n\n\n"
    sentences, scheme, warnings = read_sentences(write(tmp_path / "a.conll", data))
    assert sentences == [Sentence(("王",), ("S-NAME",), 5), Sentence(("-DOC-", "-", "#"), ("O", "O", "O"), 10)]
    assert (scheme, warnings) == ("BMES", [])


@pytest.mark.parametrize(
    "token", ["\u3000", "\u2028", "\u2029", "\u0085", "\u00a0", "\x0b", "\x0c", "\x1c", "\u200b", " "]
)
@pytest.mark.parametrize("separator", [" ", "\t"])
def test_unusual_spaces_are_tokens(tmp_path: Path, token: str, separator: str) -> None:
    data = f"王{separator}S-NAME\n{token}{separator}O\n二{separator}S-NAME\n"
    sentences, _, _ = read_sentences(write(tmp_path / "a.bmes", data))
    assert tokens_and_tags(sentences) == [(("王", token, "二"), ("S-NAME", "O", "S-NAME"))]


def test_words_with_spaces_between_tabs(tmp_path: Path) -> None:
    sentences, _, _ = read_sentences(write(tmp_path / "a.tsv", "New York\tB-LOC\n City \tI-LOC\n"))
    assert sentences[0].tokens == ("New York", " City ")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("王 O\n二 NN O\n三 O\n", "a.bmes:2: got 3 columns, expected 2 as in most lines (first = token, last = tag)"),
        (
            "王 NN O\n二 O\n三 NN O\n",
            "a.bmes:2: got 2 columns, expected 3 as in most lines (first = token, last = tag)",
        ),
        ("王 O x\n二 O\n三 O\n", "a.bmes:1: got 3 columns, expected 2 as in most lines (first = token, last = tag)"),
        ("王 O\nO\n三 O\n", "a.bmes:2: got 1 column, expected 2 as in most lines (first = token, last = tag)"),
        ("王 O\n\u3000\n三 O\n", "a.bmes:2: got 1 column, expected 2 as in most lines (first = token, last = tag)"),
        ("王 O\n O\n三 O\n", "a.bmes:2: got an empty token, expected a token, a space or a tab, and a tag"),
        ("王\tO\n二\t\n", "a.bmes:2: got an empty tag, expected a token, a space or a tab, and a tag"),
        ("王 O\n二 O\u3000\n", r"a.bmes:2: got the tag 'O\u3000', expected no white space in it"),
        (
            "王 B-X\n二 M-X\n三 E-X\n\n四 Q-X\n",
            "a.bmes:5: got the tag 'Q-X', expected O or PREFIX-TYPE with a prefix of BMES (recognised): B S M E",
        ),
        (
            "王 B-X\n二 M-X\n三 M-X\n四 I-X\n五 E-X\n",
            "a.bmes:4: got the tag 'I-X', expected O or PREFIX-TYPE with a prefix of BMES (recognised): B S M E",
        ),
        (
            "王 B-X\n二 I-X\n三 I-X\n四 M-X\n五 E-X\n",
            "a.bmes:4: got the tag 'M-X', expected O or PREFIX-TYPE with a prefix of BIOES (recognised): B S I E",
        ),
        *(
            (
                f"王 B-X\n二 M-X\n三 E-X\n四 {tag}\n",
                f"a.bmes:4: got the tag {tag!r}, expected O or PREFIX-TYPE with a prefix of BMES (recognised): B S M E",
            )
            for tag in ("B", "E-", "o", "NAME", "-X", "O-X")
        ),
        ("", "a.bmes:1: got an empty file, expected at least one labelled sentence"),
        ("\n\r\n \n", "a.bmes:1: got 5 bytes without a sentence, expected at least one labelled sentence"),
        (
            b"\xe7\x8e\x8b O\n\xe4\xba O\n\xe4\xb8\x89 O\n",
            "a.bmes:2: got byte 0xE4 at offset 6 of the file, expected UTF-8",
        ),
        (
            "王 O\n".encode("gb18030"),
            "a.bmes:1: got byte 0xCD at offset 0 of the file, expected UTF-8 "
            "(the file looks like GB18030: `iconv -f GB18030 -t UTF-8` converts it)",
        ),
    ],
)
def test_one_fault_in_columns(tmp_path: Path, data: str | bytes, expected: str) -> None:
    assert complaint(tmp_path / "a.bmes", data) == expected


def test_most_lines_say_how_many_columns_there_are(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        read_sentences(write(tmp_path / "a.bmes", "一 x O\n二 x O\n" + "三 O\n" * 3))
    assert re.findall(r"bmes:(\d+): got 3 columns, expected 2", str(caught.value)) == ["1", "2"]


def test_utf16_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.bmes:1: got byte 0xFF at offset 0 .*iconv -f UTF-16 -t UTF-8"):
        read_sentences(write(tmp_path / "a.bmes", GOOD.encode("utf-16")))


def test_lines_stay_right_after_a_fault(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        read_sentences(write(tmp_path / "a.bmes", b"a O\nb x O\nc Q-X\n\xff O\ne R-X\n\nf S-X\n"))
    assert re.findall(r"bmes:(\d+): got (\S+ \S+ \S+)", str(caught.value)) == [
        ("2", "3 columns, expected"),
        ("3", "the tag 'Q-X',"),
        ("4", "byte 0xFF at"),
        ("5", "the tag 'R-X',"),
    ]


def test_a_sentence_of_5000_characters(tmp_path: Path) -> None:
    data = "王 S-NAME\n\n" + "字 O\n" * 5000
    sentences, _, warnings = read_sentences(write(tmp_path / "a.bmes", data))
    assert [len(sentence.tokens) for sentence in sentences] == [1, 5000]
    assert warnings == [f"{tmp_path / 'a.bmes'}:3: a sentence of 5,000 tokens, more than 512: is a blank line missing?"]
    _, _, warnings = read_sentences(write(tmp_path / "b.bmes", "字 O\n" * 512))
    assert warnings == []


# The scheme -----------------------------------------------------------------------------------------------------------


def test_a_stated_scheme_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "王 B-NAME\n二 E-NAME\n三 O\n")
    assert read_sentences(path)[1] == "BMES"
    assert read_sentences(path, scheme="BIOES")[1] == "BIOES"


def test_a_stated_scheme_that_does_not_fit(tmp_path: Path) -> None:
    assert complaint(tmp_path / "a.txt", "王 S-NAME\n", scheme="BIO") == (
        "a.txt:1: got the tag 'S-NAME', expected O or PREFIX-TYPE with a prefix of BIO (stated): B I"
    )
    with pytest.raises(CorpusError, match="scheme: got 'BILOU', expected auto or one of BMES, BIOES, BIO, IOB1"):
        read_sentences(tmp_path / "a.txt", scheme="BILOU")


def test_the_scheme_is_recognised_over_all_files(tmp_path: Path) -> None:
    corpus = read_corpus(folder(tmp_path, train="王 O\n二 B-X\n三 E-X\n", test="王 B-X\n二 I-X\n三 E-X\n"))
    assert corpus.scheme == "BIOES"
    corpus = read_corpus(folder(tmp_path, train="王 I-X\n", dev="王 I-X\n二 B-X\n", test="王 O\n"))
    assert corpus.scheme == "IOB1"
    corpus = read_corpus(folder(tmp_path, train="王 B-X\n", dev="王 B-X\n二 I-X\n", test="王 O\n"))
    assert corpus.scheme == "BIO"


def test_spans_take_the_scheme_of_the_tagged_files(tmp_path: Path) -> None:
    write(tmp_path / "train.bio", "王 B-NAME\n二 I-NAME\n三 B-NAME\n")
    write(tmp_path / "dev.jsonl", '{"text": "王二在", "entities": [{"start": 0, "end": 2, "type": "NAME"}]}\n')
    write(tmp_path / "test.txt", "王 O\n")
    corpus = read_corpus(tmp_path)
    assert corpus.scheme == "BIO"
    assert corpus.dev == [Sentence(("王", "二", "在"), ("B-NAME", "I-NAME", "O"), 1)]


# Warnings -------------------------------------------------------------------------------------------------------------


def test_illegal_transitions_are_warnings_with_their_line(tmp_path: Path) -> None:
    padding = "字 O\n\n" * 8  # 16 lines
    data = padding + "王 B-X\n二 O\n三 E-Y\n\n四 M-X\n五 E-X\n\n六 B-X\n\n\n七 E-X\n\n八 B-X\n\n九 O\n十 B-X\n"
    path = write(tmp_path / "a.bmes", data)
    sentences, _, warnings = read_sentences(path)
    assert len(sentences) == 8 + 6
    tail = ": illegal in BMES, no entity is read there"
    assert warnings == [
        f"{path}:18: O follows B-X (token 2 of the sentence){tail}",
        f"{path}:19: E-Y follows O (token 3 of the sentence){tail}",
        f"{path}:21: M-X starts the sentence{tail}",
        f"{path}:25: the end of a sentence cuts an entity, B-X before it and E-X after it{tail}",
        f"{path}:30: B-X ends the sentence{tail}",
        f"{path}:33: B-X ends the sentence{tail}",
    ]


def test_illegal_transitions_of_records_have_the_line_of_the_record(tmp_path: Path) -> None:
    tags = (["B-X"], ["M-X", "E-X"], ["O", "E-X"])
    lines = ['{"text": "字", "entities": []}'] * 9
    lines += [json.dumps({"tokens": ["字"] * len(row), "tags": row}) for row in tags]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert [warning.removeprefix(f"{path}:").split(": ")[:2] for warning in read_sentences(path)[2]] == [
        ["10", "B-X ends the sentence"],
        ["11", "M-X starts the sentence"],
        ["12", "E-X follows O (token 2 of the sentence)"],
    ]


def test_mostly_illegal_means_the_wrong_scheme(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "王 B-X\n二 I-X\n\n" * 3)
    assert read_sentences(path, scheme="BIO")[2] == []
    warnings = read_sentences(path, scheme="BIOES")[2]
    assert warnings[0] == (
        f"{path}:3: 3 illegal transitions in 3 sentences, the first here: is BIOES the right scheme?"
    )
    assert len(warnings) == 4


def test_tags_that_train_lacks_are_warnings(tmp_path: Path) -> None:
    dev = "王 B-NAME\n二 M-NAME\n三 E-NAME\n"
    test = "王 O\n\n二 B-ORG\n三 E-ORG\n四 S-RACE\n五 S-ORG\n\n六 S-RACE\n"
    corpus = read_corpus(folder(tmp_path, dev=dev, test=test))
    assert [warning.removeprefix(str(tmp_path) + os.sep) for warning in corpus.warnings] == [
        "dev.char.bmes:2: dev has known types; tags that train lacks: M-NAME (line 2)",
        "test.char.bmes:3: test has the types ORG, RACE, which train lacks; tags that train lacks: "
        "B-ORG (line 3), E-ORG (line 4), S-RACE (line 5), S-ORG (line 6)",
    ]


# JSON lines and Parquet -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"text": "王二在", "entities": [{"start": 0, "end": 2, "type": "NAME"}]},
        {"text": "王二在", "entities": [{"start": 0, "end": 2, "label": "NAME"}]},
        {"text": "王二在", "entities": [{"start": 0, "end": 2, "type": "NAME", "text": "王二"}], "id": 7},
        {"text": "王二在", "entities": [{"id": 1, "start_offset": 0, "end_offset": 2, "label": "NAME"}]},
        {"id": 1, "text": "王二在", "label": [[0, 2, "NAME"]], "Comments": []},
        {"tokens": ["王", "二", "在"], "entities": [[0, 2, "NAME"]]},
        {"tokens": ["王", "二", "在"], "tags": ["B-NAME", "E-NAME", "O"]},
        {"text": "王二在", "tags": ["B-NAME", "E-NAME", "O"]},
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n", ""])
def test_json_lines(tmp_path: Path, record: dict[str, object], newline: str) -> None:
    data = newline + json.dumps(record, ensure_ascii=False) + newline
    sentences, scheme, warnings = read_sentences(write(tmp_path / "a.jsonl", data))
    assert sentences == [Sentence(("王", "二", "在"), ("B-NAME", "E-NAME", "O"), 1 + newline.count("\n"))]
    assert (scheme, warnings) == ("BMES", [])


def test_offsets_count_code_points_and_tokens(tmp_path: Path) -> None:
    data = '{"text": "😀e\\u0301王", "entities": [[3, 4, "NAME"]]}\n'
    data += '{"tokens": ["New", "York"], "entities": [[0, 2, "LOC"]]}'
    sentences, _, _ = read_sentences(write(tmp_path / "a.json", "\ufeff" + data))
    assert tokens_and_tags(sentences) == [
        (("😀", "e", "\u0301", "王"), ("O", "O", "O", "S-NAME")),
        (("New", "York"), ("B-LOC", "E-LOC")),
    ]


def test_empty_sentences_are_skipped_with_a_warning(tmp_path: Path) -> None:
    data = '{"text": "", "entities": []}\n{"text": "王", "entities": []}\n'
    sentences, _, warnings = read_sentences(write(tmp_path / "a.jsonl", data))
    assert sentences == [Sentence(("王",), ("O",), 2)]
    assert warnings == [f"{tmp_path / 'a.jsonl'}:1: an empty sentence, skipped"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "王"', "got no JSON (Expecting ',' delimiter at column 13), expected one object a line"),
        ("1" * 5000, "got no JSON (Exceeds the limit"),
        ("[" * 100_000, "got no JSON ("),
        ("[1]", "got [1], expected an object with text or tokens, and entities or tags"),
        ("{}", "got the keys (none), expected exactly one of text, tokens"),
        ('{"text": "王"}', "got the keys text, expected exactly one of entities, tags, label"),
        ('{"entities": []}', "got the keys entities, expected exactly one of text, tokens"),
        ('{"text": "王", "entities": null}', "got the keys text, expected exactly one of entities, tags, label"),
        ('{"text": "王", "entities": [], "tags": ["O"]}', "got entities and tags, expected exactly one of"),
        ('{"text": 5, "entities": []}', "got 5 for text, expected a string"),
        ('{"text": "王", "label": "NAME"}', "got 'NAME' for label, expected a list"),
        ('{"text": "王", "entities": {}}', "got {} for entities, expected a list"),
        ('{"tokens": "王", "entities": []}', "got '王' for tokens, expected a list of strings, none empty"),
        ('{"tokens": ["王", ""], "entities": []}', "got ['王', ''] for tokens, expected a list of strings, none empty"),
        ('{"tokens": ["王"], "tags": ["O", "O"]}', "got 2 tags for 1 token, expected as many"),
        ('{"tokens": ["王"], "tags": [1]}', "got [1] for tags, expected a list of strings, none empty"),
        ('{"tokens": ["王"], "tags": ["Q-X"]}', "got the tag 'Q-X', expected O or PREFIX-TYPE with a prefix of"),
        ('{"text": "王\\ud83d", "entities": []}', "got half a surrogate pair in the text"),
        ('{"text": "王", "entities": [[0, 1]]}', "got the entity [0, 1], expected {"),
        ('{"text": "王", "entities": [[0, 1, ""]]}', "got the entity [0, 1, ''], expected {"),
        ('{"text": "王", "entities": [[0, true, "X"]]}', "got the entity [0, True, 'X'], expected {"),
        ('{"text": "王", "entities": [{"start": 0, "end": 1}]}', "got the entity {'start': 0, 'end': 1}, expected {"),
        ('{"text": "王", "entities": [[0, 2, "X"]]}', "Span(start=0, end=2, type='X') does not fit a sentence of 1"),
        ('{"text": "王", "entities": [[0, 0, "X"]]}', "Span(start=0, end=0, type='X') does not fit a sentence of 1"),
        ('{"text": "王", "entities": [[-1, 1, "X"]]}', "Span(start=-1, end=1, type='X') does not fit a sentence of 1"),
        ('{"text": "王二三", "entities": [[0, 2, "X"], [1, 3, "Y"]]}', "overlaps Span(start=0, end=2, type='X')"),
        (
            '{"text": "😀王二", "entities": [{"start": 2, "end": 3, "type": "X", "text": "王"}]}',
            "got the entity '王', yet text[2:3] is '二': offsets count code points",
        ),
    ],
)
def test_one_fault_in_json_lines(tmp_path: Path, line: str, expected: str) -> None:
    got = complaint(tmp_path / "a.jsonl", f'{{"text": "二", "entities": []}}\n{line}\n')
    assert got.startswith("a.jsonl:2: ")
    assert expected in got
    assert len(got) < 250


def test_parquet_of_others(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    spans = [[{"start": 0, "end": 2, "type": "NAME"}], [], [{"start": 0, "end": 9, "type": "NAME"}]]
    parquet.write_table(pyarrow.table({"text": ["王二在", "沪", "在"], "entities": spans}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet:3: Span\(start=0, end=9"):
        read_sentences(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["王二在", "沪"], "entities": spans[:2]}), tmp_path / "a.parquet")
    sentences, scheme, _ = read_sentences(tmp_path / "a.parquet")
    assert scheme == "BMES"
    assert sentences == [SENTENCES[0], Sentence(("沪",), ("O",), 2)]


DAMAGED_PARQUET = b"PAR1" + b"\xff" * 40 + (40).to_bytes(4, "little") + b"PAR1"
"""pyarrow says so in two lines."""


def test_what_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for data in (b"", b"PAR1 and no more of it", DAMAGED_PARQUET):
        (line,) = complaint(tmp_path / "a.parquet", data).splitlines()
        assert line.startswith("a.parquet:1: got no Parquet (")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "got Parquet without pyarrow" in complaint(tmp_path / "a.parquet", b"PAR1")


# A folder -------------------------------------------------------------------------------------------------------------


def test_read_corpus(tmp_path: Path) -> None:
    corpus = read_corpus(folder(tmp_path, test="王 B-NAME\n二 E-NAME\n"))
    assert corpus.splits == {
        "train": SENTENCES,
        "dev": SENTENCES,
        "test": [Sentence(("王", "二"), ("B-NAME", "E-NAME"), 1)],
    }
    assert (corpus.path, corpus.scheme, corpus.warnings, corpus.embedded_sample) == (str(tmp_path), "BMES", (), False)
    assert corpus.files == {split: str(tmp_path / f"{split}.char.bmes") for split in ("train", "dev", "test")}
    assert corpus.sha256["dev"] == corpus.sha256["train"] != corpus.sha256["test"]
    # printf '王 B-NAME\n二 E-NAME\n' | sha256sum
    assert corpus.sha256["test"] == "abc4aac89d1dcc790bbeac92162d5e98c408bd234931d72526211bf60207d431"


def test_complaints_of_all_files_come_together(tmp_path: Path) -> None:
    bad = "王 B-X\n二 M-X\n三 E-X\n四 x O\n五 Q-X\n\n"
    shown = complaints(folder(tmp_path, train=bad, dev="", test=bad.encode() + b"\xff O\n"))
    assert shown[0] == "6 faults in the corpus; correct the lines below and run again"
    assert [line.split(" got ")[0] for line in shown[1:]] == [
        "train.char.bmes:4:",
        "train.char.bmes:5:",
        "dev.char.bmes:1:",
        "test.char.bmes:4:",
        "test.char.bmes:5:",
        "test.char.bmes:7:",
    ]


def test_twenty_complaints_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    many = "王 O\n" * 2000 + "二 x O\n" * 1234
    shown = complaints(folder(tmp_path, train=many, test="王 O\n二\n"))
    assert shown[0].startswith("1,235 faults")
    assert len(shown) == 22
    assert shown[1].startswith("train.char.bmes:2001: ")
    assert shown[20].startswith("train.char.bmes:2020: ")
    assert shown[21] == "and 1,215 more"
    assert len(complaints(folder(tmp_path, train="王 O\n" * 30 + "二 x O\n" * 20))) == 21


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("data", ["", "\n\n", "\ufeff"])
def test_an_empty_split(tmp_path: Path, split: str, data: str) -> None:
    _, only = complaints(folder(tmp_path, **{split: data}))
    assert re.fullmatch(split + r"\.char\.bmes:1: got .*, expected at least one labelled sentence", only)


def test_an_error_survives_pickling(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        read_corpus(folder(tmp_path, train="王\n"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("names", "inside"),
    [
        (("train.char.bmes", "dev.char.bmes", "test.char.bmes"), "."),
        (("train.char.bmes", "dev.char.bmes", "test.char.bmes"), "ResumeNER"),
        (("train.txt", "valid.txt", "test.txt"), "."),
        (("train.conll", "validation.IOB2", "test.jsonl"), "ResumeNER"),
        (("train.v2.clean.bio", "dev.parquet", "test.json"), "."),
    ],
)
def test_find_files(tmp_path: Path, names: tuple[str, ...], inside: str) -> None:
    for name in (*names, "README.md", "train.py", "training.txt", "my-train.txt", "train", ".train.txt"):
        write(tmp_path / inside / name, "")
    (tmp_path / inside / "test.tsv").mkdir()
    files = {split: tmp_path / inside / name for split, name in zip(("train", "dev", "test"), names, strict=True)}
    assert find_files(tmp_path) == find_files(str(tmp_path)) == files


def test_the_usual_names_win(tmp_path: Path) -> None:
    write(folder(tmp_path) / "train.jsonl", "")
    assert find_files(tmp_path)["train"].name == "train.char.bmes"


def test_two_files_for_one_split(tmp_path: Path) -> None:
    for name in ("train.txt", "train.jsonl", "dev.txt", "test.txt"):
        write(tmp_path / name, "")
    with pytest.raises(CorpusError, match=r"got 2 files for train \(train\.jsonl, train\.txt\), expected one"):
        find_files(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"got no train and no dev and no test file.* there is: nothing"):
        find_files(tmp_path)
    write(tmp_path / "train.char.bmes", GOOD)
    write(tmp_path / "ResumeNER" / "notes.md", "")
    with pytest.raises(CorpusError) as caught:
        find_files(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: got no dev and no test file, expected train.char.bmes, dev.char.bmes and ")
    assert f"there is: ResumeNER, train.char.bmes, {Path('ResumeNER') / 'notes.md'}" in message


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere: got nothing, expected a folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"a\.txt: got a file, expected a folder"):
        read_corpus(write(tmp_path / "a.txt", GOOD))
    with pytest.raises(CorpusError, match=r"b\.txt: got No such file or directory, expected a readable file"):
        read_sentences(tmp_path / "b.txt")


# Write and convert ----------------------------------------------------------------------------------------------------

characters = st.one_of(
    st.sampled_from("\u3000\u2028\u2029\u0085\u00a0\u0301\ufeff\r\x0b\x1c 😀王#-\"\\'{["),
    st.characters(exclude_characters="\t\n", exclude_categories=["Cs"]),
)
words = st.text(characters, min_size=1, max_size=4).filter(lambda word: word != "-DOCSTART-")


@st.composite
def sentences_of(draw: st.DrawFn, scheme: str) -> list[Sentence]:
    """Legal sentences of characters, or of words."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        spans, end = [], draw(st.integers(0, 2))
        for _ in range(draw(st.integers(0, 3))):
            start, end = end, end + draw(st.integers(1, 3))
            spans.append(Span(start, end, draw(st.sampled_from(["NAME", "人-名", '"#"']))))
            end += draw(st.integers(0, 1))
        length = max(end, 1)
        tokens = draw(st.lists(draw(st.sampled_from([characters, words])), min_size=length, max_size=length))
        found.append(Sentence(tuple(tokens), tuple(from_spans(spans, length, scheme)), 1))
    return found


@pytest.mark.parametrize(("scheme", "suffix"), [*product(SCHEMES, SUFFIXES)])
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_written_is_read(scheme: str, suffix: str, data: st.DataObject) -> None:
    sentences = data.draw(sentences_of(scheme))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"a{suffix}"
        write_sentences(path, iter(sentences), scheme=scheme)
        read, found, warnings = read_sentences(path, scheme=scheme)
        assert os.listdir(name) == [path.name]
    assert tokens_and_tags(read) == tokens_and_tags(sentences)
    assert (found, warnings) == (scheme, [])


@pytest.mark.parametrize(("scheme", "target"), [*product(SCHEMES, SCHEMES)])
@settings(max_examples=40)
@given(data=st.data())
def test_conversion_there_and_back(scheme: str, target: str, data: st.DataObject) -> None:
    suffix, suffix_target = data.draw(st.sampled_from(SUFFIXES)), data.draw(st.sampled_from(SUFFIXES))
    sentences = data.draw(sentences_of(scheme))
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / "a", Path(name) / "b", Path(name) / "c"]
        one, two, back = (
            path.with_suffix(end) for path, end in zip(paths, (suffix, suffix_target, suffix), strict=True)
        )
        write_sentences(one, sentences, scheme=scheme)
        assert convert_file(one, two, scheme=target, source_scheme=scheme) == (len(sentences), [])
        assert convert_file(two, back, scheme=scheme, source_scheme=target) == (len(sentences), [])
        assert back.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=40)
@given(data=st.data())
def test_illegal_sequences_survive_every_format(suffix: str, data: st.DataObject) -> None:
    tag = st.sampled_from(["O", "B-X", "M-X", "E-X", "S-X", "M-Y", "E-Y"])
    sequences = data.draw(st.lists(st.lists(tag, min_size=1, max_size=6), min_size=1, max_size=3))
    sentences = [Sentence(("字",) * len(tags), tuple(tags), 1) for tags in sequences]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"a{suffix}"
        write_sentences(path, sentences, scheme="BMES")
        assert tokens_and_tags(read_sentences(path, scheme="BMES")[0]) == tokens_and_tags(sentences)


def test_the_form_of_what_is_written(tmp_path: Path) -> None:
    sentences = [*SENTENCES, Sentence(("New York", "!"), ("S-LOC", "O"), 7), Sentence(("断",), ("B-X",), 10)]
    write_sentences(tmp_path / "a.bmes", SENTENCES, scheme="BMES")
    assert (tmp_path / "a.bmes").read_bytes() == (GOOD + "\n").encode()
    write_sentences(tmp_path / "a.bmes", sentences[2:], scheme="BMES")
    assert (tmp_path / "a.bmes").read_text() == "New York\tS-LOC\n!\tO\n\n断\tB-X\n\n"
    write_sentences(tmp_path / "a.jsonl", sentences, scheme="BMES")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()] == [
        {"text": "王二在", "entities": [{"start": 0, "end": 2, "type": "NAME"}]},
        {"text": "沪", "entities": [{"start": 0, "end": 1, "type": "LOC"}]},
        {"tokens": ["New York", "!"], "entities": [{"start": 0, "end": 1, "type": "LOC"}]},
        {"tokens": ["断"], "tags": ["B-X"]},
    ]


@pytest.mark.parametrize(
    ("token", "tag"), [("a\tb", "O"), ("\n", "O"), ("", "O"), ("-DOCSTART-", "O"), ("a", "B-A B"), ("a", "")]
)
def test_columns_refuse_what_they_cannot_hold(tmp_path: Path, token: str, tag: str) -> None:
    path = write(tmp_path / "a.bmes", "before")
    with pytest.raises(
        CorpusError, match=r"a\.bmes: columns cannot hold the (token|tag) .*: write \.jsonl or \.parquet"
    ):
        write_sentences(path, [SENTENCES[0], Sentence((token,), (tag,), 1)], scheme="BMES")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.bmes"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.csv: got the suffix '\.csv', expected one of \.bmes "):
        write_sentences(tmp_path / "a.csv", SENTENCES, scheme="BMES")
    with pytest.raises(CorpusError, match="expected to be able to write there"):
        write_sentences(tmp_path / "nowhere" / "a.bmes", SENTENCES, scheme="BMES")
    with pytest.raises(CorpusError, match="scheme: got 'BILOU', expected one of BMES"):
        convert_file(write(tmp_path / "a.bmes", GOOD), tmp_path / "b.bmes", scheme="BILOU")


def test_conversion_repairs_broken_chunks_and_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "a.bmes", GOOD + "\n" + "王 O\n\n" * 5 + "断 B-X\n\n开 M-X\n口 E-X\n")
    place = f"{source}:18: the end of a sentence cuts an entity, B-X before it and M-X after it: illegal in BMES"
    repaired = [f"{place}, repaired: each broken part became an entity in BIO"]
    assert convert_file(source, tmp_path / "a.bio", scheme="BIO") == (9, repaired)
    assert tokens_and_tags(read_sentences(tmp_path / "a.bio")[0])[-2:] == [
        (("断",), ("B-X",)),
        (("开", "口"), ("B-X", "I-X")),
    ]
    for scheme in (None, "BMES", "BIOES"):
        assert convert_file(source, tmp_path / "a.txt", scheme=scheme) == (9, [f"{place}, written as it is"])


def test_a_file_converts_into_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bmes", GOOD)
    assert convert_file(path, path, scheme="BIO") == (2, [])
    assert path.read_text(encoding="utf-8") == "王 B-NAME\n二 I-NAME\n在 O\n\n沪 B-LOC\n\n"


# ResumeNER ------------------------------------------------------------------------------------------------------------


def test_resume_ner(resume_ner: Path) -> None:
    corpus = read_corpus(resume_ner)
    assert {split: len(sentences) for split, sentences in corpus.splits.items()} == {
        "train": 3821,
        "dev": 463,
        "test": 477,
    }
    assert corpus.scheme == "BMES"
    assert len({tag for split in corpus.splits.values() for sentence in split for tag in sentence.tags}) == 28
    places = [f"{resume_ner / 'train.char.bmes'}:{line}: " for line in (62391, 64413)]
    assert len(corpus.warnings) == 2
    for warning, place in zip(corpus.warnings, places, strict=True):
        assert warning.startswith(f"{place}the end of a sentence cuts an entity, M-ORG before it and M-ORG after it")
    assert read_corpus(resume_ner.parent if resume_ner.name == "ResumeNER" else resume_ner).train == corpus.train


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_resume_ner_through_every_format(resume_ner: Path, tmp_path: Path, suffix: str) -> None:
    source, target = resume_ner / "train.char.bmes", tmp_path / f"train{suffix}"
    convert_file(source, target)
    assert tokens_and_tags(read_sentences(target)[0]) == tokens_and_tags(read_sentences(source)[0])


def test_reading_imports_neither_torch_nor_ray_nor_pyarrow(tmp_path: Path) -> None:
    code = (
        "import sys; from ray_bilstm.corpus import read_corpus; from ray_bilstm.check import check\n"
        "check(read_corpus(sys.argv[1])); print([m for m in ('torch', 'ray', 'pyarrow') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(folder(tmp_path))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
