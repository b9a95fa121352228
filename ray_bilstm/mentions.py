"""Mention replacement: in each epoch, some entities of the training sentences give way to others of their type.

A tagger that meets an entity in the same place again and again learns it by heart; one that meets any organisation
before any title learns where the one ends and the other begins (Dai and Adel 2020, "An Analysis of Simple Data
Augmentation for Named Entity Recognition"). Here an entity is replaced by one of its type and length: sentences keep
their lengths and tags, the plan of the epoch holds, and all is one gather of ids, on the device that has them.

Shapes: N tokens of a shard and the padding id at its end, M entities, P tokens inside entities, K known bigrams.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ray_bilstm.batches import Shard
from ray_bilstm.metrics import Scorer
from ray_bilstm.vocab import PADDING, UNKNOWN, Vocab


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

    def __call__(self, shard: Shard) -> Shard:
        """The same sentences with other entities; which ones, torch's random numbers say."""
        tags, lengths = (ids[:-1].cpu().numpy() for ids in (shard.tags, shard.lengths))
        starts_M, lasts_M, types_M = self.scorer.entities(tags, lengths)
        if not len(starts_M):
            return shard
        sizes_M = lasts_M + 1 - starts_M
        others_M = _draw_alike(types_M * (sizes_M.max() + 1) + sizes_M)
        chosen_M = torch.rand(len(starts_M)).numpy() < self.share
        moves_M = np.where(chosen_M, starts_M[others_M] - starts_M, 0)

        from_N = torch.arange(len(shard.chars))
        inside_P = np.repeat(starts_M + sizes_M - np.cumsum(sizes_M), sizes_M) + np.arange(sizes_M.sum())
        from_N[inside_P] += torch.from_numpy(np.repeat(moves_M, sizes_M))
        replaced = copy.copy(shard)
        replaced.chars = shard.chars[from_N.to(shard.device)]
        if len(self.keys_K):
            replaced.bigrams = self._bigrams(replaced)
        return replaced

    def _bigrams(self, shard: Shard) -> Tensor:
        """The bigrams of its characters, as `Vocab.encode` numbers them."""
        following_N = shard.chars.roll(-1).long()
        following_N[shard.starts[:-1] + shard.lengths[:-1] - 1] = PADDING
        keys_N = shard.chars.long() * self.base + following_N
        keys_K, ids_K = self.keys_K.to(shard.device), self.ids_K.to(shard.device)
        place_N = torch.searchsorted(keys_K, keys_N).clamp_(max=len(keys_K) - 1)
        bigrams_N = torch.where(keys_K[place_N] == keys_N, ids_K[place_N], UNKNOWN).to(shard.bigrams.dtype)
        bigrams_N[-1] = PADDING
        return bigrams_N


def _draw_alike(kinds_M: np.ndarray) -> np.ndarray:
    """For each entity one of its kind, itself included, all equally likely."""
    order_M = np.argsort(kinds_M, kind="stable")
    _, kind_M, counts = np.unique(kinds_M, return_inverse=True, return_counts=True)
    firsts = np.cumsum(counts) - counts
    draw_M = (torch.rand(len(kinds_M), dtype=torch.float64).numpy() * counts[kind_M]).astype(np.int64)
    others_M: np.ndarray = order_M[firsts[kind_M] + draw_M]
    return others_M
