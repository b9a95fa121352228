"""Recursions over the paths of a linear chain, on tensors: log-partition, expected counts, Viterbi.

The loss of a tagger with T tags is log Z - score(gold path). Differentiating log Z through a loop over time records
hundreds of small operations and rounds at each; but its gradient has a closed form, the marginal probabilities, which
forward-backward gives directly (Rabiner 1989; Sutton and McCallum 2012, section 4). So `log_partition` is one autograd
function: both recursions run in the same loop, as probabilities rescaled at every step, and every other operation is
one batched product. Where scores are too far apart for float32 probabilities, a slower log-space loop takes over.

Shapes: B sentences, L positions (longest of the batch), T tags. `transitions_TT[i, j]` scores tag j right after tag i.
`lengths_B` may hold 0: such a row is padding and counts for nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ray_bilstm.accelerator import has_kernels

ILLEGAL = -1e9
"""Score of a forbidden transition where it has to be finite."""

SCALED_RANGE = 20.0
"""Largest spread of transition scores at which rescaled float32 probabilities are exact: a path that avoids the best
tag of a position gains at most twice this, so what underflows (below e^-87) weighs less than e^-27 of the sum."""

WIDE_RANGE = 200.0
"""The same in float64, emissions included: a path that avoids what is best at a few positions stays above e^-745."""


def length_mask(lengths_B: Tensor, size: int) -> Tensor:
    """True where a position belongs to the sentence: bool, (B, L)."""
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def reversal(lengths_B: Tensor, size: int) -> Tensor:
    """Where each row of a flattened (L, B, ...) tensor goes when every sentence is turned around within its own length,
    padding staying in place: int64, (L * B). Turning twice changes nothing."""
    positions_L1 = torch.arange(size, device=lengths_B.device)[:, None]
    rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
    turned_LB = torch.where(positions_L1 < lengths_B, lengths_B - 1 - positions_L1, positions_L1)
    return (turned_LB * len(lengths_B) + rows_B).flatten()


def turn(values_LBX: Tensor, reversal_LB: Tensor) -> Tensor:
    """Every sentence of (L, B, X) turned around, `reversal_LB` from `reversal`. Differentiable: the gradient is turned
    around too, where autograd would add up the gradients of a gather."""
    turned_LBX: Tensor = _Turn.apply(values_LBX, reversal_LB)  # type: ignore[no-untyped-call]
    return turned_LBX


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_LBX: Tensor, reversal_LB: Tensor) -> Tensor:
        ctx.save_for_backward(reversal_LB)
        return values_LBX.flatten(0, 1).index_select(0, reversal_LB).view_as(values_LBX)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].flatten(0, 1).index_select(0, ctx.saved_tensors[0]).view_as(grads[0]), None


def log_partition(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> Tensor:
    """Log of the summed exp(score) over all paths: (B,), differentiable once, 0 where the length is 0.

    Of any scores: which way is taken depends on their spread.
    """
    scores = (transitions_TT, start_T, end_T)
    spread = torch.stack([score.detach().max() - score.detach().min() for score in scores]).max()
    if spread <= SCALED_RANGE:
        return scaled_log_partition(emissions_BLT, lengths_B, *scores)
    return torch.where(lengths_B > 0, _log_space_partition(emissions_BLT, lengths_B, *scores), 0.0)


def scaled_log_partition(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> Tensor:
    """`log_partition` of scores whose spread is at most `SCALED_RANGE`."""
    log_z_B = _ScaledLogPartition.apply(  # type: ignore[no-untyped-call]
        emissions_BLT, lengths_B, transitions_TT, start_T, end_T
    )
    return torch.where(lengths_B > 0, log_z_B, 0.0)


@torch.no_grad()
def expected_counts(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> tuple[Tensor, Tensor]:
    """The marginals, (B, L, T), and how often each tag is expected right after each other one, (B, T, T).

    All that a score, being a sum over positions and moves, can tell of the distribution over paths. Moves at `ILLEGAL`
    do not count as scores that are far apart.
    """
    scores = (transitions_TT, start_T, end_T)
    mask_BL = length_mask(lengths_B, emissions_BLT.shape[1])
    emissions_BLT = torch.where(mask_BL[:, :, None], emissions_BLT, 0.0)
    legal = torch.cat([score[score > ILLEGAL / 2].flatten() for score in scores])
    spread = (emissions_BLT.amax(2) - emissions_BLT.amin(2)).max() + legal.max() - legal.min()
    if emissions_BLT.device.type not in ("cpu", "cuda") or spread > WIDE_RANGE:
        return _log_space_counts(emissions_BLT, lengths_B, *scores)
    _, saved = _forward_backward(emissions_BLT.double(), lengths_B, *(score.double() for score in scores))
    _, factors_TT, *_ = saved
    alpha_LBT, gamma_LBT, tags_LBT, inner_LB1 = _posteriors(torch.ones_like(lengths_B), *saved)
    moves_BTT = (alpha_LBT[:-1] * inner_LB1).permute(1, 2, 0) @ gamma_LBT[1:].transpose(0, 1) * factors_TT
    return tags_LBT.transpose(0, 1).to(emissions_BLT.dtype), moves_BTT.to(emissions_BLT.dtype)


def _log_space_counts(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> tuple[Tensor, Tensor]:
    """`expected_counts` as gradients, of scores of any spread."""
    shape = (len(lengths_B), *transitions_TT.shape)
    with torch.enable_grad():
        emissions_BLT = emissions_BLT.detach().requires_grad_()
        transitions_BTT = transitions_TT.detach().expand(shape).requires_grad_()  # so that each sentence has a gradient
        log_z_B = _log_space_partition(emissions_BLT, lengths_B, transitions_BTT, start_T.detach(), end_T.detach())
        total = torch.where(lengths_B > 0, log_z_B, 0.0).sum()
        # Sentences of one position have no move.
        inputs = (emissions_BLT, transitions_BTT)
        tags_BLT, moves_BTT = torch.autograd.grad(total, inputs, materialize_grads=True)
    return tags_BLT, moves_BTT


class _ScaledLogPartition(torch.autograd.Function):
    """Log Z by `_forward_backward`, with the marginals as its gradient."""

    @staticmethod
    def forward(
        ctx: Any, emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
    ) -> Tensor:
        log_z_B, saved = _forward_backward(emissions_BLT, lengths_B, transitions_TT, start_T, end_T)
        ctx.save_for_backward(*saved)
        return log_z_B

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        alpha_LBT, gamma_LBT, grad_LBT, inner_LB1 = _posteriors(grads[0], *ctx.saved_tensors)
        _, factors_TT, _, _, _, is_last_LB = ctx.saved_tensors
        T = len(factors_TT)
        pairs_TT = (alpha_LBT[:-1] * inner_LB1).reshape(-1, T).T @ gamma_LBT[1:].reshape(-1, T)
        grad_end_T = (grad_LBT * is_last_LB[:, :, None]).sum((0, 1))
        return grad_LBT.transpose(0, 1), None, pairs_TT * factors_TT, grad_LBT[0].sum(0), grad_end_T


def _forward_backward(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Forward-backward on probabilities, each step rescaled to sum 1: log Z, (B,), and what `_posteriors` needs.

    The backward recursion on a reversed sentence has the form of the forward one with the transitions transposed and
    start and end exchanged. So both run stacked (leading dimension 2) in one loop of L small products, without masks:
    what either computes in the padding is finite and is never read.
    """
    B, L, T = emissions_BLT.shape
    emissions_LBT = emissions_BLT.transpose(0, 1)
    peaks_LB = emissions_LBT.amax(2)
    reversal_LB, mask_LB = reversal(lengths_B, L), length_mask(lengths_B, L).T
    potentials_L2BT = emissions_LBT.new_empty(L, 2, B, T)
    torch.sub(emissions_LBT, peaks_LB[:, :, None], out=potentials_L2BT[:, 0]).exp_()
    potentials_L2BT[:, 1] = turn(potentials_L2BT[:, 0], reversal_LB)
    factors_TT = (transitions_TT - transitions_TT.max()).exp()
    step_2TT = torch.stack((factors_TT, factors_TT.T))
    ends_2T = torch.stack((start_T - start_T.max(), end_T - end_T.max())).exp()

    states_L2BT, sums_L2B1 = _recur(potentials_L2BT, step_2TT, ends_2T)

    is_last_LB = torch.arange(L, device=lengths_B.device)[:, None] == (lengths_B - 1).clamp(min=0)
    # Of the last position, only the sum with the end counts.
    ending_LB = torch.where(is_last_LB, states_L2BT[:, 0] @ ends_2T[1], 1.0)
    log_z_B = (torch.where(mask_LB, sums_L2B1[:, 0, :, 0] * ending_LB, 1.0).log() + peaks_LB * mask_LB).sum(0)
    log_z_B = log_z_B + start_T.max() + end_T.max() + transitions_TT.max() * (lengths_B - 1).clamp(min=0)
    return log_z_B, (states_L2BT, factors_TT, ends_2T, reversal_LB, mask_LB, is_last_LB)


def _recur(potentials_L2BT: Tensor, steps_2TT: Tensor, ends_2T: Tensor) -> tuple[Tensor, Tensor]:
    """States and sums of both recursions, (L, 2, B, T) and (L, 2, B, 1)."""
    if has_kernels(potentials_L2BT.device):
        from ray_bilstm import crf_kernels

        return crf_kernels.recur(potentials_L2BT, steps_2TT, ends_2T)
    states_L2BT, sums_L2B1 = torch.empty_like(potentials_L2BT), torch.empty_like(potentials_L2BT[..., :1])
    state_2BT = ends_2T[:, None, :] * potentials_L2BT[0]
    potentials, states, sums = potentials_L2BT.unbind(), states_L2BT.unbind(), sums_L2B1.unbind()
    for i in range(len(states)):
        if i:
            torch.bmm(states[i - 1], steps_2TT, out=state_2BT).mul_(potentials[i])
        torch.sum(state_2BT, 2, keepdim=True, out=sums[i])
        torch.div(state_2BT, sums[i], out=states[i])
    return states_L2BT, sums_L2B1


def _posteriors(
    weight_B: Tensor,
    states_L2BT: Tensor,
    factors_TT: Tensor,
    ends_2T: Tensor,
    reversal_LB: Tensor,
    mask_LB: Tensor,
    is_last_LB: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both recursions, (L, B, T), the marginals times the weight of their sentence, (L, B, T), and what makes a product
    of the recursions at two positions the marginal of a move, times that weight, (L - 1, B, 1)."""
    alpha_LBT = states_L2BT[:, 0]
    # The reversed recursion gives potential x beta; turned around again it stands at its own position.
    gamma_LBT = turn(states_L2BT[:, 1], reversal_LB)
    beta_LBT = torch.empty_like(gamma_LBT)
    torch.matmul(gamma_LBT[1:], factors_TT.T, out=beta_LBT[:-1])
    beta_LBT = torch.where(is_last_LB[:, :, None], ends_2T[1], beta_LBT)
    joint_LBT = alpha_LBT * beta_LBT
    weight_LB1 = torch.where(mask_LB, weight_B / joint_LBT.sum(2), 0.0)[:, :, None]
    tags_LBT = torch.where(mask_LB[:, :, None], joint_LBT * weight_LB1, 0.0)

    inner_LB1 = torch.where(mask_LB[1:, :, None], weight_LB1[:-1], 0.0)
    return alpha_LBT, gamma_LBT, tags_LBT, inner_LB1


def _log_space_partition(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> Tensor:
    """The textbook recursion in float64 (float32 on devices without it), for scores that probabilities cannot hold."""
    wide = torch.float64 if emissions_BLT.device.type in ("cpu", "cuda") else torch.float32
    transitions_TT, start_T, end_T = transitions_TT.to(wide), start_T.to(wide), end_T.to(wide)
    emissions_LBT = emissions_BLT.to(wide).transpose(0, 1)
    alpha_BT = start_T + emissions_LBT[0]
    for i in range(1, emissions_LBT.shape[0]):
        moved_BT = torch.logsumexp(alpha_BT[:, :, None] + transitions_TT, 1) + emissions_LBT[i]
        alpha_BT = torch.where((i < lengths_B)[:, None], moved_BT, alpha_BT)
    return torch.logsumexp(alpha_BT + end_T, 1).to(emissions_BLT.dtype)


def viterbi(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> tuple[Tensor, Tensor]:
    """Best path (B, L), 0 in the padding, and its score (B,).

    The batch is the innermost dimension, so that the maximum over previous tags runs over whole vectors; which tag
    gave it is worked out afterwards, along the one path that matters.
    """
    if has_kernels(emissions_BLT.device):
        from ray_bilstm import crf_kernels

        return crf_kernels.decode(emissions_BLT, lengths_B, transitions_TT, start_T, end_T)
    B, L, T = emissions_BLT.shape
    emissions_LTB = emissions_BLT.permute(1, 2, 0).contiguous()
    scores_LTB, moves_TTB = torch.empty_like(emissions_LTB), emissions_BLT.new_empty(T, T, B)
    torch.add(emissions_LTB[0], start_T[:, None], out=scores_LTB[0])
    # Views are taken all at once: taking one costs as much as computing on it.
    emissions, scores, froms = emissions_LTB.unbind(), scores_LTB.unbind(), scores_LTB[:, :, None].unbind()
    moved_TT1 = transitions_TT[:, :, None]
    for i in range(1, L):
        torch.add(froms[i - 1], moved_TT1, out=moves_TTB)
        torch.amax(moves_TTB, 0, out=scores[i]).add_(emissions[i])

    best_LB, last_LB = (scores_LTB + end_T[:, None]).max(1)
    is_inner_LB = torch.arange(L, device=lengths_B.device)[:, None] < lengths_B - 1
    path_LB, into_TT = last_LB.clone(), transitions_TT.T.contiguous()
    paths, inner, lasts = path_LB.unbind(), is_inner_LB.unbind(), last_LB.unbind()
    scored = scores_LTB.transpose(1, 2).contiguous().unbind()
    for i in range(L - 2, -1, -1):
        previous_B = into_TT.index_select(0, paths[i + 1]).add_(scored[i]).argmax(1)
        torch.where(inner[i], previous_B, lasts[i], out=paths[i])
    best_B = best_LB.gather(0, (lengths_B - 1).clamp(min=0)[None])[0]
    return torch.where(length_mask(lengths_B, L), path_LB.T, 0), torch.where(lengths_B > 0, best_B, 0.0)
