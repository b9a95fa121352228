"""The embedded sample: always the same, made of legal tags, and with words that train does not have."""

import hashlib
import random
import re

import pytest

from ray_bilstm import sample, tags

TYPES = {"CONT", "EDU", "LOC", "NAME", "ORG", "PRO", "RACE", "TITLE"}
SECTIONS = ("opening", "education", "studies", "career", "present", "part_time", "other")


@pytest.fixture(scope="module")
def corpus():
    return sample.generate()


def entities(sentences):
    return [
        ("".join(characters[span.start : span.end]), span.type)
        for characters, labels in sentences
        for span in tags.to_spans(labels, "BMES")
    ]


def texts(sentences, type):
    return {text for text, its_type in entities(sentences) if its_type == type}


def test_the_sample_is_the_same_everywhere(corpus):
    written = "\n".join(
        f"{split} {''.join(characters)} {' '.join(labels)}"
        for split, sentences in corpus.items()
        for characters, labels in sentences
    )
    assert (
        hashlib.sha256(written.encode()).hexdigest()
        == "76c0ed22c65698ef5a99bec48ec41c0a7cc04a1b5b28c4f87226ad3b56c32441"
    )


def test_a_call_does_not_touch_the_next(corpus):
    assert sample.generate() == corpus


def test_another_seed_is_another_sample(corpus):
    other = sample.generate(seed=1)
    assert {split: len(sentences) for split, sentences in other.items()} == {"train": 700, "dev": 150, "test": 150}
    assert all(other[split] != corpus[split] for split in corpus)


@pytest.mark.parametrize("sizes", [(700, 150, 150), (1, 1, 1), (30, 0, 7)])
def test_sizes(sizes):
    train, dev, test = sizes
    made = sample.generate(train=train, dev=dev, test=test)
    assert [(split, len(sentences)) for split, sentences in made.items()] == [
        ("train", train),
        ("dev", dev),
        ("test", test),
    ]


def test_a_smaller_train_is_the_start_of_a_larger(corpus):
    assert sample.generate(train=100, dev=0, test=0)["train"] == corpus["train"][:100]


def test_no_sentence_stands_twice(corpus):
    sentences = ["".join(characters) for split in corpus.values() for characters, _ in split]
    assert len(set(sentences)) == len(sentences) == 1000


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_every_type_is_in_every_split(corpus, split):
    assert {type for _, type in entities(corpus[split])} == TYPES


def test_tags_are_legal_and_spell_the_spans(corpus):
    for split in corpus.values():
        for characters, labels in split:
            assert len(characters) == len(labels)
            assert all(len(character) == 1 for character in characters)
            assert all(tags.is_tag(label, "BMES") for label in labels)
            assert tags.illegal_positions(labels, "BMES") == []
            assert tags.from_spans(tags.to_spans(labels, "BMES"), len(labels), "BMES") == labels


def test_known_entities():
    characters, labels = sample._parse("<NAME:王　静>，<RACE:汉>，任<ORG:公司><TITLE:董事>。")
    assert "".join(characters) == "王　静，汉，任公司董事。"
    assert " ".join(labels) == "B-NAME M-NAME E-NAME O S-RACE O O B-ORG E-ORG B-TITLE E-TITLE O"


def test_no_markup_is_left(corpus):
    for split in corpus.values():
        for characters, _ in split:
            assert not re.search(r"[<>{}|_ \n\t]", "".join(characters))


def test_lengths_resemble_resumes(corpus):
    lengths = sorted(len(characters) for split in corpus.values() for characters, _ in split)
    assert 22 <= lengths[len(lengths) // 2] <= 32
    assert 50 <= lengths[len(lengths) * 9 // 10] <= 70
    assert lengths[0] > 2
    assert lengths[-1] < 180


def test_there_are_many_templates():
    assert sum(len(sample.RULES[section].split()) for section in SECTIONS) >= 60


def test_held_out_names(corpus):
    shown, held_out = sample._words(sample.RULES["last_name"])
    assert not set(shown) & set(held_out)
    starts = tuple(held_out)
    assert not [name for name in texts(corpus["train"], "NAME") if name.startswith(starts)]
    for split in ("dev", "test"):
        assert len([name for name in texts(corpus[split], "NAME") if name.startswith(starts)]) >= 10
        assert len(texts(corpus[split], "NAME") - texts(corpus["train"], "NAME")) >= 20


@pytest.mark.parametrize("kind", sample.TITLES)
def test_held_out_titles(corpus, kind):
    everywhere = {title for stages in sample.TITLES.values() for stage in stages for title in sample._words(stage)[0]}
    everywhere |= {title for who in sample.HEADS.values() for title in sample._words(who)[0]}
    everywhere |= {title for ranks in sample.GROUPS.values() for title in sample._words(ranks[1])[0]}
    held_out = {title for stage in sample.TITLES[kind] for title in sample._words(stage)[1]} - everywhere
    assert held_out
    assert not held_out & texts(corpus["train"], "TITLE")


@pytest.mark.parametrize("type", ["ORG", "TITLE", "PRO", "EDU"])
def test_dev_and_test_hold_entities_that_train_lacks(corpus, type):
    known = texts(corpus["train"], type)
    for split in ("dev", "test"):
        assert texts(corpus[split], type) - known
        assert texts(corpus[split], type) & known


@pytest.mark.parametrize("rule", sample.RULES)
def test_every_rule_can_be_filled(rule):
    rng = random.Random(1)
    people = (sample._Resume(rng, held_out=True) for _ in range(100))
    resume = next(person for person in people if person._works)  # some fields have no factories
    for word in (word for words in sample._words(sample.RULES[rule]) for word in words):
        assert not re.search(r"[{}]", resume._fill(word))


def test_periods_run_forward(corpus):
    for split in corpus.values():
        for characters, _ in split:
            for begin, end in re.findall(r"(\d{4})年(?:\d+月)?(?:至|-+)(\d{4})年", "".join(characters)):
                assert 1960 < int(begin) <= int(end) < 2020
