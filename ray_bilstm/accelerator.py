"""npu | cuda | cpu in one table: Ray resource, collective backend, precisions, shapes, settings; and the few calls that
differ between them. The only file that imports torch_npu, and only when the device is npu.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
import os
import platform
import resource
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


class AcceleratorError(RuntimeError):
    """A device that this machine or cluster does not have, or cannot use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """How Ray and torch call one kind of device, and what it wants."""

    name: str
    resource: str
    """Ray resource of which a worker claims one (of CPU: a share)"""
    backend: str
    """collective backend of torch.distributed"""
    visible_devices: str | None
    """environment variable that restricts a process to some devices"""
    default_level: str
    """precision level where the user names none"""
    padded_lengths: int | None
    """how many lengths batches are padded to, where each new shape costs; None: each to its longest sentence"""
    fixed_shapes: bool
    """whether batches of few sentences are filled up with padding rows, so that a length has one shape"""
    half_lstm: bool
    """whether the LSTM is computed in half precision at O1 and O2 where the user does not say"""
    environment: Mapping[str, str]
    """variables of a worker process that the user has not set; read when the device is first used"""


ACCELERATORS = {
    "npu": Accelerator(
        name="npu",
        resource="NPU",
        backend="hccl",
        visible_devices="ASCEND_RT_VISIBLE_DEVICES",
        default_level="O2",
        padded_lengths=8,
        fixed_shapes=True,
        half_lstm=False,  # torch_npu documents nn.LSTM for float32 only
        environment={
            "HCCL_CONNECT_TIMEOUT": "300",  # seconds that a rank waits for the others; must be the same on all
            "HCCL_WHITELIST_DISABLE": "1",
            "TASK_QUEUE_ENABLE": "2",  # kernels are launched, and their workspace is claimed, by a second thread
        },
    ),
    "cuda": Accelerator(
        name="cuda",
        resource="GPU",
        backend="nccl",
        visible_devices="CUDA_VISIBLE_DEVICES",
        default_level="O2",
        padded_lengths=32,
        fixed_shapes=True,  # so that a step is recorded once for each length
        half_lstm=True,
        environment={},
    ),
    "cpu": Accelerator(
        name="cpu",
        resource="CPU",
        backend="gloo",
        visible_devices=None,
        default_level="O0",
        padded_lengths=None,
        fixed_shapes=False,
        half_lstm=True,
        environment={},
    ),
}


def choose(device: str, resources: Mapping[str, float]) -> Accelerator:
    """The accelerator for `device`; `auto`: the first of npu, cuda, cpu of which `resources` has any."""
    if device != "auto":
        return ACCELERATORS[device]
    return next((a for a in ACCELERATORS.values() if resources.get(a.resource, 0) >= 1), ACCELERATORS["cpu"])


def load(accelerator: Accelerator) -> Any:
    """The module `torch.npu` or `torch.cuda`, None for cpu. Raises AcceleratorError with what is missing."""
    if accelerator.name == "cpu":
        return None
    if accelerator.name == "npu":
        _import_torch_npu()
    module = getattr(torch, accelerator.name)
    if not module.is_available():
        wants = "npu-smi info" if accelerator.name == "npu" else "nvidia-smi"
        visible = f"{accelerator.visible_devices}={os.environ.get(accelerator.visible_devices or '', '(not set)')}"
        raise AcceleratorError(
            f"torch sees no {accelerator.name} device on this machine: check `{wants}` and {visible}"
        )
    return module


def _import_torch_npu() -> None:
    if importlib.util.find_spec("torch_npu") is None:
        raise AcceleratorError("torch_npu is not installed: pip install 'ray_bilstm[npu]'")
    try:
        import torch_npu  # noqa: F401
    except Exception as error:  # ImportError, RuntimeError and bare Exception are all raised without CANN
        raise AcceleratorError(
            f"torch_npu cannot load ({error}): install CANN, and in the shell that starts Ray"
            " `source /usr/local/Ascend/ascend-toolkit/set_env.sh`"
        ) from error


def worker_device(accelerator: Accelerator, assigned: Sequence[str] = ()) -> torch.device:
    """The device of this process, made current; the environment and settings it wants are made first.

    `assigned`: the device ids that Ray gave this worker. torch counts the devices that the process sees: usually that
    one alone, index 0; all of them where Ray was told not to restrict its workers.
    """
    for variable, value in accelerator.environment.items():
        os.environ.setdefault(variable, value)
    module = load(accelerator)
    if module is None:
        return torch.device("cpu")
    device = torch.device(accelerator.name, _visible_index(accelerator, assigned))
    module.set_device(device)
    if accelerator.name == "npu":
        module.set_compile_mode(jit_compile=False)  # ready-made kernels, also for a shape not seen before
        module.config.allow_internal_format = False
    return device


def _visible_index(accelerator: Accelerator, assigned: Sequence[str]) -> int:
    visible = os.environ.get(accelerator.visible_devices or "")
    if not assigned:
        return 0
    if visible is None:
        return int(assigned[0])
    if assigned[0] not in visible.split(","):
        raise AcceleratorError(
            f"Ray assigned {accelerator.resource} {assigned[0]}, but {accelerator.visible_devices}={visible}"
            " hides it from this worker: let Ray set it"
        )
    return visible.split(",").index(assigned[0])


def has_kernels(device: torch.device) -> bool:
    """Whether our kernels run there, which are written in Triton; torch operations do elsewhere."""
    return device.type == "cuda" and _has_triton()


@functools.cache
def _has_triton() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        from triton.runtime import driver

        driver.active.get_current_device()  # for this, Triton compiles what launches kernels
    except Exception as error:  # RuntimeError, CalledProcessError and others
        warnings.warn(
            f"Triton cannot build kernels here ({error}): torch operations stand in for them, at several times the"
            " time. It wants a C compiler (CC, gcc or clang) and the headers of Python",
            stacklevel=2,
        )
        return False
    return True


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def random_state(device: torch.device) -> torch.Tensor:
    """Where the random numbers of this process stand, on the host and on `device`: bytes."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(getattr(torch, device.type).get_rng_state(device))
    return torch.cat(states)


def set_random_state(state: torch.Tensor, device: torch.device) -> None:
    """Have them go on where `random_state` found them."""
    host = len(torch.get_rng_state())
    torch.set_rng_state(state[:host].clone())
    if device.type != "cpu":
        getattr(torch, device.type).set_rng_state(state[host:].clone(), device)


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


def half_dtypes(accelerator: Accelerator) -> list[torch.dtype]:
    """The half precisions that this process's device computes in, the one to prefer first; none: O0 only.

    Ascend 910A and V100 know float16 only, later ones both. NPUs prefer float16: their documentation lists more
    operators for it. CPUs compute bfloat16; float16 takes 20 times as long as float32 where there are no units for it.
    """
    if accelerator.name == "cpu":
        has_float16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()
        return [torch.bfloat16, torch.float16] if has_float16 else [torch.bfloat16]
    module = load(accelerator)
    if not module.is_bf16_supported(including_emulation=False):
        return [torch.float16]
    return [torch.float16, torch.bfloat16] if accelerator.name == "npu" else [torch.bfloat16, torch.float16]


def half_dtype(accelerator: Accelerator, requested: str) -> torch.dtype:
    """The half precision of O1 and O2. Raises AcceleratorError where the device lacks the requested one."""
    supported = half_dtypes(accelerator)
    if requested == "auto":
        return supported[0]
    dtype: torch.dtype = getattr(torch, requested)
    if dtype not in supported:
        names = " or ".join(str(known).removeprefix("torch.") for known in supported)
        raise AcceleratorError(f"{requested} is not to be had on this {accelerator.name}: use --amp-dtype {names}")
    return dtype


def half_lstm(accelerator: Accelerator, requested: str, dtype: torch.dtype, *, level: str) -> bool:
    """Whether the LSTM is computed in `dtype` too. Raises AcceleratorError where that cannot be had."""
    if accelerator.name == "npu" and requested == "half" and level == "O1":
        raise AcceleratorError(
            "autocast leaves the LSTM of an npu in float32: use --amp-opt-level O2 with --lstm-dtype half"
        )
    if accelerator.name == "cpu" and dtype is torch.float16:
        return False  # oneDNN has no float16 LSTM to train
    return accelerator.half_lstm if requested == "auto" else requested == "half"


def profiler(device: torch.device, folder: Path, *, name: str) -> AbstractContextManager[Any]:
    """A context that records operators and kernels, and at its end writes a Chrome trace called `name` to `folder`,
    which TensorBoard's profiler plug-in and Perfetto (ui.perfetto.dev) open; of an NPU a folder for MindStudio
    Insight."""
    if device.type == "npu":
        from torch_npu import profiler as profiling

        npu_handler = profiling.tensorboard_trace_handler(str(folder), worker_name=name)
        context: AbstractContextManager[Any] = profiling.profile(on_trace_ready=npu_handler)
        return context
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    handler = torch.profiler.tensorboard_trace_handler(str(folder), worker_name=name)
    return torch.profiler.profile(activities=activities, on_trace_ready=handler)


def keep_freed_memory() -> None:
    """Have the C library keep the memory that tensors on the host free, for the next ones.

    By default glibc hands large blocks back to the system at once, and each new one is mapped page by page: a quarter
    to a third of the time of a training step on a CPU. Where there is no glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
