"""What a person wants to know of a corpus before training on it, and what is odd about its sentences.

    python -m ray_bilstm check DIR

`check` counts, `format_check` shows the counts as text. The warnings that reading a corpus yields are made here too.
Nothing here is fatal: what is, `corpus.py` refuses. Every place is `path:line`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_bilstm import tags as schemes
from ray_bilstm.formats import Parsed, Sentence, format_of

if TYPE_CHECKING:
    from ray_bilstm.corpus import Corpus

LONG_TOKENS = 512
"""A longer sentence is read and gets a warning: it costs memory and time, and is often a missing blank line."""
PLACES = 5
"""How many places or examples the report names of a kind."""


# Warnings -------------------------------------------------------------------------------------------------------------


def line_of(path: str | Path, sentence: Sentence, token: int) -> int:
    """The line of a token; for `token == len(tokens)`, the line after the sentence. Records have one line for all."""
    return sentence.line + token if format_of(path) == "columns" else sentence.line


def iter_warnings(
    path: str | Path, parsed: Parsed, scheme: str, consequence: str = "no entity is read there"
) -> Iterator[str]:
    """Warnings about one file in the order of its lines; `consequence` says what becomes of illegal transitions."""
    notes = list(parsed.warnings)
    illegal = list(iter_illegal(path, parsed.sentences, scheme))
    notes += [(line, f"{what}: illegal in {scheme}, {consequence}") for line, what in illegal]
    for sentence in parsed.sentences:
        if len(sentence.tokens) > LONG_TOKENS:
            what = f"a sentence of {len(sentence.tokens):,} tokens, more than {LONG_TOKENS}: is a blank line missing?"
            notes.append((sentence.line, what))
    if len(illegal) > len(parsed.sentences) / 2:
        count = f"{len(illegal):,} illegal transitions in {len(parsed.sentences):,} sentences"
        yield f"{path}:{illegal[0][0]}: {count}, the first here: is {scheme} the right scheme?"
    for line, what in sorted(notes, key=lambda note: note[0]):
        yield f"{path}:{line}: {what}"


def iter_illegal(path: str | Path, sentences: Sequence[Sentence], scheme: str) -> Iterator[tuple[int, str]]:
    """Line and description of every illegal transition. An entity cut by a blank line is one, at the blank line."""
    legal: set[tuple[str, str]] = set()
    columns = format_of(path) == "columns"
    reported = -1  # the sentence whose illegal start was reported with the end of the one before it
    for index, (_, tags, _) in enumerate(sentences):
        pairs = set(pairwise(tags)) - legal
        legal.update(pair for pair in pairs if schemes.may_follow(*pair, scheme))
        if pairs <= legal and schemes.may_start(tags[0], scheme) and schemes.may_stop(tags[-1], scheme):
            continue
        after = sentences[index + 1].tags[0] if index + 1 < len(sentences) else schemes.OUTSIDE
        for i in schemes.illegal_positions(tags, scheme):
            line = line_of(path, sentences[index], i)
            if i == len(tags) and columns and schemes.continues(tags[-1], after, scheme):
                reported = index + 1
                yield line, f"the end of a sentence cuts an entity, {tags[-1]} before it and {after} after it"
            elif i == len(tags):
                yield line, f"{tags[-1]} ends the sentence"
            elif i > 0:
                yield line, f"{tags[i]} follows {tags[i - 1]} (token {i + 1} of the sentence)"
            elif index != reported:
                yield line, f"{tags[0]} starts the sentence"


def tags_train_lacks(files: Mapping[str, str | Path], splits: Mapping[str, Sequence[Sentence]]) -> list[str]:
    """One warning for each of dev and test that holds tags which train lacks: a model cannot learn them."""
    warnings = []
    for split, missing in _missing_tags(files, splits).items():
        if not missing:
            continue
        known = {schemes.split(tag)[1] for sentence in splits["train"] for tag in sentence.tags}
        types = sorted({schemes.split(tag)[1] for tag in missing} - known)
        noun = "type" if len(types) == 1 else "types"
        what = f"{split} has the {noun} {', '.join(types)}, which train lacks" if types else f"{split} has known types"
        tags = ", ".join(f"{tag} (line {line})" for tag, line in missing.items())
        warnings.append(f"{files[split]}:{min(missing.values())}: {what}; tags that train lacks: {tags}")
    return warnings


def _missing_tags(
    files: Mapping[str, str | Path], splits: Mapping[str, Sequence[Sentence]]
) -> dict[str, dict[str, int]]:
    """For dev and test: tags that train lacks, with the line of the first."""
    known = set().union(*(sentence.tags for sentence in splits["train"]))
    found: dict[str, dict[str, int]] = {"dev": {}, "test": {}}
    for split, lines in found.items():
        for sentence in splits[split]:
            for tag in sorted(set(sentence.tags) - known - lines.keys(), key=sentence.tags.index):
                lines[tag] = line_of(files[split], sentence, sentence.tags.index(tag))
    return found


# Statistics -----------------------------------------------------------------------------------------------------------


def check(corpus: Corpus) -> dict[str, Any]:
    """The figures of a corpus, ready for JSON."""
    missing = _missing_tags(corpus.files, corpus.splits)
    known = set().union(*(sentence.tokens for sentence in corpus.train))
    splits = {}
    for split, sentences in corpus.splits.items():
        path = corpus.files[split]
        splits[split] = _count(path, sentences, corpus.scheme)
        splits[split]["format"] = "generated" if corpus.embedded_sample else format_of(path)
        splits[split]["sha256"] = corpus.sha256[split]
        if split != "train":
            splits[split]["unseen_tokens"] = _unseen(sentences, known)
            splits[split]["tags_train_lacks"] = {tag: f"{path}:{line}" for tag, line in missing[split].items()}
    return {
        "path": corpus.path,
        "embedded_sample": corpus.embedded_sample,
        "scheme": corpus.scheme,
        "tags": sorted(set().union(*(sentence.tags for split in corpus.splits.values() for sentence in split))),
        "splits": splits,
        "duplicates_across": _duplicates_across(corpus),
        "warnings": list(corpus.warnings),
    }


def _count(path: str, sentences: Sequence[Sentence], scheme: str) -> dict[str, Any]:
    lengths = sorted(len(sentence.tokens) for sentence in sentences)
    longest = max(sentences, key=lambda sentence: len(sentence.tokens))
    entities = Counter(span.type for sentence in sentences for span in schemes.to_spans(sentence.tags, scheme))
    illegal = [f"{path}:{line}: {what}" for line, what in iter_illegal(path, sentences, scheme)]
    first: dict[tuple[str, ...], Sentence] = {}
    repeats = []
    for sentence in sentences:
        if sentence.tokens in first:
            repeats.append((first[sentence.tokens], sentence))
        else:
            first[sentence.tokens] = sentence
    return {
        "file": path,
        "sentences": len(sentences),
        "tokens": sum(lengths),
        "entities": dict(sorted(entities.items())),
        "longest": {"tokens": len(longest.tokens), "place": f"{path}:{longest.line}"},
        "lengths": {
            **{f"p{percent}": lengths[ceil(len(lengths) * percent / 100) - 1] for percent in (50, 90, 99)},
            "max": lengths[-1],
        },
        "duplicates": _duplicates(path, path, repeats),
        "illegal_transitions": {"count": len(illegal), "places": illegal[:PLACES]},
    }


def _duplicates(path: str, path_again: str, pairs: Sequence[tuple[Sentence, Sentence]]) -> dict[str, Any]:
    """Counts of `pairs` of sentences of the same tokens: the first one, and the one that repeats it."""
    places = [[f"{path}:{first.line}", f"{path_again}:{again.line}"] for first, again in pairs[:PLACES]]
    differ = sum(first.tags != again.tags for first, again in pairs)
    return {"sentences": len(pairs), "tagged_differently": differ, "places": places}


def _duplicates_across(corpus: Corpus) -> list[dict[str, Any]]:
    """For each two splits: the sentences of the second whose tokens also stand in the first."""
    found = []
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        first: dict[tuple[str, ...], Sentence] = {}
        for sentence in corpus.splits[one]:
            first.setdefault(sentence.tokens, sentence)
        pairs = [(first[again.tokens], again) for again in corpus.splits[other] if again.tokens in first]
        found.append({"splits": [one, other], **_duplicates(corpus.files[one], corpus.files[other], pairs)})
    return found


def _unseen(sentences: Sequence[Sentence], known: set[str]) -> dict[str, Any]:
    counts = Counter(token for sentence in sentences for token in sentence.tokens if token not in known)
    examples = [token for token, _ in counts.most_common(2 * PLACES)]
    return {"distinct": len(counts), "occurrences": counts.total(), "examples": examples}


# Text -----------------------------------------------------------------------------------------------------------------


def format_check(report: dict[str, Any]) -> str:
    """The report as text: a table of counts, a table of entities, then the findings."""
    splits: dict[str, dict[str, Any]] = report["splits"]
    formats = ", ".join(dict.fromkeys(split["format"] for split in splits.values()))
    types = sorted(set().union(*(split["entities"] for split in splits.values())))
    parts = [
        f"{report['path']}: {formats}, scheme {report['scheme']}, {len(report['tags'])} tags",
        table(["", *splits], [[name, *map(count, splits.values())] for name, count in COUNTS.items()]),
        table(
            ["entities", *splits],
            [
                *([type_, *(split["entities"].get(type_, 0) for split in splits.values())] for type_ in types),
                ["all", *(sum(split["entities"].values()) for split in splits.values())],
            ],
        ),
        "\n".join(_findings(report)),
    ]
    return "\n\n".join(part for part in parts if part)


COUNTS = {
    "sentences": lambda split: split["sentences"],
    "tokens": lambda split: split["tokens"],
    "tokens a sentence, median": lambda split: split["lengths"]["p50"],
    "  90th percentile": lambda split: split["lengths"]["p90"],
    "  99th percentile": lambda split: split["lengths"]["p99"],
    "  longest": lambda split: split["lengths"]["max"],
    "duplicates within": lambda split: split["duplicates"]["sentences"],
    "illegal transitions": lambda split: split["illegal_transitions"]["count"],
    "tokens unseen in train, distinct": lambda split: split.get("unseen_tokens", {}).get("distinct", "-"),
    "  occurrences": lambda split: split.get("unseen_tokens", {}).get("occurrences", "-"),
    "tags train lacks": lambda split: len(split["tags_train_lacks"]) if "tags_train_lacks" in split else "-",
}
"""Rows of the first table: how a split's report yields the figure."""


def _findings(report: dict[str, Any]) -> Iterator[str]:
    for name, split in report["splits"].items():
        yield f"longest sentence of {name}: {split['longest']['tokens']:,} tokens at {split['longest']['place']}"
    for name, split in report["splits"].items():
        if split.get("unseen_tokens", {}).get("examples"):
            yield f"{name} tokens unseen in train, such as: {' '.join(map(_shown, split['unseen_tokens']['examples']))}"
    for name, split in report["splits"].items():
        yield from _format_duplicates(f"within {name}", split["duplicates"])
    for pair in report["duplicates_across"]:
        yield from _format_duplicates(f"of {pair['splits'][1]} also in {pair['splits'][0]}", pair)
    yield from (f"warning: {warning}" for warning in report["warnings"])


def _format_duplicates(where: str, duplicates: dict[str, Any]) -> Iterator[str]:
    if not duplicates["sentences"]:
        return
    noun = "sentence" if duplicates["sentences"] == 1 else "sentences"
    yield f"{duplicates['sentences']:,} {noun} {where} ({duplicates['tagged_differently']:,} tagged differently):"
    yield from (f"  {again} repeats {first}" for first, again in duplicates["places"])
    if duplicates["sentences"] > len(duplicates["places"]):
        yield f"  and {duplicates['sentences'] - len(duplicates['places']):,} more"


def _shown(token: str) -> str:
    return token if token.isprintable() and not token.isspace() else repr(token)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as text: the first column to the left, the others to the right."""
    cells = [list(header), *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        line = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(line).rstrip())
    return "\n".join(lines)
