"""The tagger: padding never changes a result, and the layers are what torch's own would be."""

import numpy as np
import pytest
import torch
from torch import nn

from ray_bilstm import tags
from ray_bilstm.batches import Shard
from ray_bilstm.config import ModelConfig
from ray_bilstm.model import BiLSTM, BiLstmCrf, LockedDropout
from ray_bilstm.vocab import PADDING, Vocab

SHAPES = pytest.mark.parametrize(("num_layers", "bigrams"), [(1, True), (2, True), (1, False), (2, False)])


def make_model(sentences, device, *, bigrams=True, **fields):
    """A tagger with random weights and CRF scores, without dropout, and all sentences as its shard.

    In training mode: in evaluation mode cuDNN's LSTM has no gradient.
    """
    vocab = Vocab.build(sentences, scheme="BMES", bigram_min_count=int(bigrams))
    sizes = {"embedding_size": 12, "bigram_size": 6, "hidden_size": 10, "dropout": 0.0}
    torch.manual_seed(1)
    model = BiLstmCrf(ModelConfig(**sizes | fields), vocab)
    with torch.no_grad():
        for weight in model.crf.parameters():
            weight.uniform_(-1, 1) if weight.requires_grad else None
    encoded = vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences])
    return model.train().to(device), Shard(encoded, np.arange(len(sentences)), device=device), vocab


def whole_batch(shard, *, extra=0):
    """Every sentence in one batch, padded `extra` positions further than needed."""
    return shard.batch(np.arange(len(shard)), int(shard.lengths.max()) + extra, sentences=len(shard))


@SHAPES
@pytest.mark.parametrize("extra", [0, 9])
def test_a_sentence_has_the_same_emissions_alone_and_in_a_batch(sentences, device, num_layers, bigrams, extra):
    model, shard, _ = make_model(sentences, device, num_layers=num_layers, bigrams=bigrams)
    batch = whole_batch(shard, extra=extra)
    emissions_BLT, losses_B, decoded_BL = model.emissions(batch), model(batch), model.decode(batch)
    for i, length in enumerate(shard.lengths[:-1].tolist()):
        alone = shard.batch(np.array([i]), length, sentences=1)
        torch.testing.assert_close(emissions_BLT[i, :length], model.emissions(alone)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(losses_B[i], model(alone)[0], rtol=1e-5, atol=1e-4)
        assert torch.equal(decoded_BL[i, :length], model.decode(alone)[0])
        assert not decoded_BL[i, length:].any()


def test_sentences_that_share_a_batch_do_differ(sentences, device):
    """The test above would pass for a model that ignores its input."""
    model, shard, _ = make_model(sentences, device)
    emissions_BLT = model.emissions(whole_batch(shard))
    assert not torch.allclose(emissions_BLT[0, 0], emissions_BLT[1, 0], atol=1e-3)
    assert len(set(model(whole_batch(shard)).tolist())) == len(shard)


@SHAPES
def test_padding_has_no_gradient(sentences, device, num_layers, bigrams):
    model, shard, _ = make_model(sentences, device, num_layers=num_layers, bigrams=bigrams)
    rows = np.arange(3)
    longest = int(shard.lengths[:3].max())
    model(shard.batch(rows, longest, sentences=3)).sum().backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    model.zero_grad()
    real, padding = shard.batch(rows, longest + 5, sentences=3), shard.batch(rows[:0], longest + 5, sentences=3)
    model(
        real._replace(
            **{
                name: torch.cat((getattr(real, name), getattr(padding, name)))
                for name in ("chars_BL", "bigrams_BL", "tags_BL", "lengths_B")
            }
        )
    ).sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert not model.char_embedding.weight.grad[PADDING].any()

    model.zero_grad()
    loss_B = model(padding)
    loss_B.sum().backward()
    assert loss_B.tolist() == [0]
    assert not any(weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_equals_a_packed_lstm_with_the_same_weights(num_layers, device):
    torch.manual_seed(0)
    ours = BiLSTM(6, 5, num_layers=num_layers, dropout=0.0).to(device)
    packed = nn.LSTM(6, 5, num_layers=num_layers, batch_first=True, bidirectional=True)  # not to be had on npu
    directions = [(ours.forwards, ""), (ours.backwards, "_reverse")]
    with torch.no_grad():
        for layers, suffix in directions:
            for i, layer in enumerate(layers):
                for name, weight in layer.named_parameters():
                    getattr(packed, name.replace("l0", f"l{i}") + suffix).copy_(weight)
    lengths = [7, 1, 4, 11]
    inputs_BLE = torch.randn(4, 11, 6)
    sequence = nn.utils.rnn.pack_padded_sequence(inputs_BLE, lengths, batch_first=True, enforce_sorted=False)
    expected_BLH, _ = nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    got_LBH = ours(inputs_BLE.transpose(0, 1).to(device), torch.tensor(lengths, device=device))
    for got, expected, length in zip(got_LBH.transpose(0, 1).cpu(), expected_BLH, lengths, strict=True):
        torch.testing.assert_close(got[:length], expected[:length], rtol=0, atol=1e-6)


def test_softmax_head_is_cross_entropy_a_token(sentences, device):
    model, shard, vocab = make_model(sentences, device, head="softmax")
    batch = whole_batch(shard, extra=2)
    tokens_BL = nn.functional.cross_entropy(model.emissions(batch).transpose(1, 2), batch.tags_BL, reduction="none")
    mask_BL = torch.arange(tokens_BL.shape[1], device=device) < batch.lengths_B[:, None]
    torch.testing.assert_close(model(batch), (tokens_BL * mask_BL).sum(1), rtol=1e-5, atol=1e-5)
    assert not any(weight.requires_grad for weight in model.crf.parameters())
    for ids, length in zip(model.decode(batch).tolist(), batch.lengths_B.tolist(), strict=True):
        assert not tags.illegal_positions([vocab.tags[i] for i in ids[:length]], "BMES")


def test_all_parameters_of_a_crf_tagger_learn(sentences, device):
    model, shard, _ = make_model(sentences, device, num_layers=2)
    model(whole_batch(shard)).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropout_drops_its_share_at_all_positions_of_a_sentence(p, device):
    dropout = LockedDropout(p)
    inputs_LBE = torch.ones(3, 500, 400, device=device, requires_grad=True)
    outputs_LBE = dropout(inputs_LBE)
    outputs_LBE.sum().backward()
    assert (outputs_LBE == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert outputs_LBE.mean().item() == pytest.approx(1, abs=0.05)
    assert (outputs_LBE == outputs_LBE[0]).all()
    assert not torch.equal(outputs_LBE[0, 0], outputs_LBE[0, 1])
    assert torch.equal(inputs_LBE.grad, outputs_LBE), "a gradient passes where its value did"
    assert torch.equal(dropout.eval()(inputs_LBE), inputs_LBE)


@SHAPES
def test_embeddings_are_moved_where_the_loss_grows(sentences, device, num_layers, bigrams):
    """To first order, by the norm of its gradient times the size of the move; padding rows stay at 0."""
    model, shard, _ = make_model(sentences, device, num_layers=num_layers, bigrams=bigrams)
    rows = torch.arange(len(shard) + 2, device=device).clamp(max=len(shard))  # two of padding
    batch = shard.gather(rows, int(shard.lengths.max()) + 3, rows=np.arange(len(shard)), sentences=len(shard))
    losses_B = model(batch)
    torch.testing.assert_close(model.adversarial(batch, 1e-9), losses_B, rtol=1e-5, atol=1e-5)
    grown_B = 2 * (model.adversarial(batch, 0.02) - losses_B)
    assert (grown_B[: len(shard)] > 0).all() and not grown_B[len(shard) :].any()

    # Where no character comes twice, the gradient of the embeddings is that of their tables.
    row = next(i for i, s in enumerate(sentences) if len(set(s.tokens)) == len(s.tokens) > 3)
    tables = [table.weight for table in (model.char_embedding, model.bigram_embedding) if table is not None]
    alone = shard.batch(np.array([row]), len(sentences[row].tokens), sentences=1)
    norm = torch.cat([grad.flatten() for grad in torch.autograd.grad(model(alone).sum(), tables)]).norm()
    assert grown_B[row].item() == pytest.approx(0.02 * float(norm), rel=0.05)

    model.adversarial(batch, 0.5).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
