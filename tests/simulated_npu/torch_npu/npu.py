"""The module `torch.npu`: devices, settings, seeds and memory, as far as a trainer calls them.

Names and signatures are those of torch_npu 2.13.0; what it lacks is not here. Environment: ASCEND_RT_VISIBLE_DEVICES as
on a real machine; SIMULATED_NPU_COUNT devices where it is not set (8); SIMULATED_NPU_SOC, the chip (Ascend910B3;
Ascend910A knows no bfloat16). `log` holds what was called, for tests.
"""

import contextlib
import os
import resource
import types

import torch

from torch_npu import amp

MEMORY_BYTES = 64 * 2**30
SETTINGS = ("allow_internal_format",)


class _Config:
    """torch.npu.config: settings that can be made and not read, as in torch_npu."""

    def __init__(self, log):
        object.__setattr__(self, "_log", log)

    def __setattr__(self, name, value):
        if name in SETTINGS:
            self._log.append((f"config.{name}", value))

    def __getattr__(self, name):
        raise AttributeError(f"'_npuConfig' object has no attribute {name!r}")


class Npu(types.ModuleType):
    """Only one device has an index at the level of tensors: 0, as a worker of Ray sees it."""

    amp = amp

    def __init__(self):
        super().__init__("torch.npu")
        self.log = []
        self.config = _Config(self.log)
        self._current = 0
        self._initialized = False

    def is_available(self):
        return self.device_count() > 0

    def init(self):
        self._lazy_init()

    def is_initialized(self):
        return self._initialized

    def _lazy_init(self):
        """torch calls it too, before the first tensor of the device."""
        self._initialized = True

    def _is_in_bad_fork(self):
        return False

    def device_count(self):
        visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
        if visible is not None:
            return len([device for device in visible.split(",") if device])
        return int(os.environ.get("SIMULATED_NPU_COUNT", "8"))

    def current_device(self):
        self._lazy_init()
        return self._current

    def _index(self, device):
        index = device if device is None or isinstance(device, int) else torch.device(device).index
        return self._current if index is None else index

    def _known_index(self, device):
        index = self._index(device)
        if not 0 <= index < self.device_count():
            raise AssertionError("Invalid device id")
        return index

    def set_device(self, device):
        index = self._index(device)
        if index < 0:  # torch_npu does nothing
            return
        if index >= self.device_count():
            raise RuntimeError(
                "SetDevice: NPU function error: c10_npu::SetDevice(device), error code is 107001"
                f"\n[Error]: Invalid device ID {index} of {self.device_count()} visible (simulated)."
            )
        self._lazy_init()
        self.log.append(("set_device", index))
        self._current = index

    @contextlib.contextmanager
    def device(self, device):
        before = self._current
        index = self._index(device)
        self._current = index if index >= 0 else before
        try:
            yield
        finally:
            self._current = before

    def synchronize(self, device=None):
        self._lazy_init()
        self.log.append(("synchronize", device))

    def set_compile_mode(self, jit_compile=False):
        self.log.append(("set_compile_mode", jit_compile))

    def manual_seed(self, seed):
        """Random numbers come from the CPU's generator: the same as there."""
        self.log.append(("manual_seed", seed))
        torch.default_generator.manual_seed(int(seed))

    def manual_seed_all(self, seed):
        """torch.manual_seed calls it too."""
        self.log.append(("manual_seed_all", seed))
        torch.default_generator.manual_seed(int(seed))

    def initial_seed(self):
        return torch.default_generator.initial_seed()

    def get_rng_state(self, device="npu"):
        self._lazy_init()
        return torch.default_generator.get_state()

    def set_rng_state(self, new_state, device="npu"):
        torch.default_generator.set_state(new_state)

    def _soc(self):
        return os.environ.get("SIMULATED_NPU_SOC", "Ascend910B3")

    def get_device_name(self, device_name=None):
        self._known_index(device_name)
        return f"{self._soc()} (simulated)"

    def is_bf16_supported(self, including_emulation=False):
        self._lazy_init()
        return not self._soc().startswith("Ascend910A")

    def get_amp_supported_dtype(self):
        bfloat16 = [torch.bfloat16] if self.is_bf16_supported() else []
        return [torch.float16, *bfloat16, torch.float32]

    def empty_cache(self):
        self.log.append(("empty_cache",))

    def mem_get_info(self, device=None):
        """(free, total); nothing is counted."""
        self._known_index(device)
        return MEMORY_BYTES, MEMORY_BYTES

    def memory_allocated(self, device=None):
        return 0

    def memory_reserved(self, device=None):
        return 0

    def max_memory_allocated(self, device=None):
        """A simulated device has no memory of its own: the largest size of the process, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def max_memory_reserved(self, device=None):
        return self.max_memory_allocated(device)

    def reset_peak_memory_stats(self, device=None):
        self.log.append(("reset_peak_memory_stats", device))
