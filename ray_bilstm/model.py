"""Embeddings -> BiLSTM -> emissions -> CRF.

Padding never changes a result, and nothing is packed: each layer is two LSTMs of one direction, the backward one fed
with every sentence turned around within its own length, so that both read sentences before padding. Packing costs 3-4
times the time on a CPU and is not supported on an NPU.

Between the embedding and the emissions, positions come first, as LSTM and CRF walk them: neither has to copy.

Shapes: B sentences, L positions, E embedding, H hidden size, T tags.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from ray_bilstm import tags as schemes
from ray_bilstm.accelerator import has_kernels
from ray_bilstm.batches import Batch
from ray_bilstm.config import ModelConfig
from ray_bilstm.crf import CRF
from ray_bilstm.frozen import Frozen
from ray_bilstm.lexicon import Lexicon
from ray_bilstm.recursions import reversal, turn
from ray_bilstm.vocab import PADDING, Vocab


class LockedDropout(nn.Module):
    """Dropout of whole features: one mask a sentence, the same at all its positions (Gal and Ghahramani 2016).

    As accurate here as a mask an element, whose random numbers took a fifth of a training step on a CPU.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, inputs_LBE: Tensor) -> Tensor:
        if not self.training or not self.p:
            return inputs_LBE
        mask_BE = torch.rand_like(inputs_LBE[0]) >= self.p
        return inputs_LBE * mask_BE.to(inputs_LBE.dtype).div_(1 - self.p)


class OpenEmbedding(nn.Embedding):
    """An embedding that goes on with `outside` rows, which are not trained: no training sentence has their ids, so that
    an optimiser would only spend its time on them."""

    def __init__(self, rows: int, size: int, *, outside: int) -> None:
        super().__init__(rows, size, padding_idx=PADDING)
        self.outside = nn.Parameter(torch.zeros(outside, size), requires_grad=False) if outside else None

    def vectors(self) -> Tensor:
        """Of all ids: (rows + outside, size)."""
        return self.weight if self.outside is None else torch.cat((self.weight, self.outside))

    def forward(self, ids: Tensor) -> Tensor:
        if self.outside is None:
            return super().forward(ids)
        beyond = ids >= self.num_embeddings
        vectors = super().forward(ids.masked_fill(beyond, PADDING))
        return torch.where(beyond[..., None], self.outside[(ids - self.num_embeddings).clamp(min=0)], vectors)


def make_char_embedding(config: ModelConfig, vocab: Vocab) -> OpenEmbedding:
    return OpenEmbedding(vocab.num_chars, config.embedding_size, outside=len(vocab.outside_chars))


def make_bigram_embedding(config: ModelConfig, vocab: Vocab) -> OpenEmbedding | None:
    """None where the vocabulary has no bigrams."""
    if not vocab.num_bigrams:
        return None
    return OpenEmbedding(vocab.num_bigrams, config.bigram_size, outside=len(vocab.outside_bigrams))


class BiLSTM(nn.Module):
    """Stacked bidirectional LSTM over right-padded sentences, with dropout between layers."""

    def __init__(self, input_size: int, hidden_size: int, *, num_layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [input_size] + [2 * hidden_size] * (num_layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(size, hidden_size) for size in sizes)
        self.backwards = nn.ModuleList(nn.LSTM(size, hidden_size) for size in sizes)
        self.dropout = LockedDropout(dropout)
        self.half_lstm = True
        """whether autocast may compute it in half precision"""

    def forward(self, inputs_LBE: Tensor, lengths_B: Tensor) -> Tensor:
        """(L, B, E) -> (L, B, 2H), in the precision of the input; positions past a sentence's length hold no meaning.

        Computed in the precision of the weights, or in that of autocast.
        """
        device = inputs_LBE.device.type
        half = self.half_lstm and torch.is_autocast_enabled(device)
        states = inputs_LBE if half else inputs_LBE.to(next(self.parameters()).dtype)
        if half:  # autocast would cast behind the choice of a kernel
            states = states.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=half, dtype=torch.get_autocast_dtype(device)):
            states = self._layers(states, lengths_B)
        return states if half else states.to(inputs_LBE.dtype)

    def _layers(self, states: Tensor, lengths_B: Tensor) -> Tensor:
        for layer, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if layer:
                states = self.dropout(states)
            states = _layer(states, lengths_B, cast(nn.LSTM, ahead), cast(nn.LSTM, back))
        return states


def _layer(inputs_LBE: Tensor, lengths_B: Tensor, ahead: nn.LSTM, back: nn.LSTM) -> Tensor:
    """Both directions side by side: (L, B, E) -> (L, B, 2H)."""
    if has_kernels(inputs_LBE.device):
        from ray_bilstm import lstm_kernels

        if lstm_kernels.fits(inputs_LBE, ahead.hidden_size):
            return lstm_kernels.bilstm_layer(inputs_LBE, lengths_B, ahead, back)
    reversal_LB = reversal(lengths_B, len(inputs_LBE))
    return torch.cat((ahead(inputs_LBE)[0], turn(back(turn(inputs_LBE, reversal_LB))[0], reversal_LB)), 2)


class BiLstmCrf(nn.Module):
    """A tagger: `forward` gives losses, `decode` tags."""

    def __init__(self, config: ModelConfig, vocab: Vocab) -> None:
        super().__init__()
        self.config = config
        self.frozen: Frozen | None = None
        """what computes emissions faster as long as `freeze` is kept to"""
        self.char_embedding = make_char_embedding(config, vocab)
        self.bigram_embedding = make_bigram_embedding(config, vocab)
        self.lexicon = Lexicon(vocab, config.word_size) if vocab.words else None
        input_size = config.embedding_size + (0 if self.bigram_embedding is None else config.bigram_size)
        input_size += 0 if self.lexicon is None else 3 * config.word_size
        self.dropout = LockedDropout(config.dropout)
        self.bilstm = BiLSTM(input_size, config.hidden_size, num_layers=config.num_layers, dropout=config.dropout)
        self.emission = nn.Linear(2 * config.hidden_size, len(vocab.tags))
        self.crf = CRF(
            torch.tensor([[schemes.may_follow(i, j, vocab.scheme) for j in vocab.tags] for i in vocab.tags]),
            allowed_start_T=torch.tensor([schemes.may_start(tag, vocab.scheme) for tag in vocab.tags]),
            allowed_end_T=torch.tensor([schemes.may_stop(tag, vocab.scheme) for tag in vocab.tags]),
            learned=config.head == "crf",
        )

    def forward(self, batch: Batch) -> Tensor:
        """Loss of each sentence, in nats: float32, (B,), 0 for padding rows."""
        return self.loss(self.emissions(batch), batch)

    def loss(self, emissions_BLT: Tensor, batch: Batch) -> Tensor:
        """Negative log-likelihood of the gold path; of a batch with lessons, the mean of it over their paths."""
        if batch.lessons:
            return self.crf.distil(emissions_BLT, *batch.lessons, batch.lengths_B)
        losses_B: Tensor = self.crf(emissions_BLT, batch.tags_BL, batch.lengths_B)
        return losses_B

    def adversarial(self, batch: Batch, size: float) -> Tensor:
        """The mean of that loss and of the loss with the embeddings of each sentence moved by `size` (their Euclidean
        norm) to where it grows fastest: (B,). Twice the work of `forward`, and more.

        Miyato, Dai and Goodfellow 2017, "Adversarial Training Methods for Semi-Supervised Text Classification".
        """
        embedded_LBE = self.embed(batch)
        losses_B = self.loss(self._score(embedded_LBE, batch), batch)
        (gradient_LBE,) = torch.autograd.grad(losses_B.sum(), embedded_LBE, retain_graph=True)
        norm_1B1 = gradient_LBE.float().norm(dim=(0, 2), keepdim=True).clamp(min=1e-12)  # 0 of padding rows
        moved_LBE = embedded_LBE + (gradient_LBE * (size / norm_1B1)).to(embedded_LBE.dtype)
        return (losses_B + self.loss(self._score(moved_LBE, batch), batch)) / 2

    def train(self, mode: bool = True) -> BiLstmCrf:
        """As of any module; a model that learns is not frozen."""
        if mode:
            self.frozen = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BiLstmCrf:
        """What `to`, `half` and the like call: a model that is moved or cast is not what was frozen."""
        self.frozen = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def emissions(self, batch: Batch) -> Tensor:
        """Score of each tag at each position: (B, L, T), in the precision of the forward pass."""
        if self.frozen and self.frozen.is_faster(batch) and not torch.is_grad_enabled():
            return self.frozen.emissions(batch)
        return self._score(self.embed(batch), batch)

    def embed(self, batch: Batch) -> Tensor:
        """The vector of each position: (L, B, E)."""
        chars_LB = batch.chars_BL.T
        parts = [self.char_embedding(chars_LB)]
        if self.bigram_embedding is not None:
            parts.append(self.bigram_embedding(batch.bigrams_BL.T))
        if self.lexicon is not None:
            parts.append(self.lexicon(chars_LB))
        return torch.cat(parts, 2)

    def _score(self, embedded_LBE: Tensor, batch: Batch) -> Tensor:
        states_LBH = self.bilstm(self.dropout(embedded_LBE), batch.lengths_B)
        emissions_LBT: Tensor = self.emission(self.dropout(states_LBH))
        return emissions_LBT.transpose(0, 1)

    @torch.no_grad()
    def marginals(self, batch: Batch) -> Tensor:
        """Probability of each tag at each position among the legal paths: float32, (B, L, T), zero in the padding."""
        return self.crf.marginals(self.emissions(batch), batch.lengths_B)

    @torch.no_grad()
    def expected_counts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, and how often each tag is expected right after each other one: (B, L, T) and (B, T, T)."""
        return self.crf.expected_counts(self.emissions(batch), batch.lengths_B)

    @torch.no_grad()
    def decode(self, batch: Batch) -> Tensor:
        """Best legal tag sequence of each sentence: int64, (B, L), 0 in the padding."""
        return self.crf.decode(self.emissions(batch), batch.lengths_B)


def freeze(model: nn.Module) -> list[BiLstmCrf]:
    """Evaluation mode, with the promise that no weight of the taggers in `model` changes until `train` is called: on a
    CPU, emissions for many sentences then take half the time. Returns the taggers that were not frozen before."""
    model.eval()
    taggers = [module for module in model.modules() if isinstance(module, BiLstmCrf) and module.frozen is None]
    taggers = [tagger for tagger in taggers if tagger.emission.weight.device.type == "cpu"]
    for tagger in taggers:
        tagger.frozen = Frozen(tagger)
    return taggers


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The same, for as long as the context lasts."""
    taggers = freeze(model)
    try:
        yield
    finally:
        for tagger in taggers:
            tagger.frozen = None
