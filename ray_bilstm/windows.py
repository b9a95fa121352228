"""A long text in parts that a model reads one by one, each with some of what stands around it.

A text of at most `LONGEST` tokens is read whole. Of a longer one, each part has at most so many, and is read with up to
`CONTEXT` tokens before and behind it, so that what stands near a cut is not misread. A cut falls behind the last mark
in reach that ends a sentence, else behind the last that parts a clause, else where the part is full. An entity belongs
to the part in which it begins, and may end beyond it; what the next part finds there gives way.

Pure functions of strings; a text is a string, whose tokens are its characters, or a list of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

LONGEST = 512
"""Tokens that are read as one sentence. The longest of ResumeNER has 178."""

CONTEXT = 64

SENTENCE_ENDS = frozenset("。！？；!?;…\n\r\u2028\u2029")
PAUSES = frozenset("，、：,:. \t\u3000")
CLOSING = frozenset("”’』」）》】)]}\"'")
"""What stands behind the end of a sentence and still belongs to it."""


class Window(NamedTuple):
    """The tokens `start` to `end` of a text, and `left` to `right`, which are read with them."""

    start: int
    end: int
    left: int
    right: int


def iter_windows(text: Sequence[str]) -> Iterator[Window]:
    """The parts of a text, one after another; of an empty text, one that is empty."""
    start = 0
    while len(text) - start > LONGEST:
        end = _cut(text, start, start + LONGEST)
        yield Window(start, end, max(0, start - CONTEXT), min(len(text), end + CONTEXT))
        start = end
    yield Window(start, len(text), max(0, start - CONTEXT), len(text))


def iter_whole(text: Sequence[str]) -> Iterator[Window]:
    """The whole text in one."""
    yield Window(0, len(text), 0, len(text))


def _cut(text: Sequence[str], start: int, limit: int) -> int:
    """Where to cut, behind `start` and not behind `limit`, which lies inside the text."""
    for marks in (SENTENCE_ENDS, PAUSES):
        for end in range(limit, start, -1):
            attached = text[end] in CLOSING or text[end] in marks
            if not attached and _ends_with(marks, text, start, end):
                return end
    return limit


def _ends_with(marks: frozenset[str], text: Sequence[str], start: int, end: int) -> bool:
    """Whether `text[start:end]` ends with one of the marks, and perhaps with closing quotes or brackets behind it."""
    while end > start and text[end - 1] in CLOSING:
        end -= 1
    return end > start and text[end - 1] in marks
