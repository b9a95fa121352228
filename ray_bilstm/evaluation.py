"""A model on labelled sentences, in figures and by its mistakes.

Besides the scores of `metrics.py`: how far they would move on other sentences of the kind (bootstrap intervals over
sentences), what kind the mistakes are (`mistakes.py`), which types are taken for which, how well entities are found
that the training data has not, and the sentences that went wrong, worst first.

Pure functions of gold and predicted entities, JSON-ready: the same predictions give the same report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_bilstm.check import table
from ray_bilstm.formats import Sentence
from ray_bilstm.metrics import Scorer, entity_scores
from ray_bilstm.mistakes import KINDS, Comparison, Mistake, compare
from ray_bilstm.spelling import spell
from ray_bilstm.tags import Span, from_spans, to_spans

if TYPE_CHECKING:
    from ray_bilstm.predict import Entity

Record = dict[str, Any]

RESAMPLES = 2000
NONE = "none"


def evaluate(
    sentences: Sequence[Sentence],
    predicted: Sequence[Sequence[Entity]],
    *,
    tags: Sequence[str],
    scheme: str,
    train: Iterable[Sentence] | None = None,
    errors: int = 10,
) -> Record:
    """The report on `sentences`, for which a model with these `tags` has `predicted` those entities.

    All are tagged in one `scheme`, those of `train` too, whose entities count as seen. The `errors` worst sentences are
    told one by one.
    """
    gold = [to_spans(sentence.tags, scheme) for sentence in sentences]
    spans = [[Span(e.start, e.end, e.type) for e in entities] for entities in predicted]
    compared = [compare(*both) for both in zip(gold, spans, strict=True)]
    tags = (*tags, *sorted({tag for sentence in sentences for tag in sentence.tags} - set(tags)))
    report = _scores(sentences, spans, Scorer(tags, scheme))
    types = list(report["per_type"])
    intervals = _intervals(_counts(gold, spans, types))
    for row, (low, high) in zip((report["entity"], *report["per_type"].values()), intervals, strict=True):
        row |= {"low95": low, "high95": high}
    kinds = {
        "gold": Counter(mistake.kind for one in compared for mistake in one.gold),
        "predicted": Counter(mistake.kind for one in compared for mistake in one.predicted),
    }
    report |= {
        "sentences": len(sentences),
        "sentences_wrong": sum(bool(one.gold or one.predicted) for one in compared),
        "mistakes": {side: {kind: counts[kind] for kind in KINDS} for side, counts in kinds.items()},
        "types": {"types": [*types, NONE], "matrix": _type_matrix(compared, [*types, NONE]).tolist()},
    }
    if train is not None:
        known = {entity for sentence in train for entity in _names(sentence, to_spans(sentence.tags, scheme))}
        report["seen"] = _seen(sentences, gold, spans, known)
    report["errors"] = [*_worst(sentences, predicted, compared)][:errors]
    return report


def _scores(sentences: Sequence[Sentence], spans: Sequence[Sequence[Span]], scorer: Scorer) -> Record:
    """As `result.json` has them. A legal tag sequence is what its entities say."""
    ids = {tag: i for i, tag in enumerate(scorer.tags)}
    lengths = np.array([len(sentence.tokens) for sentence in sentences], np.int64)
    gold = [ids[tag] for sentence in sentences for tag in sentence.tags]
    made = (from_spans(found, length, scorer.scheme) for found, length in zip(spans, lengths.tolist(), strict=True))
    guessed = [ids[tag] for found in made for tag in found]
    return scorer.scores(scorer.count(np.array(gold, np.int64), np.array(guessed, np.int64), lengths))


def _counts(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], types: Sequence[str]) -> np.ndarray:
    """Entities of each sentence and type, in gold, predicted and in both: (sentences, K, 3)."""
    place = {type: i for i, type in enumerate(types)}
    counts_SK3 = np.zeros((len(gold), len(types), 3))
    for counts_K3, right, guessed in zip(counts_SK3, gold, predicted, strict=True):
        for column, spans in enumerate((right, guessed, set(right) & set(guessed))):
            for span in spans:
                counts_K3[place[span.type], column] += 1
    return counts_SK3


def _intervals(counts_SK3: np.ndarray) -> list[tuple[float | None, float | None]]:
    """The middle 95 % of F1 over resampled sentences: of all types together, then of each. None without entities.

    Sentences with equal counts are drawn together: how often each kind comes is a multinomial.
    """
    S, K, _ = counts_SK3.shape
    if not S:
        return [(None, None)] * (K + 1)
    flat_SX = np.concatenate((counts_SK3.sum(1, keepdims=True), counts_SK3), 1).reshape(S, 3 * (K + 1))
    kinds_UX, often_U = np.unique(flat_SX, axis=0, return_counts=True)
    drawn_RU = np.random.default_rng(0).multinomial(S, often_U / S, size=RESAMPLES)
    sums_RK3 = (drawn_RU @ kinds_UX).reshape(RESAMPLES, K + 1, 3)
    f1_RK = 2 * sums_RK3[:, :, 2] / np.maximum(sums_RK3[:, :, :2].sum(2), 1)
    low_K, high_K = np.quantile(f1_RK, [0.025, 0.975], axis=0)
    some_K = flat_SX.sum(0).reshape(K + 1, 3).any(1)
    triples = zip(low_K.tolist(), high_K.tolist(), some_K.tolist(), strict=True)
    return [(low, high) if some else (None, None) for low, high, some in triples]


def _type_matrix(compared: Sequence[Comparison], types: Sequence[str]) -> np.ndarray:
    """Gold entities by type (row) and that of the predicted one that overlaps most (column); spurious ones below."""
    place = {type: i for i, type in enumerate(types)}
    matrix = np.zeros((len(types), len(types)), np.int64)
    for one in compared:
        for span in one.correct:
            matrix[place[span.type], place[span.type]] += 1
        for _, gold, guess in (*one.gold, *(mistake for mistake in one.predicted if mistake.gold is None)):
            row, column = (NONE if span is None else span.type for span in (gold, guess))
            matrix[place[row], place[column]] += 1
    return matrix


def _names(sentence: Sentence, spans: Iterable[Span]) -> Iterator[tuple[str, str]]:
    """Text and type of each entity."""
    for start, end, type in spans:
        yield spell(sentence.tokens[start:end]), type


def _seen(
    sentences: Sequence[Sentence],
    gold: Sequence[Sequence[Span]],
    predicted: Sequence[Sequence[Span]],
    known: set[tuple[str, str]],
) -> Record:
    """Scores of the entities whose text train has with the same type, and of the others. A predicted entity belongs
    where its own text does."""
    counts = np.zeros((2, 3), np.int64)
    for sentence, right, guessed in zip(sentences, gold, predicted, strict=True):
        for column, spans in enumerate((right, guessed, sorted(set(right) & set(guessed)))):
            for name in _names(sentence, spans):
                counts[int(name in known), column] += 1
    return {"seen": entity_scores(*counts[1].tolist()), "unseen": entity_scores(*counts[0].tolist())}


def _worst(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[Entity]], compared: Sequence[Comparison]
) -> Iterator[Record]:
    """The sentences that went wrong: most mistakes first, of these the one that the model was surest of."""
    ranked = []
    for i, one in enumerate(compared):
        if one.gold or one.predicted:
            wrong = {m.predicted for m in one.predicted}
            sure = sum(e.score or 0.0 for e in predicted[i] if Span(e.start, e.end, e.type) in wrong)
            ranked.append((-len(one.mistakes), -sure, i))
    for _, _, i in sorted(ranked):
        sentence, chances = sentences[i], {Span(e.start, e.end, e.type): e.score for e in predicted[i]}
        yield {
            "line": sentence.line,
            "tokens": list(sentence.tokens),
            "correct": [_entity(sentence, span, chances) for span in compared[i].correct],
            "mistakes": [_told(mistake, sentence, chances) for mistake in compared[i].mistakes],
        }


def _told(mistake: Mistake, sentence: Sentence, chances: dict[Span, float | None]) -> Record:
    return {
        "kind": mistake.kind,
        "gold": mistake.gold and _entity(sentence, mistake.gold),
        "predicted": mistake.predicted and _entity(sentence, mistake.predicted, chances),
    }


def _entity(sentence: Sentence, span: Span, chances: dict[Span, float | None] | None = None) -> Record:
    """An entity, with its score where it was predicted."""
    told = {"text": spell(sentence.tokens[span.start : span.end]), **span._asdict()}
    return told if chances is None else told | {"score": chances[span]}


# Text -----------------------------------------------------------------------------------------------------------------


def format_evaluation(report: Record, *, path: str) -> str:
    """The report as text; `path` is the file that the lines of wrong sentences are of."""
    rows = {"entity": report["entity"], "token": report["token"], **report["per_type"]}
    parts = [
        table(("", "precision", "recall", "F1", "95 % interval", "support"), [_row(*row) for row in rows.items()]),
        _format_seen(report.get("seen")),
        _format_kinds(report["mistakes"]),
        _format_types(**report["types"]),
        *(_format_error(error, path) for error in report["errors"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _row(name: str, scores: Record) -> list[Any]:
    figures = [f"{scores[kind]:.4f}" for kind in ("precision", "recall", "f1")]
    some = scores.get("low95") is not None
    return [name, *figures, f"{scores['low95']:.4f} {scores['high95']:.4f}" if some else "", scores.get("support", "")]


def _format_seen(seen: Record | None) -> str:
    if seen is None:
        return "entities seen in train and not: name the training data with --train"
    rows = [[f"{name} in train", *_row(name, scores)[1:4], scores["support"]] for name, scores in seen.items()]
    return table(("entities", "precision", "recall", "F1", "support"), rows)


def _format_kinds(mistakes: Record) -> str:
    return table(("mistakes", *mistakes), [[kind, *(side[kind] for side in mistakes.values())] for kind in KINDS])


def _format_types(types: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    rows = [[type, *(count or "." for count in row)] for type, row in zip(types, matrix, strict=True)]
    return "gold (row) and predicted (column) that overlap most\n" + table(("", *types), rows)


def _format_error(error: Record, path: str) -> str:
    lines = [f"{path}:{error['line']}: {spell(error['tokens'])}"]
    for mistake in error["mistakes"]:
        gold, guess = mistake["gold"], mistake["predicted"]
        told = [f"{gold['text']} {gold['type']}"] if gold else []
        if guess:
            score = "" if guess["score"] is None else f" {guess['score']:.2f}"
            told.append(f"predicted {guess['text']} {guess['type']}{score}")
        lines.append(f"  {mistake['kind']}: {', '.join(told)}")
    return "\n".join(lines)
