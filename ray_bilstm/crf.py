"""Linear-chain conditional random field: what a path scores, and the module that learns what a move scores.

What runs along a sentence is in `recursions.py`. Shapes: B sentences, L positions (longest of the batch), T tags.
`transitions_TT[i, j]` scores tag j right after tag i. `lengths_B` may hold 0: such a row is padding and counts for
nothing. This file knows no strings and no corpus.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ray_bilstm.recursions import (
    ILLEGAL,
    SCALED_RANGE,
    expected_counts,
    length_mask,
    scaled_log_partition,
    viterbi,
)

UNLIKELY = -6.0
"""Where training starts the score of a forbidden move: what no gold path does need not be learnt from zero."""

BOUND = SCALED_RANGE / 2
"""What a learnt score counts at most, up or down: so training need not look at the scores, for which the host would
have to wait for the device, before it takes the fast way."""


def path_score(
    emissions_BLT: Tensor, tags_BL: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> Tensor:
    """Unnormalised score of one path a sentence: (B,), differentiable once. In padding any tag may stand."""
    score_B: Tensor = _PathScore.apply(  # type: ignore[no-untyped-call]
        emissions_BLT, tags_BL, lengths_B, transitions_TT, start_T, end_T
    )
    return score_B


class _PathScore(torch.autograd.Function):
    """Its gradients are counts of tags and moves, found by a matrix product: autograd would sort the indices of the
    moves to add up their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        emissions_BLT: Tensor,
        tags_BL: Tensor,
        lengths_B: Tensor,
        transitions_TT: Tensor,
        start_T: Tensor,
        end_T: Tensor,
    ) -> Tensor:
        mask_BL = length_mask(lengths_B, tags_BL.shape[1])
        emitted_BL = emissions_BLT.gather(2, tags_BL[:, :, None])[:, :, 0]
        moved_BL = transitions_TT[tags_BL[:, :-1], tags_BL[:, 1:]]
        last_B1 = (lengths_B - 1).clamp(min=0)[:, None]
        score_B = (emitted_BL * mask_BL).sum(1) + (moved_BL * mask_BL[:, 1:]).sum(1)
        ctx.save_for_backward(emissions_BLT, tags_BL, mask_BL, last_B1)
        return score_B + (start_T[tags_BL[:, 0]] + end_T[tags_BL.gather(1, last_B1)[:, 0]]) * mask_BL[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        emissions_BLT, tags_BL, mask_BL, last_B1 = ctx.saved_tensors
        T = emissions_BLT.shape[2]
        tags_BL1, weights_BL1 = tags_BL[:, :, None], (grads[0][:, None] * mask_BL)[:, :, None]
        tags_BLT = torch.zeros_like(emissions_BLT).scatter_(2, tags_BL1, 1.0)
        weighed_BLT = tags_BLT * weights_BL1
        moves_TT = tags_BLT[:, :-1].reshape(-1, T).T @ weighed_BLT[:, 1:].reshape(-1, T)
        ends_BT = weighed_BLT.gather(1, last_B1[:, :, None].expand(-1, -1, T))[:, 0]
        return weighed_BLT, None, None, moves_TT, weighed_BLT[:, 0].sum(0), ends_BT.sum(0)


def expected_score(
    emissions_BLT: Tensor,
    tags_BLT: Tensor,
    moves_BTT: Tensor,
    lengths_B: Tensor,
    transitions_TT: Tensor,
    start_T: Tensor,
    end_T: Tensor,
) -> Tensor:
    """Mean of `path_score` over paths drawn from a distribution that `expected_counts` describes: (B,).

    `tags_BLT` is 0 in the padding. Of a single path, the counts are 0 and 1 or whole numbers, and this is its score.
    """
    first_BT = tags_BLT[:, 0]
    last_BT = tags_BLT[torch.arange(len(lengths_B), device=lengths_B.device), (lengths_B - 1).clamp(min=0)]
    score_B = (emissions_BLT * tags_BLT).sum((1, 2)) + (moves_BTT * transitions_TT).sum((1, 2))
    return score_B + first_BT @ start_T + last_BT @ end_T


class CRF(nn.Module):
    """Transition, start and end scores, with the moves that the tag scheme allows. Scores count up to ± `BOUND`.

    The legality masks act in decoding only: a corpus may hold an illegal gold path (an entity cut by a blank line), and
    its loss has to stay finite. Training merely starts illegal moves as unlikely. `learned=False` fixes all scores at
    zero: the loss is then a softmax a token.
    Everything is computed in float32, under autocast too.
    """

    def __init__(
        self, allowed_TT: Tensor, *, allowed_start_T: Tensor, allowed_end_T: Tensor, learned: bool = True
    ) -> None:
        super().__init__()
        masks = (allowed_TT, allowed_start_T, allowed_end_T)
        initial = [torch.zeros(mask.shape).masked_fill(~mask, UNLIKELY if learned else 0.0) for mask in masks]
        self.transitions_TT, self.start_T, self.end_T = (nn.Parameter(i, requires_grad=learned) for i in initial)
        self.allowed_TT: Tensor
        self.allowed_start_T: Tensor
        self.allowed_end_T: Tensor
        self.register_buffer("allowed_TT", allowed_TT, persistent=False)
        self.register_buffer("allowed_start_T", allowed_start_T, persistent=False)
        self.register_buffer("allowed_end_T", allowed_end_T, persistent=False)

    def forward(self, emissions_BLT: Tensor, tags_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Negative log-likelihood of the gold path of each sentence: (B,), 0 for padding rows, never negative."""
        with torch.autocast(emissions_BLT.device.type, enabled=False):
            emissions_BLT, scores = emissions_BLT.float(), self.scores()
            log_z_B = scaled_log_partition(emissions_BLT, lengths_B, *scores)
            return log_z_B - path_score(emissions_BLT, tags_BL, lengths_B, *scores)

    def distil(self, emissions_BLT: Tensor, tags_BLT: Tensor, moves_BTT: Tensor, lengths_B: Tensor) -> Tensor:
        """Cross-entropy of each sentence's paths with a distribution over them, given its `expected_counts`: (B,), 0
        for padding rows. Of a single path that is `forward`; log Z is needed once, and differentiated once."""
        with torch.autocast(emissions_BLT.device.type, enabled=False):
            emissions_BLT, scores = emissions_BLT.float(), self.scores()
            log_z_B = scaled_log_partition(emissions_BLT, lengths_B, *scores)
            return log_z_B - expected_score(emissions_BLT, tags_BLT, moves_BTT, lengths_B, *scores)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Transition, start and end scores, within `BOUND`."""
        transitions_TT, start_T, end_T = (
            score.clamp(-BOUND, BOUND) for score in (self.transitions_TT, self.start_T, self.end_T)
        )
        return transitions_TT, start_T, end_T

    def legal_scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same with every illegal move at `ILLEGAL`."""
        transitions_TT, start_T, end_T = self.scores()
        return (
            torch.where(self.allowed_TT, transitions_TT, ILLEGAL),
            torch.where(self.allowed_start_T, start_T, ILLEGAL),
            torch.where(self.allowed_end_T, end_T, ILLEGAL),
        )

    @torch.no_grad()
    def decode(self, emissions_BLT: Tensor, lengths_B: Tensor) -> Tensor:
        """Best legal path of each sentence: int64, (B, L), 0 in the padding."""
        return viterbi(emissions_BLT.float(), lengths_B, *self.legal_scores())[0]

    def marginals(self, emissions_BLT: Tensor, lengths_B: Tensor) -> Tensor:
        """Probability of each tag at each position among the legal paths: (B, L, T)."""
        return self.expected_counts(emissions_BLT, lengths_B)[0]

    def expected_counts(self, emissions_BLT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and how often each move is expected: (B, L, T) and (B, T, T)."""
        return expected_counts(emissions_BLT.float(), lengths_B, *self.legal_scores())
