"""A labelled sentence as a record: a JSON line, or a row of Parquet.

    {"text": "沈遥：女", "entities": [{"start": 0, "end": 2, "type": "NAME"}]}
    {"tokens": ["Ada", "Lovelace"], "tags": ["B-PER", "E-PER"]}

Offsets count tokens, which in a `text` are its Unicode code points.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ray_bilstm import tags as schemes
from ray_bilstm.tags import Span

SPAN_SCHEME = "BMES"
"""The scheme in which spans become tags here; `corpus.py` turns it into that of the corpus."""

LABELS = ("entities", "tags", "label")
"""Keys of a record that may hold its labels."""


class RecordError(ValueError):
    """A record that is no labelled sentence."""


def from_record(record: object) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Tokens, tags, and whether the tags were made from spans. RecordError or TagError says what is wrong."""
    if not isinstance(record, dict):
        raise RecordError(f"got {_show(record)}, expected an object with text or tokens, and entities or tags")
    given = {key: value for key, value in record.items() if value is not None}
    source, tokens = tokens_of(given)
    labels = _one_of(given, *LABELS)
    if labels == "tags":
        tags = _strings(given["tags"], "tags")
        if len(tags) != len(tokens):
            raise RecordError(f"got {plural(len(tags), 'tag')} for {plural(len(tokens), 'token')}, expected as many")
        return tokens, tags, False
    if not isinstance(given[labels], list):
        raise RecordError(f"got {_show(given[labels])} for {labels}, expected a list")
    spans = [_span(entity, tokens, whole=source == "text") for entity in given[labels]]
    return tokens, tuple(map(sys.intern, schemes.from_spans(spans, len(tokens), SPAN_SCHEME))), True


def tokens_of(record: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Which key holds the text of a record, `text` or `tokens`, and its tokens. RecordError says what is wrong."""
    given = {key: value for key, value in record.items() if value is not None}
    source = _one_of(given, "text", "tokens")
    tokens = _strings(given[source], source) if source == "tokens" else _characters(given[source])
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError as error:
        raise RecordError("got half a surrogate pair in the text, expected whole Unicode characters") from error
    return source, tokens


def _one_of(given: dict[str, Any], *keys: str) -> str:
    found = [key for key in keys if key in given]
    if len(found) == 1:
        return found[0]
    there = ", ".join(key if key.isprintable() else repr(key) for key in given)
    got = f"got {' and '.join(found)}" if found else f"got the keys {there or '(none)'}"
    raise RecordError(f"{got}, expected exactly one of {', '.join(keys)}")


def _characters(text: object) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise RecordError(f"got {_show(text)} for text, expected a string")
    return tuple(map(sys.intern, text))


def _strings(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise RecordError(f"got {_show(value)} for {key}, expected a list of strings, none empty")
    return tuple(map(sys.intern, value))


def _span(entity: Any, tokens: Sequence[str], *, whole: bool) -> Span:
    """An entity: `{"start", "end", "type"}`, or doccano's `[start, end, type]` or `{"start_offset", ..., "label"}`."""
    start = end = type_ = text = None
    if isinstance(entity, dict):
        start, end = entity.get("start", entity.get("start_offset")), entity.get("end", entity.get("end_offset"))
        type_, text = entity.get("type", entity.get("label")), entity.get("text")
    elif isinstance(entity, list) and len(entity) == 3:
        start, end, type_ = entity
    if type(start) is not int or type(end) is not int or not isinstance(type_, str) or not type_:
        raise RecordError(f'got the entity {_show(entity)}, expected {{"start": 0, "end": 2, "type": "NAME"}}')
    there = "".join(tokens[start:end])
    if whole and text is not None and 0 <= start < end <= len(tokens) and text != there:
        raise RecordError(f"got the entity {text!r}, yet text[{start}:{end}] is {there!r}: offsets count code points")
    return Span(start, end, type_)


def to_record(tokens: Sequence[str], tags: Sequence[str], scheme: str) -> dict[str, Any]:
    """`text` if every token is one character, else `tokens`; `entities`, or `tokens` and `tags` where spans cannot say
    the tags (an illegal sequence)."""
    if schemes.illegal_positions(tags, scheme):
        return {"tokens": list(tokens), "tags": list(tags)}
    entities = [span._asdict() for span in schemes.to_spans(tags, scheme)]
    if all(len(token) == 1 for token in tokens):
        return {"text": "".join(tokens), "entities": entities}
    return {"tokens": list(tokens), "entities": entities}


def plural(count: int, noun: str) -> str:
    """`1 column`, `2 columns`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _show(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
