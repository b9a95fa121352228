"""npu | cuda | cpu in one table: Ray resource, collective backend, half precisions, padded lengths; and the few calls
that differ between them. The only file that imports torch_npu, and only when the device is npu.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class AcceleratorError(RuntimeError):
    """A device that this machine or cluster does not have, or cannot use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """How Ray and torch call one kind of device."""

    name: str
    resource: str
    """Ray resource that a worker claims"""
    backend: str
    """collective backend of torch.distributed"""
    visible_devices: str | None
    """environment variable that restricts a process to some devices"""
    default_level: str
    """precision level where the user names none"""
    padded_lengths: int
    """how many lengths batches are padded to: few where each new shape compiles, many where padding costs"""


ACCELERATORS = {
    "npu": Accelerator(
        name="npu",
        resource="NPU",
        backend="hccl",
        visible_devices="ASCEND_RT_VISIBLE_DEVICES",
        default_level="O2",
        padded_lengths=8,
    ),
    "cuda": Accelerator(
        name="cuda",
        resource="GPU",
        backend="nccl",
        visible_devices="CUDA_VISIBLE_DEVICES",
        default_level="O2",
        padded_lengths=8,
    ),
    "cpu": Accelerator(
        name="cpu",
        resource="CPU",
        backend="gloo",
        visible_devices=None,
        default_level="O0",
        padded_lengths=32,
    ),
}


def choose(device: str, resources: Mapping[str, float]) -> Accelerator:
    """The accelerator for `device`; `auto`: the first of npu, cuda, cpu of which `resources` has any."""
    if device != "auto":
        return ACCELERATORS[device]
    return next((a for a in ACCELERATORS.values() if resources.get(a.resource, 0) >= 1), ACCELERATORS["cpu"])


def load(accelerator: Accelerator) -> Any:
    """The module `torch.npu` or `torch.cuda`, None for cpu. Raises AcceleratorError with what is missing."""
    if accelerator.name == "npu":
        _import_torch_npu()
    module = getattr(torch, accelerator.name) if accelerator.name != "cpu" else None
    if module is not None and not module.is_available():
        wants = "npu-smi info" if accelerator.name == "npu" else "nvidia-smi"
        raise AcceleratorError(
            f"torch sees no {accelerator.name} device on this machine: check `{wants}`"
            f" and {accelerator.visible_devices}"
        )
    return module


def _import_torch_npu() -> None:
    if importlib.util.find_spec("torch_npu") is None:
        raise AcceleratorError("torch_npu is not installed: pip install 'ray_bilstm[npu]'")
    try:
        import torch_npu  # noqa: F401
    except Exception as error:  # ImportError, RuntimeError and bare Exception are all raised without CANN
        raise AcceleratorError(
            f"torch_npu cannot load: {error}. Is CANN installed? source <CANN directory>/set_env.sh"
        ) from error


def worker_device(accelerator: Accelerator) -> torch.device:
    """The device of this process: Ray shows each worker its own, so it has index 0. Made current."""
    module = load(accelerator)
    if module is None:
        return torch.device("cpu")
    device = torch.device(accelerator.name, 0)
    module.set_device(device)
    return device


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def device_name(device: torch.device) -> str:
    """The name of the hardware, as the maker writes it."""
    if device.type != "cpu":
        return str(getattr(torch, device.type).get_device_name(device))
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has held: on the device, or resident for cpu."""
    if device.type != "cpu":
        return int(getattr(torch, device.type).max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def half_dtype(accelerator: Accelerator, requested: str) -> torch.dtype:
    """The half precision of O1 and O2. Raises AcceleratorError where the device lacks the requested one.

    CPUs compute bfloat16; float16 there is refused by the LSTM kernels or 20 times slower than float32.
    """
    if accelerator.name == "cpu":
        has_bfloat16, has_float16 = True, False
    else:
        has_bfloat16, has_float16 = bool(load(accelerator).is_bf16_supported()), True
    if requested == "auto":
        return torch.bfloat16 if has_bfloat16 and accelerator.name != "npu" else torch.float16
    if not (has_bfloat16 if requested == "bfloat16" else has_float16):
        other = "bfloat16" if has_bfloat16 else "float16"
        raise AcceleratorError(f"{requested} is not to be had on this {accelerator.name}: use --amp-dtype {other}")
    return torch.float16 if requested == "float16" else torch.bfloat16
