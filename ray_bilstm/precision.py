"""Precision levels O0, O1 and O2, without Apex.

| level | weights                       | compute          | float16 also has                                    |
|-------|-------------------------------|------------------|-----------------------------------------------------|
| O0    | float32                       | float32          |                                                     |
| O1    | float32                       | autocast         | dynamic loss scale                                  |
| O2    | half, with float32 masters    | half             | static loss scale 64                                |

The CRF is float32 at every level, the LSTM too where `half_lstm` is False. A step whose scaled gradient overflows
float16 changes nothing. Checkpoints hold the float32 weights, so a run at one level loads at another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ray_bilstm.collective import average, max_on_devices
from ray_bilstm.crf import CRF
from ray_bilstm.model import BiLSTM

STATIC_SCALE = 64.0
INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000


class LossScale:
    """The factor that lifts float16 gradients out of underflow (Micikevicius et al. 2018), on the device alone.

    torch.amp.GradScaler leaves it to the optimiser to skip a step, for which the host waits, unless the optimiser is a
    fused one that reads `found_inf`: torch_npu's does not read it, and would step on infinities. Nor do ranks tell one
    another: an NPU that saturates shows an overflow in a flag of its own, not in the averaged gradients.
    """

    def __init__(self, initial: float, *, dynamic: bool, device: torch.device) -> None:
        self.scale = torch.tensor(initial, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)
        self.dynamic = dynamic

    def unscale(self, gradients: list[Tensor]) -> Tensor:
        """Divide `gradients` by the scale; 1 if one of any rank is not finite, else 0: float32, ()."""
        overflow = torch.zeros((), device=self.scale.device)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, self.scale.reciprocal())
        overflow = max_on_devices(overflow)
        if self.dynamic:
            torch._amp_update_scale_(self.scale, self.good_steps, overflow, 2.0, 0.5, GROWTH_INTERVAL)
        return overflow

    def state_dict(self) -> dict[str, Tensor]:
        """Where a dynamic scale stands, on the cpu."""
        return {"scale": self.scale.cpu(), "good_steps": self.good_steps.cpu()} if self.dynamic else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there; a static scale stays what it is, and so does a dynamic one without a state."""
        if self.dynamic and state:
            self.scale.copy_(state["scale"])
            self.good_steps.copy_(state["good_steps"])


class Precision:
    """One level on one device: casts the model, owns the float32 weights, takes steps."""

    def __init__(self, level: str, *, dtype: torch.dtype, device: torch.device, half_lstm: bool = True) -> None:
        self.level = level
        self.dtype = torch.float32 if level == "O0" else dtype
        self.device = device
        self.half_lstm = half_lstm
        self.loss_scale: LossScale | None = None
        if self.dtype is torch.float16:
            dynamic = level == "O1"
            self.loss_scale = LossScale(INITIAL_SCALE if dynamic else STATIC_SCALE, dynamic=dynamic, device=device)
        self.weights: dict[str, tuple[nn.Parameter, Tensor]] = {}

    def prepare(self, model: nn.Module) -> None:
        """Keep float32 weights of `model`; at O2, cast its own to half, except the CRF's."""
        masters = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for module in model.modules():
            if isinstance(module, BiLSTM):
                module.half_lstm = self.half_lstm
            if self.level == "O2" and not isinstance(module, CRF):
                self._cast(module)
        for name, weight in model.named_parameters():
            same = weight.dtype is torch.float32
            self.weights[name] = (weight, weight if same else masters[name].requires_grad_(weight.requires_grad))

    def _cast(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM) and not self.half_lstm:
            return
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.to(self.dtype)
        if isinstance(module, nn.LSTM):
            module.flatten_parameters()  # one block of memory, as cuDNN wants it

    def trained(self) -> list[Tensor]:
        """The float32 weights that an optimiser steps."""
        return [master for _, master in self.weights.values() if master.requires_grad]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.level == "O1":
            return torch.autocast(self.device.type, dtype=self.dtype)
        return contextlib.nullcontext()

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer, *, clip_norm: float) -> Tensor:
        """Backward, mean over ranks, clip, step. Returns the gradient norm before clipping, infinite where the step
        was skipped.

        The host waits for nothing here.
        """
        self.clear()
        self.backward(loss)
        average(self.gradients())
        return self.update(optimizer, clip_norm=clip_norm)

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for weight, master in self.weights.values():
            weight.grad = master.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients of the weights that the model computes with, scaled."""
        (loss if self.loss_scale is None else loss * self.loss_scale.scale).backward()  # type: ignore[no-untyped-call]

    def gradients(self) -> list[Tensor]:
        """What was gathered since the last `clear`."""
        return [weight.grad for weight, _ in self.weights.values() if weight.grad is not None]

    def update(self, optimizer: torch.optim.Optimizer, *, clip_norm: float) -> Tensor:
        """Clip those gradients and step, unless they have overflowed; as `step` returns."""
        for weight, master in self.weights.values():
            if master is not weight and weight.grad is not None:
                master.grad, weight.grad = weight.grad.float(), None
        if self.loss_scale is None:
            norm = nn.utils.clip_grad_norm_(self.trained(), clip_norm)
            optimizer.step()
        else:
            overflow = self.loss_scale.unscale([w.grad for w in self.trained() if w.grad is not None]) > 0
            norm = nn.utils.clip_grad_norm_(self.trained(), clip_norm)
            _step_unless(overflow, optimizer)
            norm = torch.where(overflow, torch.inf, norm)
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


@torch.no_grad()
def _step_unless(overflow: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step, and where `overflow` (bool, ()) holds put back all that the step changed."""
    before = {id(tensor): tensor.clone() for tensor in _iter_changing(optimizer)}
    optimizer.step()
    for tensor in _iter_changing(optimizer):
        old = before.get(id(tensor))  # none of the moments before the first step, which makes them: they were 0
        torch.where(overflow, torch.zeros_like(tensor) if old is None else old, tensor, out=tensor)


def _iter_changing(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """The weights that `optimizer` steps, and its state of them."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            yield weight
            state = optimizer.state.get(weight, {})
            yield from (value for value in state.values() if isinstance(value, Tensor))
