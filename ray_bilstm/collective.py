"""The process group of a run: join, sum, leave. Plain torch.distributed; alone, every rank is rank 0 of 1.

Gradients travel through the accelerator's backend (hccl, nccl, gloo). Counts and other figures stand in host memory and
travel through a gloo group beside it: no device is waited for, and what went wrong on a device can still be told. On
the CPUs of one machine, gradients go through shared memory instead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from ray_bilstm import shared_memory
from ray_bilstm.accelerator import Accelerator
from ray_bilstm.shared_memory import SharedMean

TIMEOUT = timedelta(minutes=5)
"""How long a rank waits for the others before it fails."""

SIOCGIFADDR = 0x8915
"""Linux's question for the address of a network interface."""

_host_group: dist.ProcessGroup | None = None
_shared_means: dict[tuple[dist.ProcessGroup | None, int, torch.dtype], SharedMean | None] = {}


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


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has this IPv4 address; None where none has, or Linux is not there."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # has no such address
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


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
    _shared_means.clear()
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


def stack_over_ranks(values: Tensor) -> Tensor:
    """The `values` of every rank, equally many, which are in host memory: a row a rank, on each of them."""
    rows = values.new_zeros((world_size(), *values.shape))
    rows[rank()] = values
    return sum_over_ranks(rows)


def share_from_first(value: Any) -> Any:
    """What rank 0 has, on each rank."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0, group=_host_group)
    return values[0]


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest `value`, which is in host memory, of all ranks, on each of them."""
    return _reduce(value, dist.ReduceOp.MAX, _host_group)


def max_on_devices(value: Tensor) -> Tensor:
    """The largest `value`, which is on this rank's device, of all ranks; the host does not wait for it."""
    return _reduce(value, dist.ReduceOp.MAX, None)


def average(gradients: list[Tensor]) -> None:
    """Replace them, which are on this rank's device, by their mean over all ranks; the host does not wait for a device.

    One message for each precision: as fast as DistributedDataParallel, or faster, in each of its settings
    (benchmarks/ddp.py), and nothing else happens between the ranks. Ranks on the CPU of one machine share memory.
    """
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):  # in the same order on all ranks
        same = [gradient for gradient in gradients if gradient.dtype is dtype]
        sizes = [gradient.numel() for gradient in same]
        shared = _shared_mean(sum(sizes), dtype) if same[0].device.type == "cpu" else None
        mean = shared(same) if shared else _mean(same)
        for gradient, part in zip(same, torch.split(mean, sizes), strict=True):
            gradient.copy_(part.view_as(gradient))


def _mean(values: list[Tensor]) -> Tensor:
    flat = torch.cat([value.flatten() for value in values])
    dist.all_reduce(flat)
    return flat.div_(world_size())


def _shared_mean(elements: int, dtype: torch.dtype) -> SharedMean | None:
    """Made when first asked for, and kept; None unless all ranks see the same memory."""
    key = (dist.group.WORLD, elements, dtype)
    if key not in _shared_means:
        ranks, seconds = {"rank": rank(), "world_size": world_size()}, TIMEOUT.total_seconds()
        paths = [shared_memory.create(elements, dtype, world_size=world_size()) if rank() == 0 else None]
        dist.broadcast_object_list(paths, src=0)
        try:
            shared = SharedMean(paths[0], elements, dtype, seconds=seconds, **ranks) if paths[0] else None
        except OSError:  # this rank is on another machine, or in a container
            shared = None
        alone = max_over_ranks(torch.tensor(int(shared is None)))
        if paths[0] and rank() == 0:
            os.unlink(paths[0])  # the memory lives as long as the ranks hold it
        _shared_means[key] = None if alone else shared
    return _shared_means[key]


def copy_from_first(values: list[Tensor]) -> None:
    """Replace them, which are on this rank's device, by those of rank 0."""
    if world_size() > 1:
        for value in values:
            dist.broadcast(value, src=0)


def _reduce(values: Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(values, op=operation, group=group)
    return values
