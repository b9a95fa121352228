"""Words of a lexicon: reading them, counting them, and finding them in a batch, against plain string search."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm.batches import Shard
from ray_bilstm.checkpoint import read_model, write_model
from ray_bilstm.config import Config, ConfigError, ModelConfig
from ray_bilstm.corpus import Corpus, Sentence
from ray_bilstm.lexicon import Lexicon
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.start import make_vocab
from ray_bilstm.vocab import UNKNOWN, Vocab, VocabError
from ray_bilstm.words import LENGTHS, LexiconError, read_words

LETTERS = "甲乙丙丁"
texts = st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=5)
lexicons = st.lists(st.text(LETTERS + "外", min_size=1, max_size=5), min_size=1, max_size=30)


def sentences_of(lines):
    return [Sentence(tuple(line), ("O",) * len(line), i) for i, line in enumerate(lines, 1)]


def make_vocab_of(lines, words):
    sentences = sentences_of([*lines, LETTERS])
    return Vocab.build(sentences, scheme="BMES", bigram_min_count=0).with_words(words, sentences)


def count(word, lines):
    return sum(line.startswith(word, i) for line in lines for i in range(len(line)))


@given(texts, lexicons)
def test_words_are_counted(lines, words):
    vocab = make_vocab_of(lines, words)
    expected = {word for word in words if len(word) in LENGTHS and "外" not in word}
    assert set(vocab.words) == expected
    often = {word for word in expected if count(word, [*lines, LETTERS]) >= 3}
    assert set(vocab.words[: vocab.own_words]) == often
    assert Vocab.from_json(vocab.to_json()) == vocab


def row_of(vocab, word):
    place = vocab.words.index(word)
    return 4 + place if place < vocab.own_words else len(word) - 1


@given(texts, lexicons)
def test_words_are_found_where_they_begin_go_on_and_end(lines, words):
    vocab = make_vocab_of(lines, words)
    torch.manual_seed(0)
    lexicon = Lexicon(vocab, 3)
    vectors = lexicon.embedding.weight.detach()
    encoded = vocab.encode([tuple(line) for line in lines])
    longest = max(map(len, lines)) + 1
    batch = Shard(encoded, torch.arange(len(lines)).numpy()).batch(
        torch.arange(len(lines)).numpy(), longest, sentences=len(lines)
    )
    found = lexicon(batch.chars_BL.T).detach()
    expected = torch.zeros(longest, len(lines), 9)
    for b, line in enumerate(lines):
        for word in vocab.words:
            for i in range(len(line)):
                if line.startswith(word, i):
                    vector = vectors[row_of(vocab, word)]
                    expected[i, b, :3] += vector
                    expected[i + 1 : i + len(word) - 1, b, 3:6] += vector
                    expected[i + len(word) - 1, b, 6:] += vector
    torch.testing.assert_close(found, expected)


def test_an_unknown_character_is_in_no_word():
    vocab = make_vocab_of(["甲乙丙"], ["甲乙", "乙丙", "丙甲"])
    ids = torch.from_numpy(vocab.encode([tuple("甲乙丙甲")]).chars).long()[:, None]
    ids[1] = UNKNOWN  # as token dropout leaves it
    found = Lexicon(vocab, 2)(ids)
    assert not found[:2].any()
    assert found[2:].any()


def test_a_model_keeps_its_lexicon(tmp_path):
    vocab = make_vocab_of(["甲乙丙", "甲乙", "甲乙丁"], ["甲乙", "丙丁", "甲乙丙丁"])
    assert (vocab.words[0], vocab.own_words, vocab.num_words) == ("甲乙", 1, 5)
    config = Config().with_fields(embedding_size=4, word_size=3, hidden_size=4)
    torch.manual_seed(0)
    model = BiLstmCrf(config.model, vocab).eval()
    assert model.bilstm.forwards[0].input_size == 4 + 3 * 3
    write_model(tmp_path, {name: w.detach() for name, w in model.named_parameters()}, config=config, vocab=vocab)
    loaded, known = read_model(tmp_path)
    assert known == vocab
    shard = Shard(vocab.encode([tuple("甲乙丙丁")]), torch.arange(1).numpy())
    batch = shard.batch(shard.rows, 6, sentences=1)
    assert torch.equal(loaded.emissions(batch), model.emissions(batch))


@pytest.mark.parametrize("change", [{"own_words": 9}, {"own_words": "1"}, {"words": ("外外",)}, {"words": ("甲",)}])
def test_a_vocabulary_with_impossible_words_is_refused(change):
    vocab = make_vocab_of(["甲乙"], ["甲乙"])
    with pytest.raises(VocabError, match="not a vocabulary: words are not of its characters"):
        Vocab.from_json(dataclasses.replace(vocab, **change).to_json())


def test_a_lexicon_is_a_word_a_line(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_bytes("\ufeff上海 34 ns\r\n上海\t1\n\n市\n北京大学\n中华人民共和国 3\n".encode())
    assert read_words(path) == ["上海", "北京大学"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xe4\xb8\x8a\xff\n", r"dict.txt:1: got bytes that are not UTF-8 .*, expected a word a line"),
        ("市\n".encode(), r"dict.txt: got no word of 2 to 4 characters, expected one a line"),
    ],
)
def test_what_is_no_lexicon_is_refused(tmp_path, content, message):
    (tmp_path / "dict.txt").write_bytes(content)
    with pytest.raises(LexiconError, match=message):
        read_words(tmp_path / "dict.txt")


def test_a_lexicon_needs_words_of_known_characters(tmp_path, sentences):
    path = tmp_path / "dict.txt"
    path.write_text("龘靐\n", encoding="utf-8")
    corpus = Corpus(path="x", train=sentences, dev=[], test=[], scheme="BMES", files={}, sha256={})
    with pytest.raises(LexiconError, match=r"dict\.txt: got no word of characters that train has"):
        make_vocab(corpus, None, Config().with_fields(lexicon=str(path)))


def test_settings_of_a_lexicon():
    with pytest.raises(ConfigError, match="lexicon and init_from exclude each other"):
        Config().with_fields(lexicon="a", init_from="b")
    with pytest.raises(ConfigError, match="word_size is 0: expected 1 or more"):
        ModelConfig(word_size=0)
