"""Every sentence once an epoch, on any number of ranks; few padded lengths, little padding."""

from itertools import combinations, zip_longest

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ray_bilstm import batches, corpus
from ray_bilstm.batches import Shard, TrainingSet
from ray_bilstm.vocab import UNKNOWN, Encoded

WORLDS = (1, 2, 3, 8)


def encode(lengths):
    """A corpus in which every position has ids of its own."""
    ids = np.arange(2, 2 + sum(lengths), dtype=np.int32)
    return Encoded(ids, ids * 2, (ids % 7).astype(np.int16), np.array(lengths, np.int32))


def take(encoded, rows):
    """The sentences `rows` of an encoded corpus."""
    starts = np.cumsum(encoded.lengths) - encoded.lengths
    index = [i for row in rows for i in range(starts[row], starts[row] + encoded.lengths[row])]
    return Encoded(*(ids[index] for ids in encoded[:3]), encoded.lengths[rows])


def make_set(lengths, *, rank=0, world_size=1, window=None, **settings):
    """The training set of a rank; with `window`, a streamed one."""
    encoded = encode(lengths)
    size = window or len(lengths)

    def windows():
        for start in range(0, len(lengths), size):
            part = np.arange(start, min(start + size, len(lengths)))
            mine = part[batches.deal(encoded.lengths[part], world_size) == rank]
            yield Shard(take(encoded, mine), mine)

    settings = {"batch_size": 4, "seed": 1, "shapes": 4} | settings
    return TrainingSet(windows, encoded.lengths, rank=rank, world_size=world_size, window=window, **settings)


def epochs_of_ranks(lengths, *, world_size, epoch=1, **settings):
    """The batches of an epoch, rank by rank."""
    sets = [make_set(lengths, rank=rank, world_size=world_size, **settings) for rank in range(world_size)]
    epochs = [list(one.batches(epoch)) for one in sets]
    assert {len(epoch) for epoch in epochs} == {len(one) for one in sets}, "every rank has the same number of steps"
    return epochs


lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=60)
windows = st.one_of(st.none(), st.integers(1, 70))


@given(lengths_lists, st.sampled_from(WORLDS), st.integers(1, 11), windows, st.integers(1, 5), st.integers(1, 3))
@example([5] * 9, 8, 3, None, 4, 1)
def test_every_sentence_once_an_epoch(lengths, world_size, batch_size, window, shapes, epoch):
    settings = {"batch_size": batch_size, "window": window, "shapes": shapes, "epoch": epoch}
    ranks = epochs_of_ranks(lengths, world_size=world_size, **settings)
    seen = np.concatenate([batch.rows for rank in ranks for batch in rank])
    assert sorted(seen) == list(range(len(lengths)))
    for steps in zip(*ranks, strict=True):
        assert {batch.sentences for batch in steps} == {sum(len(batch.rows) for batch in steps)}
        assert 1 <= steps[0].sentences <= batch_size
    assert len({batch.chars_BL.shape[1] for rank in ranks for batch in rank}) <= shapes


@given(lengths_lists, st.integers(1, 11), windows)
def test_a_step_holds_the_same_sentences_for_every_number_of_ranks(lengths, batch_size, window):
    def steps(world_size):
        ranks = epochs_of_ranks(lengths, world_size=world_size, batch_size=batch_size, window=window)
        return [sorted(np.concatenate([batch.rows for batch in step])) for step in zip(*ranks, strict=True)]

    alone = steps(1)
    assert all(steps(world_size) == alone for world_size in WORLDS[1:])


@given(lengths_lists, st.sampled_from(WORLDS), windows)
def test_batches_hold_the_ids_of_their_rows_and_zeros(lengths, world_size, window):
    encoded = encode(lengths)
    for batch in (b for rank in epochs_of_ranks(lengths, world_size=world_size, window=window) for b in rank):
        assert batch.lengths_B.tolist() == ([lengths[row] for row in batch.rows] or [0])
        for i, length in enumerate(batch.lengths_B.tolist()):
            expected = take(encoded, batch.rows[i : i + 1])
            for name, ids in (
                ("chars_BL", expected.chars),
                ("bigrams_BL", expected.bigrams),
                ("tags_BL", expected.tags),
            ):
                row = getattr(batch, name)[i].tolist()
                assert row == ids.tolist() + [0] * (len(row) - length)


def test_dropped_tokens_are_drawn_anew_each_epoch_and_do_not_depend_on_padding(device):
    lengths = np.random.default_rng(0).integers(1, 60, 301).tolist()
    shard = Shard(encode(lengths), np.arange(301), device=device)

    def epochs(**settings):
        torch.manual_seed(1)
        plain = TrainingSet(lambda: [shard], np.array(lengths), batch_size=64, seed=1, token_dropout=0.3, **settings)
        return [list(plain.batches(1)) for _ in range(2)]

    exact = epochs(shapes=32)
    few = epochs(shapes=2, fixed_rows=True)
    for one, other in zip([*exact[0], *exact[1]], [*few[0], *few[1]], strict=True):
        rows, length = one.chars_BL.shape
        assert torch.equal(one.chars_BL, other.chars_BL[:rows, :length])
        assert torch.equal(one.bigrams_BL, other.bigrams_BL[:rows, :length])
    unknown = [torch.cat([(batch.chars_BL == UNKNOWN).flatten() for batch in epoch]) for epoch in exact]
    assert not torch.equal(*unknown)
    for epoch in unknown:
        assert 0.27 < epoch.sum() / sum(lengths) < 0.33
    assert not (shard.chars == UNKNOWN).any(), "the shard itself keeps its tokens"


def test_one_step_has_fewer_sentences_in_another_place_each_epoch():
    epochs = [[batch.sentences for batch in make_set([3] * 45, batch_size=8).batches(epoch)] for epoch in range(1, 9)]
    assert all(sorted(sizes) == [5, 8, 8, 8, 8, 8] for sizes in epochs)
    assert len({sizes.index(5) for sizes in epochs}) > 2


def orders(seed, *epochs):
    training = make_set(list(range(1, 401)), seed=seed, batch_size=32)
    return [[batch.rows.tolist() for batch in training.batches(epoch)] for epoch in epochs]


def test_orders_differ_between_epochs_and_seeds_and_repeat_otherwise():
    first, second, again = orders(1, 1, 2, 1)
    (other,) = orders(2, 1)
    assert first == again
    assert len({str(order) for order in (first, second, other)}) == 3
    assert {frozenset(rows) for rows in first} != {frozenset(rows) for rows in second}, "rows move between batches"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 5))
def test_padded_lengths_waste_least(lengths, count):
    def filled(shapes):
        return sum(min(shape for shape in shapes if shape >= length) for length in lengths)

    got = batches.padded_lengths(np.array(lengths), count).tolist()
    sizes = sorted(set(lengths))
    choices = combinations(sizes[:-1], min(count, len(sizes)) - 1)
    assert got == sorted(set(got))
    assert len(got) <= count
    assert filled(got) == min(filled((*choice, sizes[-1])) for choice in choices)


def test_padded_lengths_of_very_many_lengths_still_hold_all_rows():
    got = batches.padded_lengths(np.arange(1, 3001), 8)
    assert len(got) == 8
    assert got[-1] == 3000
    assert np.diff(got).max() < 2 * 3000 / 8


@pytest.mark.parametrize("count", [960, 1001])
@pytest.mark.parametrize("world_size", WORLDS)
def test_ranks_hold_about_as_much(world_size, count):
    """Whatever is left over after whole rounds is one sentence a rank at most."""
    lengths = np.random.default_rng(0).integers(1, 179, count)
    owners = batches.deal(lengths, world_size)
    rows = np.bincount(owners, minlength=world_size)
    tokens = np.bincount(owners, weights=lengths, minlength=world_size)
    assert np.ptp(rows) <= 1
    left_over = lengths.max() if count % world_size else 0
    assert np.ptp(tokens) <= left_over + 0.003 * tokens.mean()


def test_evaluation_sees_every_sentence_once_without_spare_padding():
    lengths = [3, 9, 1, 9, 0, 4, 30]
    found = list(batches.iter_eval_batches(Shard(encode(lengths), np.arange(10, 17)), batch_size=3))
    assert sorted(np.concatenate([batch.rows for batch in found])) == list(range(10, 17))
    assert all(batch.chars_BL.shape[1] == batch.lengths_B.max() for batch in found)
    assert [batch.sentences for batch in found] == [3, 3, 1]
    assert list(batches.iter_eval_batches(Shard(encode([]), np.arange(0)), batch_size=3)) == []


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 9), st.integers(1, 200))
def test_evaluation_in_batches_of_few_positions(lengths, batch_size, positions):
    shard = Shard(encode(lengths), np.arange(len(lengths)))
    found = list(batches.iter_eval_batches(shard, batch_size=batch_size, positions=positions))
    assert [row for batch in found for row in batch.rows] == np.argsort(lengths, kind="stable").tolist()
    for batch, following in zip_longest(found, found[1:]):
        rows, size = batch.chars_BL.shape
        assert rows == 1 or (rows <= batch_size and rows * size <= positions)
        if following:
            longer = max(1, int(following.lengths_B[0]))
            assert rows == batch_size or (rows + 1) * longer > positions, "no fewer than need be"


def test_a_part_of_a_batch_is_a_batch_of_its_own():
    shard = Shard(encode([3, 1, 7, 2, 0]), np.arange(5))
    (whole,) = batches.iter_eval_batches(shard, batch_size=9)
    for start, stop in ((0, 2), (2, 9), (0, 1)):
        part, rows = whole.part(start, stop), whole.rows[start:stop]
        expected = shard.batch(rows, max(1, int(part.lengths_B.max())), sentences=5)
        assert part.rows.tolist() == rows.tolist()
        assert all(torch.equal(one, other) for one, other in zip(part[:4], expected[:4], strict=True))


@given(lengths_lists, st.sampled_from(WORLDS), st.integers(1, 11), windows, st.integers(1, 5))
def test_fixed_rows_give_at_most_as_many_shapes_as_lengths(lengths, world_size, batch_size, window, shapes):
    settings = {"batch_size": batch_size, "window": window, "shapes": shapes}
    plain = epochs_of_ranks(lengths, world_size=world_size, **settings)
    fixed = epochs_of_ranks(lengths, world_size=world_size, fixed_rows=True, **settings)
    for exact, filled in zip(plain, fixed, strict=True):
        per_window = -(-(window or len(lengths)) // batch_size)
        for start in range(0, len(filled), per_window):
            assert len({batch.chars_BL.shape for batch in filled[start : start + per_window]}) <= shapes
        for one, other in zip(exact, filled, strict=True):
            count = len(one.lengths_B)
            assert not other.lengths_B[count:].any()
            assert not other.chars_BL[count:].any()
            for tensor, same in zip(one[:4], other[:4], strict=True):
                assert (tensor == same[:count]).all()


def test_fixed_rows_hold_from_epoch_to_epoch():
    lengths = np.random.default_rng(0).integers(1, 60, 301)
    training = make_set(lengths.tolist(), rank=1, world_size=3, batch_size=64, shapes=8, fixed_rows=True)
    rows = [{len(batch.lengths_B) for batch in training.batches(epoch)} for epoch in range(1, 6)]
    assert all(len(counts) == 1 for counts in rows)
    assert [min(counts) for counts in rows] == sorted(min(counts) for counts in rows), "rows are never given up"


def test_evaluation_in_few_shapes():
    lengths = np.random.default_rng(1).integers(0, 90, 101).tolist()
    found = list(batches.iter_eval_batches(Shard(encode(lengths), np.arange(101)), batch_size=8, shapes=3))
    assert len({batch.chars_BL.shape for batch in found}) <= 3
    assert {len(batch.lengths_B) for batch in found} == {8}
    assert sorted(np.concatenate([batch.rows for batch in found])) == list(range(101))
    assert [batch.sentences for batch in found] == [8] * 12 + [5]


@pytest.mark.parametrize(("world_size", "shapes", "limit"), [(1, None, 0.05), (8, None, 0.05), (8, 8, 0.22)])
def test_little_padding_on_resume_ner(resume_ner, world_size, shapes, limit):
    """Under 5 % on a cpu, 21 % with the 8 lengths of an accelerator; ranks wait for each other under 1 %."""
    sentences = corpus.read_corpus(resume_ner).train
    lengths = np.array([len(sentence.tokens) for sentence in sentences])
    allowed = batches.padded_lengths(lengths, shapes) if shapes else None
    owners, filled, largest = batches.deal(lengths, world_size), 0, 0.0
    for epoch in range(1, 6):
        for rows, length in batches.plan_epoch(lengths, batch_size=64, seed=1, epoch=epoch, shapes=allowed):
            filled += len(rows) * length
            largest += np.bincount(owners[rows], weights=lengths[rows], minlength=world_size).max()
    padding, waiting = 1 - 5 * lengths.sum() / filled, 1 - 5 * lengths.sum() / (world_size * largest)
    assert len(sentences) == 3821
    assert padding < limit
    assert waiting < 0.01, "in a step, the rank with most tokens keeps the others waiting"
