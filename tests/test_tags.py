"""The tag schemes against definitions of their own: regular expressions over whole sequences, and seqeval."""

from __future__ import annotations

import re
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import tags
from ray_bilstm.tags import SCHEMES, Span, TagError

TYPES = ("X", "Y")
PAIRS = sorted(product(SCHEMES, SCHEMES))

# A legal sequence, written as one letter a tag: upper case of type X, lower case of type Y.
GRAMMARS = {
    "BMES": r"(O|S|s|BM*E|bm*e)*",
    "BIOES": r"(O|S|s|BI*E|bi*e)*",
    "BIO": r"(O|BI*|bi*)*",
    "IOB1": r"(O|I+(BI*)*|i+(bi*)*)*",
}


def tag_set(scheme: str) -> list[str]:
    prefixes = dict.fromkeys(SCHEMES[scheme].begin + SCHEMES[scheme].inside + SCHEMES[scheme].end)
    return ["O", *(f"{prefix}-{type_}" for prefix in prefixes for type_ in TYPES)]


def letters(sequence: tuple[str, ...]) -> str:
    """`("B-X", "I-Y", "O")` -> `BiO`."""
    return "".join(tag[0] if tag == "O" or tag.endswith("X") else tag[0].lower() for tag in sequence)


@st.composite
def entities(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Spans, of which some touch, and the length of their sentence."""
    spans, end = [], draw(st.integers(0, 2))
    for _ in range(draw(st.integers(0, 5))):
        start, end = end, end + draw(st.integers(1, 4))
        spans.append(Span(start, end, draw(st.sampled_from(["X", "Y", "A-B", "人名"]))))
        end += draw(st.integers(0, 1)) * draw(st.integers(0, 2))
    return spans, end + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_legal_sequences_are_those_of_the_grammar(scheme: str) -> None:
    grammar = re.compile(GRAMMARS[scheme])
    legal = 0
    for length in range(1, 5 if scheme in ("BMES", "BIOES") else 6):
        for sequence in product(tag_set(scheme), repeat=length):
            expected = grammar.fullmatch(letters(sequence)) is not None
            assert (tags.illegal_positions(sequence, scheme) == []) == expected, sequence
            legal += expected
    assert legal > 100


@pytest.mark.parametrize("scheme", SCHEMES)
def test_may_follow_truth_table(scheme: str) -> None:
    """`tag` may follow `before` just when some sentence of the grammar holds them side by side."""
    grammar = re.compile(GRAMMARS[scheme])
    tag_names = tag_set(scheme)
    seen, firsts, lasts = set(), set(), set()
    for length in range(1, 5):
        for sequence in product(tag_names, repeat=length):
            if grammar.fullmatch(letters(sequence)):
                seen.update(pairwise(sequence))
                firsts.add(sequence[0])
                lasts.add(sequence[-1])
    for before, tag in product(tag_names, repeat=2):
        assert tags.may_follow(before, tag, scheme) == ((before, tag) in seen), (before, tag)
    assert {tag for tag in tag_names if tags.may_start(tag, scheme)} == firsts
    assert {tag for tag in tag_names if tags.may_stop(tag, scheme)} == lasts


def test_illegal_positions_point_at_the_tag_that_breaks() -> None:
    assert tags.illegal_positions(["M-X", "E-X", "O", "E-X", "B-X"], "BMES") == [0, 3, 5]
    assert tags.illegal_positions(["B-X", "E-Y"], "BMES") == [1]
    assert tags.illegal_positions([], "BMES") == []


def test_broken_chunks_are_no_entities() -> None:
    assert tags.to_spans(["B-X", "M-X", "O", "B-X", "E-X"], "BMES") == [Span(3, 5, "X")]
    assert tags.to_spans(["B-X", "M-X", "E-Y", "S-Y"], "BMES") == [Span(3, 4, "Y")]
    assert tags.to_spans(["I-X", "B-X", "I-X"], "BIO") == [Span(1, 3, "X")]
    assert tags.to_spans(["I-X", "B-X", "I-X"], "IOB1") == [Span(0, 1, "X"), Span(1, 3, "X")]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(case=entities())
def test_spans_become_legal_tags_and_spans_again(scheme: str, case: tuple[list[Span], int]) -> None:
    spans, length = case
    sequence = tags.from_spans(spans, length, scheme)
    assert tags.illegal_positions(sequence, scheme) == []
    assert tags.to_spans(sequence, scheme) == spans


@pytest.mark.parametrize(("source", "target"), PAIRS)
@given(case=entities())
def test_conversion_loses_nothing_of_legal_sequences(source: str, target: str, case: tuple[list[Span], int]) -> None:
    sequence = tags.from_spans(*case, source)
    converted = tags.convert(sequence, source, target)
    assert converted == tags.from_spans(*case, target)
    assert tags.convert(converted, target, source) == sequence


@pytest.mark.parametrize("scheme", SCHEMES)
def test_conversion_keeps_every_legal_sequence_of_length_four(scheme: str) -> None:
    for sequence in product(tag_set(scheme), repeat=4):
        if tags.illegal_positions(sequence, scheme):
            continue
        for target in SCHEMES:
            back = tags.convert(tags.convert(sequence, scheme, target), target, scheme)
            assert tuple(back) == sequence, (sequence, target)


def test_conversion_of_broken_chunks() -> None:
    broken = ["M-X", "M-X", "O", "B-Y"]
    assert tags.convert(broken, "BMES", "BIOES") == ["I-X", "I-X", "O", "B-Y"]
    assert tags.convert(tags.convert(broken, "BMES", "BIOES"), "BIOES", "BMES") == broken
    assert tags.convert(broken, "BMES", "BIO") == ["B-X", "I-X", "O", "B-Y"]


@pytest.mark.parametrize("spans", [[(0, 3, "X"), (2, 4, "Y")], [(3, 6, "X")], [(-1, 1, "X")], [(2, 2, "X")]])
def test_spans_that_overlap_or_stick_out(spans: list[tuple[int, int, str]]) -> None:
    with pytest.raises(TagError, match="Span"):
        tags.from_spans([Span(*span) for span in spans], 5, "BMES")


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("O", ["BMES", "BIOES", "BIO", "IOB1"]),
        ("M-X", ["BMES"]),
        ("I-X", ["BIOES", "BIO", "IOB1"]),
        ("S-X-Y", ["BMES", "BIOES"]),
        *((tag, []) for tag in ("", "B", "B-", "-X", "BE-X", "b-X", "O-X", "X", "BM-X")),
    ],
)
def test_is_tag(tag: str, fits: list[str]) -> None:
    assert [scheme for scheme in SCHEMES if tags.is_tag(tag, scheme)] == fits


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        ([["B-X", "M-X", "E-X"]], "BMES"),
        ([["B-X", "I-X", "E-X"]], "BIOES"),
        ([["B-X", "E-X"], ["O", "S-X"]], "BMES"),
        ([["B-X", "I-X"], ["O"]], "BIO"),
        ([["I-X", "I-X"], ["O"]], "IOB1"),
        ([["I-X", "B-X", "I-X"]], "IOB1"),
        ([["I-X"], ["B-X", "I-X"]], "BIO"),
        ([["B-X", "B-X"]], "BIO"),
        ([["I-X", "B-Y"]], "BIO"),
        ([["O", "O"]], "BIO"),
        ([], "BIO"),
    ],
)
def test_recognise(sentences: list[list[str]], scheme: str) -> None:
    assert tags.recognise(sentences) == scheme
    assert tags.recognise(iter(sentences)) == scheme


@pytest.mark.parametrize("sentence", [["M-X", "I-X"], ["B-X", "Q-X"], ["BI-X"], [""]])
def test_recognise_refuses_what_fits_no_scheme(sentence: list[str]) -> None:
    with pytest.raises(TagError, match="fit no scheme"):
        tags.recognise([sentence])


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "IOB1"])
@pytest.mark.filterwarnings("ignore")  # of seqeval's own numpy
def test_spans_are_those_of_seqeval(scheme: str) -> None:
    seqeval = pytest.importorskip("seqeval.scheme")
    theirs = {"BIO": seqeval.IOB2, "BIOES": seqeval.IOBES, "IOB1": seqeval.IOB1}[scheme]
    for length in range(1, 5):
        for sequence in product(tag_set(scheme), repeat=length):
            if tags.illegal_positions(sequence, scheme):
                continue  # of these, seqeval scores parts in some schemes: another rule
            expected = [
                (entity.start, entity.end, entity.tag) for entity in seqeval.Tokens([*sequence], theirs).entities
            ]
            assert [tuple(span) for span in tags.to_spans(sequence, scheme)] == expected, sequence
