"""Use a trained model: text in, entities out; or a labelled file in, scores out.

from ray_bilstm import Tagger
Tagger.load("runs/x/best").predict("沈遥：女，中国国籍，无境外居留权，")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch

from ray_bilstm.batches import Batch, Shard, iter_eval_batches
from ray_bilstm.corpus import Sentence
from ray_bilstm.ensemble import Ensemble, Reading
from ray_bilstm.ensemble_directory import read_tagger
from ray_bilstm.frozen import POSITIONS, SENTENCES
from ray_bilstm.loop import EVAL_BATCH_SIZE, evaluate
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf, freeze
from ray_bilstm.paths import Chunks, Entities, Lattice, best_paths
from ray_bilstm.precision import Precision
from ray_bilstm.recursions import viterbi
from ray_bilstm.spelling import spell
from ray_bilstm.vocab import Vocab
from ray_bilstm.windows import iter_whole, iter_windows

AHEAD_TEXTS, AHEAD_CHARACTERS = 2048, 2**18
"""How far `predict_iter` reads ahead, so that texts of one length share a batch; one text may be longer."""


class Entity(NamedTuple):
    """`text[start:end]` of the input is an entity of `type`; offsets count Unicode code points.

    `score` is the probability that exactly this span is an entity of exactly this type: the share of all legal paths of
    the CRF that say so, which is 1 where the model has no doubt. None where no scores were asked for.
    """

    text: str
    type: str
    start: int
    end: int
    score: float | None = None


class Alternative(NamedTuple):
    """One way to read a text."""

    entities: list[Entity]
    tags: list[str]
    score: float
    """probability of exactly these tags, among all legal sequences"""


class Tagger:
    """A model, or an ensemble of several, with its vocabulary. In a half `dtype`, all but the CRF is computed in it: a
    quarter faster in bfloat16 on a CPU that has units for it."""

    def __init__(
        self,
        model: BiLstmCrf | Ensemble,
        vocab: Vocab,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.vocab = vocab
        self.precision = Precision("O0" if dtype is torch.float32 else "O2", dtype=dtype, device=self.device)
        self.precision.prepare(self.model)
        freeze(self.model)
        self.scorer = Scorer(vocab.tags, vocab.scheme)
        self.names = np.array(vocab.tags, object)
        scheme = (self.scorer.continues_TT, self.scorer.begins_T, self.scorer.ends_T, self.scorer.type_T)
        self.chunks = Chunks(*map(torch.from_numpy, scheme))

    @classmethod
    def load(
        cls, directory: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tagger:
        """From the directory of a model, such as `runs/x/best`, or of an ensemble. Raises CheckpointError for a damaged
        one."""
        return cls(*read_tagger(directory), device=device, dtype=dtype)

    @overload
    def predict(self, text: str, *, scores: bool = ..., whole: bool = ...) -> list[Entity]: ...  # type: ignore[overload-overlap]
    @overload
    def predict(
        self, text: Sequence[Sequence[str]], *, scores: bool = ..., whole: bool = ...
    ) -> list[list[Entity]]: ...
    def predict(
        self, text: str | Sequence[Sequence[str]], *, scores: bool = True, whole: bool = False
    ) -> list[Entity] | list[list[Entity]]:
        """The entities of a text, or of each of several, in order of appearance.

        A text of more than 512 characters is read in parts, cut where sentences end (`windows.py`), or else `whole`.
        Several texts give what each gives alone. One of several may be a list of tokens: offsets then count tokens.
        Without `scores` it takes about a third less time.
        """
        if isinstance(text, str):
            return self._entities([text], scores=scores, whole=whole)[0]
        return self._entities(text, scores=scores, whole=whole)

    def predict_iter(self, texts: Iterable[Sequence[str]], *, scores: bool = True) -> Iterator[list[Entity]]:
        """The same for any number of texts, one after another, in constant memory."""
        waiting: list[Sequence[str]] = []
        size = 0
        for text in texts:
            waiting.append(text)
            size += len(text)
            if len(waiting) == AHEAD_TEXTS or size >= AHEAD_CHARACTERS:
                yield from self._entities(waiting, scores=scores)
                waiting, size = [], 0
        yield from self._entities(waiting, scores=scores)

    @torch.no_grad()
    def nbest(self, text: Sequence[str], count: int) -> list[Alternative]:
        """The `count` best ways to tag a text, best first; fewer, where it has no more. The text is read whole.

        An ensemble ranks them as it votes, and scores them as the mixture of its members.
        """
        if count < 1:
            raise ValueError(f"count: got {count}, expected 1 or more")
        shard = Shard(self.vocab.encode([text]), np.arange(1), device=self.device)
        (batch,) = iter_eval_batches(shard, batch_size=1)
        readings = self._read(batch)
        emissions_BLT, legal = self._vote(readings, batch)
        paths_KL = best_paths(emissions_BLT[0, : len(text)], legal, count=count)
        lattices = _lattices(readings, batch)
        ids, lengths = paths_KL.numpy().ravel(), np.full(len(paths_KL), len(text))
        _, chances = self._chances(lattices, ids, lengths, np.zeros_like(lengths))
        found: list[list[Entity]] = [[] for _ in paths_KL]
        for (path, start, end, type), chance in zip(self.scorer.spans(ids, lengths), chances.tolist(), strict=True):
            found[path].append(Entity(spell(text[start:end]), type, start, end, chance))
        tags = self.names[paths_KL.numpy()].tolist()
        scores = torch.stack([lattice.path_probabilities(paths_KL) for lattice in lattices]).mean(0).tolist()
        return [Alternative(*one) for one in zip(found, tags, scores, strict=True)]

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The tag of each token of each sentence, which is read whole; a string is a sequence of characters."""
        ids, lengths, _ = self._decode(sentences, scores=False)
        tags, ends = self.names[ids].tolist(), np.cumsum(lengths)
        return [tags[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]

    def _entities(self, texts: Sequence[Sequence[str]], *, scores: bool, whole: bool = False) -> list[list[Entity]]:
        cut = iter_whole if whole else iter_windows
        windows = [(i, window) for i, text in enumerate(texts) for window in cut(text)]
        ids, lengths, chances = self._decode([texts[i][w.left : w.right] for i, w in windows], scores=scores)
        offsets = (np.cumsum(lengths) - lengths).tolist()
        found: list[list[Entity]] = [[] for _ in texts]
        for place, start, end, type in self.scorer.spans(ids, lengths):
            i, window = windows[place]
            begin, stop = window.left + start, window.left + end
            if window.start <= begin < window.end and (not found[i] or begin >= found[i][-1].end):
                chance = float(chances[offsets[place] + start]) if scores else None
                found[i].append(Entity(spell(texts[i][begin:stop]), type, begin, stop, chance))
        return found

    @torch.no_grad()
    def _decode(self, sentences: Sequence[Sequence[str]], *, scores: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tag ids of the sentences laid end to end, and their lengths; and, given `scores`, the probability of each
        entity at the place of its first token."""
        encoded = self.vocab.encode(sentences)
        shard = Shard(encoded, np.arange(len(sentences)), device=self.device)
        ids = np.zeros(len(encoded.tags), np.int64)
        chances = np.zeros(len(ids) if scores else 0)
        starts = np.cumsum(encoded.lengths) - encoded.lengths
        for batch, readings in self._iter_read(shard):
            emissions_BLT, legal = self._vote(readings, batch)
            decoded_BL = viterbi(emissions_BLT, batch.lengths_B, *legal)[0].cpu().numpy()
            positions_L = np.arange(decoded_BL.shape[1])
            mask_BL = positions_L < encoded.lengths[batch.rows][:, None]
            places = (starts[batch.rows][:, None] + positions_L)[mask_BL]
            ids[places] = decoded_BL[mask_BL]
            if scores:
                lengths = encoded.lengths[batch.rows]
                first, chance = self._chances(_lattices(readings, batch), ids[places], lengths, np.arange(len(lengths)))
                chances[places[first]] = chance
        return ids, encoded.lengths, chances

    def _iter_read(self, shard: Shard) -> Iterator[tuple[Batch, list[Reading]]]:
        """A frozen model reads large batches fastest; what comes after gets small ones, which have less padding."""
        large = (SENTENCES, POSITIONS) if self.device.type == "cpu" else (EVAL_BATCH_SIZE, None)
        for batch in iter_eval_batches(shard, batch_size=large[0], positions=large[1]):
            readings = self._read(batch)
            for start in range(0, len(batch.rows), EVAL_BATCH_SIZE):
                part = batch.part(start, start + EVAL_BATCH_SIZE)
                rows, size = slice(start, start + EVAL_BATCH_SIZE), part.chars_BL.shape[1]
                yield part, [Reading(emissions_BLT[rows, :size], scores) for emissions_BLT, scores in readings]

    def _read(self, batch: Batch) -> list[Reading]:
        """What the model, or each of the ensemble, makes of a batch."""
        if isinstance(self.model, Ensemble):
            return self.model.read(batch)
        return [Reading(self.model.emissions(batch).float(), self.model.crf.legal_scores())]

    def _vote(self, readings: list[Reading], batch: Batch) -> Reading:
        """What the best path is of."""
        return self.model.vote(readings, batch.lengths_B) if isinstance(self.model, Ensemble) else readings[0]

    def _chances(
        self, lattices: Sequence[Lattice], ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """First token and probability of each entity of tag sequences laid end to end, `rows[i]` being the sentence of
        the batch that the i-th is of. Of several models, the mean is that of their mixture."""
        first, last, type = self.scorer.entities(ids, lengths)
        ends = np.cumsum(lengths)
        sequence = np.searchsorted(ends, first, side="right")
        offset = (ends - lengths)[sequence]
        places = Entities(*map(torch.from_numpy, (rows[sequence], first - offset, last - offset, type)))
        chances = [lattice.entity_probabilities(places, self.chunks) for lattice in lattices]
        return first, torch.stack(chances).mean(0).numpy()

    def score(self, sentences: Iterable[Sentence]) -> dict[str, Any]:
        """Entity, token and per-type scores on labelled sentences in the model's tag scheme (see `metrics.py`)."""
        sentences = list(sentences)
        vocab = self.vocab.with_tags_of(sentences)
        encoded = vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences])
        shard = Shard(encoded, np.arange(len(sentences)), device=self.device)
        scorer = Scorer(vocab.tags, vocab.scheme)
        return scorer.scores(evaluate(self.model, shard, scorer, precision=self.precision))


def _lattices(readings: Iterable[Reading], batch: Batch) -> list[Lattice]:
    return [Lattice(emissions_BLT, batch.lengths_B, scores) for emissions_BLT, scores in readings]
