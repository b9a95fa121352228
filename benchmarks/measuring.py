"""What the benchmarks share: a training step to measure, and the form in which they report."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_bilstm import __version__, accelerator
from ray_bilstm.accelerator import ACCELERATORS
from ray_bilstm.batches import Batch, Shard, TrainingSet, deal
from ray_bilstm.config import ModelConfig
from ray_bilstm.corpus import read_corpus
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.sample import sample_corpus
from ray_bilstm.vocab import Vocab


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="corpus folder (default: the embedded sample)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each of which measures everything once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, machine and versions there")
    return parser


class Training:
    """The default recipe at one level on one device, as one of `world_size` ranks."""

    def __init__(
        self,
        data_dir: str | None,
        *,
        level: str = "O0",
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        corpus = read_corpus(data_dir) if data_dir else sample_corpus()
        vocab = Vocab.build(corpus.train, scheme=corpus.scheme, bigram_min_count=2)
        device = device or torch.device("cpu")
        lengths = np.array([len(sentence.tokens) for sentence in corpus.train])
        rows = np.flatnonzero(deal(lengths, world_size) == rank)
        own = [corpus.train[row] for row in rows]
        shard = Shard(vocab.encode([s.tokens for s in own], [s.tags for s in own]), rows, device=device)
        self.sentences = len(lengths)
        settings = {"batch_size": 64, "seed": 0, "token_dropout": 0.1, "rank": rank, "world_size": world_size}
        self.set = TrainingSet(lambda: [shard], lengths, **settings)  # type: ignore[arg-type]
        torch.manual_seed(0)
        self.model = BiLstmCrf(ModelConfig(), vocab).to(device)
        half_lstm = accelerator.half_lstm(ACCELERATORS[device.type], "auto", dtype, level=level)
        self.precision = Precision(level, dtype=dtype, device=device, half_lstm=half_lstm)
        self.precision.prepare(self.model)
        self.optimizer = torch.optim.AdamW(self.precision.trained(), lr=1e-3, fused=True)

    def step(self, batch: Batch, forward: torch.nn.Module | None = None) -> None:
        with self.precision.autocast():
            loss = (forward or self.model)(batch).sum() / batch.sentences
        self.precision.step(loss, self.optimizer, clip_norm=5.0)


def report(file: Path | None, *, ratios: dict[str, float], figures: dict[str, Any]) -> None:
    """Write what was measured, where, with which versions."""
    if file is None:
        return
    machine = {"name": accelerator.device_name(torch.device("cpu")), "platform": platform.platform()}
    versions = {"ray_bilstm": __version__, "python": platform.python_version(), "torch": torch.__version__}
    content = {"ratios": ratios, "figures": figures, "machine": machine, "versions": versions}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
