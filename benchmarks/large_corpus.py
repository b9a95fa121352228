#!/usr/bin/env python3
"""A large corpus: how fast it is read and encoded, one epoch on 2 workers in memory and streamed, and peak memory.

python benchmarks/large_corpus.py                            # about an hour on 2 cores
python benchmarks/large_corpus.py --sentences 200000 --part 20000 --rounds 1

The corpus is made by the generator of the embedded sample, about 35 characters a sentence, in BMES columns,
in a temporary folder, or in that of `--data-dir`, where the next run finds it again. Parts:

- `--part` sentences, read and encoded in one process: characters a CPU second.
- `--part` sentences, one epoch of rank 0 of 2, which has half of each batch of 64, in one process of one thread: in
  memory and streamed in turn, with the default model and with one so small (32 units) that data counts for more.
- `--sentences` sentences, one epoch by `jobs/train_1p.py --num-workers 2`, in memory and streamed: sentences a second,
  and peak memory of every process.

Memory is that of /proc/PID/status (so Linux alone), of the process of each kind that held most, looked at every half
second: VmRSS is what is resident, RssShmem that part of it which is pages of Ray's object store, shared by all who map
them, and RssAnon what the process holds for itself. The peak of VmRSS is the kernel's own, VmHWM.

The ratio `streamed_SIZE` is CPU seconds in memory over CPU seconds streamed, `wall_SIZE` the same of wall clock; `read`
and `encode` are the rates over 200,000 characters a second, `memory` is 4 GiB over the peak resident memory of the
largest process.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path

import measuring
import numpy as np
import psutil
import torch
from measuring import compete, make_parser, median, report

from ray_bilstm import accelerator
from ray_bilstm.batches import Shard, TrainingSet, deal
from ray_bilstm.config import Config
from ray_bilstm.corpus import read_corpus
from ray_bilstm.dataset import BLOCK_ROWS, encode_table, to_table
from ray_bilstm.loop import train_epoch
from ray_bilstm.mentions import MentionReplacement
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.sample import generate
from ray_bilstm.step import make_step
from ray_bilstm.stream import iter_windows, plan_window, write_windows
from ray_bilstm.vocab import Vocab

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
PIECE = 50_000
"""Sentences generated at once: no two in a piece are equal."""
CHARACTERS_A_SECOND = 200_000
MEMORY = 4 * 2**30
SIZES = {"default": {}, "small": {"embedding_size": 32, "bigram_size": 32, "hidden_size": 32}}
FIELDS = {"VmHWM": "resident", "RssAnon": "own", "RssShmem": "shared"}
SAMPLE_SECONDS = 0.5


# The corpus -----------------------------------------------------------------------------------------------------------


def write_corpus(folder, sentences):
    """Columns, as `train.char.bmes` and so on; a folder that holds them already is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "test.char.bmes").exists():
        return
    sizes = [min(PIECE, sentences - start) for start in range(0, sentences, PIECE)]
    with (folder / "train.char.bmes").open("w", encoding="utf-8") as file:
        for seed, size in enumerate(sizes, start=1):
            file.writelines(iter_lines(generate(seed=seed, train=size, dev=0, test=0)["train"]))
    small = generate()
    for split in ("dev", "test"):
        (folder / f"{split}.char.bmes").write_text("".join(iter_lines(small[split])), encoding="utf-8")


def iter_lines(sentences):
    for characters, tags in sentences:
        yield from (f"{character} {tag}\n" for character, tag in zip(characters, tags, strict=True))
        yield "\n"


# Reading and encoding -------------------------------------------------------------------------------------------------


def reading(folder):
    return lambda: sum(len(sentence.tokens) for sentence in read_corpus(folder).train)


def encoding(folder):
    """Strings to ids as the product does it: vocabulary, Arrow tables of strings, tables of ids."""
    corpus = read_corpus(folder)

    def run():
        vocab = Vocab.build(corpus.train, scheme=corpus.scheme, bigram_min_count=2)
        for start in range(0, len(corpus.train), BLOCK_ROWS):
            encode_table(to_table(corpus.train, start), vocab)

    return run


def rates(folder, rounds):
    """Characters a CPU second."""
    costs = compete({"read": (reading, (folder,)), "encode": (encoding, (folder,))}, rounds)
    characters = costs["read"][0].value
    return {name: characters / median(values).cpu for name, values in costs.items()}


# Training in one process ----------------------------------------------------------------------------------------------


def training(folder, size, shard_memory):
    """Epochs of rank 0 of 2; without `shard_memory`, in memory."""
    corpus = read_corpus(folder)
    config = Config().with_fields(num_workers=2, **SIZES[size])
    if shard_memory:
        config = config.with_fields(shard_memory=shard_memory)
    vocab = Vocab.build(corpus.train, scheme=corpus.scheme, bigram_min_count=config.data.bigram_min_count)
    lengths = np.array([len(sentence.tokens) for sentence in corpus.train], np.int32)
    window = plan_window(lengths, config)
    if shard_memory and not window:
        sys.exit(f"half of {folder} fits in {shard_memory} MiB and would not be streamed: raise --part")
    place = {"rank": 0, "world_size": 2}
    if window:
        path = folder / f"{size}.parquet"
        write_windows(path, corpus.train, vocab, lengths, window=window, world_size=2)
        windows = partial(iter_windows, path, lengths, window=window, device=CPU, **place)
    else:
        rows = np.flatnonzero(deal(lengths, 2) == 0)
        own = [corpus.train[row] for row in rows]
        shard = Shard(vocab.encode([s.tokens for s in own], [s.tags for s in own]), rows)
        windows = partial(list, [shard])
    recipe = {
        "augment": MentionReplacement(vocab, config.training.mention_replacement),
        "token_dropout": config.training.token_dropout,
    }
    train_set = TrainingSet(windows, lengths, batch_size=64, seed=1, window=window, **recipe, **place)
    accelerator.keep_freed_memory()
    torch.manual_seed(0)
    model, precision = BiLstmCrf(config.model, vocab), Precision("O0", dtype=torch.float32, device=CPU)
    precision.prepare(model)
    step = make_step(model, config.training, precision)
    return lambda: train_epoch(step, train_set, epoch=1)  # the same epoch each time


def compare(folder, rounds, shard_memory, size):
    """The epochs in memory and streamed, in turn: ratios of CPU seconds and of wall clock, and all costs."""
    makes = {name: (training, (folder, size, memory)) for name, memory in (("memory", 0), ("streamed", shard_memory))}
    costs = compete(makes, rounds)
    memory, streamed = costs.values()
    walls = [one.wall / other.wall for one, other in zip(memory, streamed, strict=True)]
    cpus = measuring.ratios(memory, streamed)
    for what, values in (("CPU", cpus), ("wall", walls)):
        seconds = [getattr(median(one), what.lower()) for one in (memory, streamed)]
        print(
            f"{size:9}{what:6}{seconds[0]:8.1f} s in memory{seconds[1]:8.1f} s streamed, ratio"
            f"{statistics.median(values):6.3f} ({min(values):.3f} to {max(values):.3f})",
            flush=True,
        )
    seconds = {name: [{"wall": cost.wall, "cpu": cost.cpu} for cost in values] for name, values in costs.items()}
    return statistics.median(cpus), statistics.median(walls), seconds


# Training by the job --------------------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Peak memory by kind of process, and CPU seconds of the workers that train or tag, below process `root`."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root = root
        self.ended = threading.Event()
        self.memory = defaultdict(lambda: dict.fromkeys(FIELDS.values(), 0))
        self.cpu = {}

    def run(self):
        while not self.ended.wait(SAMPLE_SECONDS):
            root = psutil.Process(self.root)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(OSError, KeyError):  # it has just ended
                    self.look(process.pid)

    def look(self, pid):
        folder = Path("/proc", str(pid))
        name = "driver" if pid == self.root else kind((folder / "cmdline").read_text())
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        for field, what in FIELDS.items():
            peak = self.memory[name]
            peak[what] = max(peak[what], int(status[field].split()[0]) * 1024)
        if name.endswith("ing worker"):
            user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
            self.cpu[pid] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def kind(command):
    """What a process below the driver is."""
    if command.startswith("ray::"):
        ours = {"RayTrainWorker": "training worker", "MapWorker": "tagging worker"}
        return next((name for part, name in ours.items() if part in command), "other Ray workers")
    return "raylet, object store" if "raylet/raylet" in command.split("\0")[0] else "other Ray processes"


def train(folder, *, shard_memory=None, size="default"):
    """One epoch by the job; its result, with what was watched."""
    flags = {"num_workers": 2, "device": "cpu", "train_epochs": 1, "data_dir": folder, **SIZES[size]}
    if shard_memory:
        flags["shard_memory"] = shard_memory
    words = [f"--{name}={value}" for name, value in flags.items()]
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as run:
        command = [sys.executable, ROOT / "jobs" / "train_1p.py", *words, "--output-dir", f"{run}/run"]
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        watch = Watch(job.pid)
        watch.start()
        if job.wait():
            sys.exit(f"the run failed: {job.returncode}")
        watch.ended.set()
        watch.join()
        result = json.loads(Path(run, "run", "result.json").read_text())
    return {
        "sentences_per_second": result["sentences_per_second"],
        "seconds": result["seconds"],
        "worker_cpu_seconds": sum(watch.cpu.values()),
        "memory": dict(watch.memory),
    }


def print_memory(name, run):
    seconds = ", ".join(f"{what} {value:,.0f} s" for what, value in run["seconds"].items())
    print(f"\n{name}: {run['sentences_per_second']:,.0f} sentences/s; {seconds}")
    print(f"{'peak, MiB':24}{'resident':>10}{'own':>10}{'shared':>10}")
    for process, peak in run["memory"].items():
        print(f"{process:24}" + "".join(f"{peak[what] / 2**20:10,.0f}" for what in FIELDS.values()), flush=True)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--sentences", type=int, default=1_000_000, help="of the large corpus; 0: leave it out")
    parser.add_argument("--size", choices=SIZES, default="default", help="of the model trained on the large corpus")
    parser.add_argument("--part", type=int, default=50_000, help="sentences that rates are measured on; 0: leave out")
    parser.add_argument("--shard-memory", type=int, default=2, help="MiB, for the part streamed")
    parser.add_argument("--large-shard-memory", type=int, default=32, help="MiB, for the large corpus streamed")
    options = parser.parse_args()
    ratios, figures = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.data_dir or temporary)
        if options.part:
            part = folder / f"{options.part}"
            write_corpus(part, options.part)
            figures["characters_per_cpu_second"] = rates(part, options.rounds)
            for name, rate in figures["characters_per_cpu_second"].items():
                ratios[name] = rate / CHARACTERS_A_SECOND
                print(f"{name:22}{rate:10,.0f} characters a CPU second", flush=True)
            for size in SIZES:
                compared = compare(part, options.rounds, options.shard_memory, size)
                ratios[f"streamed_{size}"], ratios[f"wall_{size}"], figures[size] = compared
        if options.sentences:
            large = folder / f"{options.sentences}"
            write_corpus(large, options.sentences)
            for name, shard_memory in (("in memory", None), ("streamed", options.large_shard_memory)):
                figures[name] = train(large, shard_memory=shard_memory, size=options.size)
                print_memory(f"{options.sentences:,} sentences, {name}", figures[name])
            peaks = [
                peak["resident"] for name in ("in memory", "streamed") for peak in figures[name]["memory"].values()
            ]
            ratios["memory"] = MEMORY / max(peaks)
    report(options.json, ratios=ratios, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
