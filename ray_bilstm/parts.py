"""Large files of texts, cut into parts that are read, tagged and written each by itself.

| format       | a part is                                                                        |
|--------------|----------------------------------------------------------------------------------|
| text, jsonl  | a range of bytes, up to the end of a line                                        |
| conll        | the same, up to a blank line                                                     |
| parquet      | a range of rows, of which only the row groups that hold them are read            |

Cutting reads a file of lines once, a part at a time, and counts its lines, so that a fault in any part has its
`path:line`. No part divides a text, whatever its size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ray_bilstm.formats import COLUMN_SUFFIXES, JSON_SUFFIXES, PARQUET_ERRORS, PARQUET_SUFFIXES, one_line
from ray_bilstm.texts import Text, TextError, input_format, iter_rows, iter_texts

SUFFIXES = {".txt", *COLUMN_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES}
"""Of the files of a folder; a file that is named may have any."""
PART_BYTES = 2**20
"""Of a part: about ten thousand sentences of Chinese, some seconds of work on one core."""
MOST_PARTS = 10_000
"""Of all files together, about: where there would be more, parts are larger."""


class Part(NamedTuple):
    """Bytes `begin` up to `end` of a file, which begin with line `first`; of Parquet, rows."""

    begin: int
    end: int
    first: int


class Source(NamedTuple):
    """A file, as it was when it was cut."""

    path: Path
    bytes: int
    mtime_ns: int
    parts: tuple[Part, ...] = ()


def find_sources(inputs: Sequence[str | Path]) -> list[Source]:
    """The files that are named, and those of the folders that are named, by name, without their folders; each once.

    Raises TextError for what is neither, and for a folder without a file of texts.
    """
    paths: list[Path] = []
    for given in map(Path, inputs):
        if given.is_dir():
            found = sorted(
                p for p in given.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()
            )
            if not found:
                raise TextError(
                    f"{given}: got a folder without such files, expected some of {' '.join(sorted(SUFFIXES))}"
                )
            paths += found
        elif given.is_file():
            paths.append(given)
        else:
            raise TextError(f"{given}: got no such file, expected a file or a folder of texts")
    return [_look(path) for path in dict.fromkeys(path.resolve() for path in paths)]


def _look(path: Path) -> Source:
    found = path.stat()
    return Source(path, found.st_size, found.st_mtime_ns)


def is_unchanged(source: Source) -> bool:
    """Whether the file has the size and the time of change that it had."""
    try:
        return _look(source.path) == source._replace(parts=())
    except OSError:
        return False


def cut(sources: Sequence[Source], *, part_bytes: int = PART_BYTES) -> list[Source]:
    """The same with their parts, each of about `part_bytes`. Raises TextError for what is no Parquet."""
    size = max(part_bytes, sum(source.bytes for source in sources) // MOST_PARTS)
    return [source._replace(parts=tuple(_iter_parts(source.path, size))) for source in sources]


def _iter_parts(path: Path, size: int) -> Iterator[Part]:
    format = input_format(path)
    with path.open("rb") as file:
        yield from _cut_rows(path, size) if format == "parquet" else _cut_lines(file, size, blank=format == "conll")


def _cut_lines(file: BinaryIO, size: int, *, blank: bool) -> Iterator[Part]:
    begin, line = 0, 1
    while piece := file.read(size):
        lines = piece.count(b"\n") + file.readline().count(b"\n")
        while blank and (tail := file.readline()):
            lines += 1
            if not tail.strip(b" \t\r\n"):
                break
        yield Part(begin, file.tell(), line)
        begin, line = file.tell(), line + lines


def _cut_rows(path: Path, size: int) -> Iterator[Part]:
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, *PARQUET_ERRORS) as error:
        raise TextError(f"{path}: got no Parquet ({one_line(error)}), expected a column text or tokens") from None
    whole = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows = max(1, metadata.num_rows * size // max(1, whole))
    for begin in range(0, metadata.num_rows, rows):
        yield Part(begin, min(begin + rows, metadata.num_rows), begin + 1)


def iter_part(path: Path, part: Part) -> Iterator[Text]:
    """The texts of a part. Raises TextError with the `path:line` of the first fault."""
    format = input_format(path)
    with path.open("rb") as file:
        if format == "parquet":
            yield from iter_rows(file, str(path), begin=part.begin, end=part.end)
        else:
            file.seek(part.begin)
            piece = io.BytesIO(file.read(part.end - part.begin))
            yield from iter_texts(piece, str(path), format, first=part.first)
