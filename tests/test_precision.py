"""Precision levels on a cpu: bfloat16, and float16 with the LSTM in float32, which it computes slowly but rightly."""

import numpy as np
import pytest
import torch

from ray_bilstm.batches import Shard
from ray_bilstm.config import ModelConfig
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision

LEVELS = ("O0", "O1", "O2")


def prepare(level, sentences, vocab, dtype=torch.bfloat16):
    """A model and its precision, and one batch of everything."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "bigram_size": 8, "hidden_size": 16, "dropout": 0.0}
    model = BiLstmCrf(ModelConfig(**sizes), vocab)
    half_lstm = dtype is torch.bfloat16
    precision = Precision(level, dtype=dtype, device=torch.device("cpu"), half_lstm=half_lstm)
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


def snapshot(precision, optimizer):
    """Copies of the float32 weights and of the optimiser's state."""
    moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
    return [*precision.state_dict().values(), *moments]


@pytest.mark.parametrize("level", LEVELS[1:])
def test_an_lstm_may_stay_in_float32(level, sentences, vocab):
    model, precision, batch = prepare(level, sentences, vocab, torch.float16)
    seen = {}
    model.bilstm.forwards[0].register_forward_hook(lambda module, inputs, outputs: seen.update(lstm=outputs[0].dtype))
    model.emission.register_forward_hook(lambda module, inputs, outputs: seen.update(emission=outputs.dtype))
    optimizer = torch.optim.AdamW(precision.trained(), lr=0.02, fused=True)
    losses = []
    for _ in range(20):
        losses.append(loss_of(model, precision, batch))
        precision.step(losses[-1], optimizer, clip_norm=5.0)
    assert seen == {"lstm": torch.float32, "emission": torch.float16}
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("level", LEVELS[1:])
def test_an_overflowed_step_changes_nothing(level, first, sentences, vocab):
    model, precision, batch = prepare(level, sentences, vocab, torch.float16)
    optimizer = torch.optim.AdamW(precision.trained(), lr=0.01, fused=True)
    while level == "O1" and float(precision.loss_scale.scale) > 64:  # let the dynamic scale find its level
        precision.loss_scale.scale.div_(2)
    if not first:
        assert torch.isfinite(precision.step(loss_of(model, precision, batch), optimizer, clip_norm=5.0))
    before, scale = snapshot(precision, optimizer), float(precision.loss_scale.scale)
    norm = precision.step(loss_of(model, precision, batch) * 1e6, optimizer, clip_norm=5.0)
    assert norm == torch.inf
    after = snapshot(precision, optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=first is False))
    assert all(not value.any() for value in after[len(before) :]), "the moments that the first step made are none"
    assert float(precision.loss_scale.scale) == (scale / 2 if level == "O1" else scale)
    assert torch.isfinite(precision.step(loss_of(model, precision, batch), optimizer, clip_norm=5.0))
    moved = [not torch.equal(old, new) for old, new in zip(before, snapshot(precision, optimizer), strict=False)]
    assert any(moved), "the next step is taken"


def test_a_dynamic_scale_grows_and_goes_on_where_it_stood(sentences, vocab, monkeypatch):
    monkeypatch.setattr("ray_bilstm.precision.GROWTH_INTERVAL", 2)
    _, precision, _ = prepare("O1", sentences, vocab, torch.float16)
    scale = precision.loss_scale
    scale.scale.fill_(8.0)
    gradient = torch.full((3,), 16.0)
    assert scale.unscale([gradient]) == 0
    assert gradient.tolist() == [2.0] * 3
    again = prepare("O1", sentences, vocab, torch.float16)[1].loss_scale
    again.load_state_dict(scale.state_dict())
    scale.unscale([torch.ones(3)])
    again.unscale([torch.ones(3)])
    assert float(scale.scale) == float(again.scale) == 16.0
    assert again.unscale([torch.tensor([1.0, torch.nan])]) == 1
    assert float(again.scale) == 8.0
    static = prepare("O2", sentences, vocab, torch.float16)[1].loss_scale
    static.load_state_dict(scale.state_dict())
    static.unscale([torch.tensor([torch.inf])])
    assert (float(static.scale), static.state_dict()) == (64.0, {})
