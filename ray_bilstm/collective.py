"""The process group of a run: join, sum, leave. Plain torch.distributed; alone, every rank is rank 0 of 1.

Gradients travel through the accelerator's backend (hccl, nccl, gloo). Counts and other figures stand in host memory and
travel through a gloo group beside it: no device is waited for, and what went wrong on a device can still be told.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from ray_bilstm.accelerator import Accelerator

TIMEOUT = timedelta(minutes=5)
"""How long a rank waits for the others before it fails."""

_host_group: dist.ProcessGroup | None = None


def timeout(accelerator: Accelerator) -> timedelta:
    """`TIMEOUT`, or a minute more than HCCL itself waits where that is longer: of two messages HCCL's says more."""
    if accelerator.backend != "hccl":
        return TIMEOUT
    default = accelerator.environment["HCCL_CONNECT_TIMEOUT"]
    seconds = int(os.environ.get("HCCL_CONNECT_TIMEOUT", default))
    return max(TIMEOUT, timedelta(seconds=seconds + 60))


def open_store(host: str) -> TCPStore:
    """The store at which ranks meet, on a free port of `host`. Rank 0 opens it and keeps it."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


def reach_store(host: str, port: int, wait: timedelta) -> TCPStore:
    """The store that rank 0 opened. Raises RuntimeError (torch's DistNetworkError) after `wait`."""
    return TCPStore(host, port, is_master=False, timeout=wait)


def join(accelerator: Accelerator, store: Store, *, rank: int, world_size: int, wait: timedelta) -> None:
    """Meet the other ranks at `store`. The device of this process has been made current before.

    Raises RuntimeError (torch's DistStoreError, DistNetworkError) where not all come within `wait`.
    """
    global _host_group
    dist.init_process_group(accelerator.backend, store=store, rank=rank, world_size=world_size, timeout=wait)
    _host_group = None if accelerator.backend == "gloo" else dist.new_group(backend="gloo", timeout=wait)


def leave() -> None:
    """Give the process group back, if there is one."""
    global _host_group
    _host_group = None
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait, on the host, until all ranks are here."""
    if world_size() > 1:
        dist.barrier(group=_host_group)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of `values`, which are in host memory, over all ranks, on each of them."""
    return _reduce(values, dist.ReduceOp.SUM, _host_group)


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest `value`, which is in host memory, of all ranks, on each of them."""
    return _reduce(value, dist.ReduceOp.MAX, _host_group)


def max_on_devices(value: Tensor) -> Tensor:
    """The largest `value`, which is on this rank's device, of all ranks; the host does not wait for it."""
    return _reduce(value, dist.ReduceOp.MAX, None)


def average(gradients: list[Tensor]) -> None:
    """Replace them, which are on this rank's device, by their mean over all ranks; the host does not wait for it.

    One message for each precision: as fast as DistributedDataParallel, or faster, in each of its settings
    (benchmarks/ddp.py), and nothing else happens between the ranks.
    """
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):  # in the same order on all ranks
        same = [gradient for gradient in gradients if gradient.dtype is dtype]
        flat = torch.cat([gradient.flatten() for gradient in same])
        dist.all_reduce(flat)
        flat /= world_size()
        parts = torch.split(flat, [gradient.numel() for gradient in same])
        for gradient, part in zip(same, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def copy_from_first(values: list[Tensor]) -> None:
    """Replace them, which are on this rank's device, by those of rank 0."""
    if world_size() > 1:
        for value in values:
            dist.broadcast(value, src=0)


def _reduce(values: Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(values, op=operation, group=group)
    return values
