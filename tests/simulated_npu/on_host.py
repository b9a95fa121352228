"""Operators of npu tensors, run on the CPU. Nothing happens at import.

A tensor of a simulated NPU is host memory under another label: DLPack hands the same bytes out as a CPU tensor, and
back, without a copy. So every ATen operator that reaches the device is run by its CPU kernel on aliases of its
arguments. What an Ascend device would make of the calls is recorded on the way: operators, shapes, waits of the host.
"""

import collections
import contextlib
import ctypes
import functools

import torch

CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
DL_CPU, DL_EXTENSION = 1, 12
"""Device types of the DLPack specification (dlpack.h): kDLCPU, kDLExtDev."""

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique", "_unique2", "unique_dim"}
"""Operators whose result decides what the host does next, so that it waits for the device."""


DEVICE_TYPE_OFFSET = ctypes.sizeof(ctypes.c_void_p)
"""A DLTensor begins with the address of its data; device type and index follow. The index is 0 on both sides."""

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def relabel(tensor, device_type):
    """The same memory as a tensor of another device."""
    capsule = torch._C._to_dlpack(tensor)
    ctypes.c_int32.from_address(_pointer(capsule, b"dltensor") + DEVICE_TYPE_OFFSET).value = device_type
    return torch._C._from_dlpack(capsule)


def to_host(value):
    """An alias in host memory of an npu tensor, of those in lists and tuples too; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value if value.is_cpu else relabel(value, DL_CPU)
    if isinstance(value, (list, tuple)):
        return type(value)(to_host(item) for item in value)
    return value


def to_npu(value):
    """The other way round."""
    if isinstance(value, torch.Tensor):
        return relabel(value, DL_EXTENSION) if value.is_cpu else value
    if isinstance(value, (list, tuple)):
        return type(value)(to_npu(item) for item in value)
    return value


class Trace:
    """What a device would have been given."""

    def __init__(self):
        self.ops = collections.Counter()
        self.shapes = collections.Counter()
        """(operator, shapes of its tensors): each is compiled or looked up anew"""
        self.waits = collections.Counter()
        """operators and copies for which the host waits"""
        self.copies = collections.Counter()
        """copies `to the device`, `to the host`, `on the device`"""
        self.lstms = []
        """dtype, layers, directions, dropout and shape of each LSTM"""

    def record(self, name, args):
        shapes = []
        for arg in args:
            for item in arg if isinstance(arg, (list, tuple)) else (arg,):
                if isinstance(item, torch.Tensor):
                    shapes.append(tuple(item.shape))
        self.ops[name] += 1
        self.shapes[name, tuple(shapes)] += 1
        if name in WAITING:
            self.waits[name] += 1


TRACES = []


@contextlib.contextmanager
def trace():
    """Record what happens inside."""
    TRACES.append(Trace())
    try:
        yield TRACES[-1]
    finally:
        TRACES.pop()


def record(name, args):
    for one in TRACES:
        one.record(name, args)


def note_wait(what):
    for one in TRACES:
        one.waits[what] += 1


@functools.cache
def _facts(op):
    """What the schema of an operator says: is it a view, what does it return, what does it write, what is out=."""
    schema = op._schema
    views = bool(schema.returns) and all(r.alias_info and not r.alias_info.is_write for r in schema.returns)
    in_place = bool(schema.returns) and any(r.alias_info and r.alias_info.is_write for r in schema.returns)
    written = [(i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
    outs = [a.name for a in schema.arguments if a.is_out]
    return schema.name.removeprefix("aten::"), views, in_place, written, outs, len(schema.returns)


def is_view(op):
    return _facts(op)[1]


def call(op, args, kwargs, *, to_npu=to_npu):
    """Run an operator that is not a view on the CPU. `to_npu` makes its results tensors of the device."""
    name, _, in_place, written, outs, returns = _facts(op)
    record(name, args)
    on_npu = True
    if kwargs.get("device") is not None:
        on_npu = torch.device(kwargs["device"]).type == "npu"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    host_args = [to_host(arg) for arg in args]
    host_kwargs = {key: to_host(value) for key, value in kwargs.items()}
    if outs:
        return _call_out(op, outs, kwargs, host_args, host_kwargs)
    result = op(*host_args, **host_kwargs)
    if not returns:
        return None
    if in_place:  # hand back the caller's own tensors
        values = [kwargs[key] if key in kwargs else args[i] for i, key in written]
        return values[0] if returns == 1 else tuple(values[:returns])
    return to_npu(result) if on_npu else result


def _call_out(op, outs, kwargs, host_args, host_kwargs):
    """out=: written in place; where the CPU kernel has to resize it, to a tensor of its own that is copied back.

    Such a kernel cannot enlarge an alias: it raises before it writes.
    """
    targets = {
        key: host_kwargs[key] if kwargs[key].numel() else torch.empty(0, dtype=kwargs[key].dtype) for key in outs
    }
    try:
        op(*host_args, **{**host_kwargs, **targets})
    except RuntimeError as error:
        if "resize" not in str(error):
            raise
        targets = {key: torch.empty(0, dtype=kwargs[key].dtype) for key in outs}
        op(*host_args, **{**host_kwargs, **targets})
    for key, target in targets.items():
        if kwargs[key].shape != target.shape:
            kwargs[key].resize_(target.shape)
        if target is not host_kwargs[key]:
            to_host(kwargs[key]).copy_(target)
    return kwargs[outs[0]] if len(outs) == 1 else tuple(kwargs[key] for key in outs)


def copy_(target, source, non_blocking=False):
    """Tensor.copy_ between the host and the device, or on it."""
    record("copy_", (target, source))
    way = "to the host" if target.is_cpu else "to the device" if source.is_cpu else "on the device"
    for one in TRACES:
        one.copies[way] += 1
    if target.is_cpu:
        note_wait("copy to the host")
    to_host(target).copy_(to_host(source))
    return target


class _Lstm(torch.autograd.Function):
    """aten::lstm.input as one operator of the device with a backward of its own, as in torch_npu."""

    @staticmethod
    def forward(ctx, settings, inputs, *rest):
        states, has_biases = settings[:2]
        ctx.leaves = [to_host(t.detach()).detach().requires_grad_(True) for t in (inputs, *rest)]
        with torch.enable_grad():
            x, *others = ctx.leaves
            ctx.results = torch.ops.aten.lstm.input(x, others[:states], others[states:], has_biases, *settings[2:])
        return tuple(to_npu(result.detach().contiguous()) for result in ctx.results)

    @staticmethod
    def backward(ctx, *grads):
        pairs = zip(grads, ctx.results, strict=True)
        host = [torch.zeros_like(result) if grad is None else to_host(grad) for grad, result in pairs]
        found = torch.autograd.grad(ctx.results, ctx.leaves, host, allow_unused=True, retain_graph=True)
        return None, *(None if grad is None else to_npu(grad.contiguous()) for grad in found)


def lstm_input(inputs, states, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    """nn.LSTM on padded sentences. torch_npu lets the weights follow the precision of the input."""
    params = [param.to(inputs.dtype) for param in params]
    states = [state.to(inputs.dtype) for state in states]
    record("lstm", (inputs,))
    for one in TRACES:
        one.lstms.append(
            {
                "dtype": inputs.dtype,
                "num_layers": num_layers,
                "bidirectional": bidirectional,
                "dropout": dropout,
                "shape": tuple(inputs.shape),
            }
        )
    settings = (len(states), has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return _Lstm.apply(settings, inputs, *states, *params)


def lstm_packed(*args, **kwargs):
    """nn.LSTM on a PackedSequence."""
    raise NotImplementedError("PackedSequence on npu: torch_npu would wait for the device once a row; pad instead")
