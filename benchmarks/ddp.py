#!/usr/bin/env python3
"""One message of all gradients after the backward pass, as the product has it, against DistributedDataParallel in
several settings: two gloo processes of one thread, one epoch each, interleaved.

python benchmarks/ddp.py --data-dir ResumeNER

A ratio is wall time over that of the one message: above 1, ours is faster.
"""

import statistics
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from measuring import Training, make_parser, report
from torch.nn.parallel import DistributedDataParallel

SETTINGS: dict[str, dict[str, Any] | None] = {
    "one message": None,
    "defaults": {},
    "static_graph": {"static_graph": True},
    "gradient_as_bucket_view": {"gradient_as_bucket_view": True},
    "no buffers": {"broadcast_buffers": False},
    "no buffers, bucket view": {"broadcast_buffers": False, "gradient_as_bucket_view": True},
    "buckets of 1 MiB": {"bucket_cap_mb": 1},
    "buckets of 100 MiB": {"bucket_cap_mb": 100},
}


def run(rank: int, folder: str, data_dir: str | None, rounds: int) -> None:
    warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for broadcast_buffers, 2.11 has not
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    training = Training(data_dir, rank=rank, world_size=2)
    seconds: dict[str, list[list[float]]] = {name: [] for name in SETTINGS}
    for round_ in range(rounds + 1):
        for name, settings in SETTINGS.items():
            parallel = DistributedDataParallel(training.model, **settings) if settings is not None else None
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            training.epoch(parallel)
            dist.barrier()
            if round_:  # the first warms up
                seconds[name].append([time.perf_counter() - wall, time.process_time() - cpu])
    torch.save(seconds, f"{folder}/{rank}")
    dist.destroy_process_group()


def main() -> int:
    options = make_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (folder, options.data_dir, options.rounds), nprocs=2)
        seconds = torch.load(f"{folder}/0")
    ratios = {}
    print(f"{'':26}{'wall s':>9}{'CPU s':>9}{'ratio':>9}{'lowest':>9}{'highest':>9}")
    for name, times in seconds.items():
        pairs = [other[0] / one[0] for one, other in zip(seconds["one message"], times, strict=True)]
        ratios[name] = statistics.median(pairs)
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:26}{wall:9.2f}{cpu:9.2f}{ratios[name]:9.3f}{min(pairs):9.3f}{max(pairs):9.3f}")
    report(options.json, ratios=ratios, figures={"seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main())
