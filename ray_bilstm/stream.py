"""Training sentences on disk, for a training set that is larger than a worker may hold.

The sentences pass in windows, each of which `batches.TrainingSet` plans like a corpus of its own. The driver writes one
Parquet file into the run directory, with a row group for each window and rank, so that a rank reads its own part alone.
The file holds ids, a token a row: which sentences a rank owns and how long they are, `batches.deal` and the lengths
say. While one window is trained on, a thread reads the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ray_bilstm.batches import Shard, deal
from ray_bilstm.config import Config
from ray_bilstm.formats import Sentence
from ray_bilstm.vocab import Encoded, Vocab

BYTES_PER_TOKEN = 4 + 4 + 2
"""Character and bigram int32, tag int16."""
ENCODED_ROWS = 16_384
"""Sentences encoded at once: the strings of more would take several times the memory of their ids."""
SCHEMA = pa.schema([("chars", pa.int32()), ("bigrams", pa.int32()), ("tags", pa.int16())])


def plan_window(lengths_N: np.ndarray, config: Config) -> int | None:
    """Sentences of a window, whole batches of them: two windows take --shard-memory MiB, for any number of ranks, so
    that steps do not depend on it. None where the part of a rank fits."""
    tokens = config.data.shard_memory * 2**20 / BYTES_PER_TOKEN
    if lengths_N.sum() / (config.run.min_workers or config.run.num_workers) <= tokens:
        return None
    batch_size = config.training.batch_size
    return max(1, int(tokens / 2 / lengths_N.mean() / batch_size)) * batch_size


def write_windows(
    path: Path, sentences: Sequence[Sentence], vocab: Vocab, lengths_N: np.ndarray, *, window: int, world_size: int
) -> None:
    """The ids of all sentences: row group `i * world_size + rank` holds what `rank` owns of window i."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, len(sentences), window):
            ids = _encode(sentences[start : start + window], vocab)
            lengths = lengths_N[start : start + window]
            owners_T = np.repeat(deal(lengths, world_size), lengths)
            for rank in range(world_size):
                own = pa.table([column[owners_T == rank] for column in ids], schema=SCHEMA)
                writer.write_table(own, row_group_size=max(1, len(own)))


def iter_windows(
    path: Path, lengths_N: np.ndarray, *, window: int, rank: int, world_size: int, device: torch.device
) -> Iterator[Shard]:
    """What `rank` owns of each window, in order."""
    file = pq.ParquetFile(path)

    def read(number: int) -> tuple[Encoded, np.ndarray]:
        start = number * window
        rows = np.flatnonzero(deal(lengths_N[start : start + window], world_size) == rank) + start
        table = file.read_row_group(number * world_size + rank, use_threads=False)
        ids = (table[name].to_numpy() for name in SCHEMA.names)
        return Encoded._make([*ids, lengths_N[rows]]), rows

    with file, ThreadPoolExecutor(1, "window") as thread:
        numbers = range(-(-len(lengths_N) // window))
        ahead = thread.submit(read, 0)
        for number in numbers:
            shard = Shard(*ahead.result(), device=device)
            if number + 1 in numbers:
                ahead = thread.submit(read, number + 1)
            yield shard


def _encode(sentences: Sequence[Sentence], vocab: Vocab) -> list[np.ndarray]:
    """Characters, bigrams and tags, flat."""
    parts = []
    for start in range(0, len(sentences), ENCODED_ROWS):
        block = sentences[start : start + ENCODED_ROWS]
        encoded = vocab.encode([s.tokens for s in block], [s.tags for s in block])
        parts.append((encoded.chars, encoded.bigrams, encoded.tags))
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
