"""A frozen model: the emissions of the model it was made of, and nothing that is out of date."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import frozen, loop
from ray_bilstm.batches import Shard
from ray_bilstm.config import ModelConfig
from ray_bilstm.ensemble import Ensemble
from ray_bilstm.frozen import Frozen, Packing
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf, freeze
from ray_bilstm.precision import Precision
from ray_bilstm.predict import Tagger
from ray_bilstm.vocab import Vocab

CPU = torch.device("cpu")


@pytest.fixture
def many(sentences):
    """As many as make a frozen model worthwhile, of other orders and lengths each time."""
    random = np.random.default_rng(0)
    texts = [list(random.permutation(sentence.tokens)) for _ in range(16) for sentence in sentences]
    return [text[: random.integers(1, len(text) + 1)] for text in texts]


def make_model(vocab, **fields):
    torch.manual_seed(1)
    sizes = {"embedding_size": 12, "bigram_size": 6, "hidden_size": 10, "word_size": 4, "dropout": 0.5}
    model = BiLstmCrf(ModelConfig(**sizes | fields), vocab).eval()
    with torch.no_grad():
        for weight in model.parameters():  # far from 0, so that gates are anything from shut to open
            weight.copy_(torch.randn_like(weight))
    return model


def make_batch(vocab, texts, *, extra=0):
    shard = Shard(vocab.encode(texts), np.arange(len(texts)))
    return shard.batch(np.arange(len(texts)), int(shard.lengths.max()) + extra, sentences=len(texts))


def assert_alike(got_BLT, expected_BLT, lengths_B, *, tolerance=1e-4):
    for got, expected, length in zip(got_BLT, expected_BLT, lengths_B.tolist(), strict=True):
        torch.testing.assert_close(got[:length], expected[:length].float(), rtol=0, atol=tolerance)
        assert not got[length:].any()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 3))
def test_positions_are_packed_one_after_another_and_turned_around(lengths, extra):
    size = max(lengths) + extra
    packing = Packing.of(torch.tensor(lengths), size)
    places = [divmod(place, size) for place in packing.place_N.tolist()]
    assert sorted(places) == [(row, i) for row, length in enumerate(lengths) for i in range(length)]
    assert packing.counts == [sum(length > i for length in lengths) for i in range(max(lengths))]
    assert [i for _, i in places] == np.repeat(np.arange(len(packing.counts)), packing.counts).tolist()
    turned = [places[place] for place in packing.turned_N.tolist()]
    assert turned == [(row, lengths[row] - 1 - i) for row, i in places]
    rows = [[row for row, i in places if i == step] for step in range(len(packing.counts))]
    assert all(later == earlier[: len(later)] for earlier, later in itertools.pairwise(rows))


@pytest.mark.parametrize("table_rows", [0, frozen.TABLE_ROWS])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["bigrams", "characters", "lexicon", "outside"])
def test_emissions_are_those_of_the_model(monkeypatch, sentences, many, table_rows, num_layers, kind):
    monkeypatch.setattr(frozen, "TABLE_ROWS", table_rows)
    vocab = Vocab.build(sentences[:2] if kind == "outside" else sentences, scheme="BMES", bigram_min_count=1)
    if kind == "characters":
        vocab = Vocab.build(sentences, scheme="BMES", bigram_min_count=0)
    elif kind == "lexicon":
        vocab = vocab.with_words(["汉族", "硕士", "大学"], sentences)
    elif kind == "outside":
        vocab = vocab.with_outside("".join("".join(text) for text in many), ["大学", "学士"])
        assert vocab.outside_chars
        assert vocab.outside_bigrams
    model = make_model(vocab, num_layers=num_layers)
    batch = make_batch(vocab, [*many, [], ["王"]], extra=3)
    with torch.no_grad():
        assert_alike(Frozen(model).emissions(batch), model.emissions(batch), batch.lengths_B)


def test_sentences_without_a_character(vocab):
    model = make_model(vocab)
    batch = Shard(vocab.encode([[], []]), np.arange(2)).batch(np.arange(2), 4, sentences=2)
    assert torch.equal(Frozen(model).emissions(batch), torch.zeros(2, 4, len(vocab.tags)))


def test_gates_that_are_wide_open_or_shut(vocab, many):
    model = make_model(vocab)
    with torch.no_grad():
        for name, bias in model.bilstm.named_parameters():
            if "bias" in name:
                bias.sign_().mul_(1e4)
        batch = make_batch(vocab, many)
        assert_alike(Frozen(model).emissions(batch), model.emissions(batch), batch.lengths_B)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_close_as_that_of_the_model(vocab, many, autocast):
    model, batch = make_model(vocab, hidden_size=32), make_batch(vocab, many)
    mask_BL = torch.arange(batch.chars_BL.shape[1]) < batch.lengths_B[:, None]
    with torch.no_grad():
        exact = model.emissions(batch)[mask_BL]
        if not autocast:
            Precision("O2", dtype=torch.bfloat16, device=CPU).prepare(model)
        with torch.autocast("cpu", enabled=autocast, dtype=torch.bfloat16):
            own = Frozen(model)
            assert own.dtype is torch.bfloat16
            off = [(found[mask_BL] - exact).std() for found in (own.emissions(batch), model.emissions(batch))]
    assert 0 < off[0] < 1.2 * off[1]


def test_an_lstm_that_stays_in_float32_does(vocab, many):
    model, batch = make_model(vocab), make_batch(vocab, many)
    Precision("O2", dtype=torch.bfloat16, device=CPU, half_lstm=False).prepare(model)
    expected = Frozen(model).emissions(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Frozen(model).emissions(batch)
    assert torch.equal(found, expected)


def test_it_is_used_where_it_is_faster_and_no_gradient_is_asked_for(vocab, many):
    model, batch = make_model(vocab), make_batch(vocab, many)
    with torch.no_grad():
        plain = model.emissions(batch)
        assert freeze(model) == [model]
        assert freeze(model) == [], "it is frozen already"
        assert not torch.equal(model.emissions(batch), plain), "rounded otherwise, and 0 in the padding"
        few = make_batch(vocab, many[: frozen.FEW_SENTENCES - 1])
        assert torch.equal(model.emissions(few), model.train().eval().emissions(few))
        freeze(model)
    assert model.emissions(batch).requires_grad
    assert torch.equal(model.emissions(batch), plain)
    model.train()
    assert model.frozen is None


def test_evaluation_after_evaluation_sees_the_weights_of_today(vocab, sentences):
    many = sentences * 4
    encoded = vocab.encode([s.tokens for s in many], [s.tags for s in many])
    shard, scorer = Shard(encoded, np.arange(len(many))), Scorer(vocab.tags, vocab.scheme)
    precision = Precision("O0", dtype=torch.float32, device=CPU)
    model = make_model(vocab)

    def counts(of):
        return loop.evaluate(of, shard, scorer, precision=precision).to_array()

    first = counts(model)
    with torch.no_grad():
        model.bilstm.forwards[0].weight_hh_l0.neg_()
    second = counts(model)
    assert (second != first).any()
    assert (second == counts(copy.deepcopy(model))).all()
    assert model.frozen is None


def test_a_model_that_is_cast_or_moved_is_not_what_was_frozen(vocab, many):
    model = make_model(vocab)
    exact = Tagger(model, vocab).model.emissions(make_batch(vocab, many)).detach()
    half = Tagger(model, vocab, dtype=torch.bfloat16)
    assert half.model.frozen.dtype is torch.bfloat16
    with torch.no_grad():
        assert not torch.allclose(half.model.emissions(make_batch(vocab, many)), exact, atol=1e-3)
    freeze(model.float())
    assert model.frozen.dtype is torch.float32
    model.to("meta")
    assert model.frozen is None


def test_a_tagger_freezes_each_model_of_an_ensemble(vocab, many):
    members = [make_model(vocab), make_model(vocab, hidden_size=8)]
    tagger = Tagger(Ensemble([(member, vocab) for member in members], vocab), vocab)
    assert all(member.frozen for member in members)
    together = tagger.predict(many)
    assert sum(map(len, together)) > 100
    for text, found in zip(many, together, strict=True):
        alone = tagger.predict([text])[0]
        assert [entity[:4] for entity in found] == [entity[:4] for entity in alone]
        assert [entity.score for entity in found] == pytest.approx([entity.score for entity in alone], abs=1e-4)
