"""CPU kernels below the real torch_npu, whose memory is host memory on the stub.

Everything of torch_npu above its kernels stays in force: allocator, device guard, autocast tables, dispatch, Python
patches. What torch_npu registers no kernel for, and torch does not put together from others, it leaves to the CPU: the
trace has that as a wait, as it has whatever else a real device would make the host wait for.
"""

import functools
import importlib.util
import warnings
from pathlib import Path

import torch
import torch_npu

_path = Path(__file__).parents[1] / "simulated_npu" / "on_host.py"
_spec = importlib.util.spec_from_file_location("on_host", _path)
on_host = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(on_host)

KEY = "PrivateUse1"
KEPT = ("empty", "new_empty", "set_", "resize_", "record_stream", "is_pinned", "_pin_memory", "detach")
"""What only handles memory stays torch_npu's own."""

MASKABLE = {"index", "index_put", "index_put_", "_index_put_impl_"}
WAITING = {"bincount", "repeat_interleave"}
"""Besides on_host.WAITING: what makes results of a size that only the device knows."""


def _kernel_for_npu(name):
    """What the dispatcher takes for an npu tensor: [kernel], one that torch puts together, or [backend fallback]."""
    return next(line for line in torch._C._dispatch_dump_table(name).splitlines() if line.startswith(f"{KEY}:"))


_operators = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")}
_found = {name.removeprefix("aten::"): _kernel_for_npu(name) for name in _operators}
kernels_of_the_wheel = {name for name, found in _found.items() if "RegisterNPU.cpp" in found}
left_to_the_cpu = {name for name, found in _found.items() if found.endswith("[backend fallback]")}


def to_npu(value):
    """Copies into memory that torch_npu allocates."""
    if isinstance(value, (list, tuple)):
        return type(value)(to_npu(item) for item in value)
    if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
        return value
    result = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="npu")
    on_host.to_host(result).copy_(value)
    return result


def _kernel(op, *args, **kwargs):
    name = op._schema.name.removeprefix("aten::")
    masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)] if name in MASKABLE else []
    if masks or name in WAITING:
        on_host.note_wait(f"{name} by a mask" if masks else name)
    return on_host.call(op, args, kwargs, to_npu=to_npu)


def _left_to_the_cpu(op, *args, **kwargs):
    on_host.note_wait(f"{op} is left to the CPU")
    return on_host.call(op, args, kwargs, to_npu=to_npu)


def _note_blocking(source_on_host, non_blocking):
    if source_on_host and not non_blocking:
        on_host.note_wait("copy to the device")  # torch_npu empties the stream first


def _to_copy(tensor, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None):
    on_host.record("_to_copy", (tensor,))
    to_device = torch.device(device or tensor.device).type == "npu"
    if to_device:
        _note_blocking(tensor.is_cpu, non_blocking)
    else:
        on_host.note_wait("copy to the host")
    result = torch.ops.aten._to_copy(on_host.to_host(tensor), dtype=dtype, memory_format=memory_format)
    return to_npu(result) if to_device else result.clone()


def _copy_(target, source, non_blocking=False):
    if not target.is_cpu:
        _note_blocking(source.is_cpu, non_blocking)
    return on_host.copy_(target, source, non_blocking)


def install() -> torch.library.Library:
    """Replace torch_npu's kernels; the library must be kept."""
    library = torch.library.Library("aten", "IMPL")
    on_host.to_npu = to_npu  # for the LSTM, which labels its results itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch names every kernel that is overridden
        for name in sorted(kernels_of_the_wheel | left_to_the_cpu):
            base, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
            if op is None or name.startswith(KEPT) or on_host.is_view(op):
                continue
            kernel = _left_to_the_cpu if name in left_to_the_cpu else _kernel
            library.impl(name, functools.partial(kernel, op), KEY, allow_override=True)
        library.impl("copy_", _copy_, KEY, allow_override=True)
        library.impl("_to_copy", _to_copy, KEY, allow_override=True)
        for key in (KEY, "AutogradPrivateUse1"):
            library.impl("lstm.input", on_host.lstm_input, key, allow_override=True)
    return library


library = install()
torch_npu.trace = on_host.trace
