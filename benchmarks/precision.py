#!/usr/bin/env python3
"""Training steps at O0, O1 and O2, side by side in one run: one thread, whole epochs, rounds interleaved.

python benchmarks/precision.py --data-dir ResumeNER

A ratio is a level's rate over that of O0: above 1, the level is faster.
"""

import statistics
import sys
import time

import torch
from measuring import Training, make_parser, report

from ray_bilstm import accelerator
from ray_bilstm.accelerator import ACCELERATORS, synchronize, worker_device

LEVELS = ("O0", "O1", "O2")


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=tuple(ACCELERATORS), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = ACCELERATORS[options.device]
    device, dtype = worker_device(known), accelerator.half_dtype(known, "auto")
    runs = {level: Training(options.data_dir, level=level, dtype=dtype, device=device) for level in LEVELS}
    rates: dict[str, list[float]] = {level: [] for level in LEVELS}
    cpu_rates: dict[str, list[float]] = {level: [] for level in LEVELS}
    for round_ in range(options.rounds + 1):
        for level, run in runs.items():
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            for batch in run.set.batches(round_):
                run.step(batch)
            synchronize(device)
            if round_:  # the first warms up
                rates[level].append(run.sentences / (time.perf_counter() - wall))
                cpu_rates[level].append(run.sentences / (time.process_time() - cpu))
    ratios = {}
    print(f"{dtype} on {accelerator.device_name(device)}, torch {torch.__version__}, {options.rounds} rounds")
    print(f"{'':6}{'sentences/s':>14}{'per CPU second':>16}{'ratio to O0':>14}{'lowest':>9}{'highest':>9}")
    for level in LEVELS:
        pairs = [one / other for one, other in zip(cpu_rates[level], cpu_rates["O0"], strict=True)]
        ratios[level] = statistics.median(pairs)
        figures = f"{statistics.median(rates[level]):14,.0f}{statistics.median(cpu_rates[level]):16,.0f}"
        print(f"{level:6}{figures}{ratios[level]:14.2f}{min(pairs):9.2f}{max(pairs):9.2f}")
    report(options.json, ratios=ratios, figures={"sentences_per_second": rates, "per_cpu_second": cpu_rates})
    return 0


if __name__ == "__main__":
    sys.exit(main())
