#!/usr/bin/env python3
"""A model as a service under load: requests a second, latency and errors of `python -m ray_bilstm serve`.

python benchmarks/serve.py --clients 1 8 64        # a minute or two on 2 cores

Clients in a process of their own each send one text after another over a connection that they keep, with scores, texts
of the generator of the embedded sample, about 35 characters each. The model has the default size and is trained for one
pass over `--data-dir`. Latency is what a client sees; anything but an answer with status 200 is an error.

The ratio `clients_N` is the rate of the most clients over that of one.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bulk import write_trained
from large_corpus import ROOT
from measuring import make_parser, report

from ray_bilstm.sample import generate

WARM_UP_SECONDS = 2.0


def start(model, flags):
    """The service, and its port, once it answers."""
    words = [sys.executable, "-m", "ray_bilstm", "serve", str(model), "--port", "0", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    service = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    line = service.stdout.readline()
    if not line:
        sys.exit("the service has not started")
    return service, int(line.split()[0].rpartition(":")[2])


async def ask(reader, writer, text):
    """The status of one answer."""
    body = json.dumps({"text": text}).encode()
    head = f"POST /tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return int(answer.split()[1])


async def client(port, texts, until, seen):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    i = 0
    while time.monotonic() < until:
        begin = time.monotonic()
        try:
            status = await ask(reader, writer, texts[i % len(texts)])
        except (OSError, EOFError):
            status = 0
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seen.append((status, time.monotonic() - begin))
        i += 1
    writer.close()


async def load(port, clients, texts, seconds):
    """Status and seconds of every request."""
    seen = []
    until = time.monotonic() + seconds
    await asyncio.gather(*(client(port, texts[number:], until, seen) for number in range(clients)))
    return seen


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="at a time, the most last")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--replicas", type=int, default=1)
    parser.set_defaults(rounds=3)
    options = parser.parse_args()
    texts = ["".join(characters) for characters, _ in generate(seed=1, train=2000, dev=0, test=0)["train"]]
    runs = {clients: [] for clients in options.clients}
    with tempfile.TemporaryDirectory() as folder:
        write_trained(Path(folder, "model"), options.data_dir)
        service, port = start(Path(folder, "model"), ["--replicas", str(options.replicas)])
        try:
            asyncio.run(load(port, max(options.clients), texts, WARM_UP_SECONDS))
            for _ in range(options.rounds):
                for clients, rounds in runs.items():
                    begin = time.monotonic()
                    seen = asyncio.run(load(port, clients, texts, options.seconds))
                    rounds.append((len(seen) / (time.monotonic() - begin), seen))
        finally:
            service.terminate()
            service.wait()
    figures = {}
    print(f"{'clients':>8}{'requests/s':>12}{'lowest':>8}{'highest':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for clients, rounds in runs.items():
        rates = [rate for rate, _ in rounds]
        seen = [one for _, seen in rounds for one in seen]
        p50, p99 = np.percentile([seconds * 1000 for _, seconds in seen], [50, 99])
        errors = sum(status != 200 for status, _ in seen)
        rate = statistics.median(rates)
        print(f"{clients:8}{rate:12.0f}{min(rates):8.0f}{max(rates):9.0f}{p50:9.1f}{p99:9.1f}{errors:8}")
        figures[clients] = {"requests_per_second": rates, "p50_ms": p50, "p99_ms": p99, "errors": errors}
    first, last = (statistics.median(rate for rate, _ in runs[options.clients[i]]) for i in (0, -1))
    report(options.json, ratios={f"clients_{options.clients[-1]}": last / first}, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
