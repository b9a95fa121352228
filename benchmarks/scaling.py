#!/usr/bin/env python3
"""Workers of one thread each, the same global batch: sentences a second of 1, 2, 4 and 8, beside a cost model.

python benchmarks/scaling.py --data-dir ResumeNER

Only as many workers as there are cores are measured. The model: a step takes as long as one worker takes for its part
of the batch (measured alone, for each size of part) and then as long as all workers take to average the gradients
(measured too). For more workers than cores, that is taken to cost what it costs two: a prediction is an upper bound.
`--socket` has them averaged through gloo, as between machines, instead of shared memory.

The ratio `workers_N` is the rate of N workers over that of one: N is perfect. All take turns, an epoch each in a round.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from measuring import Training, make_parser, report

from ray_bilstm import shared_memory
from ray_bilstm.collective import average, barrier

BATCH_SIZE = 64
WORLDS = (1, 2, 4, 8)


def work(pipe, rank, world, folder, options, shards):
    """One rank, which takes an epoch whenever it is told to; with one rank of several shards, its part of the work
    without the others."""
    torch.set_num_threads(1)
    if options.socket:
        shared_memory.FOLDER = Path(folder, "nowhere")
    if world > 1:
        meet = f"file://{folder}/meet-{world}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world, timeout=timedelta(hours=1))
    settings = {"batch_size": options.batch_size, "reference": options.reference}
    training = Training(options.data_dir, rank=rank, world_size=shards, **settings)
    training.epoch()
    gradients = [torch.zeros_like(weight) for weight in training.precision.trained()]
    averaged = timed(lambda: [average(gradients) for _ in range(50)]) / 50
    pipe.send((averaged, len(training.set), training.sentences))
    while pipe.recv():
        pipe.send(timed(training.epoch))


def timed(work):
    """Wall seconds, from when all ranks begin to when all have ended."""
    barrier()
    started = time.perf_counter()
    work()
    barrier()
    return time.perf_counter() - started


class Group:
    """Ranks that work together."""

    def __init__(self, world, folder, options, *, shards):
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(world)]
        self.pipes = [ours for ours, _ in pipes]
        for rank, (_, theirs) in enumerate(pipes):
            arguments = (theirs, rank, world, folder, options, shards)
            context.Process(target=work, args=arguments, daemon=True).start()
        (self.averaged, self.steps, self.sentences), *_ = self.ask()
        self.seconds = []

    def ask(self):
        return [pipe.recv() for pipe in self.pipes]

    def tell(self, more):
        for pipe in self.pipes:
            pipe.send(more)

    def epoch(self):
        self.tell(True)
        seconds, *_ = self.ask()
        self.seconds.append(seconds)

    @property
    def rate(self):
        return self.sentences / statistics.median(self.seconds)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="global sentences a step (default: 64)")
    parser.add_argument("--reference", action="store_true", help="without bigrams and dropout")
    parser.add_argument("--socket", action="store_true", help="gradients through gloo, as between machines")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        alone = {shards: Group(1, folder, options, shards=shards) for shards in WORLDS}
        together = {world: Group(world, folder, options, shards=world) for world in WORLDS if 1 < world <= cores}
        for _ in range(options.rounds):
            for group in (*alone.values(), *together.values()):
                group.epoch()
        for group in (*alone.values(), *together.values()):
            group.tell(False)
    one = alone[1]
    averaged = together[2].averaged if 2 in together else 0.0
    print(f"batches of {options.batch_size}, {cores} cores; averaging gradients {1e3 * averaged:.2f} ms a step")
    print(f"{'workers':>8}{'sentences/s':>13}{'ratio':>8}{'lowest':>8}{'highest':>8}{'predicted':>11}{'ratio':>8}")
    found, figures = {}, {}
    for world in WORLDS:
        seconds = statistics.median(alone[world].seconds) + (one.steps * averaged if world > 1 else 0)
        expected = one.sentences / seconds
        group = one if world == 1 else together.get(world)
        shown = f"{'–':>13}{'–':>8}{'–':>8}{'–':>8}"
        if group:
            ratios = [before / now for before, now in zip(one.seconds, group.seconds, strict=True)]
            found[f"workers_{world}"] = statistics.median(ratios)
            columns = (found[f"workers_{world}"], min(ratios), max(ratios))
            shown = f"{group.rate:13,.0f}" + "".join(f"{ratio:8.2f}" for ratio in columns)
        figures[world] = {"measured": group.rate if group else None, "predicted": expected}
        print(f"{world:8}{shown}{expected:11,.0f}{expected / one.rate:8.2f}")
    del found["workers_1"]
    report(options.json, ratios=found, figures={"sentences_per_second": figures, "averaging_seconds": averaged})
    return 0


if __name__ == "__main__":
    sys.exit(main())
