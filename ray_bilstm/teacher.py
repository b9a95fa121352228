"""What a trained model, or an ensemble, makes of the training sentences, for a student to learn instead of gold alone.

Posterior distillation (Kim and Rush 2016; Wang et al. 2020, "Structure-Level Knowledge Distillation For Multilingual
Sequence Labeling"). The student's loss is its cross-entropy with the teacher's distribution over tag paths, mixed with
the gold path. The score of a path is a sum over tags and moves, so that the loss needs no more of the teacher than how
often it expects each tag at each position and each move in the sentence (`expected_counts`): it is exact, and costs
one log-partition like the loss of a gold path.

Of sentences that it was trained on a teacher is too sure. So it reads them as a student does, with some tokens unknown,
several times, and the mean of what it says is learnt.

Shapes: N tokens, S sentences, T tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ray_bilstm.batches import Shard, iter_eval_batches
from ray_bilstm.checkpoint import MODEL
from ray_bilstm.config import Config, ConfigError
from ray_bilstm.ensemble import Ensemble
from ray_bilstm.ensemble_directory import member_paths, read_tagger
from ray_bilstm.formats import Sentence
from ray_bilstm.model import BiLstmCrf, frozen
from ray_bilstm.stream import BYTES_PER_TOKEN
from ray_bilstm.vocab import Vocab

TOKEN_DROPOUT = 0.1
"""Share of characters and of bigrams that a teacher does not know in each reading."""
READINGS = 4
BATCH_SIZE = 64


class Counts(NamedTuple):
    """A teacher's expected counts of sentences laid end to end."""

    tags_NT: np.ndarray
    moves_STT: np.ndarray

    def of(self, rows: np.ndarray, lengths_S: np.ndarray) -> Counts:
        """Those of the sentences `rows`, of all that are `lengths_S` long."""
        starts_S = np.cumsum(lengths_S, dtype=np.int64) - lengths_S
        within = np.arange(lengths_S[rows].sum()) - np.repeat(
            np.cumsum(lengths_S[rows]) - lengths_S[rows], lengths_S[rows]
        )
        return Counts(self.tags_NT[np.repeat(starts_S[rows], lengths_S[rows]) + within], self.moves_STT[rows])


def read_teacher(config: Config, vocab: Vocab, lengths_S: np.ndarray) -> tuple[BiLstmCrf | Ensemble, Vocab]:
    """The teacher that `config` names, with its vocabulary.

    Raises CheckpointError where there is none, ConfigError where its tags are not those of `vocab`, or what it says of
    sentences that are `lengths_S` long is more than the workers may hold.
    """
    name, (model, own) = config.data.teacher, read_tagger(_path(config))
    if (own.tags, own.scheme) != (vocab.tags, vocab.scheme):
        raise ConfigError(
            f"teacher is {name!r}: got a model of {own.scheme} tags {', '.join(own.tags)}, expected those of the"
            f" training set, {vocab.scheme} {', '.join(vocab.tags)}"
        )
    tags, workers = len(vocab.tags), config.run.num_workers
    size = int(lengths_S.sum()) * (BYTES_PER_TOKEN + 4 * tags) + len(lengths_S) * 4 * tags**2
    mebibytes = -(-size // workers // 2**20)
    if mebibytes > config.data.shard_memory:
        raise ConfigError(
            f"teacher is {name!r}: a training set is not streamed with one, and takes {mebibytes:,} MiB a worker"
            f" with what the teacher says of it, expected up to --shard-memory {config.data.shard_memory}: raise that,"
            " or --num-workers, or leave out --teacher"
        )
    return model, own


def _path(config: Config) -> Path:
    assert config.data.teacher is not None
    return Path(config.data.teacher).expanduser()


def teach(model: BiLstmCrf | Ensemble, vocab: Vocab, sentences: Sequence[Sentence]) -> Counts:
    """What a teacher says of `sentences`: the mean of `READINGS`, the same each time. `vocab` is the teacher's."""
    encoded = vocab.encode([sentence.tokens for sentence in sentences])
    tags = len(vocab.tags)
    counts = Counts(
        np.zeros((len(encoded.tags), tags), np.float32), np.zeros((len(encoded.lengths), tags, tags), np.float32)
    )
    shard = Shard(encoded, np.arange(len(sentences)))
    starts = np.cumsum(encoded.lengths, dtype=np.int64) - encoded.lengths
    with torch.random.fork_rng(devices=()), frozen(model):
        torch.manual_seed(0)
        for reading in (shard.drop_tokens(TOKEN_DROPOUT) for _ in range(READINGS)):
            for batch in iter_eval_batches(reading, batch_size=BATCH_SIZE):
                tags_BLT, moves_BTT = (found.numpy() / READINGS for found in model.expected_counts(batch))
                positions_L = np.arange(tags_BLT.shape[1])
                mask_BL = positions_L < encoded.lengths[batch.rows][:, None]
                counts.tags_NT[(starts[batch.rows][:, None] + positions_L)[mask_BL]] += tags_BLT[mask_BL]
                counts.moves_STT[batch.rows] += moves_BTT
    return counts


def describe(config: Config) -> dict[str, Any]:
    """The teacher that `config` names, as result.json says it."""
    members = member_paths(_path(config))
    return {
        "path": config.data.teacher,
        "weight": config.training.teacher_weight,
        "models": len(members),
        "sha256": [hashlib.sha256((member / MODEL).read_bytes()).hexdigest() for member in members],
    }
