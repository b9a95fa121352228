"""The file formats of labelled sentences: bytes in, sentences and complaints out, and back.

| suffix                                                    | format                                              |
|-----------------------------------------------------------|-----------------------------------------------------|
| .bmes .bioes .bio .iob .iob1 .iob2 .conll .txt .tsv, rest | columns: a token a line, first = token, last = tag  |
| .jsonl .json                                              | JSON lines: text or tokens, with entities or tags   |
| .parquet                                                  | a row a sentence, with the same keys as JSON lines  |

A parser never stops at the first fault: it notes `(line, what)` and goes on, so that one run shows all of them.
Lines end at LF or CRLF and nowhere else, and only the ASCII space and the tab separate columns: U+3000, U+2028 or
U+00A0 are characters that a corpus may hold as tokens, and `str.split()` or `str.splitlines()` would eat them.

Which scheme the tags follow, and whether they make sense, is settled in `corpus.py` over all files together.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ray_bilstm.records import RecordError, from_record, plural, to_record
from ray_bilstm.tags import TagError

COLUMN_SUFFIXES = (".bmes", ".bioes", ".bio", ".iob", ".iob1", ".iob2", ".conll", ".txt", ".tsv")
JSON_SUFFIXES = (".jsonl", ".json")
PARQUET_SUFFIXES = (".parquet",)
SUFFIXES = (*COLUMN_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES)

BOM = "\ufeff"
DOCSTART = "-DOCSTART-"
"""CoNLL-2003 opens each document with a line of this token: it parts sentences and is none."""

BLOCK_BYTES = 2**22

PARQUET_ERRORS = (OSError, ValueError, OverflowError)
"""What pyarrow raises, besides its own, for a file that is damaged, not UTF-8, or holds what Python cannot."""

Notes = list[tuple[int, str]]
"""What is wrong, by line."""


class Sentence(NamedTuple):
    """One labelled sentence and where it stands."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    line: int  # JSON lines: its line; columns: its first token's line; Parquet: row number + 1


@dataclass(kw_only=True)
class Parsed:
    """What a file holds."""

    sentences: list[Sentence] = field(default_factory=list)
    spans: set[int] = field(default_factory=set)
    """Indexes of the sentences whose tags were made here from spans, in SPAN_SCHEME."""
    complaints: Notes = field(default_factory=list)
    """Fatal."""
    warnings: Notes = field(default_factory=list)
    """Not fatal."""


def format_of(path: str | Path) -> str:
    """`columns`, `jsonl` or `parquet`, by the suffix."""
    suffix = Path(path).suffix.lower()
    return "jsonl" if suffix in JSON_SUFFIXES else "parquet" if suffix in PARQUET_SUFFIXES else "columns"


def parse(data: bytes, format: str) -> Parsed:
    """The sentences of a file's bytes."""
    return {"columns": parse_columns, "jsonl": parse_jsonl, "parquet": parse_parquet}[format](data)


def to_lines(data: bytes) -> tuple[list[str], Notes]:
    """The lines of a UTF-8 text, with or without BOM, LF or CRLF. Of a line of other bytes, a complaint remains.

    Equal lines are one string: of a corpus of a million sentences, most are.
    """
    complaints: Notes = []
    lines: list[str] = []
    known: dict[str, str] = {}
    try:
        for block in _iter_blocks(data):
            lines += [known.setdefault(line, line.removesuffix("\r")) for line in block.decode().split("\n")]
    except UnicodeDecodeError:
        offset, hint = 0, _encoding_hint(data)
        lines.clear()
        for number, raw in enumerate(data.split(b"\n"), start=1):
            try:
                lines.append(raw.decode("utf-8").removesuffix("\r"))
            except UnicodeDecodeError as error:
                lines.append("")
                place = f"byte 0x{raw[error.start]:02X} at offset {offset + error.start} of the file"
                complaints.append((number, f"got {place}, expected UTF-8{hint}"))
            offset += len(raw) + 1
    lines[0] = lines[0].removeprefix(BOM)
    return lines, complaints


def _iter_blocks(data: bytes) -> Iterator[bytes]:
    """Some MiB each, of whole lines, without the line feed at the end of a block."""
    start = 0
    while (end := data.find(b"\n", start + BLOCK_BYTES)) >= 0:
        yield data[start:end]
        start = end + 1
    yield data[start:]


def _encoding_hint(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return " (the file looks like UTF-16: `iconv -f UTF-16 -t UTF-8` converts it)"
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return " (the file looks like GB18030: `iconv -f GB18030 -t UTF-8` converts it)"


# Columns --------------------------------------------------------------------------------------------------------------


def parse_columns(data: bytes) -> Parsed:
    """Sentences of tokens, one a line, parted by blank lines.

    Each distinct line is taken apart once: a corpus of characters repeats few of them.
    """
    lines, complaints = to_lines(data)
    parsed = Parsed(complaints=complaints)
    counts = Counter(lines)
    rows = {line: cells(line) for line in counts}
    width = _width(rows, counts)
    words = {line: _word(cells, width) for line, cells in rows.items()}
    sentence: list[tuple[str, str]] = []
    for number, line in enumerate(chain(lines, [""]), start=1):
        word = words[line] if line else None
        if isinstance(word, tuple):
            sentence.append(word)
            continue
        if sentence:
            tokens, tags = zip(*sentence, strict=True)
            parsed.sentences.append(Sentence(tokens, tags, number - len(sentence)))
            sentence = []
        if word:
            complaints.append((number, word))
    return parsed


def cells(line: str) -> list[str]:
    """The columns of a line; none for a blank line or a document's start. Two spaces ahead: the token is a space."""
    if not line.strip(" \t"):
        return []
    if "\t" in line:
        token, *rest = line.split("\t")
        rest = [cell.strip(" ") for cell in rest]
    else:
        token, *rest = [" ", *line[2:].split(" ")] if line.startswith("  ") else line.split(" ")
        rest = [cell for cell in rest if cell]
    return [] if token == DOCSTART else [token, *rest]


def _width(rows: dict[str, list[str]], counts: dict[str, int]) -> int:
    """How many columns the file has: as most of its lines do."""
    widths: Counter[int] = Counter()
    for line, cells in rows.items():
        if len(cells) > 1:
            widths[len(cells)] += counts[line]
    return widths.most_common(1)[0][0] if widths else 2


def _word(cells: list[str], width: int) -> tuple[str, str] | str:
    """Token and tag of a line; "" where it holds none; else the complaint about it."""
    if not cells:
        return ""
    if len(cells) != width:
        return f"got {plural(len(cells), 'column')}, expected {width} as in most lines (first = token, last = tag)"
    if not cells[0] or not cells[-1]:
        return f"got an empty {'tag' if cells[0] else 'token'}, expected a token, a space or a tab, and a tag"
    if cells[-1].split() != [cells[-1]]:
        return f"got the tag {cells[-1]!r}, expected no white space in it"
    return sys.intern(cells[0]), sys.intern(cells[-1])


def iter_columns(sentences: Iterable[Sentence], suffix: str) -> Iterator[str]:
    """The lines of `sentences`, each with its LF; RecordError where columns cannot say what a sentence holds. Those of
    .tsv may come one by one; else they are looked over first for tokens with spaces."""
    separator = "\t"
    if suffix != ".tsv":
        sentences = list(sentences)
        spaced = any(" " in token and token != " " for sentence in sentences for token in sentence.tokens)
        separator = "\t" if spaced else " "
    for number, sentence in enumerate(sentences):
        for i, (token, tag) in enumerate(zip(sentence.tokens, sentence.tags, strict=True)):
            if token in ("", DOCSTART) or "\t" in token or "\n" in token:
                raise RecordError(f"columns cannot hold the token {token!r}: write .jsonl or .parquet")
            if tag.split() != [tag]:
                raise RecordError(f"columns cannot hold the tag {tag!r}: write .jsonl or .parquet")
            first = number == 0 and i == 0
            yield f"{BOM if first and token[0] == BOM else ''}{token}{separator}{tag}\n"
        yield "\n"


# Records: JSON lines and Parquet --------------------------------------------------------------------------------------


def parse_jsonl(data: bytes) -> Parsed:
    """Sentences of JSON objects, one a line."""
    lines, complaints = to_lines(data)
    parsed = Parsed(complaints=complaints)
    for number, line in enumerate(lines, start=1):
        if not line.strip(" \t\r"):
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            at = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            complaints.append((number, f"got no JSON ({at}), expected one object a line"))
            continue
        _add_record(parsed, record, number)
    return parsed


def parse_parquet(data: bytes) -> Parsed:
    """Sentences of rows."""
    parsed = Parsed()
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        parsed.complaints.append((1, "got Parquet without pyarrow, expected it installed: `pip install pyarrow`"))
        return parsed
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).iter_batches():
            for record in batch.to_pylist():
                number += 1
                _add_record(parsed, record, number)
    except (pyarrow.ArrowException, *PARQUET_ERRORS) as error:
        parsed.complaints.append((number + 1, f"got no Parquet ({one_line(error)}), expected columns tokens and tags"))
    return parsed


def _add_record(parsed: Parsed, record: object, number: int) -> None:
    try:
        tokens, tags, spans = from_record(record)
    except (RecordError, TagError) as error:
        parsed.complaints.append((number, str(error)))
        return
    if not tokens:
        parsed.warnings.append((number, "an empty sentence, skipped"))
        return
    if spans:
        parsed.spans.add(len(parsed.sentences))
    parsed.sentences.append(Sentence(tokens, tags, number))


def iter_jsonl(sentences: Iterable[Sentence], scheme: str) -> Iterator[str]:
    """The lines of `sentences`, each with its LF."""
    for sentence in sentences:
        yield json.dumps(to_record(sentence.tokens, sentence.tags, scheme), ensure_ascii=False) + "\n"


def write_parquet(path: Path, sentences: Iterable[Sentence]) -> None:
    """Columns `tokens` and `tags`, both lists of strings."""
    import pyarrow
    import pyarrow.parquet

    rows = [{"tokens": sentence.tokens, "tags": sentence.tags} for sentence in sentences]
    words = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema([("tokens", words), ("tags", words)])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def one_line(error: Exception) -> str:
    """What an error of a library says, which may be several lines."""
    return " ".join(str(error).split())
