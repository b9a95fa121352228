"""Kinds of mistakes, against their definition applied to every pair of entities."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm.mistakes import BOTH, BOUNDARY, MISSED, SPURIOUS, TYPE, Mistake, compare
from ray_bilstm.tags import Span


@st.composite
def entities(draw):
    """Entities that do not overlap, in order."""
    edges = sorted(draw(st.sets(st.integers(0, 12), max_size=8)))
    return [Span(a, b, draw(st.sampled_from("AB"))) for a, b in zip(edges[::2], edges[1::2], strict=False)]


def expected_kind(gold, predicted):
    if gold[:2] == predicted[:2]:
        return TYPE
    return BOUNDARY if gold.type == predicted.type else BOTH


def shared(one, other):
    return len({*range(*one[:2])} & {*range(*other[:2])})


def expected(spans, others, alone, *, swap):
    """Mistakes of one side, over all pairs."""
    for span in spans:
        if span in others:
            continue
        touching = [other for other in others if shared(span, other)]
        if not touching:
            yield Mistake(alone, None, span) if swap else Mistake(alone, span, None)
            continue
        most = max((shared(span, other), span.type == other.type) for other in touching)
        other = next(o for o in touching if (shared(span, o), span.type == o.type) == most)
        gold, predicted = (other, span) if swap else (span, other)
        yield Mistake(expected_kind(gold, predicted), gold, predicted)


@given(entities(), entities())
def test_each_wrong_entity_has_its_kind_and_partner(gold, predicted):
    found = compare(gold, predicted)
    assert found.correct == [span for span in gold if span in predicted]
    assert found.gold == list(expected(gold, predicted, MISSED, swap=False))
    assert found.predicted == list(expected(predicted, gold, SPURIOUS, swap=True))
    assert len(found.correct) + len(found.gold) == len(gold)
    assert len(found.correct) + len(found.predicted) == len(predicted)
    assert set(found.mistakes) == {*found.gold, *found.predicted}
    assert len(found.mistakes) == len({*found.gold, *found.predicted})


@pytest.mark.parametrize(
    ("gold", "predicted", "kinds"),
    [
        ([(0, 2, "A")], [(0, 2, "A")], []),
        ([(0, 2, "A")], [(0, 2, "B")], [TYPE]),
        ([(0, 2, "A")], [(0, 3, "A")], [BOUNDARY]),
        ([(0, 2, "A")], [(1, 3, "B")], [BOTH]),
        ([(0, 2, "A")], [(2, 3, "A")], [MISSED, SPURIOUS]),
        ([(0, 6, "A")], [(0, 2, "A"), (2, 6, "B")], [BOUNDARY, BOTH]),  # one entity taken for two
    ],
)
def test_kinds(gold, predicted, kinds):
    found = compare([Span(*span) for span in gold], [Span(*span) for span in predicted])
    assert [mistake.kind for mistake in found.mistakes] == kinds
