#!/usr/bin/env python3
"""A bidirectional LSTM layer on a GPU, forward and backward: our kernels against cuDNN's, through nn.LSTM.

python benchmarks/lstm.py

192 inputs, 128 units per direction, sentences of half the length to the whole one. Every contestant is recorded as a
CUDA graph, so that launches from the host do not count. cuDNN gets the simpler task: one bidirectional LSTM that reads
padding as if it were text.
"""

import statistics
import sys

import torch
from measuring import make_parser, report
from torch import nn

from ray_bilstm.lstm_kernels import bilstm_layer

SHAPES = ((32, 64), (128, 64), (64, 1024), (178, 1024), (178, 4096))
INPUTS, UNITS, REPLAYS = 192, 128, 20


def ours(inputs_LBE, lengths_B, dtype):
    ahead, back = (nn.LSTM(INPUTS, UNITS).to("cuda", dtype) for _ in range(2))
    weights = [*ahead.parameters(), *back.parameters()]
    return lambda: bilstm_layer(inputs_LBE, lengths_B, ahead, back), weights


def cudnn(inputs_LBE, lengths_B, dtype):
    lstm = nn.LSTM(INPUTS, UNITS, bidirectional=True).to("cuda", dtype)
    return lambda: lstm(inputs_LBE)[0], list(lstm.parameters())


def record(make, length, size, dtype):
    """Milliseconds of a replay, each time it is called."""
    torch.manual_seed(0)
    inputs_LBE = torch.randn(length, size, INPUTS, device="cuda", dtype=dtype, requires_grad=True)
    lengths_B = torch.randint(length // 2, length + 1, (size,), device="cuda")
    factors_LBH = torch.randn(length, size, 2 * UNITS, device="cuda", dtype=dtype)
    forward, weights = make(inputs_LBE, lengths_B, dtype)

    def step():
        torch.autograd.grad(forward(), [inputs_LBE, *weights], factors_LBH)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph, (start, end) = torch.cuda.CUDAGraph(), (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.graph(graph):
        step()

    def milliseconds():
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / REPLAYS

    milliseconds.step = step  # the graph reads and writes its tensors, which have to stay
    milliseconds()
    return milliseconds


def main() -> int:
    options = make_parser(__doc__).parse_args()
    contestants = {
        "ours bfloat16": (ours, torch.bfloat16),
        "cuDNN bfloat16": (cudnn, torch.bfloat16),
        "ours float16": (ours, torch.float16),
        "cuDNN float16": (cudnn, torch.float16),
        "cuDNN float32": (cudnn, torch.float32),
    }
    print(torch.cuda.get_device_name(), f"; milliseconds, medians of {options.rounds} rounds")
    print(f"{'positions, sentences':22}" + "".join(f"{name:>16}" for name in contestants))
    found, figures = {}, {}
    for length, size in SHAPES:
        timers = {name: record(make, length, size, dtype) for name, (make, dtype) in contestants.items()}
        times = {name: [] for name in timers}
        for _ in range(options.rounds):
            for name, timer in timers.items():
                times[name].append(timer())
        medians = {name: statistics.median(values) for name, values in times.items()}
        figures[f"{length}x{size}"] = times
        found[f"cudnn_bfloat16_{length}x{size}"] = medians["cuDNN bfloat16"] / medians["ours bfloat16"]
        print(f"{f'{length}, {size}':22}" + "".join(f"{value:16.3f}" for value in medians.values()), flush=True)
    report(options.json, ratios=found, figures={"milliseconds": figures, "device": torch.cuda.get_device_name()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
