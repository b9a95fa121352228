"""Use a trained model: text in, entities out; or a labelled file in, scores out.

from ray_bilstm import Tagger
Tagger.load("runs/x/best").predict("高勇：男，中国国籍，无境外居留权，")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch

from ray_bilstm.batches import Shard, iter_eval_batches
from ray_bilstm.corpus import Sentence
from ray_bilstm.ensemble import Ensemble
from ray_bilstm.ensemble_directory import read_tagger
from ray_bilstm.loop import EVAL_BATCH_SIZE, evaluate
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.vocab import Vocab


class Entity(NamedTuple):
    """`text[start:end]` of the input is an entity of `type`; offsets count Unicode code points."""

    text: str
    type: str
    start: int
    end: int


class Tagger:
    """A model, or an ensemble of several, with its vocabulary. In a half `dtype`, all but the CRF is computed in it:
    about twice as fast in bfloat16 on a CPU that has units for it."""

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
        self.scorer = Scorer(vocab.tags, vocab.scheme)
        self.names = np.array(vocab.tags, object)

    @classmethod
    def load(
        cls, directory: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tagger:
        """From the directory of a model, such as `runs/x/best`, or of an ensemble. Raises CheckpointError for a damaged
        one."""
        return cls(*read_tagger(directory), device=device, dtype=dtype)

    @overload
    def predict(self, text: str) -> list[Entity]: ...  # type: ignore[overload-overlap]  # a str is a sequence too
    @overload
    def predict(self, text: Sequence[str]) -> list[list[Entity]]: ...
    def predict(self, text: str | Sequence[str]) -> list[Entity] | list[list[Entity]]:
        """The entities of a text, or of each of several, in order of appearance. A character is a token."""
        if isinstance(text, str):
            return self.predict([text])[0]
        ids, lengths = self._decode(text)
        found: list[list[Entity]] = [[] for _ in text]
        for sentence, start, end, type in self.scorer.spans(ids, lengths):
            found[sentence].append(Entity(text[sentence][start:end], type, start, end))
        return found

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The tag of each token of each sentence; a string is a sequence of characters."""
        ids, lengths = self._decode(sentences)
        tags, ends = self.names[ids].tolist(), np.cumsum(lengths)
        return [tags[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]

    def _decode(self, sentences: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Tag ids of the sentences laid end to end, and their lengths."""
        encoded = self.vocab.encode(sentences)
        shard = Shard(encoded, np.arange(len(sentences)), device=self.device)
        ids = np.zeros(len(encoded.tags), np.int64)
        starts = np.cumsum(encoded.lengths) - encoded.lengths
        for batch in iter_eval_batches(shard, batch_size=EVAL_BATCH_SIZE):
            decoded_BL = self.model.decode(batch).cpu().numpy()
            positions_L = np.arange(decoded_BL.shape[1])
            mask_BL = positions_L < encoded.lengths[batch.rows][:, None]
            ids[(starts[batch.rows][:, None] + positions_L)[mask_BL]] = decoded_BL[mask_BL]
        return ids, encoded.lengths

    def score(self, sentences: Iterable[Sentence]) -> dict[str, Any]:
        """Entity, token and per-type scores on labelled sentences in the model's tag scheme (see `metrics.py`)."""
        sentences = list(sentences)
        vocab = self.vocab.with_tags_of(sentences)
        encoded = vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences])
        shard = Shard(encoded, np.arange(len(sentences)), device=self.device)
        scorer = Scorer(vocab.tags, vocab.scheme)
        return scorer.scores(evaluate(self.model, shard, scorer, precision=self.precision))
