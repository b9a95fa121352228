"""Precision levels O0, O1 and O2, without Apex.

| level | weights                       | compute          | float16 also has                                    |
|-------|-------------------------------|------------------|-----------------------------------------------------|
| O0    | float32                       | float32          |                                                     |
| O1    | float32                       | autocast         | dynamic loss scale                                  |
| O2    | half, with float32 masters    | half             | static loss scale 64; overflowed steps are skipped  |

The CRF is float32 at every level. Checkpoints hold the float32 weights, so a run at one level loads at another.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from ray_bilstm.crf import CRF

STATIC_SCALE = 64.0
NEVER = 2**31 - 1


class Precision:
    """One level on one device: casts the model, owns the float32 weights, takes steps."""

    def __init__(self, level: str, *, dtype: torch.dtype, device: torch.device) -> None:
        self.level = level
        self.dtype = torch.float32 if level == "O0" else dtype
        self.device = device
        static = level == "O2"
        # A scaler that never grows and hardly backs off is a static scale that still skips overflowed steps.
        self.scaler = torch.amp.GradScaler(
            device.type,
            enabled=self.dtype is torch.float16,
            init_scale=STATIC_SCALE if static else 2.0**16,
            growth_interval=NEVER if static else 2000,
            backoff_factor=1 - 1e-7 if static else 0.5,
        )
        self.weights: dict[str, tuple[nn.Parameter, Tensor]] = {}

    def prepare(self, model: nn.Module) -> None:
        """Keep float32 weights of `model`; at O2, cast its own to half, except the CRF's."""
        masters = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        if self.level == "O2":
            for module in model.modules():
                if not isinstance(module, CRF):
                    for weight in module.parameters(recurse=False):
                        weight.data = weight.data.to(self.dtype)
                    if isinstance(module, nn.LSTM):
                        module.flatten_parameters()  # one block of memory, as cuDNN wants it
        for name, weight in model.named_parameters():
            same = weight.dtype is torch.float32
            self.weights[name] = (weight, weight if same else masters[name].requires_grad_(weight.requires_grad))

    def trained(self) -> list[Tensor]:
        """The float32 weights that an optimiser steps."""
        return [master for _, master in self.weights.values() if master.requires_grad]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.level == "O1":
            return torch.autocast(self.device.type, dtype=self.dtype)
        return contextlib.nullcontext()

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer, *, clip_norm: float) -> Tensor:
        """Backward, clip, step. Returns the gradient norm before clipping (not finite where a step was skipped)."""
        for weight, master in self.weights.values():
            weight.grad = master.grad = None
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for weight, master in self.weights.values():
            if master is not weight and weight.grad is not None:
                master.grad, weight.grad = weight.grad.float(), None
        self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained(), clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        self._masters_to_weights()
        return norm

    @torch.no_grad()
    def _masters_to_weights(self) -> None:
        halves = [(weight, master) for weight, master in self.weights.values() if master is not weight]
        if halves:
            torch._foreach_copy_([weight for weight, _ in halves], [master for _, master in halves])

    def state_dict(self) -> dict[str, Tensor]:
        """The float32 weights by name, on the cpu, copied."""
        return {name: master.detach().to("cpu", copy=True) for name, (_, master) in self.weights.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take float32 weights by name."""
        for name, (_, master) in self.weights.items():
            master.copy_(state[name])
        self._masters_to_weights()
