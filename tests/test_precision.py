"""Precision levels with bfloat16 on a cpu. The float16 loss scaler needs an accelerator."""

import numpy as np
import pytest
import torch

from ray_bilstm.batches import Shard
from ray_bilstm.config import ModelConfig
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision

LEVELS = ("O0", "O1", "O2")


def prepare(level, sentences, vocab):
    """A model and its precision, and one batch of everything."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "bigram_size": 8, "hidden_size": 16, "dropout": 0.0, "token_dropout": 0.0}
    model = BiLstmCrf(ModelConfig(**sizes), vocab)
    precision = Precision(level, dtype=torch.bfloat16, device=torch.device("cpu"))
    precision.prepare(model)
    shard = Shard(vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences]), np.arange(len(sentences)))
    return model, precision, shard.batch(shard.rows, int(shard.lengths.max()), sentences=len(sentences))


def loss_of(model, precision, batch):
    with precision.autocast():
        return model(batch).mean()


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_trains_at_every_level(level, sentences, vocab):
    model, precision, batch = prepare(level, sentences, vocab)
    optimizer = torch.optim.AdamW(precision.trained(), lr=0.02)
    losses = []
    for _ in range(15):
        loss = loss_of(model, precision, batch)
        assert loss.dtype is torch.float32, "the CRF computes in float32"
        assert precision.step(loss, optimizer, clip_norm=5.0) > 0
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_levels_start_from_about_the_same_loss(sentences, vocab):
    losses = [loss_of(*prepare(level, sentences, vocab)).item() for level in LEVELS]
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=0.02)
    assert losses[0] not in losses[1:], "half precision shows"


@pytest.mark.parametrize("level", LEVELS)
def test_masters_and_checkpoints_are_float32(level, sentences, vocab):
    model, precision, batch = prepare(level, sentences, vocab)
    weights = dict(model.named_parameters())
    halves = {name for name, weight in weights.items() if weight.dtype is torch.bfloat16}
    expected = {name for name in weights if not name.startswith("crf.")} if level == "O2" else set()
    assert halves == expected
    before = precision.state_dict()
    optimizer = torch.optim.AdamW(precision.trained(), lr=1e-4)
    precision.step(loss_of(model, precision, batch), optimizer, clip_norm=5.0)
    after = precision.state_dict()
    assert before.keys() == after.keys() == weights.keys()
    for name, master in after.items():
        assert master.dtype is torch.float32
        assert torch.equal(weights[name].detach(), master.to(weights[name].dtype)), name
        assert not torch.equal(master, before[name]), "a step smaller than half precision is not lost"


@pytest.mark.parametrize("level", LEVELS)
def test_weights_of_one_level_load_at_another(level, sentences, vocab):
    _, source, _ = prepare("O2", sentences, vocab)
    state = {name: weight + 0.125 for name, weight in source.state_dict().items()}
    model, precision, _ = prepare(level, sentences, vocab)
    precision.load_state_dict(state)
    for name, weight in model.named_parameters():
        assert torch.equal(precision.state_dict()[name], state[name])
        assert torch.equal(weight.detach(), state[name].to(weight.dtype))


@pytest.mark.parametrize("level", LEVELS)
def test_a_long_gradient_is_scaled_down(level, sentences, vocab):
    model, precision, batch = prepare(level, sentences, vocab)
    before = precision.state_dict()
    optimizer = torch.optim.SGD(precision.trained(), lr=1.0)
    norm = precision.step(loss_of(model, precision, batch), optimizer, clip_norm=0.01)
    after = precision.state_dict()
    moved = torch.stack([(after[name] - before[name]).norm() for name in after]).norm()
    assert norm > 1
    assert moved == pytest.approx(0.01, rel=0.01)
