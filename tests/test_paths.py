"""Probabilities of entities and lists of best paths, against enumeration of all paths in each tag scheme.

B sentences, L positions, T tags, P paths, N entities.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import recursions, tags
from ray_bilstm.metrics import Scorer
from ray_bilstm.paths import Chunks, Entities, Lattice, best_paths

TAGS = {
    "BMES": ["O", "B-A", "E-A", "M-A", "S-A", "S-B"],
    "BIOES": ["O", "B-A", "E-A", "I-A", "S-A"],
    "BIO": ["O", "B-A", "I-A", "B-B", "I-B"],
    "IOB1": ["O", "B-A", "I-A", "I-B"],
}


def make_case(scheme, lengths, *, scale, seed, legal):
    """Random scores; padding is not a number; moves that the scheme forbids are forbidden where `legal`."""
    names = TAGS[scheme]
    random = torch.Generator().manual_seed(seed)
    T, L = len(names), max(1, *lengths)
    scores = [torch.empty(size, dtype=torch.float64).uniform_(-3, 3, generator=random) for size in ((T, T), T, T)]
    if legal:
        masks = (
            torch.tensor([[tags.may_follow(a, b, scheme) for b in names] for a in names]),
            torch.tensor([tags.may_start(tag, scheme) for tag in names]),
            torch.tensor([tags.may_stop(tag, scheme) for tag in names]),
        )
        scores = [torch.where(mask, score, recursions.ILLEGAL) for score, mask in zip(scores, masks, strict=True)]
    emissions_BLT = torch.empty(len(lengths), L, T, dtype=torch.float64).uniform_(-scale, scale, generator=random)
    lengths_B = torch.tensor(lengths)
    emissions_BLT[~recursions.length_mask(lengths_B, L)] = torch.nan
    return emissions_BLT, lengths_B, tuple(scores)


def enumerate_paths(emissions_LT, scores, length):
    """All legal paths of a sentence and their scores."""
    moves_TT, start_T, end_T = scores
    for path in itertools.product(range(len(start_T)), repeat=length):
        moves = [start_T[path[0]], end_T[path[-1]], *(moves_TT[pair] for pair in itertools.pairwise(path))]
        if min(moves) > recursions.ILLEGAL / 2:
            yield path, float(sum(moves) + sum(emissions_LT[i, tag] for i, tag in enumerate(path)))


def enumerated_probabilities(emissions_LT, scores, length, scheme):
    """Entity -> probability, over all paths of a sentence."""
    names, mass, whole = TAGS[scheme], {}, 0.0
    found = list(enumerate_paths(emissions_LT, scores, length))
    best = max(score for _, score in found)
    for path, score in found:
        weight = float(torch.tensor(score - best, dtype=torch.float64).exp())
        whole += weight
        for span in tags.to_spans([names[tag] for tag in path], scheme):
            mass[span] = mass.get(span, 0.0) + weight
    return {span: weight / whole for span, weight in mass.items()}


def chunks_of(scorer):
    return Chunks(*map(torch.from_numpy, (scorer.continues_TT, scorer.begins_T, scorer.ends_T, scorer.type_T)))


cases = {
    "scheme": st.sampled_from(sorted(TAGS)),
    "scale": st.sampled_from([1.0, 90.0, 500.0]),  # the last is beyond what one product can hold
    "seed": st.integers(0, 999),
    "legal": st.booleans(),
}


@given(**cases, lengths=st.lists(st.integers(0, 4), min_size=2, max_size=3))
def test_probabilities_of_all_entities(scheme, scale, seed, legal, lengths):
    emissions_BLT, lengths_B, scores = make_case(scheme, lengths, scale=scale, seed=seed, legal=legal)
    scorer = Scorer(TAGS[scheme], scheme)
    asked, expected = [], []
    for b, length in enumerate(lengths):
        of = enumerated_probabilities(emissions_BLT[b], scores, length, scheme) if length else {}
        for start, end in itertools.combinations(range(length + 1), 2):
            for number, name in enumerate(scorer.types):
                asked.append((b, start, end - 1, number))
                expected.append(of.get(tags.Span(start, end, name), 0.0))
    lattice = Lattice(emissions_BLT, lengths_B, scores)
    assert lattice.narrow or scale == 500.0
    entities = Entities(*torch.tensor(asked, dtype=torch.int64).reshape(-1, 4).T)
    got_N = lattice.entity_probabilities(entities, chunks_of(scorer))
    torch.testing.assert_close(got_N, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-12)


def test_scores_too_far_apart_for_one_product_are_noticed():
    assert not Lattice(*make_case("BMES", [4], scale=500.0, seed=0, legal=True)).narrow


@given(**cases, length=st.integers(0, 4), count=st.integers(1, 40))
def test_the_best_paths_and_their_probabilities(scheme, scale, seed, legal, length, count):
    emissions_BLT, lengths_B, scores = make_case(scheme, [length, 4], scale=scale, seed=seed, legal=legal)
    paths_KL = best_paths(emissions_BLT[0, :length], scores, count=count)
    if not length:
        assert paths_KL.shape == (1, 0)
        return
    ranked = sorted(enumerate_paths(emissions_BLT[0], scores, length), key=lambda one: -one[1])
    assert [tuple(path) for path in paths_KL.tolist()] == [path for path, _ in ranked[:count]]
    scores_P = torch.tensor([score for _, score in ranked], dtype=torch.float64)
    lattice = Lattice(emissions_BLT, lengths_B, scores)
    got_K = lattice.path_probabilities(paths_KL)
    torch.testing.assert_close(got_K, scores_P.softmax(0)[:count], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(lattice.log_z_B[0], scores_P.logsumexp(0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [1, 7])
def test_the_first_of_them_is_viterbis(length):
    emissions_BLT, lengths_B, scores = make_case("BMES", [length, 9], scale=1.0, seed=3, legal=True)
    path_BL, _ = recursions.viterbi(emissions_BLT.nan_to_num(), lengths_B, *scores)
    assert torch.equal(best_paths(emissions_BLT[0, :length], scores, count=3)[0], path_BL[0, :length])


def test_a_sentence_without_tokens_has_one_path():
    emissions_BLT, lengths_B, scores = make_case("BIO", [0, 2], scale=1.0, seed=0, legal=True)
    lattice = Lattice(emissions_BLT, lengths_B, scores)
    assert lattice.path_probabilities(torch.zeros(1, 0, dtype=torch.int64)).tolist() == [1.0]
    nothing = Entities(*torch.zeros(4, 0, dtype=torch.int64))
    assert lattice.entity_probabilities(nothing, chunks_of(Scorer(TAGS["BIO"], "BIO"))).shape == (0,)
