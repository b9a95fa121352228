"""The job that tags many files over a cluster: its flags, and what it prints."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ray_bilstm.cli_train import at_least
from ray_bilstm.config import iter_flags

if TYPE_CHECKING:
    from ray_bilstm.bulk import Counts

MOST_FAULTS = 20
"""Shown; a wrong format has one in every part."""
SECONDS_TERMINAL, SECONDS_LOG = 0.5, 10.0
"""Between two lines of progress, at least."""


def add_bulk_arguments(parser: argparse.ArgumentParser) -> None:
    devices = next(flag.choices for flag in iter_flags() if flag.name == "device")
    parser.add_argument("model", type=Path, help="directory of a model, such as runs/NAME/best, or of an ensemble")
    parser.add_argument(
        "inputs", nargs="+", metavar="input", help="files, or folders of files: .txt .jsonl .parquet, columns"
    )
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="where the tagged parts go")
    parser.add_argument(
        "--num-workers", type=at_least(1), metavar="N", help="default: one a device, or a core, of the cluster"
    )
    parser.add_argument("--device", choices=devices, default="auto", help="what each worker claims (default: auto)")
    parser.add_argument("--no-scores", action="store_true", help="leave out the scores: about a third less time")
    parser.add_argument("--format", choices=("jsonl",), default="jsonl", help="format to write (default: jsonl)")
    parser.add_argument("--overwrite", action="store_true", help="remove the parts in DIR and begin anew")


def bulk_command(options: argparse.Namespace) -> int:
    """Tag, and print what was tagged; 1 where parts had faults."""
    from ray_bilstm.bulk import tag_files

    counts = tag_files(
        options.model,
        options.inputs,
        options.output_dir,
        num_workers=options.num_workers,
        device=options.device,
        scores=not options.no_scores,
        overwrite=options.overwrite,
        on_part=_Progress(),
    )
    for fault in counts.faults[:MOST_FAULTS]:
        print(f"error: {fault}", file=sys.stderr)
    if len(counts.faults) > MOST_FAULTS:
        print(f"error: {len(counts.faults) - MOST_FAULTS:,} more parts have faults", file=sys.stderr)
    rate = counts.characters / max(counts.seconds, 1e-9)
    found = f"; {counts.found_parts:,} of {counts.all_parts:,} parts were there" if counts.found_parts else ""
    print(
        f"{options.output_dir}: {counts.sentences:,} sentences, {counts.characters:,} characters,"
        f" {counts.entities:,} entities, {counts.seconds:,.1f} seconds, {rate:,.0f} characters/s{found}"
    )
    return int(bool(counts.faults))


class _Progress:
    """How far it is, on standard error: on a terminal one line that changes, elsewhere a line every 10 seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.due = time.monotonic() + SECONDS_LOG
        self.shown = False

    def __call__(self, counts: Counts) -> None:
        done = counts.found_parts + counts.parts + len(counts.faults)
        last = done == counts.all_parts
        now = time.monotonic()
        if now < self.due and not (last and self.shown):
            return
        self.shown = True
        self.due = now + (SECONDS_TERMINAL if self.terminal else SECONDS_LOG)
        line = (
            f"{done / counts.all_parts:4.0%}  {done:,} of {counts.all_parts:,} parts, {counts.sentences:,} sentences,"
            f" {counts.characters:,} characters, {counts.characters / counts.seconds:,.0f} characters/s"
        )
        text, end = (f"\r{line:<100}", "\n" if last else "") if self.terminal else (line, "\n")
        print(text, end=end, file=sys.stderr, flush=True)
