"""Vectors of characters and words, read from word2vec or GloVe text: a name and its numbers a line, spaces between.

    5000 128                 a header, which word2vec and fastText write and GloVe does not: names, numbers of each
    的 0.12 -0.03 ...

A file may be gzipped (.gz). It is read line by line and only what `wanted` asks for is kept, so that memory is that of
the vectors used: a file of a million words costs its reading time. Every line is looked at, kept or not.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


class EmbeddingsError(ValueError):
    """A file that does not hold vectors as expected; the message has path, line, what stands there and what should."""


class Vectors(NamedTuple):
    """Row i of `matrix`, float32, belongs to `names[i]`; no name occurs twice."""

    names: tuple[str, ...]
    matrix: np.ndarray
    lines: int = 0
    """vectors in the file, kept or not"""
    repeated: int = 0
    """kept names met again, of which the first vector counts"""

    @property
    def size(self) -> int:
        return int(self.matrix.shape[1])


def read_vectors(path: str | Path, *, size: int, wanted: Callable[[str], bool]) -> Vectors:
    """The vectors of `size` numbers whose name is `wanted`, in the order of the file.

    Raises EmbeddingsError for a line that is no name and `size` numbers, a number that is none or not finite, a name
    that is not UTF-8, and a header that disagrees with the lines below it; OSError where the file cannot be read.
    """
    path = Path(path)
    vectors: dict[str, np.ndarray] = {}
    lines = repeated = 0
    promised = None
    for number, line in _iter_lines(path):
        where = f"{path}:{number}"
        if number == 1 and (header := _header(line)):
            promised = header[0]
            _check_size(where, header[1], size)
            continue
        plain = line.count(b" ") == size
        if number == 1 or not plain:
            _check_fields(where, line, size, first=number == 1)
        lines += 1
        name = _decode(where, line.partition(b" ")[0] if plain else line.rsplit(b" ", size)[0])
        if name in vectors:
            repeated += 1
        elif wanted(name):
            vectors[name] = _parse(where, line.rsplit(b" ", size)[1:])
    if promised not in (None, lines):
        raise EmbeddingsError(f"{path}:1: the header says {promised:,} vectors, expected the {lines:,} that follow it")
    matrix = np.stack(list(vectors.values())) if vectors else np.zeros((0, size), np.float32)
    return Vectors(tuple(vectors), matrix, lines, repeated)


def rescaled(vectors: Vectors, *, deviation: float = 1.0) -> tuple[Vectors, float]:
    """All numbers times one factor, and that factor: so that their standard deviation is `deviation`, as that of the
    random vectors beside them. Directions stay as they are."""
    spread = float(vectors.matrix.std()) if vectors.names else 0.0
    factor = deviation / spread if spread else 1.0
    return vectors._replace(matrix=(vectors.matrix * factor).astype(np.float32)), factor


def _iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, without their end and the space that word2vec leaves there."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line := line.rstrip(b"\r\n "):
                    yield number, line
        except (EOFError, gzip.BadGzipFile) as error:
            raise EmbeddingsError(f"{path}: got a damaged gzip file ({error}), expected a whole one") from error


def _header(line: bytes) -> tuple[int, int] | None:
    fields = line.split()
    return (int(fields[0]), int(fields[1])) if len(fields) == 2 and all(field.isdigit() for field in fields) else None


def _check_size(where: str, got: int, size: int) -> None:
    if got != size:
        raise EmbeddingsError(
            f"{where}: got vectors of {got} numbers, expected {size}: set --embedding-size {got}, or give another file"
        )


def _check_fields(where: str, line: bytes, size: int, *, first: bool) -> None:
    """A name may hold spaces, as some of GloVe's do, but a number among them is one too many."""
    fields = line.split(b" ")
    got = next((len(fields) - i for i in range(1, len(fields)) if all(map(_is_number, fields[i:]))), 0)
    if got == size or len(fields) == size + 1:  # in the latter case one is no number: `_parse` says which
        return
    if first and got:
        _check_size(where, got, size)
    raise EmbeddingsError(f"{where}: got {got} numbers after the name, expected {size}")


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _decode(where: str, name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise EmbeddingsError(f"{where}: got the name {name!r}, expected UTF-8") from None


def _parse(where: str, numbers: list[bytes]) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            vector = np.array(numbers, np.float64).astype(np.float32)
    except ValueError:
        bad = next(field for field in numbers if not _is_number(field))
        raise EmbeddingsError(f"{where}: got {bad.decode(errors='replace')!r}, expected a number") from None
    if not np.isfinite(vector).all():
        raise EmbeddingsError(f"{where}: got a number that is not finite, expected finite float32")
    return vector
