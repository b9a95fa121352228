"""A process group named hccl: real processes, real collectives, over gloo. As HCCL does, it insists on NPU tensors.

That it refuses float64 is stricter than what is known of HCCL: devices compute little in it.
"""

import collections

import torch
import torch.distributed as dist
from on_host import to_host
from torch._C._distributed_c10d import _create_work_from_future
from torch.futures import Future


def _done(result):
    future = Future()
    future.set_result(result)
    return _create_work_from_future(future)


def _check(value):
    if isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
    elif isinstance(value, torch.Tensor):
        if value.device.type != "npu":
            raise RuntimeError(f"No backend type associated with device type {value.device.type}")
        if value.dtype is torch.float64:
            raise RuntimeError("HCCL: unsupported data type float64")


class SimulatedHccl(dist.ProcessGroup):
    """Each collective on host memory, through gloo. torch's C++ `Backend` cannot be subclassed, a ProcessGroup can."""

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        self.calls = collections.Counter()

    def _run(self, name, result, *args):
        _check(args)
        self.calls[name] += 1
        getattr(self._gloo, name)(*(to_host(arg) for arg in args)).wait()
        return _done(result)

    def allreduce(self, tensors, opts=None):
        return self._run("allreduce", tensors, tensors, opts or dist.AllreduceOptions())

    def allreduce_coalesced(self, tensors, opts=None):
        return self._run("allreduce_coalesced", tensors, tensors, opts or dist.AllreduceCoalescedOptions())

    def broadcast(self, tensors, opts=None):
        return self._run("broadcast", tensors, tensors, opts or dist.BroadcastOptions())

    def allgather(self, outputs, inputs, opts=None):
        return self._run("allgather", outputs, outputs, inputs, opts or dist.AllgatherOptions())

    def _allgather_base(self, output, inputs, opts=None):
        return self._run("_allgather_base", output, output, inputs, opts or dist.AllgatherOptions())

    all_gather_single = _allgather_base  # its name since torch 2.13

    def reduce(self, tensors, opts=None):
        return self._run("reduce", tensors, tensors, opts or dist.ReduceOptions())

    def gather(self, outputs, inputs, opts=None):
        return self._run("gather", outputs, outputs, inputs, opts or dist.GatherOptions())

    def scatter(self, outputs, inputs, opts=None):
        return self._run("scatter", outputs, outputs, inputs, opts or dist.ScatterOptions())

    def reduce_scatter(self, outputs, inputs, opts=None):
        return self._run("reduce_scatter", outputs, outputs, inputs, opts or dist.ReduceScatterOptions())

    def _reduce_scatter_base(self, output, inputs, opts=None):
        return self._run("_reduce_scatter_base", output, output, inputs, opts or dist.ReduceScatterOptions())

    reduce_scatter_single = _reduce_scatter_base

    def alltoall_base(self, output, inputs, output_sizes, input_sizes, opts=None):
        options = opts or dist.AllToAllOptions()
        return self._run("alltoall_base", output, output, inputs, output_sizes, input_sizes, options)

    all_to_all_single = alltoall_base

    def send(self, tensors, rank, tag=0):
        return self._run("send", tensors, tensors, rank, tag)

    def recv(self, tensors, rank, tag=0):
        return self._run("recv", tensors, tensors, rank, tag)

    def barrier(self, opts=None):
        return self._run("barrier", None, opts or dist.BarrierOptions())

    def getBackendName(self):
        return "hccl"

    @property
    def _device_types(self):
        return [torch.device("npu")]

    def size(self):
        return self._gloo.size()

    def rank(self):
        return self._gloo.rank()


def register(log):
    """So that `init_process_group("hccl")` finds it; `log` is told of each group."""

    def create(options, _):
        log.append(("hccl", options.group_rank, options.group_size))
        return SimulatedHccl(options.store, options.group_rank, options.group_size, options.timeout)

    dist.Backend.register_backend("hccl", create, extended_api=True, devices=["npu"])
    dist.is_hccl_available = lambda: True
