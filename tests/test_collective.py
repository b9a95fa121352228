"""Ranks meet, add up, and do not wait for ever. Each rank is a process of its own."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from ray_bilstm import collective
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
