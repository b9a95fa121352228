"""Tag schemes: which tag may follow which, and where entities begin and end.

Pure functions of strings, without tensors. One rule decides everything else (legality, spans, scores):

- a tag *continues* the one before it when both belong to the same entity (`B-ORG M-ORG`);
- a maximal run of continuing tags is a *chunk*; a chunk is an *entity* when its first tag may begin one and its
  last tag may end one. `B-ORG M-ORG E-ORG` is an entity; `B-ORG M-ORG` and `M-ORG E-ORG` are broken chunks.

| scheme | prefixes | an entity is            | known as                          |
|--------|----------|-------------------------|-----------------------------------|
| BMES   | B M E S  | B M* E, or S            | BMES, BMESO; ResumeNER, MSRA      |
| BIOES  | B I E S  | B I* E, or S            | BIOES, IOBES                      |
| BIO    | B I      | B I*                    | BIO, IOB2; CoNLL-2002             |
| IOB1   | I B      | I I*; B I* after a      | IOB, IOB1; CoNLL-2003 (Ramshaw    |
|        |          | neighbour of its type   | and Marcus 1995)                  |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"


class Rule(NamedTuple):
    """What the prefixes of a scheme mean."""

    begin: str  # prefixes that may open an entity
    end: str  # prefixes that may close an entity
    inside: str  # prefixes that may continue an entity
    open: str  # prefixes after which an entity may continue


SCHEMES = {
    "BMES": Rule(begin="BS", end="ES", inside="ME", open="BM"),
    "BIOES": Rule(begin="BS", end="ES", inside="IE", open="BI"),
    "BIO": Rule(begin="B", end="BI", inside="I", open="BI"),
    "IOB1": Rule(begin="BI", end="BI", inside="I", open="BI"),
}


class Span(NamedTuple):
    """Tokens `start` to `end` (exclusive) are an entity of `type`."""

    start: int
    end: int
    type: str


class TagError(ValueError):
    """A tag or a set of tags that fits no scheme."""


def split(tag: str) -> tuple[str, str]:
    """`"B-ORG"` -> `("B", "ORG")`; `"O"` -> `("O", "")`. Only the first hyphen separates: types may hold more."""
    prefix, _, type = tag.partition("-")
    return prefix, type


def is_tag(tag: str, scheme: str) -> bool:
    """Whether `tag` is `O` or a prefix of `scheme`, a hyphen and a type."""
    prefix, type = split(tag)
    rule = SCHEMES[scheme]
    return tag == OUTSIDE or (type != "" and prefix != "" and prefix in (*rule.begin, *rule.inside))


def continues(before: str, tag: str, scheme: str) -> bool:
    """Whether `tag` belongs to the same chunk as the tag `before` it."""
    prefix, type = split(tag)
    prefix_before, type_before = split(before)
    rule = SCHEMES[scheme]
    return tag != OUTSIDE and type == type_before and prefix in rule.inside and prefix_before in rule.open


def begins(tag: str, scheme: str) -> bool:
    """Whether an entity may begin with `tag`."""
    return tag != OUTSIDE and split(tag)[0] in SCHEMES[scheme].begin


def ends(tag: str, scheme: str) -> bool:
    """Whether an entity may end with `tag`."""
    return tag != OUTSIDE and split(tag)[0] in SCHEMES[scheme].end


def may_start(tag: str, scheme: str) -> bool:
    """Whether a sentence may start with `tag`."""
    if scheme == "IOB1" and split(tag)[0] == "B":
        return False
    return tag == OUTSIDE or begins(tag, scheme)


def may_stop(tag: str, scheme: str) -> bool:
    """Whether a sentence may stop after `tag`."""
    return tag == OUTSIDE or ends(tag, scheme)


def may_follow(before: str, tag: str, scheme: str) -> bool:
    """Whether `tag` may stand right after `before`."""
    if continues(before, tag, scheme):
        return True
    if scheme == "IOB1" and split(tag)[0] == "B":  # only to part two neighbours of one type
        return split(before)[1] == split(tag)[1]
    return may_stop(before, scheme) and may_start(tag, scheme)


def illegal_positions(tags: Sequence[str], scheme: str) -> list[int]:
    """Positions whose tag may not follow the one before it; `len(tags)` when the sentence may not stop there."""
    if not tags:
        return []
    found = [] if may_start(tags[0], scheme) else [0]
    found += [i for i in range(1, len(tags)) if not may_follow(tags[i - 1], tags[i], scheme)]
    return found if may_stop(tags[-1], scheme) else [*found, len(tags)]


def chunks(tags: Sequence[str], scheme: str) -> list[tuple[Span, bool]]:
    """Every chunk of `tags` with whether it is an entity (the module's rule) or broken."""
    found = []
    start = 0
    for end in range(1, len(tags) + 1):
        if end < len(tags) and continues(tags[end - 1], tags[end], scheme):
            continue
        if tags[start] != OUTSIDE:
            whole = begins(tags[start], scheme) and ends(tags[end - 1], scheme)
            found.append((Span(start, end, split(tags[start])[1]), whole))
        start = end
    return found


def to_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """The entities of `tags`; broken chunks yield none."""
    return [span for span, whole in chunks(tags, scheme) if whole]


def from_spans(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Tags of a sentence of `length` tokens with entities `spans`. Raises TagError where they overlap or stick out."""
    tags = [OUTSIDE] * length
    previous = Span(0, 0, "")
    for span in sorted(spans):
        start, end, type = span
        if not 0 <= start < end <= length:
            raise TagError(f"{span} does not fit a sentence of {length} tokens")
        if start < previous.end:
            raise TagError(f"{span} overlaps {previous}: nested entities are not supported")
        if scheme in ("BMES", "BIOES"):
            inside = "M" if scheme == "BMES" else "I"
            prefixes = "S" if end - start == 1 else "B" + inside * (end - start - 2) + "E"
        else:
            beside_its_type = start > 0 and start == previous.end and type == previous.type
            prefixes = ("B" if scheme == "BIO" or beside_its_type else "I") + "I" * (end - start - 1)
        tags[start:end] = [f"{prefix}-{type}" for prefix in prefixes]
        previous = Span(start, end, type)
    return tags


def convert(tags: Sequence[str], source: str, target: str) -> list[str]:
    """`tags` in scheme `target`. Lossless for legal sequences.

    BMES and BIOES differ by one letter, so between them broken chunks survive too. Elsewhere a broken chunk becomes an
    entity of its own: its characters keep their type (`illegal_positions` finds such sequences beforehand).
    """
    if source == target:
        return list(tags)
    if {source, target} == {"BMES", "BIOES"}:
        old, new = ("M-", "I-") if source == "BMES" else ("I-", "M-")
        return [new + tag[2:] if tag.startswith(old) else tag for tag in tags]
    return from_spans([span for span, _ in chunks(tags, source)], len(tags), target)


def recognise(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme of a corpus, from the tags of its sentences.

    M means BMES; E or S without M means BIOES; of B and I alone, IOB1 is the scheme in which every B stands beside a
    neighbour of its type while some entity opens with I. Raises TagError when a prefix fits no scheme.
    """
    sentences = list(sentences)
    prefixes = {split(tag)[0] for tag in set().union(*sentences)}
    if prefixes - set("BMIESO") or {"M", "I"} <= prefixes:
        raise TagError(
            f"tag prefixes {', '.join(sorted(prefixes))} fit no scheme"
            f" (BMES: B M E S O; BIOES: B I E S O; BIO and IOB1: B I O)"
        )
    if "M" in prefixes:
        return "BMES"
    if prefixes & {"E", "S"}:
        return "BIOES" if "I" in prefixes else "BMES"
    return "IOB1" if _opens_with_i(sentences) else "BIO"


def _opens_with_i(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether entities open with I, and with B only beside a neighbour of their type."""
    found = False
    for tags in sentences:
        before = OUTSIDE
        for tag in tags:
            prefix, type = split(tag)
            if prefix != OUTSIDE and split(before)[1] != type:
                if prefix == "B":
                    return False
                found = True
            before = tag
    return found
