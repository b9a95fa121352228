"""What is wrong with the entities that a model finds: their type, where they begin and end, or that they are there.

| kind              | the gold and the predicted entity                    |
|-------------------|------------------------------------------------------|
| type              | same place, another type                             |
| boundary          | overlap, same type                                   |
| boundary and type | overlap, another type                                |
| missed            | no predicted entity overlaps the gold one            |
| spurious          | no gold entity overlaps the predicted one            |

Of several that overlap, the one that shares most tokens counts, of these the one of the same type, of these the first.
Pure functions of spans.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from ray_bilstm.tags import Span

TYPE, BOUNDARY, BOTH, MISSED, SPURIOUS = "type", "boundary", "boundary and type", "missed", "spurious"
KINDS = (TYPE, BOUNDARY, BOTH, MISSED, SPURIOUS)


class Mistake(NamedTuple):
    """A gold entity that was not found as it is, a predicted one that is not there, or both in one."""

    kind: str
    gold: Span | None
    predicted: Span | None


class Comparison(NamedTuple):
    """The entities of a sentence, gold and predicted."""

    correct: list[Span]
    gold: list[Mistake]
    """one for each gold entity that is not correct"""
    predicted: list[Mistake]
    """one for each predicted entity that is not correct"""

    @property
    def mistakes(self) -> list[Mistake]:
        """All, none twice, in order of their place."""
        return sorted(dict.fromkeys((*self.gold, *self.predicted)), key=_place)


def compare(gold: Sequence[Span], predicted: Sequence[Span]) -> Comparison:
    """`gold` and `predicted` in order of their place, without overlaps among themselves."""
    both = set(gold) & set(predicted)
    of_gold = [Mistake(_kind(span, other, MISSED), span, other) for span, other in _partners(gold, predicted, both)]
    of_predicted = [
        Mistake(_kind(other, span, SPURIOUS), other, span) for span, other in _partners(predicted, gold, both)
    ]
    return Comparison([span for span in gold if span in both], of_gold, of_predicted)


def _partners(spans: Sequence[Span], others: Sequence[Span], correct: set[Span]) -> list[tuple[Span, Span | None]]:
    """Each of `spans` that is not correct, with the one of `others` that overlaps it most."""
    starts, ends = [other.start for other in others], [other.end for other in others]
    found = []
    for span in spans:
        if span in correct:
            continue
        touching = others[bisect_right(ends, span.start) : bisect_left(starts, span.end)]
        found.append((span, max(touching, key=lambda other: _closeness(span, other), default=None)))
    return found


def _closeness(span: Span, other: Span) -> tuple[int, bool]:
    return min(span.end, other.end) - max(span.start, other.start), span.type == other.type


def _kind(gold: Span | None, predicted: Span | None, alone: str) -> str:
    if gold is None or predicted is None:
        return alone
    if gold[:2] == predicted[:2]:
        return TYPE
    return BOUNDARY if gold.type == predicted.type else BOTH


def _place(mistake: Mistake) -> list[int]:
    return [span.start for span in mistake[1:] if span]
