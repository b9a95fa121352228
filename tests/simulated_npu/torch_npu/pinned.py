"""Pinned memory, which a device made in Python cannot allocate: ordinary memory in its place.

The memory of the device is that of the host, so all of it is as good as pinned, and says so.
DistributedDataParallel asks for some with static_graph and find_unused_parameters, loaders with pin_memory.
"""

import functools
import warnings

import torch

ALLOCATIONS = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default)


@functools.cache
def _keys(device_type):
    return torch._C.DispatchKeySet(torch._C._parse_dispatch_key(torch._C._dispatch_key_for_device(device_type)))


def _allocate(op, *args, device=None, pin_memory=None, **kwargs):
    """On any device: this stands where torch selects one, before it calls a kernel."""
    return op.redispatch(_keys("cpu" if device is None else device.type), *args, device=device, **kwargs)


def register(aten):
    """Warnings are about kernels of torch's that these replace."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        for op in ALLOCATIONS:
            name = op._schema.name.removeprefix("aten::") + f".{op._schema.overload_name}".rstrip(".")
            aten.impl(name, functools.partial(_allocate, op), "BackendSelect", allow_override=True)
        aten.impl("_pin_memory", lambda tensor, device=None: tensor.clone(), "CPU", allow_override=True)
        aten.impl("is_pinned", lambda tensor, device=None: True, "CPU", allow_override=True)
