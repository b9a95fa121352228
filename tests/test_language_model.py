"""The language models: neither sees what it predicts, any number of ranks does the same, perplexity is what it says."""

import math
import re

import numpy as np
import pytest
import torch

from ray_bilstm import language_model
from ray_bilstm.batches import Shard, TrainingSet, deal
from ray_bilstm.config import ModelConfig, TrainingConfig
from ray_bilstm.corpus import CorpusError
from ray_bilstm.language_model import LanguageModel
from ray_bilstm.precision import Precision
from ray_bilstm.raw_text import HELD_OUT, MOST_CHARACTERS, read_text
from ray_bilstm.vocab import Vocab

SIZES = {"embedding_size": 12, "bigram_size": 6, "hidden_size": 10}
BIGRAMS = pytest.mark.parametrize("bigrams", [True, False])


def make_model(sentences, *, bigrams=True, seed=0, **fields):
    vocab = Vocab.build(sentences, scheme="BMES", bigram_min_count=int(bigrams))
    torch.manual_seed(seed)
    return LanguageModel(ModelConfig(**SIZES | fields), vocab).eval(), vocab


def make_shard(sentences, vocab, *, rank=0, world_size=1):
    lengths = np.array([len(sentence.tokens) for sentence in sentences])
    rows = np.flatnonzero(deal(lengths, world_size) == rank)
    return Shard(vocab.encode([sentences[i].tokens for i in rows]), rows), lengths


@torch.no_grad()
def losses_of(model, vocab, tokens):
    """Losses of each prediction, forward and backward, in nats: the model's own are their sums."""
    shard = Shard(vocab.encode([tokens]), np.arange(1))
    batch, kept = shard.batch(np.arange(1), len(tokens), sentences=1), []
    model._loss = lambda states, classes: kept.append((states, classes)) or LanguageModel._loss(model, states, classes)
    try:
        totals = model.losses(batch)
    finally:
        del model._loss
    rows = [
        torch.nn.functional.cross_entropy(model.output(states[:, 0]), classes[:, 0], reduction="none")
        for states, classes in kept
    ]
    torch.testing.assert_close(torch.stack([row.sum() for row in rows]), torch.cat(totals[:2]))
    return rows, kept


@BIGRAMS
def test_no_prediction_depends_on_what_is_to_be_predicted(sentences, bigrams):
    """A changed character changes no state from which it, or what lies beyond it, is predicted; others it does."""
    model, vocab = make_model(sentences, bigrams=bigrams)
    tokens = list(max(sentences, key=lambda sentence: len(sentence.tokens)).tokens)
    _, kept = losses_of(model, vocab, tokens)
    ahead = model.ahead
    assert ahead == (2 if bigrams else 1)
    for place in range(len(tokens)):
        changed = [*tokens]
        changed[place] = next(char for char in vocab.chars if char != tokens[place])
        _, other = losses_of(model, vocab, changed)
        forward, backward = (torch.any(a[0] != b[0], 2)[:, 0].tolist() for a, b in zip(kept, other, strict=True))
        assert not any(forward[: max(0, place - ahead + 1)]), "states at i predict i + ahead"
        assert not any(backward[place:]), "states at i + 1 predict i"
        assert all(forward[place:]) and all(backward[: max(0, place - 1)])
        expected = vocab.encode([changed]).chars[ahead:]
        assert other[0][1][:, 0].tolist() == expected.tolist()
        assert other[1][1][:, 0].tolist() == vocab.encode([changed]).chars[:-1].tolist()


@BIGRAMS
def test_padding_and_batch_mates_change_nothing(sentences, bigrams):
    model, vocab = make_model(sentences, bigrams=bigrams)
    shard, _ = make_shard(sentences, vocab)
    batch = shard.batch(np.arange(len(shard)), int(shard.lengths.max()) + 4, sentences=len(shard))
    losses_B, (forward_B, backward_B, predictions_B) = model(batch), model.losses(batch)
    for i, length in enumerate(shard.lengths[:-1].tolist()):
        alone = shard.batch(np.array([i]), length, sentences=1)
        torch.testing.assert_close(losses_B[i], model(alone)[0], rtol=1e-4, atol=1e-5)
        assert predictions_B[:, i].tolist() == [max(0, length - model.ahead), length - 1]
    assert not forward_B[(shard.lengths[:-1] <= model.ahead)].any()
    assert not backward_B[(shard.lengths[:-1] <= 1)].any()


def test_rare_characters_are_one_class(sentences, monkeypatch):
    monkeypatch.setattr(language_model, "CLASSES", 6)
    model, vocab = make_model(sentences)
    assert model.output.out_features == 6
    _, kept = losses_of(model, vocab, [*vocab.chars[:4], *vocab.chars[4:9]])
    assert kept[1][1][:, 0].tolist() == [2, 3, 4, 5, 1, 1, 1, 1]


def fit(sentences, *, epochs=2, rank=0, world_size=1, **fields):
    model, vocab = make_model(sentences, dropout=0.0)
    shard, lengths = make_shard(sentences, vocab, rank=rank, world_size=world_size)
    config = TrainingConfig(**{"batch_size": 4, "train_epochs": epochs, "learning_rate": 0.01, **fields})
    training = TrainingSet(
        lambda: [shard], lengths, batch_size=4, seed=1, rank=rank, world_size=world_size, token_dropout=0.0
    )
    precision = Precision("O0", dtype=torch.float32, device=torch.device("cpu"))
    history, weights = [], {}
    language_model.fit(
        model,
        train=training,
        held_out=shard,
        config=config,
        precision=precision,
        on_epoch=lambda record, now: (history.append(record), weights.update(now)),
    )
    return history, weights


def test_a_tiny_model_learns(sentences):
    history, weights = fit(sentences, epochs=25)
    figures = [record["held_out"]["perplexity"] for record in history]
    assert figures[-1] < figures[0] / 2
    predictions = sum(max(0, len(s.tokens) - 2) + len(s.tokens) - 1 for s in sentences)
    assert history[0]["held_out"]["predictions"] == predictions
    assert history[0]["best"]
    assert set(weights) == {name for name, _ in make_model(sentences)[0].named_parameters()}


def test_perplexity_is_that_of_the_losses(sentences):
    model, vocab = make_model(sentences)
    rows = [losses_of(model, vocab, s.tokens)[0] for s in sentences if len(s.tokens) > 2]
    shard, _ = make_shard([s for s in sentences if len(s.tokens) > 2], vocab)
    precision = Precision("O0", dtype=torch.float32, device=torch.device("cpu"))
    figures = language_model.perplexity(model, shard, precision=precision)
    for way, name in enumerate(("forward", "backward")):
        assert figures[name] == pytest.approx(math.exp(torch.cat([row[way] for row in rows]).mean()), rel=1e-4)


def test_text_is_cut_into_sentences_of_bounded_length(tmp_path):
    path = tmp_path / "news.txt"
    path.write_bytes("\ufeff今天 下雨。\u3000明天！呢\r\n\n好\n".encode() + "长".encode() * (MOST_CHARACTERS + 5))
    corpus = read_text([path])
    texts = {"".join(s.tokens) for s in [*corpus.dev, *corpus.train]}
    assert texts == {"今天下雨。", "明天！", "长" * MOST_CHARACTERS, "长" * 5}
    assert corpus.test == []
    assert len(corpus.sha256[str(path)]) == 64
    assert {s.line for s in corpus.train} == {1, 4}
    path.write_text("很好。" * (3 * HELD_OUT), encoding="utf-8")
    assert [len(part) for part in read_text([path]).splits.values()] == [3 * HELD_OUT - 3, 3, 0]


def test_text_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "news.txt"
    path.write_bytes("好的\n".encode() + "好的\n".encode("gbk"))
    with pytest.raises(CorpusError, match=r"news\.txt:2: got bytes that are not UTF-8"):
        read_text([path])
    path.write_text("好\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=re.escape("got 0 sentences of two characters or more")):
        read_text([path])
