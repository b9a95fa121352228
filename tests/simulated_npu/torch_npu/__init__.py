"""A stand-in for torch_npu: importing it gives torch a simulated Ascend device `npu` in host memory.

On PYTHONPATH it takes the place of the real package, so that a program that knows nothing of it runs unchanged. It
shows that the right calls are made in the right order and that the results are those of the CPU; it enforces what
Ascend devices enforce. It shows nothing of kernels, rounding, speed or HCCL itself.
"""

import functools
import sys

import on_host
import torch

from torch_npu import autocast, hccl, pinned
from torch_npu.npu import Npu

__version__ = "2.13.0+simulated"
trace = on_host.trace
_SET = torch.ops.aten.set_.source_Storage_storage_offset


def _fallback(op, *args, **kwargs):
    if on_host.is_view(op):  # metadata only: the storage is shared, and autograd sees a real view
        return op.redispatch(on_host.CPU_KEYS, *args, **kwargs)
    return on_host.call(op, args, kwargs)


def _set(tensor, storage, offset, size, stride=()):
    return _SET.redispatch(on_host.CPU_KEYS, tensor, storage, offset, size, stride)


def _resize_(tensor, size, memory_format=None):
    count = torch.Size(size).numel()
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    if count * tensor.element_size() > storage.nbytes():
        larger = torch.zeros(count, dtype=tensor.dtype)
        larger[: tensor.numel()].copy_(on_host.to_host(tensor).reshape(-1))
        storage, offset = on_host.to_npu(larger).untyped_storage(), 0
    return _set(tensor, storage, offset, size, torch.empty(size, device="meta").stride())


def _register_structured(aten):
    """Operators that torch would put together from an allocation and their out= form, which costs thrice the time.

    Not indexing: torch takes it apart, so that the host's wait for a mask's `nonzero` is counted.
    """
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("CompositeExplicitAutogradNonFunctional"):
        namespace, _, name = name.partition("::")
        base, _, overload = name.partition(".")
        if namespace == "aten" and base != "index":
            op = getattr(getattr(torch.ops.aten, base), overload or "default")
            aten.impl(name, functools.partial(_fallback, op), "PrivateUse1")


_move_storage = torch.UntypedStorage.to


def _storage_to(storage, *, device, non_blocking=False):
    """Storages cannot be allocated on a device made in Python: they arrive as relabelled tensors."""
    if torch.device(device).type != "npu":
        return _move_storage(storage, device=device, non_blocking=non_blocking)
    copy = torch.empty(0, dtype=torch.uint8).set_(storage).clone()
    return on_host.to_npu(copy).untyped_storage()


def _install():
    """Once a process; libraries must stay alive as long as it."""
    module = Npu()
    torch.utils.backend_registration._setup_privateuseone_for_python_backend("npu", backend_module=module)
    sys.modules.update({"torch.npu": module, "torch.npu.amp": module.amp})
    everything, aten, casts = (torch.library.Library(name, "IMPL") for name in ("_", "aten", "_"))
    everything.fallback(_fallback, "PrivateUse1")
    aten.impl("set_.source_Storage_storage_offset", _set, "PrivateUse1")
    aten.impl("set_.source_Storage", lambda t, s: _set(t, s, 0, (s.nbytes() // t.element_size(),)), "PrivateUse1")
    aten.impl(
        "set_.source_Tensor",
        lambda t, s: _set(t, s.untyped_storage(), s.storage_offset(), s.shape, s.stride()),
        "PrivateUse1",
    )
    aten.impl("resize_", _resize_, "PrivateUse1")
    aten.impl("copy_", on_host.copy_, "PrivateUse1")
    for key in ("AutogradPrivateUse1", "PrivateUse1"):
        aten.impl("lstm.input", on_host.lstm_input, key)
        aten.impl("lstm.data", on_host.lstm_packed, key)
    _register_structured(aten)
    pinned.register(aten)
    autocast.register(aten, casts)
    torch.UntypedStorage.to = _storage_to
    hccl.register(module.log)
    module._libraries = (everything, aten, casts)
    return module


npu = sys.modules.get("torch.npu") or _install()
