"""Ray Data: sentences become a Dataset, are encoded there, and reach each worker's memory once.

Ray's own split (`streaming_split(equal=True)`) drops rows until all workers have equally many. Here every worker
iterates the whole, materialised dataset and keeps the rows that `batches.deal` gives its rank: nothing is dropped or
repeated for any number of workers. All Ray Data tasks run before the workers start, so that workers which claim every
CPU cannot starve them: reading a materialised dataset starts no task.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import ray.train
import torch

from ray_bilstm.batches import Shard, deal
from ray_bilstm.corpus import Sentence
from ray_bilstm.vocab import Encoded, Vocab

BLOCK_ROWS = 16_384


def to_table(sentences: Sequence[Sentence], start: int) -> pa.Table:
    """The block of sentences from `start` on as (row, tokens, tags)."""
    block = sentences[start : start + BLOCK_ROWS]
    words = pa.list_(pa.string())
    return pa.table(
        {
            "row": pa.array(range(start, start + len(block)), pa.int64()),
            "tokens": pa.array([sentence.tokens for sentence in block], words),
            "tags": pa.array([sentence.tags for sentence in block], words),
        }
    )


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
    blocks = [to_table(sentences, start) for start in range(0, len(sentences), BLOCK_ROWS)]
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
    blocks = dataset.iter_batches(batch_size=BLOCK_ROWS, batch_format="pyarrow")
    table = pa.concat_tables(_own_rows(block, owners_N, rank) for block in blocks).sort_by("row")
    return Shard(decode_table(table), table["row"].to_numpy(), device=device)


def _own_rows(table: pa.Table, owners_N: np.ndarray, rank: int) -> pa.Table:
    return table.filter(pa.array(owners_N[table["row"].to_numpy()] == rank))
