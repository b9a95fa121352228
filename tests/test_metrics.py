"""Scores against seqeval and scikit-learn; counts add up."""

import random

import numpy as np
import pytest
import seqeval.scheme
from hypothesis import example, given
from hypothesis import strategies as st
from seqeval.metrics.v1 import precision_recall_fscore_support as seqeval_scores
from sklearn.metrics import classification_report

from ray_bilstm import tags
from ray_bilstm.metrics import Scorer

SEQEVAL = {
    "BMES": seqeval.scheme.IOBES,  # with M renamed I
    "BIOES": seqeval.scheme.IOBES,
    "BIO": seqeval.scheme.IOB2,
    "IOB1": seqeval.scheme.IOB1,
}
TYPES = ("ORG", "LOC", "TIME-OF")


def all_tags(scheme):
    rule = tags.SCHEMES[scheme]
    return ("O", *(f"{prefix}-{type}" for type in TYPES for prefix in sorted({*rule.begin, *rule.inside})))


def make_counts(scheme, pairs, names=None):
    """A scorer, and its counts of (gold, predicted) sentences."""
    names = names or all_tags(scheme)
    scorer = Scorer(names, scheme)
    ids = {tag: i for i, tag in enumerate(names)}
    gold, predicted = (np.array([ids[tag] for pair in pairs for tag in pair[side]], np.int64) for side in (0, 1))
    return scorer, scorer.count(gold, predicted, np.array([len(gold) for gold, _ in pairs], np.int64))


def seqeval_triple(scheme, pairs, average="micro"):
    sides = [
        [[tag.replace("M-", "I-") if scheme == "BMES" else tag for tag in pair[i]] for pair in pairs] for i in (0, 1)
    ]
    return seqeval_scores(*sides, average=average, scheme=SEQEVAL[scheme], zero_division=0)


def triple(scores):
    return tuple(scores[name] for name in ("precision", "recall", "f1"))


def legal(scheme, length, draw):
    """A random legal sequence: a walk over the moves that the scheme allows, ending where it may stop."""
    names = all_tags(scheme)
    while True:
        walk = []
        for _ in range(length):
            moves = [t for t in names if (tags.may_follow(walk[-1], t, scheme) if walk else tags.may_start(t, scheme))]
            walk.append(draw.choice(moves))
        if not tags.illegal_positions(walk, scheme):
            return walk


def pairs_of(scheme):
    """Sentences with any tags, legal or not; in IOB1 legal ones, as seqeval lets no entity begin with B after O."""
    if scheme == "IOB1":
        lengths = st.lists(st.integers(1, 8), min_size=1, max_size=4)
        return st.builds(
            lambda lengths, draw: [(legal(scheme, n, draw), legal(scheme, n, draw)) for n in lengths],
            lengths,
            st.randoms(use_true_random=False),
        )
    pair = st.sampled_from(all_tags(scheme))
    sentence = st.lists(st.tuples(pair, pair), min_size=1, max_size=9).map(lambda rows: tuple(zip(*rows, strict=True)))
    return st.lists(sentence, min_size=1, max_size=4)


@pytest.mark.parametrize("scheme", SEQEVAL)
def test_entity_scores_equal_strict_seqeval(scheme):
    @given(pairs_of(scheme))
    @example([(("O",), ("O",))])
    def check(pairs):
        scorer, counts = make_counts(scheme, pairs)
        scores = scorer.scores(counts)
        assert triple(scores["entity"]) == pytest.approx(seqeval_triple(scheme, pairs)[:3])
        assert scores["entity"]["support"] == seqeval_triple(scheme, pairs)[3]

    check()


@pytest.mark.parametrize("scheme", SEQEVAL)
def test_spans_are_those_of_the_tags(scheme):
    names = all_tags(scheme)
    scorer = Scorer(names, scheme)

    @given(st.lists(st.lists(st.sampled_from(range(len(names))), max_size=9), max_size=5))
    def check(sentences):
        flat = np.array([i for sentence in sentences for i in sentence], np.int64)
        found = list(scorer.spans(flat, np.array([len(sentence) for sentence in sentences], np.int64)))
        expected = [tags.to_spans([names[i] for i in sentence], scheme) for sentence in sentences]
        assert found == [(n, *span) for n, spans in enumerate(expected) for span in spans]

    check()


@pytest.mark.parametrize("scheme", SEQEVAL)
def test_a_corpus_with_some_errors(scheme):
    """2,000 sentences, predictions mostly right: all four tables equal those of the two libraries."""
    draw = random.Random(1)
    gold = [legal(scheme, draw.randint(1, 12), draw) for _ in range(2000)]
    noise = (lambda tag: tag) if scheme == "IOB1" else (lambda tag: draw.choice(all_tags(scheme)))
    predicted = [
        [
            tag if draw.random() < 0.95 else noise(tag)
            for tag in (sentence if draw.random() < 0.9 else ["O"] * len(sentence))
        ]
        for sentence in gold
    ]
    pairs = list(zip(gold, predicted, strict=True))
    scorer, counts = make_counts(scheme, pairs)
    scores = scorer.scores(counts)
    assert 0.5 < scores["entity"]["f1"] < 1
    assert triple(scores["entity"]) == pytest.approx(seqeval_triple(scheme, pairs)[:3])
    by_type = zip(*seqeval_triple(scheme, pairs, average=None), strict=True)
    for type, (*expected, support) in zip(sorted(TYPES), by_type, strict=True):
        assert triple(scores["per_type"][type]) == pytest.approx(expected)
        assert scores["per_type"][type]["support"] == support

    flat = [[tag for sentence in side for tag in sentence] for side in (gold, predicted)]
    weighted = classification_report(*flat, output_dict=True, zero_division=0)["weighted avg"]
    expected = (weighted["precision"], weighted["recall"], weighted["f1-score"])
    assert triple(scores["token"]) == pytest.approx(expected)
    matrix = np.array(scores["confusion"]["matrix"])
    assert matrix.sum() == len(flat[0])
    i, j = (scores["confusion"]["tags"].index(tag) for tag in ("B-LOC", "O"))
    assert matrix[i, j] == sum(pair == ("B-LOC", "O") for pair in zip(*flat, strict=True)) > 0


@given(pairs_of("BMES"))
def test_token_scores_equal_the_weighted_report_of_sklearn(pairs):
    scorer, counts = make_counts("BMES", pairs)
    flat = [[tag for pair in pairs for tag in pair[side]] for side in (0, 1)]
    weighted = classification_report(*flat, output_dict=True, zero_division=0)["weighted avg"]
    expected = (weighted["precision"], weighted["recall"], weighted["f1-score"])
    assert triple(scorer.scores(counts)["token"]) == pytest.approx(expected)


@given(pairs_of("BMES"), st.integers(0, 4))
def test_counts_of_parts_add_up_to_those_of_the_whole(pairs, cut):
    """Also when a part holds nothing, and through the flat array that ranks sum."""
    scorer, whole = make_counts("BMES", pairs)
    parts = [make_counts("BMES", part)[1] for part in (pairs[:cut], pairs[cut:])]
    total = scorer.from_array(sum(part.to_array() for part in parts))
    for counts in (parts[0] + parts[1], total, whole + scorer.zero()):
        assert np.array_equal(counts.to_array(), whole.to_array())


def test_an_entity_does_not_cross_sentences():
    scorer, counts = make_counts("BMES", [(("B-ORG",), ("B-ORG",)), (("E-ORG",), ("E-ORG",))])
    assert not counts.entities_K3.any()
    scorer, counts = make_counts("BMES", [(("B-ORG", "E-ORG"), ("B-ORG", "E-ORG"))])
    assert scorer.scores(counts)["entity"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}


def test_a_tag_that_only_gold_has_is_missed_and_counted():
    names = ("O", "S-ORG", "S-NEW")
    pairs = [(("S-ORG", "O", "S-NEW"), ("S-ORG", "O", "O"))]
    scorer, counts = make_counts("BMES", pairs, names)
    scores = scorer.scores(counts)
    assert scores["per_type"]["NEW"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert triple(scores["entity"]) == pytest.approx((1, 1 / 2, 2 / 3))
    assert scores["confusion"]["matrix"][2] == [1, 0, 0]


def test_no_sentence_scores_zero():
    scorer = Scorer(all_tags("BIO"), "BIO")
    scores = scorer.scores(scorer.zero())
    assert triple(scores["entity"]) == triple(scores["token"]) == (0, 0, 0)
