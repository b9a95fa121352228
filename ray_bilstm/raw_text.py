"""Plain UTF-8 text -> unlabelled sentences of bounded length, some of them held out.

A line is cut behind each mark that ends a sentence, and where that leaves more than `MOST_CHARACTERS`. White space is
left out, as columns cannot hold it and corpora have none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ray_bilstm.corpus import Corpus, CorpusError, Sentence
from ray_bilstm.tags import OUTSIDE

MOST_CHARACTERS = 128
HELD_OUT = 50
"""Of so many sentences, one is held out."""
ENDS = re.compile(r"(?<=[。！？；!?;])")


class _Same(dict[str, str]):
    """One object for equal characters: text is held as tuples of them, and a string of its own takes 76 bytes."""

    def __missing__(self, char: str) -> str:
        self[char] = char
        return char


def read_text(paths: Sequence[str | Path]) -> Corpus:
    """The sentences of all files, as a corpus without entities whose dev is what is held out and whose test is empty.

    Raises CorpusError for a line that is not UTF-8 and for too little text, OSError for a file that cannot be read.
    """
    same, sentences, sha256 = _Same(), [], {}
    for path in map(Path, paths):
        data = path.read_bytes()
        sha256[str(path)] = hashlib.sha256(data).hexdigest()
        for number, line in enumerate(data.split(b"\n"), 1):
            for piece in _cut(_decode(path, number, line)):
                sentences.append(Sentence(tuple(map(same.__getitem__, piece)), (OUTSIDE,) * len(piece), number))
    names = ", ".join(map(str, paths))
    if len(sentences) < 2:
        raise CorpusError(f"{names}: got {len(sentences)} sentences of two characters or more, expected at least 2")
    return Corpus(
        path=names,
        train=[sentence for i, sentence in enumerate(sentences) if i % HELD_OUT],
        dev=sentences[::HELD_OUT],
        test=[],
        scheme="BMES",
        files={path: path for path in sha256},
        sha256=sha256,
    )


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}:{number}: got bytes that are not UTF-8 ({error.reason}), expected plain text"
        ) from None


def _cut(line: str) -> Iterator[str]:
    """Pieces of at least two characters: one has no neighbour to predict."""
    for sentence in ENDS.split("".join(line.split())):
        for start in range(0, len(sentence), MOST_CHARACTERS):
            piece = sentence[start : start + MOST_CHARACTERS]
            if len(piece) > 1:
                yield piece
