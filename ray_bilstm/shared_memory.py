"""The mean of tensors over ranks on one machine, through memory that they share.

gloo sends to a neighbour through a socket, and each rank sleeps until a message comes: where cores are few or virtual,
waking up takes longer than adding up. Here each rank writes into a place of its own in one block of memory, looks on
until all have written, and then adds up one part of it for all of them: 4 to 8 times as fast for two ranks
(benchmarks/scaling.py).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path("/dev/shm")
"""Files in it are memory, on Linux."""
PREFIX = "ray_bilstm-"

CACHE_LINE = 64
"""Bytes between two counters, so that writing one does not take the other from its reader."""
LOOK_SECONDS, NAP_SECONDS = 0.005, 0.0002
"""How long a rank looks on for others before it sleeps in between, and how long then."""


def create(elements: int, dtype: torch.dtype, *, world_size: int) -> str | None:
    """A new file that holds the counters, a place for each rank and one for the mean; None where there is no room."""
    if not FOLDER.is_dir():
        return None
    handle, path = tempfile.mkstemp(prefix=PREFIX, dir=FOLDER)
    try:
        os.posix_fallocate(handle, 0, CACHE_LINE * world_size + (world_size + 1) * elements * dtype.itemsize)
    except OSError:
        Path(path).unlink()
        return None
    finally:
        os.close(handle)
    return path


class SharedMean:
    """One rank's view of such a file. The file may be deleted once every rank has its view."""

    def __init__(
        self, path: str, elements: int, dtype: torch.dtype, *, rank: int, world_size: int, seconds: float
    ) -> None:
        """`seconds`: how long to wait for the others. Raises OSError where this rank cannot see the file."""
        counters = CACHE_LINE * world_size
        size = counters + (world_size + 1) * elements * dtype.itemsize
        if os.path.getsize(path) != size:
            raise FileNotFoundError(f"{path}: expected {size} bytes")
        block = torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
        self.counts = block[:counters].view(torch.int64)[:: CACHE_LINE // 8].numpy()
        places = block[counters:].view(dtype).view(world_size + 1, elements)
        self.given, self.mean = places[:-1], places[-1]
        part = -(-elements // world_size)
        self.own = slice(rank * part, (rank + 1) * part)
        self.rank, self.seconds = rank, seconds
        self.meetings = 0

    def __call__(self, values: Sequence[Tensor]) -> Tensor:
        """The mean over ranks of `values`, laid flat; it holds until the next call. All ranks must call.

        Raises RuntimeError where not all do so in time.
        """
        torch.cat([value.flatten() for value in values], out=self.given[self.rank])
        self._meet()
        torch.mean(self.given[:, self.own], 0, out=self.mean[self.own])
        self._meet()
        return self.mean

    def _meet(self) -> None:
        """Return once every rank has come here as often as this one."""
        self.meetings += 1
        os.sched_yield()  # passes a memory barrier: others see what was written before they see the count
        self.counts[self.rank] = self.meetings
        started = time.monotonic()
        while self.counts.min() < self.meetings:
            waited = time.monotonic() - started
            if waited > self.seconds:
                missing = [rank for rank, count in enumerate(self.counts.tolist()) if count < self.meetings]
                raise RuntimeError(f"rank {self.rank} waited {self.seconds:g} s in vain for ranks {missing}")
            if waited < LOOK_SECONDS:
                os.sched_yield()
            else:
                time.sleep(NAP_SECONDS)
        os.sched_yield()  # and nothing is read before the counts
