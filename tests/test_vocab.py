"""Names <-> ids."""

import json

import numpy as np
import pytest

from ray_bilstm.vocab import END, PADDING, UNKNOWN, Vocab, VocabError


def test_frequent_names_come_first_and_tags_type_by_type(sentences, vocab):
    counts = [sum(s.tokens.count(char) for s in sentences) for char in vocab.chars]
    assert counts == sorted(counts, reverse=True)
    assert set(vocab.chars) == {char for s in sentences for char in s.tokens}
    assert vocab.tags[0] == "O"
    types = [tag[2:] for tag in vocab.tags[1:]]
    assert types == sorted(types)
    assert len(set(vocab.tags)) == len(vocab.tags)
    assert vocab == Vocab.build(sentences[::-1], scheme="BMES", bigram_min_count=1), (
        "the order of sentences is no matter"
    )


def test_rare_bigrams_are_left_out(sentences):
    def build(count):
        return Vocab.build(sentences, scheme="BMES", bigram_min_count=count)

    assert f"，{END}" in build(1).bigrams
    assert set(build(2).bigrams) < set(build(1).bigrams)
    assert "南山" in build(2).bigrams
    assert build(0).bigrams == ()
    assert build(0).num_bigrams == 0
    assert build(0).encode(["南山", "山"]).bigrams.tolist() == [UNKNOWN] * 3
    assert build(1).num_bigrams == len(build(1).bigrams) + 2


def test_encoding(vocab):
    sentences = [["王", "芳"], [], ["王", "☃"], ["王"]]
    tags = [["B-NAME", "E-NAME"], [], ["O", "O"], ["S-NAME"] if "S-NAME" in vocab.tags else ["O"]]
    encoded = vocab.encode(sentences, tags)
    wang = vocab.chars.index("王") + 2
    assert encoded.lengths.tolist() == [2, 0, 2, 1]
    assert encoded.chars.tolist() == [wang, vocab.chars.index("芳") + 2, wang, UNKNOWN, wang]
    assert encoded.bigrams[0] == vocab.bigrams.index("王芳") + 2
    assert encoded.bigrams[2:].tolist() == [UNKNOWN] * 3
    assert [vocab.tags[i] for i in encoded.tags] == [tag for sentence in tags for tag in sentence]
    assert [ids.dtype for ids in encoded] == [np.int32, np.int32, np.int16, np.int32]
    assert PADDING not in encoded.chars
    assert not vocab.encode(sentences).tags.any()
    assert [len(ids) for ids in vocab.encode([])] == [0, 0, 0, 0]


def test_the_last_bigram_ends_with_the_end(vocab):
    encoded = vocab.encode([["。"], ["，"]])
    assert encoded.bigrams.tolist() == [vocab.bigrams.index(char + END) + 2 for char in "。，"]


def test_an_unknown_tag_is_named(vocab):
    with pytest.raises(VocabError, match=r"'B-NEW'.*B-NAME"):
        vocab.encode([["王"]], [["B-NEW"]])


def test_tags_that_only_other_sentences_have_come_after_its_own(sentences, vocab):
    extra = [sentences[0]._replace(tags=("S-ZZZ", "S-AAA", *sentences[0].tags[2:]))]
    wider = vocab.with_tags_of(extra)
    assert wider.tags == (*vocab.tags, "S-AAA", "S-ZZZ")
    assert (wider.chars, wider.bigrams) == (vocab.chars, vocab.bigrams)
    assert vocab.with_tags_of(sentences) == vocab


def test_json_round_trip(vocab):
    assert Vocab.from_json(vocab.to_json()) == vocab


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.pop("chars"),
        lambda fields: fields.update(more=1),
        lambda fields: fields.update(chars=3),
        lambda fields: fields.update(chars=["王", 3]),
        lambda fields: fields.update(scheme="BILOU"),
        lambda fields: fields.update(scheme=["BMES"]),
        lambda fields: fields.update(scheme="BIO"),
        lambda fields: fields.update(tags=[]),
        lambda fields: fields["tags"].reverse(),
        lambda fields: fields["tags"].append("Q-ORG"),
    ],
)
def test_what_is_no_vocabulary_is_refused(vocab, change):
    fields = json.loads(vocab.to_json())
    change(fields)
    with pytest.raises(VocabError, match="not a vocabulary"):
        Vocab.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"chars": "王"}'])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(VocabError, match="not a vocabulary"):
        Vocab.from_json(text)
