"""A training set on disk: the same sentences, batches and ids as in memory."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ray_bilstm import stream
from ray_bilstm.batches import TrainingSet
from ray_bilstm.config import Config

CPU = torch.device("cpu")
WORLDS = (1, 2, 3, 8)


@pytest.fixture
def corpus(sentences):
    return sentences * 9


def lengths_of(sentences):
    return np.array([len(sentence.tokens) for sentence in sentences], np.int32)


def shards_of(path, sentences, *, window, world_size):
    """The shards of each rank."""
    place = {"window": window, "world_size": world_size, "device": CPU}
    return [list(stream.iter_windows(path, lengths_of(sentences), rank=rank, **place)) for rank in range(world_size)]


@pytest.mark.parametrize("window", [1, 4, 64, 1000])
@pytest.mark.parametrize("world_size", WORLDS)
def test_every_rank_reads_its_sentences_of_each_window(corpus, vocab, tmp_path, monkeypatch, window, world_size):
    """Windows smaller than the number of ranks, and larger than the corpus, too."""
    monkeypatch.setattr(stream, "ENCODED_ROWS", 7)
    lengths = lengths_of(corpus)
    path = tmp_path / "train.parquet"
    stream.write_windows(path, corpus, vocab, lengths, window=window, world_size=world_size)
    count = -(-len(corpus) // window)
    assert pq.ParquetFile(path).num_row_groups == count * world_size
    ranks = shards_of(path, corpus, window=window, world_size=world_size)
    assert [len(shards) for shards in ranks] == [count] * world_size
    for number in range(count):
        rows = np.concatenate([shards[number].rows for shards in ranks])
        assert sorted(rows) == list(range(number * window, min((number + 1) * window, len(corpus))))
    expected = vocab.encode([s.tokens for s in corpus], [s.tags for s in corpus])
    starts = np.cumsum(lengths) - lengths
    for shard in (shard for shards in ranks for shard in shards):
        index = [i for row in shard.rows for i in range(starts[row], starts[row] + lengths[row])]
        for name in ("chars", "bigrams", "tags"):
            assert getattr(shard, name)[:-1].tolist() == getattr(expected, name)[index].tolist()


@pytest.mark.parametrize("world_size", WORLDS)
def test_an_epoch_holds_every_sentence_once_in_the_same_steps(corpus, vocab, tmp_path, world_size):
    lengths = lengths_of(corpus)
    window, path = 24, tmp_path / "train.parquet"

    def steps(world_size):
        stream.write_windows(path, corpus, vocab, lengths, window=window, world_size=world_size)
        ranks = []
        for rank in range(world_size):
            place = {"rank": rank, "world_size": world_size}
            training = TrainingSet(
                lambda place=place: stream.iter_windows(path, lengths, window=window, device=CPU, **place),
                lengths,
                batch_size=8,
                seed=1,
                window=window,
                **place,
            )
            ranks.append([[batch.rows for batch in training.batches(epoch)] for epoch in (1, 2)])
        return [
            [sorted(np.concatenate(step).tolist()) for step in zip(*epochs, strict=True)]
            for epochs in zip(*ranks, strict=True)
        ]

    for epoch, alone in zip(steps(world_size), steps(1), strict=True):
        assert epoch == alone
        assert sorted(row for rows in epoch for row in rows) == list(range(len(corpus)))


def test_leaving_an_epoch_early_ends_the_reader(corpus, vocab, tmp_path):
    path = tmp_path / "train.parquet"
    stream.write_windows(path, corpus, vocab, lengths_of(corpus), window=8, world_size=1)
    windows = stream.iter_windows(path, lengths_of(corpus), window=8, rank=0, world_size=1, device=CPU)
    next(windows)
    windows.close()
    path.unlink()


def test_two_windows_fill_the_memory_for_any_number_of_ranks():
    lengths = np.full(100_000, 35)

    def window(world_size, memory):
        config = Config().with_fields(num_workers=world_size, shard_memory=memory, batch_size=64)
        return stream.plan_window(lengths, config)

    assert window(1, 34) is None, "3.5 million tokens of 10 bytes: 33.4 MiB"
    assert window(2, 17) is None
    assert window(1, 4) == window(2, 4) == window(8, 4)
    assert window(2, 4) % 64 == 0
    assert 0.97 < window(2, 4) * 35 * 10 * 2 / (4 * 2**20) <= 1
    assert stream.plan_window(np.full(64, 10**6), Config().with_fields(shard_memory=1)) == 64, "a batch, at least"
