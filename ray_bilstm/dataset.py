"""Ray Data: sentences become a Dataset, are encoded there, and reach each worker's memory once.

Ray's own split (`streaming_split(equal=True)`) drops rows until all workers have equally many. Here every worker
iterates the whole, materialised dataset and keeps the rows that `batches.deal` gives its rank: nothing is dropped or
repeated for any number of workers. All Ray Data tasks run before the workers start, so that workers which claim every
CPU cannot starve them: reading a materialised dataset starts no task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import ray.train
import torch

from ray_bilstm.accelerator import Accelerator
from ray_bilstm.batches import Shard, TrainingSet, deal
from ray_bilstm.corpus import Sentence
from ray_bilstm.vocab import Encoded, Vocab

BLOCK_ROWS = 16_384
BYTES_PER_TOKEN = 4 + 4 + 2
"""Character and bigram int32, tag int16."""


def encode_table(table: pa.Table, vocab: Vocab) -> pa.Table:
    """(row, tokens, tags) as strings -> (row, chars, bigrams, tags) as ids."""
    encoded = vocab.encode(table["tokens"].to_pylist(), table["tags"].to_pylist())
    offsets = pa.array(np.concatenate(([0], np.cumsum(encoded.lengths))), pa.int32())
    ids = (encoded.chars, encoded.bigrams, encoded.tags)
    lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in ids]
    return pa.table([table["row"], *lists], names=["row", "chars", "bigrams", "tags"])


def decode_table(table: pa.Table) -> Encoded:
    """The columns of `encode_table` as flat arrays."""
    chars, bigrams, tags = (table[name].combine_chunks() for name in ("chars", "bigrams", "tags"))
    columns = (chars.flatten(), bigrams.flatten(), tags.flatten(), pc.list_value_length(chars))
    return Encoded._make(column.to_numpy(zero_copy_only=False) for column in columns)


def make_dataset(sentences: Sequence[Sentence], vocab: Vocab) -> ray.data.Dataset:
    """The sentences, numbered by `row` and encoded, in Ray's object store (which spills to disk when full)."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    blocks = []
    for start in range(0, len(sentences), BLOCK_ROWS):
        block = sentences[start : start + BLOCK_ROWS]
        columns = {
            "row": pa.array(range(start, start + len(block)), pa.int64()),
            "tokens": pa.array([s.tokens for s in block], pa.list_(pa.string())),
            "tags": pa.array([s.tags for s in block], pa.list_(pa.string())),
        }
        blocks.append(pa.table(columns))
    dataset = ray.data.from_arrow(blocks)
    return dataset.map_batches(
        encode_table, batch_format="pyarrow", batch_size=BLOCK_ROWS, fn_kwargs={"vocab": vocab}
    ).materialize()


def whole_dataset_config() -> ray.train.DataConfig:
    """Every worker sees every row, in order."""
    options = ray.data.ExecutionOptions(preserve_order=True)
    return ray.train.DataConfig(datasets_to_split=[], execution_options=options, enable_shard_locality=False)


def pull_shard(
    dataset: ray.data.DataIterator, lengths_N: np.ndarray, *, rank: int, world_size: int, device: torch.device
) -> Shard:
    """The rows of `rank`, held in memory."""
    owners_N = deal(lengths_N, world_size)
    tables = (_own_rows(table, owners_N, rank) for table in _iter_tables(dataset, BLOCK_ROWS))
    return _to_shard(pa.concat_tables(tables), device)


def training_set(
    dataset: ray.data.DataIterator,
    lengths_N: np.ndarray,
    *,
    rank: int,
    world_size: int,
    batch_size: int,
    seed: int,
    token_dropout: float,
    accelerator: Accelerator,
    shard_memory: int,
    device: torch.device,
) -> TrainingSet:
    """The training sentences of `rank`: in memory if its part fits `shard_memory` MiB, else streamed in every epoch."""
    window = len(lengths_N)
    windows: Callable[[], Iterator[Shard]]
    if lengths_N.sum() * BYTES_PER_TOKEN / world_size <= shard_memory * 2**20:
        shard = pull_shard(dataset, lengths_N, rank=rank, world_size=world_size, device=device)

        def windows() -> Iterator[Shard]:
            yield shard
    else:
        tokens = shard_memory * 2**20 / BYTES_PER_TOKEN
        steps = max(1, int(tokens / lengths_N.mean() / batch_size))
        window = steps * batch_size

        def windows() -> Iterator[Shard]:
            for start, table in enumerate(_iter_tables(dataset, window)):
                owners = deal(lengths_N[start * window : start * window + len(table)], world_size)
                yield _to_shard(_own_rows(table, owners, rank, first=start * window), device)

    return TrainingSet(
        windows,
        lengths_N,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        window=window,
        shapes=accelerator.padded_lengths,
        fixed_rows=accelerator.fixed_shapes,
        token_dropout=token_dropout,
    )


def _iter_tables(dataset: ray.data.DataIterator, size: int) -> Iterator[pa.Table]:
    return iter(dataset.iter_batches(batch_size=size, batch_format="pyarrow"))


def _own_rows(table: pa.Table, owners: np.ndarray, rank: int, *, first: int = 0) -> pa.Table:
    rows = table["row"].to_numpy() - first
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(owners)):
        raise RuntimeError(f"the dataset is out of order: got rows {rows.min() + first} to {rows.max() + first}")
    return table.filter(pa.array(owners[rows] == rank))


def _to_shard(table: pa.Table, device: torch.device) -> Shard:
    table = table.sort_by("row")
    return Shard(decode_table(table), table["row"].to_numpy(), device=device)
