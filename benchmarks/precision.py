#!/usr/bin/env python3
"""Training at O0, O1 and O2, side by side: whole epochs of the default recipe, on one thread where it is a CPU.

python benchmarks/precision.py --data-dir ResumeNER

A ratio is O0's time over a level's (CPU seconds on a cpu, else wall seconds): above 1, the level is faster.
"""

import statistics
import sys

from measuring import Training, compete, make_parser, median, report

from ray_bilstm.accelerator import ACCELERATORS

LEVELS = ("O0", "O1", "O2")


def level_of(data_dir, level, device):
    return Training(data_dir, level=level, device=device).epoch


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=tuple(ACCELERATORS), default="cpu")
    options = parser.parse_args()
    costs = compete({level: (level_of, (options.data_dir, level, options.device)) for level in LEVELS}, options.rounds)
    kind = "cpu" if options.device == "cpu" else "wall"
    found = {}
    print(f"{'':6}{'wall s':>9}{'CPU s':>9}{'ratio to O0':>14}{'lowest':>9}{'highest':>9}")
    for level in LEVELS:
        pairs = [getattr(o, kind) / getattr(c, kind) for o, c in zip(costs["O0"], costs[level], strict=True)]
        found[level] = statistics.median(pairs)
        wall, cpu, _ = median(costs[level])
        print(f"{level:6}{wall:9.2f}{cpu:9.2f}{found[level]:14.2f}{min(pairs):9.2f}{max(pairs):9.2f}")
    report(options.json, ratios=found, figures={"seconds": costs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
