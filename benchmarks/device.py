#!/usr/bin/env python3
"""Training on one accelerator, without Ray: sentences a second at each precision level and batch size.

python benchmarks/device.py --data-dir ResumeNER --device cuda

Whole epochs of the default recipe, planning and replaced mentions included, the device synchronised before and after;
on cuda, steps that are recorded once and replayed, and with `--plain` others. The tutorial is that of train_step.py: a
smaller model (no bigrams) in float32, batches of 64, characters looked up one by one.
"""

import statistics
import sys
import time

import torch
from measuring import Training, installed, make_parser, report
from train_step import tutorial

from ray_bilstm import accelerator
from ray_bilstm.accelerator import ACCELERATORS

SECONDS = 1.0
"""At least as long as this is measured in a round."""


def prepare(data_dir, device, level, batch_size, plain):
    training = Training(data_dir, level=level, device=device, batch_size=batch_size, plain=plain)
    training.epoch()
    training.epoch()
    return training


class TutorialTraining:
    """A tutorial's epochs."""

    def __init__(self, data_dir, device, sentences):
        self.run_epoch, self.device, self.sentences = tutorial(data_dir, device), torch.device(device), sentences
        self.run_epoch()


def rate(training):
    """Distinct sentences a second over whole epochs."""
    epochs, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        for _ in range(1 + epochs // 4):  # one look at the clock after ever more epochs: a look waits for the device
            training.run_epoch()
            epochs += 1
        accelerator.synchronize(training.device)
    return epochs * training.sentences / (time.perf_counter() - started)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=tuple(ACCELERATORS), default="cuda")
    parser.add_argument("--levels", default="O0,O1,O2")
    parser.add_argument("--batch-sizes", default="64,256,1024,4096")
    parser.add_argument("--plain", action="store_true", help="measure steps that are not recorded, too")
    options = parser.parse_args()
    runs = {
        f"{level} {size}{' plain' * plain}": prepare(options.data_dir, options.device, level, size, plain)
        for level in options.levels.split(",")
        for size in map(int, options.batch_sizes.split(","))
        for plain in ([False, True] if options.plain else [False])
    }
    first = next(iter(runs.values()))
    if installed("pytorch-crf"):
        runs["tutorial"] = TutorialTraining(options.data_dir, options.device, first.sentences)
    rates = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, training in runs.items():
            rates[name].append(rate(training))
    print(f"{accelerator.device_name(first.device)}; sentences a second, {options.rounds} rounds")
    print(f"{'':16}{'median':>12}{'lowest':>12}{'highest':>12}")
    for name, values in rates.items():
        print(f"{name:16}{statistics.median(values):12,.0f}{min(values):12,.0f}{max(values):12,.0f}")
    figures = {"device": accelerator.device_name(first.device), "sentences_per_second": rates}
    report(options.json, ratios={}, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
