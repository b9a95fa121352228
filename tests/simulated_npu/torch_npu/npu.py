"""The module `torch.npu`: devices, settings, seeds and memory, as far as a trainer calls them.

Environment: ASCEND_RT_VISIBLE_DEVICES as on a real machine; SIMULATED_NPU_COUNT devices where it is not set (8);
SIMULATED_NPU_SOC, the chip (Ascend910B3; Ascend910A knows no bfloat16). `log` holds what was called, for tests.
"""

import contextlib
import os
import types

import torch


class _Config:
    """torch.npu.config: settings that can be made and not read, as in torch_npu."""

    def __init__(self, log):
        object.__setattr__(self, "_log", log)

    def __setattr__(self, name, value):
        self._log.append((f"config.{name}", value))

    def __getattr__(self, name):
        raise AttributeError(f"module 'torch.npu.config' has no attribute {name!r}")


class Npu(types.ModuleType):
    """Only one device has an index at the level of tensors: 0, as a worker of Ray sees it."""

    def __init__(self):
        super().__init__("torch.npu")
        self.log = []
        self.config = _Config(self.log)
        self.amp = types.SimpleNamespace(
            autocast=lambda enabled=True, dtype=torch.float16, cache_enabled=True: torch.autocast(
                "npu", dtype, enabled, cache_enabled
            ),
            GradScaler=lambda **settings: torch.amp.GradScaler("npu", **settings),
        )
        self._current = 0
        self._allocated = 0

    def is_available(self):
        return self.device_count() > 0

    def is_initialized(self):
        return True

    def _lazy_init(self):
        pass

    def _is_in_bad_fork(self):
        return False

    def device_count(self):
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
        if visible is not None:
            return len([device for device in visible.split(",") if device])
        return int(os.environ.get("SIMULATED_NPU_COUNT", "8"))

    def current_device(self):
        return self._current

    def set_device(self, device):
        index = device if isinstance(device, int) else torch.device(device).index or 0
        if not 0 <= index < self.device_count():
            raise RuntimeError(f"SetDevice: device {index}, {self.device_count()} visible. error code is 107001")
        self.log.append(("set_device", index))
        self._current = index

    @contextlib.contextmanager
    def device(self, device):
        before = self._current
        if device is not None and device != -1:
            self._current = device if isinstance(device, int) else torch.device(device).index or 0
        try:
            yield
        finally:
            self._current = before

    def synchronize(self, device=None):
        self.log.append(("synchronize", device))

    def set_compile_mode(self, jit_compile=False):
        self.log.append(("set_compile_mode", jit_compile))

    def manual_seed(self, seed):
        self.log.append(("manual_seed", seed))

    def manual_seed_all(self, seed):
        """Random numbers come from the CPU's generator: the same as there."""
        self.log.append(("manual_seed_all", seed))

    def get_rng_state(self, device="npu"):
        return torch.default_generator.get_state()

    def set_rng_state(self, state, device="npu"):
        torch.default_generator.set_state(state)

    def _soc(self):
        return os.environ.get("SIMULATED_NPU_SOC", "Ascend910B3")

    def get_device_name(self, device=None):
        return f"{self._soc()} (simulated)"

    def is_bf16_supported(self, including_emulation=False):
        return self._soc() != "Ascend910A"

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.float32, *([torch.bfloat16] if self.is_bf16_supported() else [])]

    def empty_cache(self):
        self.log.append(("empty_cache",))

    def memory_allocated(self, device=None):
        return 0

    def max_memory_allocated(self, device=None):
        """A simulated device has no memory of its own: the largest size of the process."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def reset_peak_memory_stats(self, device=None):
        self.log.append(("reset_peak_memory_stats", device))
