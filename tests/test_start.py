"""What a model starts from: vectors of a file, weights of another model."""

import dataclasses

import numpy as np
import pytest
import torch

from ray_bilstm import checkpoint, start
from ray_bilstm.batches import Shard
from ray_bilstm.checkpoint import CheckpointError
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.corpus import Corpus
from ray_bilstm.embeddings import EmbeddingsError
from ray_bilstm.model import BiLstmCrf

SMALL = {"embedding_size": 3, "bigram_size": 3, "hidden_size": 5, "bigram_min_count": 1}
FILE = "7 3\n王 1 2 3\n芳 2 0 -1\n王芳 4 5 6\n☃ 7 8 9\n龙 -7 -8 -9\n龙王 1 1 1\n不知道 1 2 1\n"


@pytest.fixture
def corpus(sentences) -> Corpus:
    unseen = sentences[0]._replace(tokens=("龙", "王", "☂"), tags=("O",) * 3)
    return Corpus(path="x", train=sentences, dev=[unseen], test=[], scheme="BMES", files={}, sha256={})


@pytest.fixture
def config(tmp_path) -> Config:
    path = tmp_path / "vectors.txt"
    path.write_text(FILE, encoding="utf-8")
    return Config().with_fields(embeddings=str(path), **SMALL)


def make_model(config, vocab, seed=1):
    torch.manual_seed(seed)
    return BiLstmCrf(config.model, vocab).eval()


def started(tmp_path, config, corpus):
    begin = start.read_start(config, corpus)
    vocab = start.make_vocab(corpus, begin, config)
    model = make_model(config, vocab)
    start.write_start(tmp_path / "start", begin, vocab)
    start.load_start(tmp_path / "start", model)
    return begin, vocab, model


def char_vector(model, vocab, char):
    encoded = vocab.encode([[char]])
    return model.char_embedding(torch.from_numpy(encoded.chars).long())[0]


def test_a_tagger_starts_from_the_vectors(tmp_path, config, corpus):
    begin, vocab, model = started(tmp_path, config, corpus)
    assert vocab.outside_chars == ("☃", "龙"), "words of more characters, and of two that train lacks, stay away"
    scale = begin.source["scaled_by"]
    for char, numbers in {"王": [1, 2, 3], "芳": [2, 0, -1], "☃": [7, 8, 9], "龙": [-7, -8, -9]}.items():
        torch.testing.assert_close(char_vector(model, vocab, char), torch.tensor(numbers) * scale)
    untouched = make_model(config, vocab)
    assert torch.equal(char_vector(model, vocab, "女"), char_vector(untouched, vocab, "女")), "stays random"
    assert torch.equal(char_vector(model, vocab, "☂"), char_vector(untouched, vocab, "☂")), "the unknown one"
    assert not model.char_embedding.weight[0].any()
    row = vocab.bigrams.index("王芳") + 2
    torch.testing.assert_close(model.bigram_embedding.weight[row], torch.tensor([4.0, 5, 6]) * scale)
    assert vocab.outside_bigrams == ()


def test_vectors_of_the_file_get_the_spread_of_random_ones(config, corpus):
    begin = start.read_start(config, corpus)
    assert np.concatenate((begin.chars.matrix, begin.bigrams.matrix)).std() == pytest.approx(1, rel=1e-5)


def test_bigrams_stay_random_where_sizes_differ(config, corpus):
    begin = start.read_start(config.with_fields(bigram_size=4), corpus)
    assert begin.bigrams.names == ()
    assert begin.chars.names == ("王", "芳", "☃", "龙")
    assert start.read_start(config.with_fields(bigram_min_count=0), corpus).bigrams.names == ()


def test_coverage(config, corpus):
    begin = start.read_start(config, corpus)
    vocab = start.make_vocab(corpus, begin, config)
    covered = start.coverage(begin, vocab, corpus, config)
    assert covered["embeddings"] == config.data.embeddings
    assert (covered["vectors"], covered["repeated"]) == (7, 0)
    assert covered["splits"]["dev"] == {"characters": 3, "known_characters": 2, "known_text": pytest.approx(2 / 3)}
    running = [token for sentence in corpus.train for token in sentence.tokens]
    assert covered["splits"]["train"]["characters"] == len(set(running))
    assert covered["splits"]["train"]["known_text"] == pytest.approx(sum(c in "王芳" for c in running) / len(running))
    assert covered["splits"]["test"]["known_text"] == 0
    assert (covered["added_characters"], covered["known_bigrams"], covered["added_bigrams"]) == (2, 1, 0)


def test_outside_rows_are_not_trained(tmp_path, config, corpus):
    _, vocab, model = started(tmp_path, config, corpus)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert "char_embedding.weight" in trained
    assert "char_embedding.outside" not in trained
    encoded = vocab.encode([["龙", "王"]], [["O", "O"]])
    batch = Shard(encoded, np.arange(1)).batch(np.arange(1), 2, sentences=1)
    model(batch).sum().backward()
    touched = model.char_embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [vocab.chars.index("王") + 2], "no other row learns from a character of outside"


def test_a_grown_model_is_saved_and_read(tmp_path, config, corpus):
    _, vocab, model = started(tmp_path, config, corpus)
    checkpoint.write_model(tmp_path / "best", dict(model.named_parameters()), config=config, vocab=vocab)
    again, vocab_again = checkpoint.read_model(tmp_path / "best")
    assert vocab_again == vocab
    assert torch.equal(char_vector(again, vocab, "龙"), char_vector(model, vocab, "龙"))
    for name in ("config.json", "vocab.json"):
        assert str(tmp_path) not in (tmp_path / "best" / name).read_text(encoding="utf-8")


def test_a_tagger_starts_from_a_tagger(tmp_path, config, corpus):
    _, vocab, model = started(tmp_path, config, corpus)
    run = tmp_path / "run"
    checkpoint.write_model(run / "best", dict(model.named_parameters()), config=config, vocab=vocab)
    other = dataclasses.replace(corpus, train=[corpus.dev[0]._replace(tokens=("☃", "女"), tags=("O", "O"))])
    for directory in (run, run / "best"):
        settings = Config().with_fields(init_from=str(directory), **SMALL)
        _, grown, second = started(tmp_path, settings, other)
        assert grown.chars == ("☃", "女")
        assert set(grown.chars + grown.outside_chars) == set(vocab.chars + vocab.outside_chars)
        assert grown.outside_bigrams == vocab.bigrams
        for char in "☃女王龙":
            assert torch.equal(char_vector(second, grown, char), char_vector(model, vocab, char))
        for name, weight in model.bilstm.named_parameters():
            assert torch.equal(dict(second.bilstm.named_parameters())[name], weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding_size": 4}, r"embedding_size is 4, but that of .*best is 3: set --embedding-size 3"),
        ({"hidden_size": 6}, r"hidden_size is 6, but that of .*best is 5: set --hidden-size 5"),
        ({"bigram_size": 6}, r"bigram_size is 6, but that of .*best is 3: set --bigram-size 3"),
        ({"bigram_min_count": 0}, r"has bigrams: set --bigram-min-count to 1 or more"),
    ],
)
def test_another_shape_is_refused(tmp_path, config, corpus, fields, message):
    _, vocab, model = started(tmp_path, config, corpus)
    checkpoint.write_model(tmp_path / "best", dict(model.named_parameters()), config=config, vocab=vocab)
    settings = Config().with_fields(init_from=str(tmp_path / "best"), **SMALL | fields)
    with pytest.raises(ConfigError, match=message):
        start.read_start(settings, corpus)


def test_what_cannot_be_used_is_refused(tmp_path, config, corpus):
    with pytest.raises(EmbeddingsError, match=r"vectors.txt:1: got vectors of 3 numbers, expected 128"):
        start.read_start(config.with_fields(embedding_size=128), corpus)
    (tmp_path / "english.txt").write_text("the 1 2 3\n", encoding="utf-8")
    with pytest.raises(EmbeddingsError, match=r"none of the \d+ characters of train"):
        start.read_start(config.with_fields(embeddings=str(tmp_path / "english.txt")), corpus)
    with pytest.raises(CheckpointError, match="expected a model directory"):
        start.read_start(Config().with_fields(init_from=str(tmp_path)), corpus)
    with pytest.raises(ConfigError, match="exclude each other"):
        config.with_fields(init_from="x")
    assert start.read_start(Config(), corpus) is None
