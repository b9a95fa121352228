"""The CRF against enumeration of all paths, against pytorch-crf, and on what breaks CRFs.

T tags, B sentences, L positions, P paths.
"""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torchcrf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_bilstm import crf, recursions, tags
from ray_bilstm.recursions import length_mask

TRANSITIONS = {
    "scaled": lambda size, random: torch.empty(size).uniform_(-10, 10, generator=random),  # the fast path's full range
    "wide": lambda size, random: torch.empty(size).uniform_(-100, 100, generator=random),
    "forbidding": lambda size, random: torch.where(torch.rand(size, generator=random) < 0.4, -1e4, 0.5),
}


def make_case(T, lengths, *, emissions=1.0, transitions="scaled", seed=0, dtype=torch.float32, garbage=1e4):
    """Random scores and gold tags; padding holds garbage."""
    random = torch.Generator().manual_seed(seed)
    B, L = len(lengths), max(1, *lengths)
    lengths_B = torch.tensor(lengths)
    emissions_BLT = torch.empty(B, L, T).uniform_(-emissions, emissions, generator=random)
    emissions_BLT += garbage * torch.randn(B, L, T, generator=random) * ~length_mask(lengths_B, L)[:, :, None]
    make = TRANSITIONS[transitions]
    scores = [make(size, random).to(dtype) for size in ((T, T), (T,), (T,))]
    tags_BL = torch.randint(T, (B, L), generator=random)
    return SimpleNamespace(emissions_BLT=emissions_BLT.to(dtype), lengths_B=lengths_B, scores=scores, tags_BL=tags_BL)


def enumerate_paths(emissions_LT, transitions_TT, start_T, end_T):
    """All paths of one sentence, (P, L), and their scores, (P,)."""
    L, T = emissions_LT.shape
    paths_PL = torch.cartesian_prod(*[torch.arange(T)] * L).reshape(-1, L)
    scores_P = emissions_LT[torch.arange(L), paths_PL].sum(1) + start_T[paths_PL[:, 0]] + end_T[paths_PL[:, -1]]
    return paths_PL, scores_P + transitions_TT[paths_PL[:, :-1], paths_PL[:, 1:]].sum(1)


def enumerated_loss(case, weight_B):
    """Weighted sum of the negative log-likelihoods over enumerated paths, with float64 copies of the inputs."""
    inputs = [x.double().requires_grad_() for x in (case.emissions_BLT, *case.scores)]
    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(case.lengths_B.tolist()):
        if length:
            paths_PL, scores_P = enumerate_paths(inputs[0][b, :length], *inputs[1:])
            gold = (paths_PL == case.tags_BL[b, :length]).all(1)
            total = total + weight_B[b] * (scores_P.logsumexp(0) - scores_P[gold].sum())
    return total, inputs


def closed_form_loss(case, weight_B):
    inputs = [x.clone().requires_grad_() for x in (case.emissions_BLT, *case.scores)]
    log_z_B = recursions.log_partition(inputs[0], case.lengths_B, *inputs[1:])
    return ((log_z_B - crf.path_score(inputs[0], case.tags_BL, case.lengths_B, *inputs[1:])) * weight_B).sum(), inputs


def gradients(total, inputs):
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def assert_close(got, expected, dtype):
    tolerance = 1e-4 if dtype is torch.float32 else 1e-9
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


cases = st.builds(
    make_case,
    st.integers(1, 4),
    st.lists(st.integers(0, 5), min_size=2, max_size=4),
    emissions=st.sampled_from([1.0, 100.0]),
    transitions=st.sampled_from(sorted(TRANSITIONS)),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)


@given(cases)
@settings(max_examples=80)
@example(make_case(4, [5, 0, 1], emissions=100.0, transitions="forbidding"))
@example(make_case(3, [0, 0], transitions="wide"))
def test_partition_paths_and_marginals_equal_enumeration(case):
    dtype, size = case.emissions_BLT.dtype, case.emissions_BLT.shape[1]
    log_z_B = recursions.log_partition(case.emissions_BLT, case.lengths_B, *case.scores)
    gold_B = crf.path_score(case.emissions_BLT, case.tags_BL, case.lengths_B, *case.scores)
    best_BL, best_B = recursions.viterbi(case.emissions_BLT, case.lengths_B, *case.scores)
    marginals_BLT, _ = recursions.expected_counts(case.emissions_BLT, case.lengths_B, *case.scores)
    for b, length in enumerate(case.lengths_B.tolist()):
        assert not best_BL[b, length:].any()
        assert not marginals_BLT[b, length:].any()
        if not length:
            assert log_z_B[b] == gold_B[b] == best_B[b] == 0
            continue
        emissions_LT = case.emissions_BLT[b, :length].double()
        paths_PL, scores_P = enumerate_paths(emissions_LT, *(score.double() for score in case.scores))
        assert_close(log_z_B[b], scores_P.logsumexp(0), dtype)
        assert_close(gold_B[b], scores_P[(paths_PL == case.tags_BL[b, :length]).all(1)][0], dtype)
        assert_close(best_B[b], scores_P.max(), dtype)
        assert_close(scores_P[(paths_PL == best_BL[b, :length]).all(1)][0], scores_P.max(), dtype)
        one_hot_PLT = torch.nn.functional.one_hot(paths_PL, case.emissions_BLT.shape[2]).double()
        assert_close(marginals_BLT[b, :length], torch.einsum("p,plt->lt", scores_P.softmax(0), one_hot_PLT), dtype)
    assert best_BL.shape == (len(case.lengths_B), size)


@given(cases, st.integers(0, 99))
@settings(max_examples=80)
def test_gradients_equal_autograd_through_enumeration(case, seed):
    weight_B = torch.randn(len(case.lengths_B), generator=torch.Generator().manual_seed(seed))
    expected, reference = enumerated_loss(case, weight_B.double())
    got, inputs = closed_form_loss(case, weight_B.to(case.emissions_BLT.dtype))
    if case.lengths_B.any():
        for gradient, oracle in zip(gradients(got, inputs), gradients(expected, reference), strict=True):
            assert_close(gradient, oracle, case.emissions_BLT.dtype)


@pytest.mark.parametrize(("transitions", "slow"), [("scaled", False), ("wide", True), ("forbidding", True)])
def test_each_range_of_transitions_takes_its_path(transitions, slow):
    case = make_case(4, [5, 3], transitions=transitions)
    with mock.patch.object(recursions, "_log_space_partition", wraps=recursions._log_space_partition) as log_space:
        recursions.log_partition(case.emissions_BLT, case.lengths_B, *case.scores)
    assert log_space.called == slow


@pytest.mark.parametrize("emissions", [1.0, 30.0, 100.0])
def test_scaled_and_log_space_agree_on_long_sentences(emissions):
    """At the limit of the fast path: transitions from -10 to 10."""
    case = make_case(28, [178, 60, 1], emissions=emissions)
    fast, inputs = closed_form_loss(case, torch.ones(3))
    with mock.patch.object(recursions, "SCALED_RANGE", -1.0):
        slow, same_inputs = closed_form_loss(case, torch.ones(3))
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=0)
    for got, expected in zip(gradients(fast, inputs), gradients(slow, same_inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_equals_pytorch_crf():
    case = make_case(28, [178, 120, 64, 32, 1], emissions=3.0, seed=3)
    case.scores = [score / 10 for score in case.scores]
    case.emissions_BLT *= length_mask(case.lengths_B, 178)[:, :, None]
    other = torchcrf.CRF(28, batch_first=True).double()
    theirs = (other.transitions, other.start_transitions, other.end_transitions)
    with torch.no_grad():
        for weight, score in zip(theirs, case.scores, strict=True):
            weight.copy_(score)
    emissions_BLT = case.emissions_BLT.double().requires_grad_()
    mask_BL = length_mask(case.lengths_B, 178)
    expected_B = -other(emissions_BLT, case.tags_BL, mask=mask_BL, reduction="none")

    inputs = [x.clone().requires_grad_() for x in (case.emissions_BLT, *case.scores)]
    log_z_B = recursions.log_partition(inputs[0], case.lengths_B, *inputs[1:])
    got_B = log_z_B - crf.path_score(inputs[0], case.tags_BL, case.lengths_B, *inputs[1:])
    torch.testing.assert_close(got_B.double(), expected_B, rtol=1e-5, atol=1e-4)
    oracle = gradients(expected_B.sum(), (emissions_BLT, *theirs))
    for gradient, expected in zip(gradients(got_B.sum(), inputs), oracle, strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-4)
    best_BL, _ = recursions.viterbi(case.emissions_BLT, case.lengths_B, *case.scores)
    assert [row[:n].tolist() for row, n in zip(best_BL, case.lengths_B, strict=True)] == other.decode(
        emissions_BLT, mask=mask_BL
    )


@pytest.mark.parametrize("transitions", TRANSITIONS)
def test_padding_changes_nothing(transitions):
    clean = make_case(5, [7, 3, 0, 1], transitions=transitions, garbage=0)
    dirty = make_case(5, [7, 3, 0, 1], transitions=transitions, garbage=1e30)
    mask_BL = length_mask(dirty.lengths_B, 7)
    dirty.tags_BL = torch.where(mask_BL, clean.tags_BL, 4)
    assert not torch.equal(clean.emissions_BLT, dirty.emissions_BLT)
    for function in (
        lambda *scores: (recursions.log_partition(*scores),),
        recursions.expected_counts,
        recursions.viterbi,
    ):
        got, expected = (function(case.emissions_BLT, case.lengths_B, *case.scores) for case in (dirty, clean))
        assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    losses, inputs = zip(*(closed_form_loss(case, torch.ones(4)) for case in (clean, dirty)), strict=True)
    assert losses[0] == losses[1]
    expected, got = map(gradients, losses, inputs)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert not got[0][~mask_BL].any()


def make_crf(scheme, *, learned=True, seed=0):
    """A CRF with random scores, and its tags."""
    rule = tags.SCHEMES[scheme]
    prefixes = sorted({*rule.begin, *rule.inside, *rule.end})
    names = ["O", *(f"{prefix}-{type}" for prefix in prefixes for type in ("ORG", "X"))]
    layer = crf.CRF(
        torch.tensor([[tags.may_follow(a, b, scheme) for b in names] for a in names]),
        allowed_start_T=torch.tensor([tags.may_start(name, scheme) for name in names]),
        allowed_end_T=torch.tensor([tags.may_stop(name, scheme) for name in names]),
        learned=learned,
    )
    if learned:
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in layer.parameters():
                weight.uniform_(-5, 5, generator=random)
    return layer, names


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("scheme", tags.SCHEMES)
def test_illegal_sequences_are_never_decoded(scheme, learned, device):
    layer, names = make_crf(scheme, learned=learned)
    layer.to(device)
    lengths = [length for length in range(1, 13) for _ in range(20)]
    for scale in (0.1, 10.0, 1e4):
        case = make_case(len(names), lengths, emissions=scale, seed=int(scale))
        emissions_BLT, lengths_B = case.emissions_BLT.to(device), case.lengths_B.to(device)
        decoded = layer.decode(emissions_BLT, lengths_B).tolist()
        assert any(any(row) for row in decoded)
        for row, length in zip(decoded, lengths, strict=True):
            assert tags.illegal_positions([names[i] for i in row[:length]], scheme) == []
    likely_BLT = layer.marginals(emissions_BLT / 1e3, lengths_B).cpu()
    ones_BL = length_mask(case.lengths_B, 12).float()
    torch.testing.assert_close(likely_BLT.sum(2), ones_BL, rtol=0, atol=1e-4)  # in float32 where float64 is missing
    assert not likely_BLT[:, 0, [not tags.may_start(name, scheme) for name in names]].any()


@pytest.mark.parametrize("learned", [True, False])
def test_an_illegal_gold_path_has_a_finite_loss(learned, device):
    layer, names = make_crf("BMES", learned=learned)
    layer.to(device)
    emissions_BLT = torch.randn(1, 3, len(names), device=device, requires_grad=True)
    gold_BL = torch.tensor([[names.index(name) for name in ("M-ORG", "B-X", "E-ORG")]], device=device)
    loss_B = layer(emissions_BLT, gold_BL, torch.tensor([3], device=device))
    loss_B.sum().backward()
    assert torch.isfinite(loss_B).all()
    assert loss_B.item() > 0
    assert all(torch.isfinite(x.grad).all() for x in (emissions_BLT, *layer.parameters()) if x.requires_grad)


@pytest.mark.parametrize("emissions", [1.0, 100.0, 1e4])
def test_loss_of_a_certain_path_is_not_negative(emissions):
    layer, names = make_crf("BMES")
    case = make_case(len(names), [178] * 8, emissions=1.0, seed=5)
    emissions_BLT = case.emissions_BLT.scatter(2, case.tags_BL[:, :, None], emissions)
    loss_B = layer(emissions_BLT, case.tags_BL, case.lengths_B)
    assert (loss_B >= -1e-6 * 178 * max(emissions, 10.0)).all()


def test_rows_without_a_sentence_cost_nothing():
    layer, names = make_crf("BMES")
    emissions_BLT = torch.randn(3, 4, len(names), requires_grad=True)
    loss_B = layer(emissions_BLT, torch.ones(3, 4, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    loss_B.sum().backward()
    assert loss_B.tolist() == [0, 0, 0]
    assert not any(x.grad.any() for x in (emissions_BLT, *layer.parameters()))


def test_scores_count_up_to_their_bound():
    """So that the loss never needs to look at them: it is that of the bounded scores, in training and in decoding."""
    layer, names = make_crf("BMES")
    bounded, _ = make_crf("BMES")
    with torch.no_grad():
        for scores, same in zip(layer.parameters(), bounded.parameters(), strict=True):
            scores.copy_(torch.randn_like(scores) * 30)
            same.copy_(scores.clamp(-crf.BOUND, crf.BOUND))
    case = make_case(len(names), [1, 7, 12], emissions=3.0, seed=2)
    arguments = (case.emissions_BLT, case.tags_BL, case.lengths_B)
    torch.testing.assert_close(layer(*arguments), bounded(*arguments))
    oracle = recursions.log_partition(
        case.emissions_BLT.double(), case.lengths_B, *(s.double() for s in bounded.parameters())
    )
    gold = crf.path_score(*arguments, *bounded.parameters())
    torch.testing.assert_close(layer(*arguments), oracle.float() - gold, rtol=1e-4, atol=1e-4)
    assert layer.decode(case.emissions_BLT, case.lengths_B).equal(bounded.decode(case.emissions_BLT, case.lengths_B))
