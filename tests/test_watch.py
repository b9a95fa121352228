"""All ranks save, and stop, at the same look, whichever of them has a reason."""

import pytest
import torch.distributed as dist
import torch.multiprocessing

from ray_bilstm import watch
from ray_bilstm.loop import Wish
from ray_bilstm.watch import Watch


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    return clock


def test_a_long_epoch_is_saved_every_five_minutes(clock) -> None:
    look = Watch(stop=lambda: False, draining=lambda: False)
    seen = []
    for _ in range(10):
        clock.now += 100
        seen.append(look())
    assert seen == [*[Wish.GO_ON] * 3, Wish.SAVE] * 2 + [Wish.GO_ON] * 2


def test_a_node_that_is_taken_away_is_asked_after_every_five_seconds(clock) -> None:
    asked = []
    look = Watch(stop=lambda: False, draining=lambda: asked.append(clock.now) or clock.now >= 1013)
    seen = []
    for _ in range(10):
        clock.now += 2
        seen.append(look())
    assert asked == [1006, 1012, 1018]
    assert [wish for wish in seen if wish] == [Wish.SAVE]
    assert seen[8] is Wish.SAVE


def test_stopping_comes_before_saving(clock) -> None:
    stop = []
    look = Watch(stop=lambda: bool(stop), draining=lambda: True)
    assert look() is Wish.GO_ON
    clock.now += 1000
    stop.append(True)
    assert look() is Wish.STOP


def agree(rank, folder, wishes) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    looks = iter(wishes[rank])
    look = Watch(stop=lambda: next(looks), draining=lambda: False)
    (folder / str(rank)).write_text(" ".join(look().name for _ in range(3)))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_agree(tmp_path, rank: int) -> None:
    """One of them alone knows that the run is to stop."""
    wishes = [[False, other == rank, False] for other in range(2)]
    torch.multiprocessing.spawn(agree, (tmp_path, wishes), nprocs=2)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == "GO_ON STOP GO_ON"
