"""Throughput runs: what is counted, that the steps of the breakdown train as others do, and traces that open."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from ray_bilstm import perf
from ray_bilstm.batches import Shard, TrainingSet, deal
from ray_bilstm.config import ModelConfig, TrainingConfig
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision

CONFIG = TrainingConfig(batch_size=3, learning_rate=0.01, token_dropout=0.0)


def measured(sentences, vocab, folder, *, rank=0, world_size=1, **plan):
    """The figures of a run of one rank, and the model's weights after it."""
    lengths = np.array([len(sentence.tokens) for sentence in sentences])
    rows = np.flatnonzero(deal(lengths, world_size) == rank)
    shard = Shard(vocab.encode([sentences[i].tokens for i in rows], [sentences[i].tags for i in rows]), rows)
    train = TrainingSet(lambda: [shard], lengths, batch_size=3, seed=1, rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = BiLstmCrf(ModelConfig(embedding_size=16, bigram_size=8, hidden_size=16, dropout=0.0), vocab)
    precision = Precision("O0", dtype=torch.float32, device=torch.device("cpu"))
    figures = perf.measure(
        model, train=train, config=CONFIG, precision=precision, plan=perf.Plan(**plan), trace_folder=folder
    )
    return figures, precision.state_dict()


def test_each_sentence_of_the_measured_steps_is_counted_once(sentences, vocab, tmp_path):
    figures, _ = measured(sentences, vocab, tmp_path, warmup_steps=2, measured_steps=7)
    assert figures["measured_steps"] == 7
    # Epochs of 8 sentences in 3 steps; of 9 steps, the first two warm up.
    assert 3 * 8 - 6 <= figures["measured_sentences"] <= 3 * 8 - 5
    rate = figures["measured_sentences"] / figures["measured_seconds"]
    assert figures["sentences_per_second"] == pytest.approx(rate)
    assert list(figures["breakdown"]) == list(perf.PHASES)
    alone = {"idle", "collective"}
    assert all((seconds > 0) == (phase not in alone) for phase, seconds in figures["breakdown"].items())
    assert list(tmp_path.iterdir()) == [], "no trace unless it is asked for"


def test_the_trace_is_one_that_perfetto_opens(sentences, vocab, tmp_path):
    measured(sentences, vocab, tmp_path, warmup_steps=0, measured_steps=1, trace=True)
    (trace,) = tmp_path.glob("rank0.*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]}
    assert {"aten::embedding", "_ScaledLogPartition", "aten::_fused_adamw_"} <= names


def one_of_two(rank, folder, sentences, vocab):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    figures, weights = measured(sentences, vocab, folder, rank=rank, world_size=2, warmup_steps=1, measured_steps=4)
    torch.save((figures, weights), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_train_as_one_does_also_in_the_breakdown(sentences, vocab, tmp_path):
    """9 steps each, of which 4 are taken apart."""
    _, expected = measured(sentences, vocab, tmp_path, warmup_steps=1, measured_steps=4)
    torch.multiprocessing.spawn(one_of_two, args=(str(tmp_path), sentences, vocab), nprocs=2)
    for rank in range(2):
        figures, weights = torch.load(tmp_path / f"{rank}.pt")
        assert all(figures["breakdown"][phase] > 0 for phase in perf.PHASES)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4, msg=name)
