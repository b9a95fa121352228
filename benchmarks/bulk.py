#!/usr/bin/env python3
"""Tagging many files over a cluster: sentences and characters a second of `jobs/predict.py`, and peak memory.

python benchmarks/bulk.py --sentences 10000 100000        # some minutes on 2 cores

Texts of the generator of the embedded sample, about 35 characters each, half of them in one text file and half in one
Parquet file of one row group, are tagged with scores by 2 workers of one thread each on this machine. The model has the
default size and is trained for one pass over `--data-dir`. Seconds are those that the job prints: they hold the start
of Ray and of the workers, so the rate between two sizes is given besides. Memory is that of `large_corpus.py`.

The ratio `memory_growth` is the peak memory of a worker at the smallest size over that at the largest.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from large_corpus import PIECE, ROOT, Watch
from measuring import Training, make_parser, report

from ray_bilstm.checkpoint import write_model
from ray_bilstm.config import Config
from ray_bilstm.sample import generate

WORKERS = 2
FIGURES = ("sentences", "characters", "entities", "seconds")


def write_texts(folder, sentences):
    folder.mkdir()
    sizes = [min(PIECE, sentences - start) for start in range(0, sentences, PIECE)]
    texts = [
        "".join(characters)
        for seed, size in enumerate(sizes, start=1)
        for characters, _ in generate(seed=seed, train=size, dev=0, test=0)["train"]
    ]
    half = len(texts) // 2
    (folder / "half.txt").write_text("\n".join(texts[:half]) + "\n", encoding="utf-8")
    pq.write_table(pa.table({"text": texts[half:]}), folder / "half.parquet", row_group_size=len(texts))


def write_trained(folder, data_dir):
    training = Training(data_dir)
    training.epoch()
    write_model(folder, training.model.state_dict(), config=Config(), vocab=training.vocab)


def tag(model, texts, output):
    """The figures that the job prints, the peak memory of each kind of process, and the workers' CPU seconds."""
    words = [ROOT / "jobs" / "predict.py", model, texts, "--output-dir", output, "--num-workers", WORKERS]
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words), "--device", "cpu"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    watch = Watch(job.pid)
    watch.start()
    printed, _ = job.communicate()
    watch.ended.set()
    watch.join()
    if job.returncode:
        sys.exit(f"the job failed: {job.returncode}")
    found = {name: float(re.search(rf"([\d,.]+) {name}\b", printed)[1].replace(",", "")) for name in FIGURES}
    return found | {"worker_cpu_seconds": sum(watch.cpu.values()), "memory": dict(watch.memory)}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--sentences", type=int, nargs="+", default=[10_000, 100_000], help="sizes, the largest last")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_trained(folder / "model", options.data_dir)
        for size in options.sentences:
            write_texts(folder / f"{size}", size)
            figures[size] = run = tag(folder / "model", folder / f"{size}", folder / f"{size}-tagged")
            rates = [f"{run[name] / run['seconds']:,.0f} {name}/s" for name in ("sentences", "characters")]
            per_cpu = run["characters"] / run["worker_cpu_seconds"]
            print(
                f"\n{size:,}: {run['seconds']:,.1f} s, {', '.join(rates)}, {per_cpu:,.0f} characters a worker's CPU s"
            )
            for process, peak in run["memory"].items():
                print(f"  {process:24}" + "".join(f"{value / 2**20:8,.0f} MiB {what}" for what, value in peak.items()))
    first, last = figures[options.sentences[0]], figures[options.sentences[-1]]
    for name in ("sentences", "characters") if last is not first else ():
        rate = (last[name] - first[name]) / (last["seconds"] - first["seconds"])
        print(f"between the two: {rate:,.0f} {name}/s")
    growth = first["memory"]["tagging worker"]["resident"] / last["memory"]["tagging worker"]["resident"]
    report(options.json, ratios={"memory_growth": growth}, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
