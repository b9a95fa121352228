"""A student's loss against enumeration of all paths, and what a teacher says of sentences.

T tags, B sentences, L positions, P paths.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import checkpoint, crf, recursions, teacher
from ray_bilstm.batches import Shard, TrainingSet, deal
from ray_bilstm.checkpoint import CheckpointError
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.ensemble_directory import read_tagger, write_ensemble
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.recursions import length_mask
from ray_bilstm.run_directory import RunError, check_free, open_run, write_history


def random_scores(T, lengths, *, seed, spread=3.0):
    """Emissions with garbage in the padding, transitions, start and end: float64."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((len(lengths), max(1, *lengths), T), (T, T), (T,), (T,))
    scores = [torch.randn(shape, generator=random, dtype=torch.float64) * spread for shape in shapes]
    scores[0][~length_mask(torch.tensor(lengths), shapes[0][1])] = 1e4
    return scores


def path_scores(emissions_LT, transitions_TT, start_T, end_T):
    """All paths of one sentence, (P, L), and their scores, (P,)."""
    L, T = emissions_LT.shape
    paths_PL = torch.tensor(list(itertools.product(range(T), repeat=L)))
    scores_P = emissions_LT[torch.arange(L), paths_PL].sum(1) + start_T[paths_PL[:, 0]] + end_T[paths_PL[:, -1]]
    return paths_PL, scores_P + transitions_TT[paths_PL[:, :-1], paths_PL[:, 1:]].sum(1)


def make_crf(T, scores):
    any_T = torch.ones(T, dtype=torch.bool)
    layer = crf.CRF(any_T.expand(T, T), allowed_start_T=any_T, allowed_end_T=any_T)
    with torch.no_grad():
        for weight, value in zip(layer.parameters(), scores[1:], strict=True):
            weight.copy_(value)
    return layer


cases = st.tuples(st.integers(1, 4), st.lists(st.integers(0, 5), min_size=2, max_size=4), st.integers(0, 999))


@given(cases)
def test_expected_counts_equal_enumeration(case):
    T, lengths, seed = case
    emissions_BLT, *scores = random_scores(T, lengths, seed=seed)
    tags_BLT, moves_BTT = recursions.expected_counts(emissions_BLT, torch.tensor(lengths), *scores)
    for b, length in enumerate(lengths):
        expected_LT, expected_TT = torch.zeros(length, T), torch.zeros(T, T)
        if length:
            paths_PL, scores_P = path_scores(emissions_BLT[b, :length], *scores)
            for path, share in zip(paths_PL.tolist(), scores_P.softmax(0).tolist(), strict=True):
                for i, tag in enumerate(path):
                    expected_LT[i, tag] += share
                for pair in itertools.pairwise(path):
                    expected_TT[pair] += share
        torch.testing.assert_close(tags_BLT[b, :length].float(), expected_LT, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moves_BTT[b].float(), expected_TT, rtol=1e-4, atol=1e-5)
        assert not tags_BLT[b, length:].any()


@given(cases, st.integers(0, 99))
def test_the_loss_is_the_cross_entropy_with_a_mixture_of_teachers(case, seed):
    """Which is no Markov chain; loss and gradients, against the sum over all paths."""
    T, lengths, base = case
    lengths_B = torch.tensor(lengths)
    teachers = [random_scores(T, lengths, seed=base + i) for i in (0, 1)]
    found = [recursions.expected_counts(scores[0], lengths_B, *scores[1:]) for scores in teachers]
    tags_BLT, moves_BTT = (sum(counts) / 2 for counts in zip(*found, strict=True))
    student = [
        value if value.ndim == 3 else value.clamp(-9, 9) for value in random_scores(T, lengths, seed=seed + 5000)
    ]
    layer, oracle = make_crf(T, student), [value.clone().requires_grad_() for value in student]

    total = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths):
        if length:
            shares = [path_scores(s[0][b, :length], *s[1:])[1].softmax(0) for s in teachers]
            logs_P = path_scores(oracle[0][b, :length], *oracle[1:])[1].log_softmax(0)
            total = total - (sum(shares) / 2 * logs_P).sum()
    emissions_BLT = student[0].clone().requires_grad_()
    loss_B = layer.distil(emissions_BLT, tags_BLT.float(), moves_BTT.float(), lengths_B).double()
    torch.testing.assert_close(loss_B.sum(), total, rtol=1e-4, atol=1e-3)
    assert all(loss == 0 for loss, length in zip(loss_B.tolist(), lengths, strict=True) if not length)
    if any(lengths):
        total.backward()
        loss_B.sum().backward()
        grads = [emissions_BLT.grad, *(weight.grad for weight in layer.parameters())]
        for got, value in zip(grads, oracle, strict=True):
            torch.testing.assert_close(got.double(), value.grad, rtol=1e-3, atol=1e-4)
    assert emissions_BLT.grad is None or not emissions_BLT.grad[~length_mask(lengths_B, max(1, *lengths))].any()


def shard_of(vocab, sentences):
    return Shard(vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences]), np.arange(len(sentences)))


@pytest.fixture
def taught(sentences, vocab):
    """A model, what it says of the sentences, and their shard."""
    torch.manual_seed(3)
    model = BiLstmCrf(Config().with_fields(embedding_size=8, bigram_size=4, hidden_size=6).model, vocab).eval()
    with torch.no_grad():
        model.emission.weight.mul_(8)
    return model, teacher.teach(model, vocab, sentences), shard_of(vocab, sentences)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_gold_is_a_special_case_and_mixes(taught, weight, sentences):
    """Also in a batch of rows in another order, with a padding row and padded further."""
    model, counts, shard = taught
    rows = np.array([2, 5, 6])
    plan = torch.tensor([5, 2, -1, 6])

    def loss(shard):
        return model(shard.gather(plan, 30, rows=rows, sentences=3))

    gold, pure = loss(shard), loss(shard.with_lessons(*counts, weight=1.0))
    assert not torch.allclose(gold[:2], pure[:2])
    torch.testing.assert_close(
        loss(shard.with_lessons(*counts, weight=weight)), (1 - weight) * gold + weight * pure, rtol=1e-5, atol=1e-4
    )


def test_a_shard_without_sentences_has_lessons_too(vocab):
    shard = Shard(vocab.encode([]), np.arange(0))
    T = len(vocab.tags)
    taught = shard.with_lessons(np.zeros((0, T), np.float32), np.zeros((0, T, T), np.float32), weight=0.5)
    batch = taught.batch(np.arange(0), 7, sentences=4)
    assert batch.lessons.tags_BLT.shape == (1, 7, T)
    assert not batch.lessons.tags_BLT.any() | batch.lessons.moves_BTT.any()


def test_what_a_teacher_says_adds_up(taught, sentences, vocab, monkeypatch):
    model, counts, shard = taught
    lengths = np.array([len(s.tokens) for s in sentences])
    assert counts.tags_NT.shape == (lengths.sum(), len(vocab.tags))
    np.testing.assert_allclose(counts.tags_NT.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(counts.moves_STT.sum((1, 2)), lengths - 1, rtol=1e-5, atol=1e-6)
    state = torch.random.get_rng_state()
    again = teacher.teach(model, vocab, sentences)
    assert all(np.array_equal(one, other) for one, other in zip(counts, again, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setattr(teacher, "READINGS", 1)
    monkeypatch.setattr(teacher, "TOKEN_DROPOUT", 0.0)
    plain = teacher.teach(model, vocab, sentences)
    batch = shard.batch(shard.rows, max(lengths), sentences=len(sentences))
    expected_BLT = model.marginals(batch)
    np.testing.assert_allclose(plain.tags_NT, expected_BLT[length_mask(batch.lengths_B, max(lengths))], atol=1e-5)


def test_each_rank_takes_its_own(taught, sentences):
    _, counts, _ = taught
    lengths = np.array([len(s.tokens) for s in sentences], np.int32)
    starts = np.cumsum(lengths) - lengths
    for rows in (np.array([1, 4, 7]), np.arange(8), np.arange(0)):
        own = counts.of(rows, lengths)
        expected = [counts.tags_NT[starts[row] : starts[row] + lengths[row]] for row in rows]
        assert np.array_equal(own.tags_NT, np.concatenate([counts.tags_NT[:0], *expected]))
        assert np.array_equal(own.moves_STT, counts.moves_STT[rows])


def test_a_student_learns_what_its_teacher_says(taught, vocab):
    """Of one that is wrong, all of it: the loss falls to what the teacher itself would have."""
    model, counts, shard = taught
    batch = shard.with_lessons(*counts, weight=1.0).batch(shard.rows, 22, sentences=8)
    torch.manual_seed(0)
    student = BiLstmCrf(
        Config().with_fields(embedding_size=16, bigram_size=8, hidden_size=16, dropout=0.0).model, vocab
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = student(batch).sum()
        loss.backward()
        optimizer.step()
    mask_BL = length_mask(batch.lengths_B, 22)
    same = (student.decode(batch) == model.decode(batch))[mask_BL].float().mean()
    right = (student.decode(batch) == batch.tags_BL)[mask_BL].float().mean()
    assert right < 0.5 < 0.75 < same
    assert loss < 1.1 * model(batch).sum()


def write_model(path, vocab, *, seed=0):
    config = Config().with_fields(embedding_size=8, bigram_size=4, hidden_size=6)
    torch.manual_seed(seed)
    weights = {name: weight.detach() for name, weight in BiLstmCrf(config.model, vocab).named_parameters()}
    checkpoint.write_model(path, weights, config=config, vocab=vocab)
    return path


def test_an_ensemble_says_the_mean(tmp_path, sentences, vocab):
    models = [write_model(tmp_path / str(seed), vocab, seed=seed) for seed in (1, 2)]
    write_ensemble(tmp_path / "both", models)
    said = [teacher.teach(*read_tagger(path), sentences) for path in (*models, tmp_path / "both")]
    for one, other, both in zip(*said, strict=True):
        np.testing.assert_allclose((one + other) / 2, both, atol=1e-5)
    described = teacher.describe(Config().with_fields(teacher=str(tmp_path / "both"), teacher_weight=0.25))
    assert (described["models"], described["weight"], len(set(described["sha256"]))) == (2, 0.25, 2)


def test_teachers_that_do_not_fit_are_refused(tmp_path, sentences, vocab):
    lengths = np.array([len(s.tokens) for s in sentences], np.int32)
    write_model(tmp_path / "good", vocab)
    config = Config().with_fields(teacher=str(tmp_path / "good"))
    teacher.read_teacher(config, vocab, lengths)
    fewer = dataclasses.replace(vocab, tags=vocab.tags[:-1])
    with pytest.raises(
        ConfigError, match=r"teacher is '.*good': got a model of BMES tags O, .*, expected those of the"
    ):
        teacher.read_teacher(config, fewer, lengths)
    with pytest.raises(CheckpointError, match=r"nowhere: got no model\.safetensors"):
        teacher.read_teacher(config.with_fields(teacher=str(tmp_path / "nowhere")), vocab, lengths)
    large = np.full(1_000_000, 32)
    with pytest.raises(ConfigError, match=r"is not streamed with one, and takes \d,\d{3} MiB .* --shard-memory 2048"):
        teacher.read_teacher(config, vocab, large)
    teacher.read_teacher(config.with_fields(shard_memory=8192), vocab, large)
    teacher.read_teacher(config.with_fields(num_workers=8), vocab, large)


def test_a_run_is_resumed_with_the_same_teacher(tmp_path):
    config = Config().with_fields(teacher="runs/a")
    open_run(tmp_path, config)
    write_history(tmp_path, [])
    check_free(tmp_path, config.with_fields(resume=True))
    for changed, message in (
        ({"teacher": "runs/b"}, "teacher was 'runs/a' and is 'runs/b'"),
        ({"teacher": None}, "teacher was 'runs/a' and is None"),
        ({"teacher_weight": 0.1}, "teacher_weight was "),
    ):
        with pytest.raises(RunError, match=message):
            check_free(tmp_path, config.with_fields(resume=True, **changed))


def test_a_model_directory_does_not_know_where_its_teacher_was(tmp_path, vocab):
    config = Config().with_fields(teacher="/home/someone/teacher", embedding_size=8, bigram_size=4, hidden_size=6)
    weights = {name: weight.detach() for name, weight in BiLstmCrf(config.model, vocab).named_parameters()}
    checkpoint.write_model(tmp_path, weights, config=config, vocab=vocab)
    assert not [path for path in tmp_path.iterdir() if b"someone" in path.read_bytes()]


def test_without_a_teacher_nothing_of_it_is_there(sentences, vocab):
    batch = shard_of(vocab, sentences).batch(np.arange(2), 22, sentences=2)
    assert batch.lessons is None
    assert Config().data.teacher is None


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_together_have_the_loss_of_one(taught, sentences, vocab, world_size):
    """Step by step, each rank with the part of the counts that is its own."""
    model, counts, _ = taught
    lengths = np.array([len(s.tokens) for s in sentences], np.int32)

    def losses(rank, world_size):
        rows = np.flatnonzero(deal(lengths, world_size) == rank)
        mine = vocab.encode([sentences[i].tokens for i in rows], [sentences[i].tags for i in rows])
        shard = Shard(mine, rows).with_lessons(*counts.of(rows, lengths), weight=0.4)
        place = {"rank": rank, "world_size": world_size}
        train = TrainingSet(lambda: [shard], lengths, batch_size=5, seed=1, token_dropout=0.0, **place)
        with torch.no_grad():
            return torch.stack([model(batch).sum() for epoch in (1, 2) for batch in train.batches(epoch)])

    together = sum(losses(rank, world_size) for rank in range(world_size))
    torch.testing.assert_close(together, losses(0, 1), rtol=1e-5, atol=1e-5)
