#!/usr/bin/env python3
"""Workers of one thread each, the same global batch: sentences a second of 1, 2, 4 and 8, beside a cost model.

python benchmarks/scaling.py --data-dir ResumeNER

Only as many workers as there are cores are measured. The model: a step takes as long as one worker takes for its part
of the batch (measured alone, for each size of part) and then as long as all workers take to average the gradients
(measured too). For more workers than cores, that is taken to cost what it costs two: a prediction is an upper bound.
`--socket` has them averaged through gloo, as between machines, instead of shared memory.

The ratio `workers_N` is the rate of N workers over that of one: N is perfect.
"""

import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from measuring import Training, make_parser, report

from ray_bilstm import shared_memory
from ray_bilstm.collective import average, barrier

BATCH_SIZE = 64
WORLDS = (1, 2, 4, 8)


def work(rank, world, folder, data_dir, batch_size, rounds, reference, socket, world_of_shards):
    """Epochs of one rank; with one rank of several shards, its part of the work without the others."""
    torch.set_num_threads(1)
    if socket:
        shared_memory.FOLDER = Path(folder, "nowhere")
    if world > 1:
        meet = f"file://{folder}/meet"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world, timeout=timedelta(minutes=5))
    settings = {"rank": rank, "world_size": world_of_shards, "batch_size": batch_size, "reference": reference}
    result = train(Training(data_dir, **settings), rounds)
    if rank == 0:
        torch.save(result, f"{folder}/result")
    if world > 1:
        dist.destroy_process_group()


def train(training, rounds):
    """Seconds of each epoch, of averaging the gradients once; steps, sentences."""
    seconds = [timed(training.epoch) for _ in range(rounds + 1)]
    gradients = [torch.zeros_like(weight) for weight in training.precision.trained()]
    averaged = timed(lambda: [average(gradients) for _ in range(50)]) / 50
    return seconds[1:], averaged, len(training.set), training.sentences


def timed(work):
    """Wall seconds, from when all ranks begin to when all have ended."""
    barrier()
    started = time.perf_counter()
    work()
    barrier()
    return time.perf_counter() - started


def measure(world, options, *, world_of_shards=None):
    settings = (options.data_dir, options.batch_size, options.rounds, options.reference, options.socket)
    arguments = (*settings, world_of_shards or world)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (world, folder, *arguments), nprocs=world)
        seconds, averaged, steps, sentences = torch.load(f"{folder}/result")
    return statistics.median(seconds), averaged, steps, sentences


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="global sentences a step (default: 64)")
    parser.add_argument("--reference", action="store_true", help="without bigrams and dropout")
    parser.add_argument("--socket", action="store_true", help="gradients through gloo, as between machines")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alone = {world: measure(1, options, world_of_shards=world) for world in WORLDS}
    together = {world: measure(world, options) for world in WORLDS if 1 < world <= cores}
    steps, sentences = alone[1][2:]
    averaged = together[2][1] if 2 in together else 0.0
    print(f"batches of {options.batch_size}, {cores} cores; averaging gradients {1e3 * averaged:.2f} ms a step")
    print(f"{'workers':>8}{'sentences/s':>13}{'ratio':>8}{'predicted':>11}{'ratio':>8}")
    found, figures = {}, {}
    for world in WORLDS:
        expected = sentences / (alone[world][0] + (steps * averaged if world > 1 else 0))
        rate = sentences / together[world][0] if world in together else sentences / alone[1][0] if world == 1 else None
        figures[world] = {"measured": rate, "predicted": expected}
        shown = f"{rate:13,.0f}{rate * alone[1][0] / sentences:8.2f}" if rate else f"{'–':>13}{'–':>8}"
        print(f"{world:8}{shown}{expected:11,.0f}{expected * alone[1][0] / sentences:8.2f}")
        if rate and world > 1:
            found[f"workers_{world}"] = rate * alone[1][0] / sentences
    report(options.json, ratios=found, figures={"sentences_per_second": figures, "averaging_seconds": averaged})
    return 0


if __name__ == "__main__":
    sys.exit(main())
