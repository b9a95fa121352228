"""When a run saves its state inside an epoch, and when it stops: asked by the driver, warned by Ray, or after a while.

All ranks look at the same steps and agree, so that what they save is of one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ray_bilstm.collective import max_over_ranks
from ray_bilstm.loop import Wish

SAVE_SECONDS = 300.0
"""An epoch that takes longer is saved as often: no failure costs more."""
DRAIN_SECONDS = 5.0
"""Between two questions whether a node is to be taken away: each waits for all ranks."""


class Watch:
    """What `loop.fit` asks at each look. One a rank; all ranks must ask equally often."""

    def __init__(self, *, stop: Callable[[], bool], draining: Callable[[], bool]) -> None:
        """`stop()`: whether this rank knows that the run is to stop; `draining()`: whether a node is to be taken away,
        which is asked by all ranks or by none, and may wait for them."""
        self.stop, self.draining = stop, draining
        self.saved = self.asked = time.monotonic()

    def __call__(self) -> Wish:
        now = time.monotonic()
        wish = Wish.STOP if self.stop() else Wish.SAVE if now - self.saved > SAVE_SECONDS else Wish.GO_ON
        agreed, ask = max_over_ranks(torch.tensor([int(wish), int(now - self.asked > DRAIN_SECONDS)])).tolist()
        if ask:
            self.asked = now
            agreed = max(agreed, Wish.SAVE if self.draining() else Wish.GO_ON)
        if agreed:
            self.saved = now
        return Wish(agreed)
