"""What a CRF can say of a sentence besides its best path: how probable an entity is, and which paths come next.

An entity is a chunk that the tag scheme calls whole (`tags.py`): its first tag does not continue the one before it and
may begin an entity, each other one continues, the last may end an entity and nothing continues it. The probability that
tokens `first` to `last` are an entity of one type is the share of all paths that say so: the forward recursion up to
`first`, the moves inside, the backward recursion from `last` (Culotta and McCallum 2004, "Confidence Estimation for
Information Extraction"). In BMES one sequence of tags says so; in BIO the tag behind it counts too.

All in float64 on the cpu, wherever the emissions come from.

Shapes: B sentences, L positions, T tags, N entities, K paths. `scores` are transition, start and end scores, with
forbidden moves at `recursions.ILLEGAL`. A sentence of length 0 has one path, the empty one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ray_bilstm.recursions import ILLEGAL, WIDE_RANGE, length_mask

Scores = tuple[Tensor, Tensor, Tensor]


class Chunks(NamedTuple):
    """Which tags make an entity, as `metrics.Scorer` knows it from a tag scheme."""

    continues_TT: Tensor
    """whether the tag (column) belongs to the same chunk as the one before it (row)"""
    begins_T: Tensor
    ends_T: Tensor
    type_T: Tensor
    """number of the entity type; -1 for O"""


class Entities(NamedTuple):
    """Places to ask about: sentence of the batch, first and last token, number of the type. int64, (N,) each."""

    sentence_N: Tensor
    first_N: Tensor
    last_N: Tensor
    type_N: Tensor


class Lattice:
    """All paths of a batch of sentences (L > 0), through their forward and backward recursions in log space."""

    def __init__(self, emissions_BLT: Tensor, lengths_B: Tensor, scores: Scores) -> None:
        self.lengths_B = lengths_B.cpu()
        self.moves_TT, self.start_T, self.end_T = _log_scores(scores)
        mask_BL = length_mask(self.lengths_B, emissions_BLT.shape[1])
        emissions_BLT = torch.where(mask_BL[:, :, None], emissions_BLT.detach().cpu().double(), 0.0)
        self.emissions_LBT = emissions_BLT.transpose(0, 1)
        legal = torch.cat([score[score > -torch.inf] for score in (self.moves_TT, self.start_T, self.end_T)])
        spread = (emissions_BLT.amax(2) - emissions_BLT.amin(2)).max() + legal.max() - legal.min()
        self.narrow = bool(spread <= WIDE_RANGE)
        self.alpha_LBT, self.beta_LBT = self._forward(), self._backward()
        last_BT = self.alpha_LBT[(self.lengths_B - 1).clamp(min=0), torch.arange(len(self.lengths_B))]
        self.log_z_B = torch.where(self.lengths_B > 0, torch.logsumexp(last_BT + self.end_T, 1), 0.0)
        """log of the summed exp(score) over all paths: (B,)"""

    def _moves(self, scores_TT: Tensor) -> Tensor:
        """What `_move` multiplies by."""
        return scores_TT.exp() if self.narrow else scores_TT

    def _move(self, states_NT: Tensor, moves_TT: Tensor) -> Tensor:
        """log of the sum over the tag before (row of `_moves`): one product where float64 can hold what it adds."""
        if not self.narrow:
            return torch.logsumexp(states_NT[:, :, None] + moves_TT, 1)
        peaks_N1 = states_NT.amax(1, keepdim=True).clamp_(min=ILLEGAL)  # not -inf where nothing leads here
        return ((states_NT - peaks_N1).exp_() @ moves_TT).log_().add_(peaks_N1)

    def _forward(self) -> Tensor:
        alpha_LBT, moves_TT = torch.empty_like(self.emissions_LBT), self._moves(self.moves_TT)
        for i, emissions_BT in enumerate(self.emissions_LBT):
            before_BT = self._move(alpha_LBT[i - 1], moves_TT) if i else self.start_T
            torch.add(before_BT, emissions_BT, out=alpha_LBT[i])
        return alpha_LBT

    def _backward(self) -> Tensor:
        beta_LBT, moves_TT = self.end_T.expand_as(self.emissions_LBT).clone(), self._moves(self.moves_TT.T)
        for i in range(len(beta_LBT) - 2, -1, -1):
            behind_BT = self._move(self.emissions_LBT[i + 1] + beta_LBT[i + 1], moves_TT)
            beta_LBT[i] = torch.where((i < self.lengths_B - 1)[:, None], behind_BT, self.end_T)
        return beta_LBT

    def entity_probabilities(self, entities: Entities, chunks: Chunks) -> Tensor:
        """The probability of each of them: float64, (N,)."""
        sentence_N, first_N, last_N, type_N = entities
        if not len(sentence_N):
            return torch.zeros(0, dtype=torch.float64)
        parts_TT = self._moves(torch.where(chunks.continues_TT, -torch.inf, self.moves_TT))
        inner_TT = self._moves(torch.where(chunks.continues_TT, self.moves_TT, -torch.inf))
        of_type_NT = chunks.type_T == type_N[:, None]

        before_NT = self._move(self.alpha_LBT[(first_N - 1).clamp(min=0), sentence_N], parts_TT)
        state_NT = (
            torch.where((first_N == 0)[:, None], self.start_T, before_NT) + self.emissions_LBT[first_N, sentence_N]
        )
        state_NT = state_NT.masked_fill(~(of_type_NT & chunks.begins_T), -torch.inf)
        for step in range(1, int((last_N - first_N).max()) + 1):
            (longer,) = torch.nonzero(first_N + step <= last_N, as_tuple=True)
            emissions_MT = self.emissions_LBT[first_N[longer] + step, sentence_N[longer]]  # M: of N, those that go on
            state_NT[longer] = self._move(state_NT[longer], inner_TT) + emissions_MT

        next_N = (last_N + 1).clamp(max=len(self.emissions_LBT) - 1)
        behind_NT = self._move(self.emissions_LBT[next_N, sentence_N] + self.beta_LBT[next_N, sentence_N], parts_TT.T)
        is_end_N1 = (last_N == self.lengths_B[sentence_N] - 1)[:, None]
        state_NT = state_NT + torch.where(is_end_N1, self.end_T, behind_NT)
        state_NT = state_NT.masked_fill(~chunks.ends_T, -torch.inf)
        return (torch.logsumexp(state_NT, 1) - self.log_z_B[sentence_N]).exp().clamp(max=1.0)

    def path_probabilities(self, paths_KL: Tensor, *, sentence: int = 0) -> Tensor:
        """The probability of each of these paths of a sentence: float64, (K,). L is its length."""
        length = int(self.lengths_B[sentence])
        if not length:
            return torch.ones(len(paths_KL), dtype=torch.float64)
        paths_KL = paths_KL.cpu()
        score_K = self.emissions_LBT[torch.arange(length), sentence, paths_KL].sum(1)
        score_K = score_K + self.moves_TT[paths_KL[:, :-1], paths_KL[:, 1:]].sum(1)
        score_K = score_K + self.start_T[paths_KL[:, 0]] + self.end_T[paths_KL[:, -1]]
        return (score_K - self.log_z_B[sentence]).exp().clamp(max=1.0)


def best_paths(emissions_LT: Tensor, scores: Scores, *, count: int) -> Tensor:
    """The `count` best legal paths of one sentence, best first; all, where it has fewer: int64, (K, L).

    List Viterbi: each tag of each position keeps its `count` best ways to get there (Seshadri and Sundberg 1994).
    """
    emissions_LT = emissions_LT.detach().cpu().double()
    moves_TT, start_T, end_T = _log_scores(scores)
    L, T = emissions_LT.shape
    if not L:
        return torch.zeros(1, 0, dtype=torch.int64)
    best_KT = (start_T + emissions_LT[0])[None]
    came_from = []
    for emitted_T in emissions_LT[1:]:
        ways_WT = (best_KT[:, :, None] + moves_TT).flatten(0, 1)  # W: rank and tag before
        best_KT, way_KT = ways_WT.topk(min(count, len(ways_WT)), 0)
        came_from.append(way_KT)
        best_KT = best_KT + emitted_T
    best_K, way_K = (best_KT + end_T).flatten().topk(min(count, best_KT.numel()))
    way_K = way_K[best_K > -torch.inf]
    tags = [way_K % T]
    for way_KT in reversed(came_from):
        way_K = way_KT.flatten()[way_K]
        tags.append(way_K % T)
    return torch.stack(tags[::-1], 1)


def _log_scores(scores: Scores) -> Iterator[Tensor]:
    """The scores in float64, with forbidden moves at -inf."""
    for score in scores:
        yield torch.where(score > ILLEGAL / 2, score, -torch.inf).detach().cpu().double()
