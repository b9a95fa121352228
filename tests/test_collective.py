"""Ranks meet, add up, and do not wait for ever. Each rank is a process of its own."""

import os
import sys
import time
from datetime import timedelta
from itertools import chain
from pathlib import Path

import pytest
import ray
import torch
import torch.distributed as dist
import torch.multiprocessing

from ray_bilstm import backend, collective, shared_memory
from ray_bilstm.accelerator import ACCELERATORS

CPU, NPU = ACCELERATORS["cpu"], ACCELERATORS["npu"]
WAIT = timedelta(seconds=60)


def add_up(rank: int, port: int, folder: str) -> None:
    """One of two ranks; rank 0 has the store already."""
    store = collective.reach_store("127.0.0.1", port, WAIT)
    collective.join(CPU, store, rank=rank, world_size=2, wait=WAIT)
    total = collective.sum_over_ranks(torch.tensor([rank + 1, 10]))
    largest = collective.max_on_devices(collective.max_over_ranks(torch.tensor(float(rank))))
    torch.save([total, largest, collective.rank(), collective.world_size()], f"{folder}/{rank}.pt")
    collective.leave()
    assert not dist.is_initialized()
    assert (collective.rank(), collective.world_size()) == (0, 1)


def test_two_ranks_add_up(tmp_path):
    store = collective.open_store("127.0.0.1")
    torch.multiprocessing.spawn(add_up, args=(store.port, str(tmp_path)), nprocs=2)
    for rank in range(2):
        total, largest, own, size = torch.load(tmp_path / f"{rank}.pt")
        assert (total.tolist(), float(largest), own, size) == ([3, 20], 1.0, rank, 2)


def test_alone_every_sum_is_the_value_itself():
    assert (collective.rank(), collective.world_size()) == (0, 1)
    assert collective.sum_over_ranks(torch.tensor([2, 3])).tolist() == [2, 3]
    collective.leave()


def test_a_rank_that_never_comes_is_not_waited_for_beyond_the_timeout():
    store, started = collective.open_store("127.0.0.1"), time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?i)timed? ?out"):
        collective.join(CPU, store, rank=0, world_size=2, wait=timedelta(seconds=1))
    assert time.monotonic() - started < 30
    collective.leave()


@pytest.mark.parametrize(("seconds", "minutes"), [(None, 6), ("120", 5), ("1800", 31)])
def test_the_timeout_exceeds_that_of_hccl(seconds, minutes, monkeypatch):
    monkeypatch.delenv("HCCL_CONNECT_TIMEOUT", raising=False)
    if seconds:
        monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", seconds)
    assert collective.timeout(NPU) == timedelta(minutes=minutes)
    assert collective.timeout(CPU) == collective.TIMEOUT


def gradients(rank: int, message: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(100 * message + rank)
    shapes = [(3, 5), (7,), (1,), (2, 2)]
    dtypes = [torch.float32, torch.bfloat16, torch.float32, torch.bfloat16]
    made = [torch.randn(shape, generator=random).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    return [*made, torch.randn(4, 6, generator=random).T]


def average_thrice(rank: int, world_size: int, folder: str, memory: str) -> None:
    shared_memory.FOLDER = Path(memory)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    found = []
    for message in range(3):
        values = gradients(rank, message)
        collective.average(values)
        found.append(values)
    torch.save([found, [mean is not None for mean in collective._shared_means.values()]], f"{folder}/{rank}.pt")
    collective.leave()


@pytest.mark.parametrize(("world_size", "shared"), [(2, True), (3, True), (2, False)])
def test_the_mean_of_gradients_is_the_same_on_all_ranks(world_size, shared, tmp_path):
    """In float32 and bfloat16, message after message; through shared memory, and where there is none through gloo."""
    memory = tmp_path / "memory"
    if shared:
        memory.mkdir()
    arguments = (world_size, str(tmp_path), str(memory))
    torch.multiprocessing.spawn(average_thrice, args=arguments, nprocs=world_size)
    first, was_shared = torch.load(tmp_path / "0.pt")
    assert was_shared == [shared, shared]
    for message, values in enumerate(first):
        given = [gradients(rank, message) for rank in range(world_size)]
        for i, value in enumerate(values):
            mean = sum(one[i].float() for one in given) / world_size
            relative = 0.01 if value.dtype is torch.bfloat16 else 1e-6
            torch.testing.assert_close(value.float(), mean, rtol=relative, atol=1e-6)
    for rank in range(1, world_size):
        other = torch.load(tmp_path / f"{rank}.pt")[0]
        assert all(map(torch.equal, chain.from_iterable(first), chain.from_iterable(other)))
    assert not shared or list(memory.iterdir()) == [], "the file is gone, whatever becomes of the ranks"


def test_without_room_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert shared_memory.create(10, torch.float32, world_size=2) is None
    assert list(tmp_path.iterdir()) == []


def test_a_neighbour_that_does_not_come_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    path = shared_memory.create(10, torch.float32, world_size=3)
    means = [
        shared_memory.SharedMean(path, 10, torch.float32, rank=rank, world_size=3, seconds=0.1) for rank in range(3)
    ]
    means[2].counts[2] = 2  # has come to both meetings of the first message
    with pytest.raises(RuntimeError, match=r"rank 0 waited 0.1 s in vain for ranks \[1\]"):
        means[0]([torch.ones(10)])
    with pytest.raises(OSError, match="expected"):
        shared_memory.SharedMean(path, 11, torch.float32, rank=0, world_size=3, seconds=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its interfaces")
def test_gloo_listens_where_ray_does(monkeypatch):
    """By itself it listens on the address of the host name: where /etc/hosts says 127.0.1.1, no other machine comes."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is put back
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    backend._choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "no interface has this address"
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    backend._choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    backend._choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
