"""A forward and a backward language model of characters, in the shape of the tagger's first layer.

Embeddings and LSTMs are those of the tagger, so that it can start from them (`--init-from`). Neither direction ever
reads what it is to predict: the two LSTMs of a layer are independent of one another, which is why there is one layer.
The backward one, having read a position and all after it, predicts the character before. The forward one predicts the
next character; where bigrams are read, that of a position already holds the next character, so the one after that.

One output layer serves both directions, as in ELMo (Peters et al. 2018). It tells the `CLASSES` most frequent
characters apart and takes all others as one: on a CPU the softmax costs more than the rest.

Shapes: B sentences, L positions, E embedding, H hidden size, C classes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ray_bilstm.accelerator import ACCELERATORS
from ray_bilstm.batches import Batch, Shard, TrainingSet, iter_eval_batches
from ray_bilstm.collective import copy_from_first, rank, sum_over_ranks
from ray_bilstm.config import ModelConfig, TrainingConfig
from ray_bilstm.loop import EVAL_BATCH_SIZE, epoch_seed, train_epoch
from ray_bilstm.model import BiLSTM, LockedDropout, make_bigram_embedding, make_char_embedding
from ray_bilstm.precision import Precision
from ray_bilstm.step import make_step
from ray_bilstm.vocab import PADDING, UNKNOWN, Vocab

CLASSES = 2048
Record = dict[str, Any]


class LanguageModel(nn.Module):
    """Both directions; `forward` gives losses."""

    def __init__(self, config: ModelConfig, vocab: Vocab) -> None:
        super().__init__()
        self.config = dataclasses.replace(config, num_layers=1)
        self.char_embedding = make_char_embedding(config, vocab)
        self.bigram_embedding = make_bigram_embedding(config, vocab)
        input_size = config.embedding_size + (config.bigram_size if self.bigram_embedding is not None else 0)
        self.dropout = LockedDropout(config.dropout)
        self.bilstm = BiLSTM(input_size, config.hidden_size, num_layers=1, dropout=0.0)
        self.output = nn.Linear(config.hidden_size, min(CLASSES, vocab.num_chars))
        self.ahead = 2 if self.bigram_embedding is not None else 1
        """how far the forward one predicts"""

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of each sentence over all predictions, in nats: float32, (B,); 0 for one too short to have any."""
        forward_B, backward_B, predictions_B = self.losses(batch)
        return (forward_B + backward_B) / predictions_B.sum(0).clamp(min=1)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each sentence forward and backward, in nats, and how many predictions each is of: (2, B)."""
        embedded_LBE = self.char_embedding(batch.chars_BL.T)
        if self.bigram_embedding is not None:
            embedded_LBE = torch.cat((embedded_LBE, self.bigram_embedding(batch.bigrams_BL.T)), 2)
        states_LBH = self.dropout(self.bilstm(self.dropout(embedded_LBE), batch.lengths_B))
        forward_LBH, backward_LBH = states_LBH.chunk(2, 2)
        chars_LB = batch.chars_BL.T
        classes_LB = torch.where(chars_LB < self.output.out_features, chars_LB, UNKNOWN)
        forward_B = self._loss(forward_LBH[: -self.ahead], classes_LB[self.ahead :])
        inside_LB = chars_LB[1:] != PADDING  # the positions that predict the one before them
        backward_B = self._loss(backward_LBH[1:], classes_LB[:-1] * inside_LB)
        counts = [(batch.lengths_B - gap).clamp(min=0) for gap in (self.ahead, 1)]
        return forward_B, backward_B, torch.stack(counts)

    def _loss(self, states_LBH: Tensor, classes_LB: Tensor) -> Tensor:
        """Sum over positions; padding is not predicted."""
        logits_LBC = self.output(states_LBH).float()
        losses_LB = cross_entropy(
            logits_LBC.flatten(0, 1), classes_LB.flatten(), ignore_index=PADDING, reduction="none"
        )
        losses_B: Tensor = losses_LB.view_as(classes_LB).sum(0)
        return losses_B


def fit(
    model: LanguageModel,
    *,
    train: TrainingSet,
    held_out: Shard,
    config: TrainingConfig,
    precision: Precision,
    on_epoch: Callable[[Record, dict[str, Tensor]], None],
) -> None:
    """Train for `config.train_epochs` epochs. `on_epoch` is called on every rank with the epoch's line of the history
    and the float32 weights after it. Raises TrainingError when a loss is not finite."""
    copy_from_first([weight.detach() for weight in model.parameters()])
    precision.prepare(model)
    step = make_step(model, config, precision)
    step.prepare(train)
    best = math.inf
    for epoch in range(1, config.train_epochs + 1):
        torch.manual_seed(epoch_seed(config.seed, epoch, rank()))
        record = train_epoch(step, train, epoch=epoch)
        started = time.perf_counter()
        record["held_out"] = perplexity(model, held_out, precision=precision)
        record["seconds"]["evaluation"] = time.perf_counter() - started
        record["best"] = record["held_out"]["perplexity"] < best
        best = min(best, record["held_out"]["perplexity"])
        on_epoch(record, precision.state_dict())


@torch.no_grad()
def perplexity(model: LanguageModel, shard: Shard, *, precision: Precision) -> Record:
    """Of both directions and of each, over all ranks' shards: e to the mean loss of a prediction."""
    model.eval()
    totals = torch.zeros(4, dtype=torch.float64)
    accelerator = ACCELERATORS[precision.device.type]
    shapes = accelerator.padded_lengths if accelerator.fixed_shapes else None
    for batch in iter_eval_batches(shard, batch_size=EVAL_BATCH_SIZE, shapes=shapes):
        with precision.autocast():
            forward_B, backward_B, predictions_B = model.losses(batch)
        parts = (forward_B.sum(), backward_B.sum(), *predictions_B.sum(1))
        totals += torch.stack([part.double() for part in parts]).cpu()
    forward, backward, ahead, behind = sum_over_ranks(totals).tolist()
    return {
        "perplexity": math.exp((forward + backward) / max(1, ahead + behind)),
        "forward": math.exp(forward / max(1, ahead)),
        "backward": math.exp(backward / max(1, behind)),
        "predictions": int(ahead + behind),
    }
