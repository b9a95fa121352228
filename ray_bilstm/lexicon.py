"""Which words of a lexicon begin, go on and end at a character, as vectors beside its own.

SoftLexicon (Ma et al. 2020, "Simplify the Usage of Lexicon in Chinese NER") in a plainer form: vectors of the words of
each of three sets are added up, not averaged by frequency, and a character by itself is no word. Words seen often
enough in train have a vector of their own, all others of their length share one: a word that train lacks is still known
to be one.

Words are looked up by the ids of their characters, wherever the batch is: a character that is not known, or not to be
known for once (token dropout), is in no word, and a replaced entity brings its own.

Shapes: B sentences, L positions, W size of a word's vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ray_bilstm.vocab import PADDING, Vocab
from ray_bilstm.words import LENGTHS


class Lexicon(nn.Module):
    """Vectors of words, and where they stand."""

    def __init__(self, vocab: Vocab, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab.num_words, size, padding_idx=PADDING)
        self.base = vocab.word_base
        for length in LENGTHS:
            keys, rows = map(torch.from_numpy, vocab.word_keys(length))
            self.register_buffer(f"keys_{length}", keys, persistent=False)
            self.register_buffer(f"rows_{length}", rows, persistent=False)

    def forward(self, chars_LB: Tensor) -> Tensor:
        """Of the words that begin at each character, that go on there, and that end: (L, B, 3W)."""
        words_NLBW = self.embedding(torch.stack([self._find(chars_LB, length) for length in LENGTHS]))
        begins = words_NLBW.sum(0)
        inside, ends = torch.zeros_like(begins), torch.zeros_like(begins)
        for length, words_LBW in zip(LENGTHS, words_NLBW, strict=True):
            for place in range(1, length - 1):
                inside = inside + _later(words_LBW, place)
            ends = ends + _later(words_LBW, length - 1)
        return torch.cat((begins, inside, ends), 2)

    def _find(self, chars_LB: Tensor, length: int) -> Tensor:
        """Row of the word of this length that begins at each character; `PADDING` where none does: int64, (L, B)."""
        keys, rows = self.get_buffer(f"keys_{length}"), self.get_buffer(f"rows_{length}")
        if not len(keys):
            return torch.full_like(chars_LB, PADDING)
        reached = pad(chars_LB, (0, 0, 0, length - 1), value=PADDING)
        key_LB: Tensor = sum(reached[k : k + len(chars_LB)] * self.base**k for k in range(length))
        place_LB = torch.searchsorted(keys, key_LB.contiguous()).clamp_(max=len(keys) - 1)
        return torch.where(keys[place_LB] == key_LB, rows[place_LB], PADDING)


def _later(words_LBW: Tensor, places: int) -> Tensor:
    return pad(words_LBW, (0, 0, 0, 0, places, 0))[: len(words_LBW)]
