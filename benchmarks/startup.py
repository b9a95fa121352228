#!/usr/bin/env python3
"""Seconds from the command to the first training step: `jobs/train_1p.py` against a bare TorchTrainer.

python benchmarks/startup.py --data-dir ResumeNER

The bare one starts Ray, one worker on the same claim, and takes one step of a linear layer: no corpus, no vocabulary,
no dataset. Both run from a fresh interpreter, in turn. The ratio is its seconds over ours: 1 is as fast.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import make_parser, report

ROOT = Path(__file__).resolve().parents[1]
HELLO = """
import sys, time
import ray, ray.train, ray.train.torch

def step(settings):
    import torch
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    open(settings["file"], "w").write(str(time.time()))
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()

ray.init(log_to_driver=False)
ray.train.torch.TorchTrainer(
    step,
    train_loop_config={"file": sys.argv[1]},
    scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": ray.cluster_resources()["CPU"]}),
    run_config=ray.train.RunConfig(storage_path=sys.argv[2]),
).fit()
"""


def hello(folder):
    run([sys.executable, "-c", HELLO, f"{folder}/first", folder])
    return float(Path(folder, "first").read_text())


def ours(folder, data_dir):
    words = [sys.executable, ROOT / "jobs" / "train_1p.py", "--device", "cpu", "--train-epochs", "1"]
    run([*words, "--output-dir", f"{folder}/run", *(["--data-dir", data_dir] if data_dir else [])])
    return json.loads(Path(folder, "run", "result.json").read_text())["first_step_at"]


def run(words):
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def seconds_of(contestant, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        return contestant(folder, *arguments) - started


def main() -> int:
    options = make_parser(__doc__).parse_args()
    seconds = {"hello world": [], "ours": []}
    for _ in range(options.rounds):
        seconds["hello world"].append(seconds_of(hello))
        seconds["ours"].append(seconds_of(ours, options.data_dir))
    for name, values in seconds.items():
        print(f"{name:14}{statistics.median(values):8.2f} s  ({min(values):.2f} to {max(values):.2f})")
    pairs = [bare / other for bare, other in zip(*seconds.values(), strict=True)]
    ratio = statistics.median(pairs)
    print(f"{'ratio':14}{ratio:8.2f}    ({min(pairs):.2f} to {max(pairs):.2f})")
    report(options.json, ratios={"hello_world": ratio}, figures={"seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main())
