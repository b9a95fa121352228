"""Counts on integer tag ids, and the scores they give.

Counts are additive: ranks and batches add integers, so that 1 and 8 workers report the same scores to the last digit.
Two figures stand side by side, because a corpus's published rows may mean either:

- *entity*: strict, micro-averaged. An entity is a chunk that the tag scheme calls whole (`tags.py`); it counts as found
  when start, end and type are the same. seqeval gives the same number in strict mode once BMES is renamed BIOES.
- *token*: precision, recall and F1 of each tag, `O` included, averaged with the tags' support as weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ray_bilstm import tags as schemes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """What evaluation adds up. T tags, K entity types."""

    confusion_TT: np.ndarray
    """tokens by gold tag (row) and predicted tag (column)"""
    entities_K3: np.ndarray
    """by type: entities in gold, predicted, and in both"""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            confusion_TT=self.confusion_TT + other.confusion_TT, entities_K3=self.entities_K3 + other.entities_K3
        )

    def to_array(self) -> np.ndarray:
        """All counts in one flat int64 array, for one collective sum."""
        return np.concatenate((self.confusion_TT.ravel(), self.entities_K3.ravel()))


class Scorer:
    """Counts predictions for one list of tags and one scheme, and turns counts into scores."""

    def __init__(self, tags: Sequence[str], scheme: str) -> None:
        self.tags = tuple(tags)
        self.scheme = scheme
        self.types = tuple(sorted({schemes.split(tag)[1] for tag in tags} - {""}))
        self.continues_TT = np.array([[schemes.continues(a, b, scheme) for b in tags] for a in tags], bool)
        self.begins_T = np.array([schemes.begins(tag, scheme) for tag in tags])
        self.ends_T = np.array([schemes.ends(tag, scheme) for tag in tags])
        self.type_T = np.array([self.types.index(schemes.split(tag)[1]) if tag != "O" else -1 for tag in tags])

    def count(self, gold: np.ndarray, predicted: np.ndarray, lengths: np.ndarray) -> Counts:
        """Counts of sentences laid end to end: tag ids `gold` and `predicted` (tokens,), `lengths` (sentences,)."""
        T, K = len(self.tags), len(self.types)
        pairs = np.bincount(gold.astype(np.int64) * T + predicted, minlength=T * T)
        first = np.zeros(len(gold) + 1, bool)
        first[np.concatenate(([0], np.cumsum(lengths)))] = True
        gold_ends, gold_types = self._entities(gold, first)
        ends, types = self._entities(predicted, first)
        both = (gold_ends == ends) & (gold_types == types)
        kinds = (gold_types, types, np.where(both, types, -1))
        entities = [np.bincount(kind + 1, minlength=K + 1)[1:] for kind in kinds]
        return Counts(confusion_TT=pairs.reshape(T, T), entities_K3=np.stack(entities, 1))

    def _entities(self, ids: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each token that begins an entity, the entity's last token and type; -1 and -1 for the others."""
        ends, types = np.full(len(ids), -1), np.full(len(ids), -1)
        is_start = first[:-1].copy()
        is_start[1:] |= ~self.continues_TT[ids[:-1], ids[1:]]
        starts = np.flatnonzero(is_start)
        lasts = np.append(starts, len(ids))[1:] - 1
        whole = self.begins_T[ids[starts]] & self.ends_T[ids[lasts]]
        starts, lasts = starts[whole], lasts[whole]
        ends[starts], types[starts] = lasts, self.type_T[ids[starts]]
        return ends, types

    def entities(self, ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First token, last token and type of each entity of sentences laid end to end, in order of appearance."""
        first = np.zeros(len(ids) + 1, bool)
        first[np.concatenate(([0], np.cumsum(lengths)))] = True
        lasts, types = self._entities(ids, first)
        starts = np.flatnonzero(lasts >= 0)
        return starts, lasts[starts], types[starts]

    def spans(self, ids: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[int, int, int, str]]:
        """(sentence, start, end, type) of each entity of sentences laid end to end, in order of appearance."""
        starts, lasts, types = self.entities(ids, lengths)
        edges = np.concatenate(([0], np.cumsum(lengths)))
        sentences = np.searchsorted(edges, starts, side="right") - 1
        columns = (sentences, starts - edges[sentences], lasts + 1 - edges[sentences], types)
        for sentence, start, end, type in zip(*(column.tolist() for column in columns), strict=True):
            yield sentence, start, end, self.types[type]

    def from_array(self, array: np.ndarray) -> Counts:
        """The counts that `Counts.to_array` laid flat."""
        T, K = len(self.tags), len(self.types)
        confusion, entities = np.split(array, [T * T])
        return Counts(confusion_TT=confusion.reshape(T, T), entities_K3=entities.reshape(K, 3))

    def zero(self) -> Counts:
        """Counts of no sentence."""
        return self.from_array(np.zeros(len(self.tags) ** 2 + 3 * len(self.types), np.int64))

    def scores(self, counts: Counts) -> dict[str, Any]:
        """Entity, token and per-type scores, JSON-ready, as `result.json` holds them."""
        total = counts.entities_K3.sum(0)
        rows = counts.entities_K3.tolist()
        per_type = {type: entity_scores(*row) for type, row in zip(self.types, rows, strict=True)}
        return {
            "entity": entity_scores(*total.tolist()),
            "token": _token_scores(counts.confusion_TT),
            "per_type": per_type,
            "confusion": {"tags": list(self.tags), "matrix": counts.confusion_TT.tolist()},
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def entity_scores(gold: int, predicted: int, correct: int) -> dict[str, float]:
    """Scores of so many entities in gold, predicted and in both."""
    return {
        "precision": _ratio(correct, predicted),
        "recall": _ratio(correct, gold),
        "f1": _ratio(2 * correct, gold + predicted),
        "support": gold,
    }


def _token_scores(confusion_TT: np.ndarray) -> dict[str, float]:
    """sklearn's `average="weighted"` with zero_division=0."""
    support_T, predicted_T, correct_T = confusion_TT.sum(1), confusion_TT.sum(0), confusion_TT.diagonal()
    precision_T = correct_T / np.maximum(predicted_T, 1)
    recall_T = correct_T / np.maximum(support_T, 1)
    f1_T = 2 * correct_T / np.maximum(support_T + predicted_T, 1)
    tokens = max(int(support_T.sum()), 1)
    named = {"precision": precision_T, "recall": recall_T, "f1": f1_T}
    return {name: float((values * support_T).sum() / tokens) for name, values in named.items()}
