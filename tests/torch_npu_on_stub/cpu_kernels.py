"""CPU kernels below the real torch_npu, whose memory is host memory on the stub.

Everything of torch_npu above its kernels stays in force: allocator, device guard, autocast tables, dispatch, Python
patches. `kernels_of_the_wheel` remembers what torch_npu itself registers: an operator that is not in it would fall back
to the CPU on a real device, or fail.
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

kernels_of_the_wheel = {
    name.removeprefix("aten::")
    for name in torch._C._dispatch_get_registrations_for_dispatch_key(KEY)
    if name.startswith("aten::")
}


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
    return on_host.call(op, args, kwargs, to_npu=to_npu)


def _to_copy(tensor, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None):
    on_host.record("_to_copy", (tensor,))
    to_device = torch.device(device or tensor.device).type == "npu"
    if not to_device:
        on_host.note_wait("copy to the host")
    result = torch.ops.aten._to_copy(on_host.to_host(tensor), dtype=dtype, memory_format=memory_format)
    return to_npu(result) if to_device else result.clone()


def install() -> torch.library.Library:
    """Replace torch_npu's kernels; the library must be kept."""
    library = torch.library.Library("aten", "IMPL")
    on_host.to_npu = to_npu  # for the LSTM, which labels its results itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch names every kernel that is overridden
        for name in sorted(kernels_of_the_wheel):
            base, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
            if op is None or name.startswith(KEPT) or on_host.is_view(op):
                continue
            library.impl(name, functools.partial(_kernel, op), KEY, allow_override=True)
        library.impl("copy_", on_host.copy_, KEY, allow_override=True)
        library.impl("_to_copy", _to_copy, KEY, allow_override=True)
        for key in (KEY, "AutogradPrivateUse1"):
            library.impl("lstm.input", on_host.lstm_input, key, allow_override=True)
    return library


library = install()
torch_npu.trace = on_host.trace
