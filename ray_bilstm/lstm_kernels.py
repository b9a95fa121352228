"""A bidirectional LSTM layer as Triton kernels, for half precision on cuda.

cuDNN has a kernel that walks a whole sentence for float16 and float32 only; in bfloat16 it launches two kernels a
position. Here one kernel walks it, both directions at once, with the recurrent weights in the memory of its
multiprocessor and the cell in float32: a program for every 16 sentences and direction. What does not depend on the walk
is a matrix product over all positions before or after it. The backward direction reads each sentence from its own end,
so nothing is turned around.

Shapes: B sentences, L positions, E inputs, H hidden size, D = 2 directions, G = 4 gates in torch's order: input,
forget, cell, output. ROWS sentences a program.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LARGEST = 128


@triton.jit
def _tanh(x, FAST: tl.constexpr):
    if FAST:  # one instruction, as exact as float16
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return 2 / (1 + tl.exp(-2 * x)) - 1


@triton.jit
def _sigmoid(x, FAST: tl.constexpr):
    return 0.5 + 0.5 * _tanh(0.5 * x, FAST)


@triton.jit
def _place(step, rows, lengths, direction, B):
    """Which (position, sentence, direction) a walk reaches at a step; beyond a sentence it goes on through padding."""
    position = tl.where((direction == 1) & (step < lengths), lengths - 1 - step, step)
    return (position.to(tl.int64) * B + rows) * 2 + direction


@triton.jit
def _load_weights(weights, H: tl.constexpr):
    return tl.load(weights), tl.load(weights + H * H), tl.load(weights + 2 * H * H), tl.load(weights + 3 * H * H)


@triton.jit
def _rows(lengths_B, B, ROWS: tl.constexpr):
    """The sentences of this program and their lengths, 0 beyond the last."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    return rows, tl.load(lengths_B + rows, mask=rows < B, other=0).to(tl.int32)


@triton.jit
def _load_gates(gates, inside, H: tl.constexpr):
    return (
        tl.load(gates, mask=inside, other=0.0),
        tl.load(gates + H, mask=inside, other=0.0),
        tl.load(gates + 2 * H, mask=inside, other=0.0),
        tl.load(gates + 3 * H, mask=inside, other=0.0),
    )


@triton.jit
def _store_gates(gates, i, f, g, o, inside, H: tl.constexpr):
    half = gates.dtype.element_ty
    tl.store(gates, i.to(half), mask=inside)
    tl.store(gates + H, f.to(half), mask=inside)
    tl.store(gates + 2 * H, g.to(half), mask=inside)
    tl.store(gates + 3 * H, o.to(half), mask=inside)


@triton.jit(do_not_specialize=("L", "B"))
def _walk(
    gates_LBDGH,
    weights_DGHH,
    lengths_B,
    states_LBDH,
    cells_LBDH,
    L,
    B,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    FAST: tl.constexpr,
):
    """Pre-activations from the inputs become activations; states, 0 in the padding, and cells."""
    direction = tl.program_id(1)
    rows, lengths = _rows(lengths_B, B, ROWS)
    units = tl.arange(0, H)
    # (from, to) of each gate, as the product with states wants it
    weights = weights_DGHH + direction * 4 * H * H + units[None, :] * H + units[:, None]
    weight_i, weight_f, weight_g, weight_o = _load_weights(weights, H)
    state = tl.zeros((ROWS, H), gates_LBDGH.dtype.element_ty)
    cell = tl.zeros((ROWS, H), tl.float32)
    everywhere = (rows < B)[:, None] & (units < H)[None, :]
    inside = (lengths > 0)[:, None] & everywhere
    place = _place(0, rows, lengths, direction, B)[:, None]
    in_i, in_f, in_g, in_o = _load_gates(gates_LBDGH + place * 4 * H + units[None, :], inside, H)
    for step in range(L):
        # Asked for now, needed in the next step: the products below hide the way to memory.
        inside_next = (step + 1 < lengths)[:, None] & everywhere
        place_next = _place(step + 1, rows, lengths, direction, B)[:, None]
        next_i, next_f, next_g, next_o = _load_gates(gates_LBDGH + place_next * 4 * H + units[None, :], inside_next, H)
        i = _sigmoid(tl.dot(state, weight_i, in_i.to(tl.float32)), FAST)
        f = _sigmoid(tl.dot(state, weight_f, in_f.to(tl.float32)), FAST)
        g = _tanh(tl.dot(state, weight_g, in_g.to(tl.float32)), FAST)
        o = _sigmoid(tl.dot(state, weight_o, in_o.to(tl.float32)), FAST)
        cell = f * cell + i * g
        state = (o * _tanh(cell, FAST)).to(state.dtype)
        _store_gates(gates_LBDGH + place * 4 * H + units[None, :], i, f, g, o, inside, H)
        here = place * H + units[None, :]
        tl.store(cells_LBDH + here, cell.to(state.dtype), mask=inside)
        tl.store(states_LBDH + here, tl.where(inside, state, 0.0), mask=everywhere)
        in_i, in_f, in_g, in_o, inside, place = next_i, next_f, next_g, next_o, inside_next, place_next


@triton.jit(do_not_specialize=("L", "B"))
def _walk_back(
    gates_LBDGH,
    weights_DGHH,
    lengths_B,
    cells_LBDH,
    grads_LBDH,
    grad_gates_LBDGH,
    L,
    B,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    FAST: tl.constexpr,
):
    """Gradients of the pre-activations, 0 in the padding, from activations, cells and the gradients of the states."""
    direction = tl.program_id(1)
    rows, lengths = _rows(lengths_B, B, ROWS)
    units = tl.arange(0, H)
    # (to, from) of each gate: the gradient goes the other way
    weights = weights_DGHH + direction * 4 * H * H + units[:, None] * H + units[None, :]
    weight_i, weight_f, weight_g, weight_o = _load_weights(weights, H)
    half = gates_LBDGH.dtype.element_ty
    d_state = tl.zeros((ROWS, H), tl.float32)
    d_cell = tl.zeros((ROWS, H), tl.float32)
    everywhere = (rows < B)[:, None] & (units < H)[None, :]
    for back in range(L):
        step = L - 1 - back
        inside = (step < lengths)[:, None] & everywhere
        place = _place(step, rows, lengths, direction, B)[:, None]
        here = place * H + units[None, :]
        before = here + (2 * direction - 1) * B * 2 * H
        i, f, g, o = _load_gates(gates_LBDGH + place * 4 * H + units[None, :], inside, H)
        cell = tl.load(cells_LBDH + here, mask=inside, other=0.0)
        cell_before = tl.load(
            cells_LBDH + before, mask=inside & (tl.zeros_like(lengths) + step > 0)[:, None], other=0.0
        )
        d_state += tl.load(grads_LBDH + here, mask=inside, other=0.0)

        i, f, g, o = i.to(tl.float32), f.to(tl.float32), g.to(tl.float32), o.to(tl.float32)
        squashed = _tanh(cell.to(tl.float32), FAST)
        d_cell += d_state * o * (1 - squashed * squashed)
        d_i = (d_cell * g * i * (1 - i)).to(half)
        d_f = (d_cell * cell_before * f * (1 - f)).to(half)
        d_g = (d_cell * i * (1 - g * g)).to(half)
        d_o = (d_state * squashed * o * (1 - o)).to(half)
        d_cell = d_cell * f  # 0 outside a sentence, as f is
        _store_gates(grad_gates_LBDGH + place * 4 * H + units[None, :], d_i, d_f, d_g, d_o, everywhere, H)
        d_state = tl.dot(d_i, weight_i)
        d_state = tl.dot(d_f, weight_f, d_state)
        d_state = tl.dot(d_g, weight_g, d_state)
        d_state = tl.dot(d_o, weight_o, d_state)


class _BiLstmLayer(torch.autograd.Function):
    """From inputs and weights of both directions, (D, ...) each, to states."""

    @staticmethod
    def forward(
        ctx: Any, inputs_LBE: Tensor, lengths_B: Tensor, inward_DGHE: Tensor, weights_DGHH: Tensor, bias_DGH: Tensor
    ) -> Tensor:
        L, B, E = inputs_LBE.shape
        H = weights_DGHH.shape[-1]
        flat_NE = inputs_LBE.reshape(-1, E)
        gates_LBDGH = torch.addmm(bias_DGH.flatten(), flat_NE, inward_DGHE.view(-1, E).T).view(L, B, 2, 4, H)
        states_LBDH, cells_LBDH = (gates_LBDGH.new_empty(L, B, 2, H) for _ in range(2))
        _walk[_grid(B)](gates_LBDGH, weights_DGHH, lengths_B, states_LBDH, cells_LBDH, L, B, H, **_shape(B, H))
        ctx.save_for_backward(inputs_LBE, lengths_B, inward_DGHE, weights_DGHH, gates_LBDGH, states_LBDH, cells_LBDH)
        return states_LBDH.flatten(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs_LBE, lengths_B, inward_DGHE, weights_DGHH, gates_LBDGH, states_LBDH, cells_LBDH = ctx.saved_tensors
        L, B, D, G, H = gates_LBDGH.shape
        grad_gates_LBDGH = torch.empty_like(gates_LBDGH)
        _walk_back[_grid(B)](
            gates_LBDGH,
            weights_DGHH,
            lengths_B,
            cells_LBDH,
            grads[0].contiguous(),
            grad_gates_LBDGH,
            L,
            B,
            H,
            **_shape(B, H),
        )
        flat_NX, inputs_NE = grad_gates_LBDGH.view(L * B, -1), inputs_LBE.reshape(L * B, -1)
        inward_XE = inward_DGHE.view(-1, inward_DGHE.shape[-1])
        # The state before a position is that of its neighbour, 0 beyond a sentence's ends.
        gates_LBDX = grad_gates_LBDGH.view(L, B, D, -1)
        grad_weights_DXH = torch.stack(
            (
                gates_LBDX[1:, :, 0].flatten(0, 1).T @ states_LBDH[:-1, :, 0].flatten(0, 1),
                gates_LBDX[:-1, :, 1].flatten(0, 1).T @ states_LBDH[1:, :, 1].flatten(0, 1),
            )
        )
        return (
            (flat_NX @ inward_XE).view_as(inputs_LBE),
            None,
            (flat_NX.T @ inputs_NE).view_as(inward_DGHE),
            grad_weights_DXH.view_as(weights_DGHH),
            flat_NX.sum(0).view(D, G, H),
        )


def _grid(B: int) -> tuple[int, int]:
    return triton.cdiv(B, 16), 2


def _shape(B: int, H: int) -> dict[str, int]:
    return {"ROWS": 16, "FAST": not INTERPRETED, "num_warps": max(1, H // 16)}


def fits(inputs_LBE: Tensor, hidden_size: int) -> bool:
    """Whether `bilstm_layer` can be had: in half precision, of a power of 2 of units whose weights a multiprocessor can
    hold, 128 on an H100 and 64 on an A100."""
    half = inputs_LBE.dtype in (torch.bfloat16, torch.float16)
    return half and hidden_size >= 16 and hidden_size.bit_count() == 1 and _room(inputs_LBE.device) >= hidden_size


@functools.cache
def _room(device: torch.device) -> int:
    """The largest hidden size."""
    if INTERPRETED:
        return LARGEST
    properties = torch.cuda.get_device_properties(device)
    if properties.major < 8:  # no instruction for tanh in all of them
        return 0
    memory: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    sizes = (2**i for i in range(4, 8))
    # Of a direction's weights, and of what a step of `_walk_back` loads ahead.
    return max((H for H in sizes if memory >= 8 * H * H + 640 * H), default=0)


def bilstm_layer(inputs_LBE: Tensor, lengths_B: Tensor, ahead: nn.LSTM, back: nn.LSTM) -> Tensor:
    """States of both directions side by side, in the precision of the inputs: (L, B, E) -> (L, B, 2H), 0 in the
    padding. Differentiable once. `ahead` and `back` have one layer and hold the weights."""
    H = ahead.hidden_size
    inward, weights, bias, more_bias = (
        torch.stack(pair).to(inputs_LBE.dtype) for pair in zip(ahead.all_weights[0], back.all_weights[0], strict=True)
    )
    states_LBX: Tensor = _BiLstmLayer.apply(  # type: ignore[no-untyped-call]
        inputs_LBE, lengths_B, inward.view(2, 4, H, -1), weights.view(2, 4, H, H), (bias + more_bias).view(2, 4, H)
    )
    return states_LBX
