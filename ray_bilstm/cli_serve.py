"""The command that serves a model: flags, the line that says where, and signals."""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
from pathlib import Path
from typing import Any

from ray_bilstm.cli_train import at_least


class ServeError(RuntimeError):
    """Something to serve with is missing."""


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="directory of a model, such as runs/NAME/best, or of an ensemble")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=at_least(0), default=8000, help="0: any that is free (default: 8000)")
    parser.add_argument(
        "--replicas", type=at_least(1), default=1, metavar="N", help="processes that hold the model (default: 1)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "npu"), default="cpu", help="what computes (default: cpu)")
    parser.add_argument(
        "--max-batch", type=at_least(1), default=64, metavar="N", help="texts in a batch, at most (default: 64)"
    )
    parser.add_argument(
        "--batch-wait-ms",
        type=at_least(0),
        default=2,
        metavar="MS",
        help="how long a batch waits for more texts, in milliseconds (default: 2)",
    )


def serve_command(options: argparse.Namespace) -> int:
    """Serve a model over HTTP: POST /tag, GET /health, a page to try it on at /.

    Texts of many clients are tagged in one batch, through Ray Serve. Ctrl-C or SIGTERM ends it, once the requests that
    it has are answered. SIGHUP has it take the model that the directory now holds, without a pause. There is no
    authentication, and by default only this machine reaches it. Needs pip install 'ray_bilstm[serve]'.

    examples:
      python -m ray_bilstm serve runs/NAME/best
      python -m ray_bilstm serve runs/NAME/best --host 0.0.0.0 --port 8080 --replicas 4
      curl 127.0.0.1:8000/tag -H 'Content-Type: application/json' -d '{"text": "王芳：女，汉族，硕士。"}'
    """
    try:
        from ray_bilstm.serve import serving
    except ModuleNotFoundError as error:
        raise ServeError(f"serve needs {error.name}: pip install 'ray_bilstm[serve]'") from error

    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    signal.signal(signal.SIGHUP, lambda number, _: signals.put(number))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    terminal = sys.stdin.isatty()
    with serving(
        options.model,
        host=options.host,
        port=options.port,
        replicas=options.replicas,
        device=options.device,
        max_batch=options.max_batch,
        batch_wait_ms=options.batch_wait_ms,
    ) as service:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: signals.put(number))
        print(f"{service.url}  (Ctrl-C ends it; kill -HUP {os.getpid()} reloads {options.model})", flush=True)
        # A terminal that is closed sends SIGHUP too.
        while signals.get() == signal.SIGHUP and sys.stdin.isatty() == terminal:
            _reload(service, options.model)
    return 0


def _reload(service: Any, model: Path) -> None:
    try:
        print(f"{model}: reloaded, {service.reload()[:12]}", flush=True)
    except Exception as error:  # whatever it is, the old model still serves
        print(f"error: {error}: not reloaded, the model that was loaded serves on", file=sys.stderr, flush=True)
