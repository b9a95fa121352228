"""The module `torch.npu.amp`: autocast, and the GradScaler of torch_npu, which unlike torch's can be static."""

import torch


class autocast(torch.autocast):
    """torch.autocast("npu")."""

    def __init__(self, enabled=True, dtype=torch.float16, cache_enabled=True):
        super().__init__("npu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
    """With `dynamic=False` it divides by a scale that never changes, looks for no overflow and skips no step."""

    def __init__(
        self,
        init_scale=2.0**16,
        growth_factor=2.0,
        backoff_factor=0.5,
        growth_interval=2000,
        dynamic=True,
        enabled=True,
    ):
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)
        self._dynamic = dynamic

    def _unscale_grads_(self, optimizer, inv_scale, found_inf, allow_fp16):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        if not allow_fp16 and any(grad.dtype is torch.float16 for grad in grads):
            raise TypeError("Attempting to unscale FP16 gradients.")
        if self._dynamic:
            return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        with torch.no_grad():
            for grad in grads:
                grad.mul_(inv_scale)
        return {found_inf.device: found_inf}

    def update(self, new_scale=None):
        growth_factor, backoff_factor = self._growth_factor, self._backoff_factor
        if not self._dynamic and self._enabled:
            self._growth_factor = self._backoff_factor = 1.0
        try:
            super().update(new_scale)
        finally:
            self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
