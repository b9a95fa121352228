"""The command that trains a language model on raw text: its flags, and what it prints."""

from __future__ import annotations

import argparse
from typing import Any

from ray_bilstm.cli_train import add_train_arguments, config_of, print_coverage, print_start

DEFAULTS: dict[str, Any] = {"train_epochs": 3, "dropout": 0.1, "bigram_min_count": 10}
WITHOUT = (
    *("data_dir", "scheme", "head", "num_layers", "teacher", "teacher_weight"),
    *("token_dropout", "mention_replacement", "adversarial", "patience", "resume", "storage_path"),
)
"""Settings that mean nothing here."""


def add_pretrain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="+", help="files of plain UTF-8 text")
    add_train_arguments(parser, without=WITHOUT, **DEFAULTS)


def pretrain_command(options: argparse.Namespace) -> int:
    """Train character and bigram vectors and a BiLSTM on raw text, for taggers to start from.

    The LSTM that reads forwards learns to predict what comes next, the one that reads backwards what came before. Of
    50 sentences one is held out, for the perplexity. The sizes must be those of the tagger.

    examples:
      python -m ray_bilstm pretrain news.txt --output-dir runs/news
      python -m ray_bilstm train --data-dir ResumeNER --init-from runs/news
    """
    config = config_of(options, **DEFAULTS)
    from ray_bilstm.pretrain import pretrain
    from ray_bilstm.run_directory import BEST, RESULT

    result, path = pretrain(
        config, options.text, on_start=print_start, on_coverage=print_coverage, on_epoch=_print_epoch
    )
    held_out = result["held_out"]
    print(
        f"perplexity {held_out['perplexity']:.2f} on held-out sentences (forward {held_out['forward']:.2f},"
        f" backward {held_out['backward']:.2f}), epoch {result['best_epoch']}"
    )
    print(f"start a tagger from it with --init-from {path}; its weights are in {path / BEST}")
    print(path / RESULT)
    return 0


def _print_epoch(record: dict[str, Any]) -> None:
    print(
        f"epoch {record['epoch']:3d}  loss {record['train_loss']:8.4f}"
        f"  held-out perplexity {record['held_out']['perplexity']:8.2f}  lr {record['learning_rate']:.2e}"
        f"  {record['sentences_per_second']:,.0f} sentences/s{'  best' if record['best'] else ''}",
        flush=True,
    )
