"""The emissions of a model that learns no more, on a CPU: whatever can be known before a sentence comes is known.

What a character, or a bigram, adds to the gates of the first LSTM layer is its embedding times the input weights, and
stays the same as long as they do. So it stands in a table, and of the layer only the recurrence is left to compute. It
walks along all sentences of a batch at once, longest first, both directions side by side, over those alone that go on:
no position is padded. About twice as fast as torch's LSTM in float32 (docs/benchmarks.md).

All gates are sigmoids, which cost a third of a tanh: tanh(x) = 2 sigmoid(2x) - 1. The twos stand in the weights; what
is carried along a sentence is twice the cell and half the state.

Shapes: B sentences, L positions, N positions of all sentences together, H hidden size, G = 4 H gates, T tags; 2 is the
two directions. Positions are packed: first all those that begin a sentence, longest sentence first, then all second
ones, and so on. The backward direction walks each sentence turned around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ray_bilstm.batches import Batch

if TYPE_CHECKING:
    from ray_bilstm.model import BiLstmCrf

SENTENCES, POSITIONS = 256, 2**15
"""Of a batch: the more sentences the faster, up to these, and positions with their padding, which memory is for."""
TABLE_ROWS = 2**15
"""Characters and bigrams of the largest table (128 MiB, where H is 128); with more, products are taken as needed."""
FEW_SENTENCES, FEW_IN_HALF = 24, 96
"""Below, torch's LSTM is faster: what counts is then how many operations there are, and not their size."""


class Packing(NamedTuple):
    """Where positions of padded sentences stand when they are packed."""

    counts: list[int]
    """sentences that have a first, second, ... position"""
    place_N: Tensor
    """of each packed position, in a flattened (B, L) tensor"""
    turned_N: Tensor
    """the packed position at which it stands when its sentence is turned around"""

    @classmethod
    def of(cls, lengths_B: Tensor, size: int) -> Packing:
        lengths = lengths_B.numpy()
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
        counts = (lengths > np.arange(size)[:, None]).sum(1)
        counts = counts[counts > 0]
        starts = np.cumsum(counts) - counts
        position = np.repeat(np.arange(len(counts)), counts)
        row = np.arange(len(position)) - starts[position]
        turned = starts[lengths[row] - 1 - position] + row
        return cls(counts.tolist(), torch.from_numpy(order[row] * size + position), torch.from_numpy(turned))

    def walked(self, rows_NK: Tensor, behind: int) -> Tensor:
        """The rows of a table that positions need, in the order in which both directions are walked: (2 N, K), at each
        step those of the forward direction before those of the backward one, which stand `behind` rows further down."""
        counts = torch.tensor(self.counts)
        step_N = torch.arange(len(counts)).repeat_interleave(counts)
        ahead_N = torch.arange(len(step_N)) + (counts.cumsum(0) - counts)[step_N]
        walked = torch.empty(2 * len(rows_NK), rows_NK.shape[1], dtype=torch.int64)
        walked[ahead_N] = rows_NK
        walked[ahead_N + counts[step_N]] = rows_NK[self.turned_N] + behind
        return walked


class Layer:
    """The weights of both directions of an LSTM layer, in the order and with the factors that `walk` wants."""

    def __init__(self, ahead: nn.LSTM, back: nn.LSTM, dtype: torch.dtype) -> None:
        H = ahead.hidden_size
        self.dtype = dtype
        order = [*range(2 * H), *range(3 * H, 4 * H), *range(2 * H, 3 * H)]  # input, forget, output, then the cell
        factors_G1 = torch.ones(4 * H, 1)
        factors_G1[3 * H :] = 2

        def both(name: str) -> Tensor:
            weights = (cast(Tensor, getattr(lstm, f"{name}_l0")).detach().float() for lstm in (ahead, back))
            return torch.stack([weight.view(4 * H, -1)[order] * factors_G1 for weight in weights]).transpose(1, 2)

        self.inputs_2EG = both("weight_ih").to(dtype)
        self.states_2HG = (both("weight_hh") * 2).contiguous().to(dtype)
        self.bias_21G = both("bias_ih") + both("bias_hh")

    def walk(self, table_2RG: Tensor, rows_NK: Tensor, packing: Packing) -> Tensor:
        """Half the states of each direction at the positions that it walks, (2, N, H), where the sum of some rows of
        the table is what the input of a position adds to the gates."""
        B, H = packing.counts[0], self.states_2HG.shape[1]
        table, rows = table_2RG.flatten(0, 1), packing.walked(rows_NK, table_2RG.shape[1])
        halves_2NH = torch.empty(2, len(rows_NK), H, dtype=self.dtype)
        starts = torch.arange(0, rows[: 2 * B].numel(), rows.shape[1])
        cells_2BH, before_2BH = torch.zeros(2, B, H), torch.zeros(2, B, H, dtype=self.dtype)
        # Views are taken all at once: taking one costs as much as a small operation.
        counts, steps = packing.counts, [2 * count for count in packing.counts]
        views = zip(counts, torch.split(rows, steps), torch.split(halves_2NH, counts, 1), strict=True)
        for count, chosen, now_2BH in views:
            if count < cells_2BH.shape[1]:
                cells_2BH, before_2BH = cells_2BH[:, :count], before_2BH[:, :count]
            gates = nn.functional.embedding_bag(chosen.view(-1), table, starts[: 2 * count], mode="sum")
            gates_2BG = gates.view(2, count, 4 * H)
            if self.dtype is torch.float32:
                gates_2BG.baddbmm_(before_2BH, self.states_2HG)
            else:
                gates_2BG.add_(torch.bmm(before_2BH, self.states_2HG))
            take, keep, give, new = gates_2BG.sigmoid_().chunk(4, 2)
            cells_2BH.mul_(keep).addcmul_(take, new.sub_(0.5), value=4)
            torch.mul(give, torch.sigmoid(cells_2BH).sub_(0.5), out=now_2BH)
            before_2BH = now_2BH
        return halves_2NH


class Frozen:
    """A model as it stands when this is made, in the precision of its LSTM's weights, or in that of autocast."""

    def __init__(self, model: BiLstmCrf) -> None:
        self.model = model
        half = model.bilstm.half_lstm and torch.is_autocast_enabled("cpu")
        self.dtype = torch.get_autocast_dtype("cpu") if half else next(model.bilstm.parameters()).dtype
        pairs = zip(model.bilstm.forwards, model.bilstm.backwards, strict=True)
        self.layers = [Layer(cast(nn.LSTM, ahead), cast(nn.LSTM, back), self.dtype) for ahead, back in pairs]
        self.emission_2HT = 2 * torch.stack(model.emission.weight.detach().T.chunk(2)).to(self.dtype)
        self.bias_T = model.emission.bias.detach().float()
        vectors = [model.char_embedding.vectors()]
        if model.bigram_embedding is not None:
            vectors.append(model.bigram_embedding.vectors())
        self.num_chars = len(vectors[0])
        known = model.lexicon is None and sum(map(len, vectors)) <= TABLE_ROWS
        self.table_2RG = self._products(vectors) if known else None

    @torch.no_grad()
    def _products(self, vectors: list[Tensor]) -> Tensor:
        """What each character, with the bias, and then each bigram adds to the gates of the first layer: (2, R, G)."""
        first = self.layers[0]
        weights = torch.split(first.inputs_2EG.float(), [each.shape[1] for each in vectors], 1)
        with torch.autocast("cpu", enabled=False):
            chars_2RG, *others = (each.float() @ weight for each, weight in zip(vectors, weights, strict=True))
        return torch.cat((chars_2RG + first.bias_21G, *others), 1)

    def is_faster(self, batch: Batch) -> bool:
        """Than the model itself."""
        return len(batch.lengths_B) >= (FEW_SENTENCES if self.dtype is torch.float32 else FEW_IN_HALF)

    @torch.no_grad()
    def emissions(self, batch: Batch) -> Tensor:
        """As `BiLstmCrf.emissions`, in float32, with 0 in the padding."""
        B, L = batch.chars_BL.shape
        emissions_MT = torch.zeros(B * L, len(self.bias_T))  # M = B L
        packing = Packing.of(batch.lengths_B, L)
        if packing.counts:
            with torch.autocast("cpu", enabled=False):
                halves_2NH = self._first(batch, packing)
                for layer in self.layers[1:]:
                    turned_NH = halves_2NH[1].index_select(0, packing.turned_N)
                    halves_2NH = _compute(layer, torch.cat((halves_2NH[0], turned_NH), 1) * 2, packing)
                ahead_NT, back_NT = torch.bmm(halves_2NH, self.emission_2HT).float()
            emissions_NT = ahead_NT + back_NT.index_select(0, packing.turned_N) + self.bias_T
            emissions_MT.index_copy_(0, packing.place_N, emissions_NT)
        return emissions_MT.view(B, L, -1)

    def _first(self, batch: Batch, packing: Packing) -> Tensor:
        if self.table_2RG is None:
            embedded_BLE = self.model.embed(batch).transpose(0, 1)
            return _compute(self.layers[0], embedded_BLE.flatten(0, 1)[packing.place_N], packing)
        rows = [batch.chars_BL.flatten()[packing.place_N]]
        if self.model.bigram_embedding is not None:
            rows.append(batch.bigrams_BL.flatten()[packing.place_N] + self.num_chars)
        return self.layers[0].walk(self.table_2RG, torch.stack(rows, 1), packing)


def _compute(layer: Layer, inputs_NE: Tensor, packing: Packing) -> Tensor:
    """Walk along inputs that are in no table: here is one of them."""
    products_2NG = (inputs_NE.to(layer.dtype) @ layer.inputs_2EG).float() + layer.bias_21G
    return layer.walk(products_2NG, torch.arange(len(inputs_NE))[:, None], packing)
