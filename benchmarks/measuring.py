"""What the benchmarks share: contestants that take turns, each in a process of its own, and how results are told."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from ray_bilstm import __version__, accelerator
from ray_bilstm.accelerator import ACCELERATORS
from ray_bilstm.batches import Batch, Shard, TrainingSet, deal
from ray_bilstm.config import ModelConfig, TrainingConfig
from ray_bilstm.corpus import Corpus, read_corpus
from ray_bilstm.mentions import MentionReplacement
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.sample import sample_corpus
from ray_bilstm.step import Step, make_step
from ray_bilstm.vocab import Vocab

PEERS = ("pytorch-crf", "TorchCRF", "spacy", "flair", "sklearn-crfsuite")

Run = Callable[[], Any]


class Cost(NamedTuple):
    """Seconds of one run of one contestant, and what it returned."""

    wall: float
    cpu: float
    value: Any = None


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="corpus folder (default: the embedded sample)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each of which measures everything once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, machine and versions there")
    return parser


def read(data_dir: str | None) -> Corpus:
    return read_corpus(data_dir) if data_dir else sample_corpus()


def installed(package: str) -> bool:
    """Whether a peer can be measured; says so where not."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        print(f"{package} is not installed and left out: pip install -e '.[bench]'")
        return False
    return True


def compete(
    contestants: Mapping[str, tuple[Callable[..., Run], tuple[Any, ...]]], rounds: int
) -> dict[str, list[Cost]]:
    """What each run cost, round by round, all contestants once in each round, after one run that warms up.

    A contestant is `(make, arguments)`; `make(*arguments)` is called once in a process of its own, with one thread, and
    returns what is timed. While one runs, the others wait.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, (make, arguments) in contestants.items():
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=_compete, args=(theirs, make, arguments), daemon=True).start()
        pipes[name].recv()  # it is ready, so that no one prepares while another runs
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send("run")
            costs[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(None)
    return costs


def _compete(pipe: Connection, make: Callable[..., Run], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    run = make(*arguments)
    run()
    pipe.send("ready")
    while pipe.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        value = run()
        pipe.send(Cost(time.perf_counter() - wall, time.process_time() - cpu, value))


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs))


def ratios(costs: Sequence[Cost], ours: Sequence[Cost], kind: str = "cpu") -> list[float]:
    """Of CPU or wall seconds, round by round: above 1, ours is faster."""
    return [getattr(one, kind) / getattr(other, kind) for one, other in zip(costs, ours, strict=True)]


class Training:
    """The product's training step on one device, as one of `world_size` ranks. `reference` is the shape that all
    comparisons use, else the default recipe: bigrams, dropout and replaced mentions besides."""

    def __init__(
        self,
        data_dir: str | None,
        *,
        level: str = "O0",
        device: str = "cpu",
        reference: bool = False,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 64,
        plain: bool = False,
    ) -> None:
        known = ACCELERATORS[device]
        self.device = accelerator.worker_device(known)
        accelerator.keep_freed_memory()
        corpus = read(data_dir)
        vocab = Vocab.build(corpus.train, scheme=corpus.scheme, bigram_min_count=0 if reference else 2)
        self.vocab = vocab
        lengths = np.array([len(sentence.tokens) for sentence in corpus.train])
        rows = np.flatnonzero(deal(lengths, world_size) == rank)
        own = [corpus.train[row] for row in rows]
        shard = Shard(vocab.encode([s.tokens for s in own], [s.tags for s in own]), rows, device=self.device)
        self.sentences = len(lengths)
        self.world_size = world_size
        defaults = TrainingConfig()
        self.set = TrainingSet(
            lambda: [shard],
            lengths,
            batch_size=batch_size,
            seed=0,
            rank=rank,
            world_size=world_size,
            shapes=known.padded_lengths,
            fixed_rows=known.fixed_shapes,
            augment=None if reference else MentionReplacement(vocab, defaults.mention_replacement),
            token_dropout=0.0 if reference else defaults.token_dropout,
        )
        torch.manual_seed(0)
        config = ModelConfig(dropout=0.0) if reference else ModelConfig()
        self.model = BiLstmCrf(config, vocab).to(self.device)
        dtype = torch.float32 if level == "O0" else accelerator.half_dtype(known, "auto")
        half_lstm = accelerator.half_lstm(known, "auto", dtype, level=level)
        self.precision = Precision(level, dtype=dtype, device=self.device, half_lstm=half_lstm)
        self.precision.prepare(self.model)
        self.step = (Step if plain else make_step)(self.model, defaults, self.precision)
        self.step.prepare(self.set)
        self.epochs = 0

    def epoch(self, parallel: DistributedDataParallel | None = None) -> None:
        """One epoch, to its end on the device; gradients are averaged by `parallel` or, without, as in the product."""
        self.run_epoch(parallel)
        accelerator.synchronize(self.device)

    def run_epoch(self, parallel: DistributedDataParallel | None = None) -> None:
        """The same; the host does not wait for the device."""
        self.epochs += 1
        self.model.train()
        for batch in self.set.batches(self.epochs):
            if parallel is None:
                self.step(batch)
            else:
                self._parallel_step(batch, parallel)

    def _parallel_step(self, batch: Batch, parallel: DistributedDataParallel) -> None:
        with self.precision.autocast():
            loss = parallel(batch).sum() * (self.world_size / batch.sentences)
        self.precision.clear()
        self.precision.backward(loss)
        self.precision.update(self.step.optimizer, clip_norm=5.0)


def report(file: Path | None, *, ratios: Mapping[str, float], figures: Mapping[str, Any]) -> None:
    """Write what was measured, where, with which versions."""
    if file is None:
        return
    machine = {"name": accelerator.device_name(torch.device("cpu")), "platform": platform.platform()}
    versions = {"ray_bilstm": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for peer in PEERS:
        try:
            versions[peer] = metadata.version(peer)
        except metadata.PackageNotFoundError:
            continue
    content = {"ratios": ratios, "figures": figures, "machine": machine, "versions": versions}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
