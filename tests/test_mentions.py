"""Entities change places with others of their type and length; all else of a sentence stays."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import tags as schemes
from ray_bilstm.batches import Shard, TrainingSet
from ray_bilstm.corpus import Sentence
from ray_bilstm.mentions import MentionReplacement
from ray_bilstm.vocab import Vocab

TOKENS = ("高", "远", "男", "汉", "Ab", "b")  # "A" + "bb" would be "Ab" + "b": bigrams are strings
spans = st.tuples(st.sampled_from(("", "ORG", "NAME")), st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4))


@st.composite
def corpora(draw):
    """A tag scheme, and sentences of spans that are entities where they have a type."""
    scheme = draw(st.sampled_from(sorted(schemes.SCHEMES)))
    sentences = []
    for parts in draw(st.lists(st.lists(spans, min_size=1, max_size=5), min_size=1, max_size=6)):
        tokens = [token for _, words in parts for token in words]
        ends = np.cumsum([len(words) for _, words in parts]).tolist()
        entities = [(end - len(words), end, type) for end, (type, words) in zip(ends, parts, strict=True) if type]
        sentences.append(Sentence(tuple(tokens), tuple(schemes.from_spans(entities, len(tokens), scheme)), 1))
    return scheme, sentences


def make_shard(scheme, sentences, device="cpu"):
    vocab = Vocab.build(sentences, scheme=scheme, bigram_min_count=1)
    encoded = vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences])
    return vocab, Shard(encoded, np.arange(len(sentences)), device=device)


def read_back(vocab, shard):
    """The tokens of each sentence."""
    names = [vocab.chars[i - 2] for i in shard.chars[:-1].tolist()]
    ends = (shard.starts + shard.lengths)[:-1].tolist()
    return [names[start:end] for start, end in zip(shard.starts.tolist(), ends, strict=False)]


@given(corpora(), st.sampled_from((0.0, 0.5, 1.0)))
def test_replaced_sentences(corpus, share):
    scheme, sentences = corpus
    vocab, shard = make_shard(scheme, sentences)
    replaced = MentionReplacement(vocab, share)(shard)
    found = read_back(vocab, replaced)

    mentions = {
        (type, tuple(s.tokens[start:end])) for s in sentences for start, end, type in schemes.to_spans(s.tags, scheme)
    }
    for sentence, tokens in zip(sentences, found, strict=True):
        inside = set()
        for start, end, type in schemes.to_spans(sentence.tags, scheme):
            assert (type, tuple(tokens[start:end])) in mentions
            inside.update(range(start, end))
        assert all(tokens[i] == sentence.tokens[i] for i in range(len(tokens)) if i not in inside)
        assert share or tokens == list(sentence.tokens)
    encoded = vocab.encode(found)
    assert replaced.bigrams[:-1].tolist() == encoded.bigrams.tolist()
    assert replaced.chars.tolist() == [*encoded.chars.tolist(), 0] and replaced.bigrams[-1] == 0
    assert replaced.tags is shard.tags and replaced.lengths is shard.lengths


def sentence(text, *entities):
    return Sentence(tuple(text), tuple(schemes.from_spans(entities, len(text), "BMES")), 1)


def test_as_often_as_they_occur(device):
    corpus = [
        sentence("甲乙x", (0, 2, "ORG")),
        *[sentence("丙丁x", (0, 2, "ORG"))] * 3,
        sentence("戊己x", (0, 2, "NAME")),
    ]
    vocab, shard = make_shard("BMES", corpus, device)
    replace = MentionReplacement(vocab, 1.0)
    drawn = Counter("".join(tokens[:2]) for _ in range(500) for tokens in read_back(vocab, replace(shard))[:4])
    assert set(drawn) == {"甲乙", "丙丁"}  # never the name
    assert drawn["甲乙"] / drawn.total() == pytest.approx(0.25, abs=0.04)


def test_share():
    corpus = [sentence(f"{a}{b}x", (0, 2, "ORG")) for a in "甲乙丙丁戊己庚辛壬癸" for b in "子丑寅卯辰巳午未申酉戌亥"]
    vocab, shard = make_shard("BMES", corpus)
    replaced = read_back(vocab, MentionReplacement(vocab, 0.3)(shard))
    changed = sum(list(s.tokens) != tokens for s, tokens in zip(corpus, replaced, strict=True))
    assert changed / len(corpus) == pytest.approx(0.3, abs=0.12)


def test_shard_without_entities_or_rows():
    vocab, shard = make_shard("BMES", [sentence("甲乙")])
    assert MentionReplacement(vocab, 1.0)(shard) is shard
    empty = Shard(vocab.encode([]), np.arange(0))
    assert MentionReplacement(vocab, 1.0)(empty) is empty


def test_every_epoch_draws_anew():
    corpus = [sentence(f"{name}x", (0, 2, "ORG")) for name in ("甲乙", "丙丁", "戊己", "庚辛")]
    vocab, shard = make_shard("BMES", corpus)
    replace = MentionReplacement(vocab, 1.0)
    train = TrainingSet(lambda: [shard], np.array([3] * 4), batch_size=4, seed=1, augment=replace)

    def epoch(seed):
        torch.manual_seed(seed)
        return next(iter(train.batches(1))).chars_BL.tolist()

    assert epoch(1) == epoch(1)
    assert len({str(epoch(seed)) for seed in range(10)}) > 1


def test_bigrams_that_only_an_outside_source_knows():
    """A new neighbour may make one."""
    corpus = [sentence("甲乙x", (0, 2, "ORG")), sentence("丙丁y", (0, 2, "ORG"))]
    vocab, _ = make_shard("BMES", corpus)
    vocab = vocab.with_outside(["外"], ["乙y", "外外"])
    shard = Shard(vocab.encode([s.tokens for s in corpus], [s.tags for s in corpus]), np.arange(2))
    replace = MentionReplacement(vocab, 1.0)
    for replaced in (replace(shard) for _ in range(20)):
        found = read_back(vocab, replaced)
        assert replaced.bigrams[:-1].tolist() == vocab.encode(found).bigrams.tolist()
    assert vocab.encode(["乙y"]).bigrams[0] == vocab.num_bigrams


def test_each_shard_has_its_own_entities():
    """Windows of a streamed corpus come one after another, and again in the next epoch."""
    vocab, first = make_shard("BMES", [sentence(f"x{name}", (1, 3, "ORG")) for name in ("甲乙", "丙丁")])
    other = [sentence(f"{name}x", (0, 2, "ORG")) for name in ("甲乙", "丙丁")]
    second = Shard(vocab.encode([s.tokens for s in other], [s.tags for s in other]), np.arange(2))
    replace, seen = MentionReplacement(vocab, 1.0), set()
    for _ in range(10):
        seen |= {"".join(tokens) for shard in (first, second) for tokens in read_back(vocab, replace(shard))}
    assert seen == {"x甲乙", "x丙丁", "甲乙x", "丙丁x"}
