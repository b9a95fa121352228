"""The CRF's recursions over positions as Triton kernels, for cuda.

Written with torch operations each is a loop of small products, and a GPU spends it waiting for launches: a kernel walks
a sentence by itself, its scores in registers, all sentences at once. `recursions.py` says what is computed and why.

Shapes: B sentences, L positions, T tags; TAGS is T rounded up to a power of 2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=("L", "B"))
def _recur(potentials_L2BT, steps_2TT, ends_2T, states_L2BT, sums_L2B, L, B, T, TAGS: tl.constexpr):
    row, direction = tl.program_id(0), tl.program_id(1)
    tags = tl.arange(0, TAGS)
    inside = tags < T
    step = tl.load(
        steps_2TT + direction * T * T + tags[:, None] * T + tags[None, :],
        mask=inside[:, None] & inside[None, :],
        other=0.0,
    )
    place = direction * B + row
    state = tl.load(ends_2T + direction * T + tags, mask=inside, other=0.0)
    state *= tl.load(potentials_L2BT + place * T + tags, mask=inside, other=0.0)
    for i in range(L):
        # Asked for now, needed at the end: the product below hides the way to memory.
        after = potentials_L2BT + (place + 2 * B) * T + tags
        potential = tl.load(after, mask=tags < tl.where(i + 1 < L, T, 0), other=0.0)
        total = tl.sum(state, 0)
        state = state / total
        tl.store(sums_L2B + place, total)
        tl.store(states_L2BT + place * T + tags, state, mask=inside)
        state = tl.sum(state[:, None] * step, 0) * potential
        place += 2 * B


def recur(potentials_L2BT: Tensor, steps_2TT: Tensor, ends_2T: Tensor) -> tuple[Tensor, Tensor]:
    """Both recursions of forward-backward: `states[i]` is `states[i - 1] @ steps * potentials[i]`, scaled to sum 1, and
    `ends * potentials[0]` at the start. The states, (L, 2, B, T), and the sums that scaled them, (L, 2, B, 1)."""
    L, _, B, T = potentials_L2BT.shape
    potentials_L2BT, steps_2TT, ends_2T = (t.contiguous() for t in (potentials_L2BT, steps_2TT, ends_2T))
    states_L2BT, sums_L2B1 = torch.empty_like(potentials_L2BT), potentials_L2BT.new_empty(L, 2, B, 1)
    size = triton.next_power_of_2(T)
    _recur[(B, 2)](
        potentials_L2BT, steps_2TT, ends_2T, states_L2BT, sums_L2B1, L, B, T, TAGS=size, num_warps=_warps(size)
    )
    return states_L2BT, sums_L2B1


@triton.jit(do_not_specialize=("L",))
def _decode(
    emissions_BLT, lengths_B, transitions_TT, start_T, end_T, froms_BLT, path_BL, best_B, L, T, TAGS: tl.constexpr
):
    row = tl.program_id(0)
    length = tl.load(lengths_B + row).to(tl.int32)
    tags = tl.arange(0, TAGS)
    inside = tags < T
    moves = tl.load(
        transitions_TT + tags[:, None] * T + tags[None, :],
        mask=inside[:, None] & inside[None, :],
        other=float("-inf"),
    )
    place = row * L
    score = tl.load(start_T + tags, mask=inside, other=float("-inf"))
    score += tl.load(emissions_BLT + place * T + tags, mask=inside, other=0.0)
    for i in range(1, length):
        emission = tl.load(emissions_BLT + (place + i) * T + tags, mask=inside, other=0.0)
        best, previous = tl.max(score[:, None] + moves, 0, return_indices=True)
        tl.store(froms_BLT + (place + i) * T + tags, previous, mask=inside)
        score = best + emission
    total, tag = tl.max(score + tl.load(end_T + tags, mask=inside, other=float("-inf")), 0, return_indices=True)
    tl.store(best_B + row, total)
    tl.debug_barrier()  # what other threads of this program wrote is read now
    for back in range(length):
        i = length - 1 - back
        tl.store(path_BL + place + i, tag.to(tl.int64))
        tag = tl.load(froms_BLT + (place + i) * T + tag, mask=i > 0, other=0)


def decode(
    emissions_BLT: Tensor, lengths_B: Tensor, transitions_TT: Tensor, start_T: Tensor, end_T: Tensor
) -> tuple[Tensor, Tensor]:
    """`recursions.viterbi`."""
    B, L, T = emissions_BLT.shape
    scores = [t.contiguous() for t in (transitions_TT, start_T, end_T)]
    froms_BLT = torch.empty(B, L, T, dtype=torch.int32, device=emissions_BLT.device)
    path_BL = torch.zeros(B, L, dtype=torch.int64, device=emissions_BLT.device)
    best_B = emissions_BLT.new_empty(B)
    size = triton.next_power_of_2(T)
    _decode[(B,)](
        emissions_BLT.contiguous(),
        lengths_B,
        *scores,
        froms_BLT,
        path_BL,
        best_B,
        L,
        T,
        TAGS=size,
        num_warps=_warps(size),
    )
    return path_BL, torch.where(lengths_B > 0, best_B, 0.0)


def _warps(size: int) -> int:
    """So that a thread holds some 32 of the scores of moves."""
    return min(16, max(1, size * size // 1024))
