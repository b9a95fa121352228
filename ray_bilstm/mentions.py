"""Mention replacement: in each epoch, some entities of the training sentences give way to others of their type.

A tagger that meets an entity in the same place again and again learns it by heart; one that meets any organisation
before any title learns where the one ends and the other begins (Dai and Adel 2020, "An Analysis of Simple Data
Augmentation for Named Entity Recognition"). Here an entity is replaced by one of its type and length: sentences keep
their lengths and tags, the plan of the epoch holds, and all is one gather of ids, on the device that has them.

Shapes: N tokens of a shard and the padding id at its end, M entities, P tokens inside entities, K known bigrams.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ray_bilstm.batches import Shard, to_device
from ray_bilstm.metrics import Scorer
from ray_bilstm.vocab import PADDING, UNKNOWN, Vocab


class Mentions(NamedTuple):
    """The entities of a shard."""

    starts_M: np.ndarray
    sizes_M: np.ndarray
    inside_P: np.ndarray
    """places of their tokens"""
    order_M: np.ndarray
    """entities, those of one type and length side by side"""
    firsts_M: np.ndarray
    """place in that order of the first of each entity's kind"""
    counts_M: np.ndarray
    """entities of its kind"""

    @classmethod
    def of(cls, starts_M: np.ndarray, sizes_M: np.ndarray, types_M: np.ndarray) -> Mentions:
        inside_P = np.repeat(starts_M + sizes_M - np.cumsum(sizes_M), sizes_M) + np.arange(sizes_M.sum())
        kinds_M = types_M * (sizes_M.max() + 1) + sizes_M
        _, kind_M, counts = np.unique(kinds_M, return_inverse=True, return_counts=True)
        firsts = np.cumsum(counts) - counts
        order_M = np.argsort(kinds_M, kind="stable")
        return cls(starts_M, sizes_M, inside_P, order_M, firsts[kind_M], counts[kind_M])

    def draw(self) -> np.ndarray:
        """For each entity one of its kind, itself included, all equally likely."""
        shares_M = torch.rand(len(self.starts_M), dtype=torch.float64).numpy()
        drawn_M: np.ndarray = self.order_M[self.firsts_M + (shares_M * self.counts_M).astype(np.int64)]
        return drawn_M


class MentionReplacement:
    """Replaces a share of the entities of a shard by others of that shard, drawn as often as they occur there."""

    def __init__(self, vocab: Vocab, share: float) -> None:
        """`vocab` has the ids and the tags of the shards."""
        self.scorer = Scorer(vocab.tags, vocab.scheme)
        self.share = share
        self.base = len(vocab.all_chars) + 2
        pairs_K2, ids_K = vocab.bigram_pairs()
        keys_K = pairs_K2[:, 0] * self.base + pairs_K2[:, 1]
        order_K = np.argsort(keys_K)
        self.keys_K, self.ids_K = torch.from_numpy(keys_K[order_K]), torch.from_numpy(ids_K[order_K])
        self.known: tuple[Tensor, Mentions | None] | None = None

    def __call__(self, shard: Shard) -> Shard:
        """The same sentences with other entities; which ones, torch's random numbers say."""
        mentions = self._mentions(shard)
        if mentions is None:
            return shard
        others_M = mentions.draw()
        chosen_M = torch.rand(len(others_M)).numpy() < self.share
        moves_M = np.where(chosen_M, mentions.starts_M[others_M] - mentions.starts_M, 0)

        from_N = np.arange(len(shard.chars))
        from_N[mentions.inside_P] += np.repeat(moves_M, mentions.sizes_M)
        replaced = copy.copy(shard)
        replaced.chars = shard.chars[to_device(from_N, shard.device)]
        if len(self.keys_K):
            replaced.bigrams = self._bigrams(replaced)
        return replaced

    def _mentions(self, shard: Shard) -> Mentions | None:
        """Kept, for a shard that comes again in the next epoch."""
        if self.known is None or self.known[0] is not shard.tags:
            tags, lengths = (ids[:-1].cpu().numpy() for ids in (shard.tags, shard.lengths))
            starts_M, lasts_M, types_M = self.scorer.entities(tags, lengths)
            found = Mentions.of(starts_M, lasts_M + 1 - starts_M, types_M) if len(starts_M) else None
            self.known = shard.tags, found
        return self.known[1]

    def _bigrams(self, shard: Shard) -> Tensor:
        """The bigrams of its characters, as `Vocab.encode` numbers them."""
        following_N = shard.chars.roll(-1).long()
        following_N[shard.starts[:-1] + shard.lengths[:-1] - 1] = PADDING
        keys_N = shard.chars.long() * self.base + following_N
        self.keys_K, self.ids_K = self.keys_K.to(shard.device), self.ids_K.to(shard.device)
        place_N = torch.searchsorted(self.keys_K, keys_N).clamp_(max=len(self.keys_K) - 1)
        known_N = self.keys_K[place_N] == keys_N
        bigrams_N = torch.where(known_N, self.ids_K[place_N], UNKNOWN).to(shard.bigrams.dtype)
        bigrams_N[-1] = PADDING
        return bigrams_N
