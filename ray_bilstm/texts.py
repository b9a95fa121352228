"""Texts without labels in, tagged texts out: what `predict` reads and writes, one text at a time.

| format  | suffix                                                | a text is                                     |
|---------|-------------------------------------------------------|-----------------------------------------------|
| text    | .txt and any other                                    | a line                                        |
| jsonl   | .jsonl .json                                          | an object with `text`, or `tokens`            |
| conll   | .bmes .bioes .bio .iob .iob1 .iob2 .conll .tsv        | lines of a token each, up to a blank one      |
| parquet | .parquet                                              | a row with `text`, or `tokens`                |

Of columns, the first counts. Other keys of an object or a row are kept and stand in JSON lines again; labels are not.
What is read is never held as a whole, so the first fault ends it, with `path:line`. Lines end as in `formats.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ray_bilstm.formats import (
    BOM,
    COLUMN_SUFFIXES,
    JSON_SUFFIXES,
    PARQUET_ERRORS,
    PARQUET_SUFFIXES,
    Sentence,
    cells,
    iter_columns,
    one_line,
)
from ray_bilstm.records import LABELS, RecordError, tokens_of
from ray_bilstm.tags import Span, from_spans

if TYPE_CHECKING:
    from ray_bilstm.predict import Entity

    Tagged = tuple["Text", list[Entity]]

INPUTS = ("text", "jsonl", "conll", "parquet")
ROWS = 1024
"""Rows of Parquet that are read at once."""
BUFFER_BYTES = 2**20
"""Of a column of Parquet that are held while its rows are read: a row group may be larger than memory."""


class TextError(ValueError):
    """A text that cannot be read or written."""


class Text(NamedTuple):
    """What is to be tagged: a string, or a list of tokens; and what else its record holds."""

    text: str | list[str]
    rest: dict[str, Any]


def input_format(path: str | Path) -> str:
    """By the suffix."""
    suffix = Path(path).suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        return "parquet"
    if suffix in JSON_SUFFIXES:
        return "jsonl"
    return "conll" if suffix in COLUMN_SUFFIXES and suffix != ".txt" else "text"


# Read -----------------------------------------------------------------------------------------------------------------


def iter_texts(file: BinaryIO, name: str, format: str, *, first: int = 1) -> Iterator[Text]:
    """The texts of an open file, called `name` in complaints, which begins with line `first` of what has that name.
    Raises TextError."""
    if format == "parquet":
        yield from iter_rows(file, name)
    elif format == "conll":
        yield from _iter_conll(file, name, first)
    else:
        for number, line in _iter_lines(file, name, first):
            if format == "text":
                yield Text(line, {})
            elif line.strip(" \t"):
                yield _from_json(line, f"{name}:{number}")


def _iter_lines(file: BinaryIO, name: str, first: int) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(file, start=first):
        try:
            line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise TextError(
                f"{name}:{number}: got byte 0x{raw[error.start]:02X}, expected UTF-8: `iconv -t UTF-8` converts it"
            ) from None
        yield number, line.removeprefix(BOM) if number == 1 else line


def _from_json(line: str, place: str) -> Text:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{place}: got no JSON ({error}), expected one object a line") from None
    return _from_record(record, place)


def _from_record(record: object, place: str) -> Text:
    if not isinstance(record, dict):
        raise TextError(f"{place}: got {type(record).__name__}, expected an object with text or tokens")
    try:
        source, tokens = tokens_of(record)
    except RecordError as error:
        raise TextError(f"{place}: {error}") from None
    rest = {key: value for key, value in record.items() if key not in ("text", "tokens", *LABELS)}
    return Text(record["text"] if source == "text" else list(tokens), rest)


def _iter_conll(file: BinaryIO, name: str, first: int) -> Iterator[Text]:
    tokens: list[str] = []
    for _, line in _iter_lines(file, name, first):
        if found := cells(line):
            tokens.append(found[0])
        elif tokens:
            yield Text(tokens, {})
            tokens = []
    if tokens:
        yield Text(tokens, {})


def iter_rows(file: BinaryIO, name: str, *, begin: int = 0, end: int | None = None) -> Iterator[Text]:
    """The texts of the rows from `begin` up to `end` of a Parquet file; row groups without any of them are not read."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        source = file if file.seekable() else pyarrow.BufferReader(file.read())
        table = pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=BUFFER_BYTES)
        stop = table.metadata.num_rows if end is None else end
        groups = []
        for group in range(table.num_row_groups):
            if number < stop and number + table.metadata.row_group(group).num_rows > begin:
                groups.append(group)
            number += table.metadata.row_group(group).num_rows
        number = sum(table.metadata.row_group(group).num_rows for group in range(groups[0])) if groups else 0
        for batch in table.iter_batches(ROWS, row_groups=groups):
            skipped = min(max(0, begin - number), len(batch))
            number += skipped
            for record in batch.slice(skipped, max(0, stop - number)).to_pylist():
                number += 1
                yield _from_record(record, f"{name}:{number}")
            if number >= stop:
                return
    except TextError:
        raise
    except (pyarrow.ArrowException, *PARQUET_ERRORS) as error:
        got = f"{name}:{number + 1}: got no Parquet ({one_line(error)})"
        raise TextError(f"{got}, expected a column text or tokens") from None


# Write ----------------------------------------------------------------------------------------------------------------


def iter_jsonl(tagged: Iterable[Tagged]) -> Iterator[str]:
    """A line a text, which `formats.py` reads back as a labelled sentence."""
    for (text, rest), entities in tagged:
        key = "text" if isinstance(text, str) else "tokens"
        found = [_rounded(entity._asdict()) for entity in entities]
        yield json.dumps({**rest, key: text, "entities": found}, ensure_ascii=False, default=str) + "\n"


def _rounded(entity: dict[str, Any]) -> dict[str, Any]:
    if entity["score"] is None:
        del entity["score"]
    else:
        entity["score"] = round(entity["score"], 6)
    return entity


def iter_conll(tagged: Iterable[Tagged], scheme: str) -> Iterator[str]:
    """A token a line with a tab and its tag, a blank line behind each text. Raises TextError for a token that columns
    cannot hold."""
    number = 0

    def sentences() -> Iterator[Sentence]:
        nonlocal number
        for (text, _), entities in tagged:
            number += 1
            spans = [Span(entity.start, entity.end, entity.type) for entity in entities]
            yield Sentence(tuple(text), tuple(from_spans(spans, len(text), scheme)), number)

    try:
        yield from iter_columns(sentences(), ".tsv")
    except RecordError as error:
        raise TextError(f"text {number:,}: {error}") from None


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A whole file or what was there before: a temporary file in the same folder, renamed when all is written."""
    if not path.parent.is_dir():
        raise TextError(f"{path}: got no folder {path.parent}, expected one to write into")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
