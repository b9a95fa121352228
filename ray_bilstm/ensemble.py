"""Several models that vote as one: their marginals are averaged, and one Viterbi finds the best legal path.

The mean of the marginals of models is the marginal of their mixture, in which each model is right with the same
probability. The members share their tags, but may have been trained on other sentences: each sees the ids of its own
vocabulary, which it looks up in a table by those of a vocabulary that knows what any member knows.

Shapes: B sentences, L positions, T tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ray_bilstm.batches import Batch
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.recursions import ILLEGAL, expected_counts, viterbi
from ray_bilstm.vocab import PADDING, UNKNOWN, Vocab, VocabError


def merge(vocabs: Mapping[str, Vocab]) -> Vocab:
    """The vocabulary that knows all characters and bigrams of `vocabs`, which stand under the names of their models.

    Raises VocabError where their tags or schemes differ.
    """
    first, *others = vocabs
    expected = vocabs[first]
    for name in others:
        for what, got, wanted in (
            ("scheme", (vocabs[name].scheme,), (expected.scheme,)),
            ("tags", vocabs[name].tags, expected.tags),
        ):
            if got != wanted:
                raise VocabError(
                    f"{name}: got {what} {', '.join(got)}, expected {', '.join(wanted)} as in {first}: models that vote"
                    " share them"
                )
    return Vocab(
        chars=tuple(dict.fromkeys(chain.from_iterable(vocab.all_chars for vocab in vocabs.values()))),
        bigrams=tuple(dict.fromkeys(chain.from_iterable(vocab.all_bigrams for vocab in vocabs.values()))),
        tags=expected.tags,
        scheme=expected.scheme,
    )


class Reading(NamedTuple):
    """What a model makes of a batch."""

    emissions_BLT: Tensor
    scores: tuple[Tensor, Tensor, Tensor]
    """of transitions, start and end, with every illegal move at `ILLEGAL`"""


class Ensemble(nn.Module):
    """Models that vote; what calls `decode` need not know that they are several."""

    def __init__(self, members: Sequence[tuple[BiLstmCrf, Vocab]], vocab: Vocab) -> None:
        """`vocab`, from `merge`, is that of the batches."""
        super().__init__()
        self.members = nn.ModuleList(_Member(model, own, vocab) for model, own in members)
        crf = members[0][0].crf
        masks = (crf.allowed_TT, crf.allowed_start_T, crf.allowed_end_T)
        for name, mask in zip(("moves_TT", "start_T", "end_T"), masks, strict=True):
            self.register_buffer(name, torch.where(mask, 0.0, ILLEGAL), persistent=False)

    @torch.no_grad()
    def marginals(self, batch: Batch) -> Tensor:
        """Probability of each tag at each position among the legal paths: float32, (B, L, T), zero in the padding."""
        return torch.stack([model.marginals(own) for model, own in self._iter_own(batch)]).mean(0)

    @torch.no_grad()
    def expected_counts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, and how often each tag is expected right after each other one: (B, L, T) and (B, T, T)."""
        tags, moves = zip(*(model.expected_counts(own) for model, own in self._iter_own(batch)), strict=True)
        return torch.stack(tags).mean(0), torch.stack(moves).mean(0)

    def _iter_own(self, batch: Batch) -> Iterator[tuple[BiLstmCrf, Batch]]:
        """Each model, with the batch as it sees it."""
        for member in self.members:
            assert isinstance(member, _Member)
            yield member.model, member.translate(batch)

    @torch.no_grad()
    def decode(self, batch: Batch) -> Tensor:
        """Best legal tag sequence of each sentence: int64, (B, L), 0 in the padding."""
        emissions_BLT, scores = self.vote(self.read(batch), batch.lengths_B)
        return viterbi(emissions_BLT, batch.lengths_B, *scores)[0]

    @torch.no_grad()
    def read(self, batch: Batch) -> list[Reading]:
        """What each model makes of the batch."""
        return [Reading(model.emissions(own).float(), model.crf.legal_scores()) for model, own in self._iter_own(batch)]

    def vote(self, readings: Sequence[Reading], lengths_B: Tensor) -> Reading:
        """The logarithms of their averaged marginals, with the moves that are legal: what the best path is of."""
        marginals_BLT = torch.stack(
            [expected_counts(emissions_BLT, lengths_B, *scores)[0] for emissions_BLT, scores in readings]
        ).mean(0)
        moves_TT, start_T, end_T = self.buffers(recurse=False)
        log_BLT = marginals_BLT.clamp(min=torch.finfo(marginals_BLT.dtype).tiny).log()
        return Reading(log_BLT, (moves_TT, start_T, end_T))


class _Member(nn.Module):
    """One model, and the id of its own that stands for each id of the ensemble."""

    def __init__(self, model: BiLstmCrf, own: Vocab, vocab: Vocab) -> None:
        super().__init__()
        self.model = model
        self.chars: Tensor
        self.bigrams: Tensor
        self.register_buffer("chars", _table(own.all_chars, vocab.all_chars), persistent=False)
        self.register_buffer("bigrams", _table(own.all_bigrams, vocab.all_bigrams), persistent=False)

    def translate(self, batch: Batch) -> Batch:
        """The batch in the ids of this model."""
        return batch._replace(chars_BL=self.chars[batch.chars_BL], bigrams_BL=self.bigrams[batch.bigrams_BL])


def _table(own: Iterable[str], names: Sequence[str]) -> Tensor:
    """The own id of each id of `names`: int64, (names + 2)."""
    ids = {name: i for i, name in enumerate(own, 2)}
    return torch.tensor([PADDING, UNKNOWN, *(ids.get(name, UNKNOWN) for name in names)])
