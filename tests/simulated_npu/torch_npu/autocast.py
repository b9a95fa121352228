"""torch.autocast("npu"): which operators torch_npu computes in half precision, and which in float32.

The lists are those of torch_npu's AutoCastOps.cpp, as far as a tagger uses them. aten::lstm is in neither: under
autocast an LSTM on an NPU keeps the precision of its input.
"""

import torch

HALF = ("linear", "mm", "mv", "addmm", "bmm", "matmul", "baddbmm", "einsum", "lstm_cell", "_thnn_fused_lstm_cell")
FLOAT32 = (
    *("exp", "log", "log1p", "pow.Tensor_Scalar", "logsumexp", "softmax.int", "log_softmax.int"),
    *("cumsum", "cumprod", "sum", "sum.dim_IntList", "linalg_vector_norm", "layer_norm", "native_layer_norm"),
    *("nll_loss", "nll_loss_nd", "mse_loss", "binary_cross_entropy_with_logits"),
)
KEY = "AutocastPrivateUse1"


def register(aten, everything):
    """`aten` and `everything`: torch.library.Library objects to register with."""
    everything.fallback(torch.library.fallthrough_kernel, KEY)
    for names, dtype in ((HALF, None), (FLOAT32, torch.float32)):
        for name in names:
            base, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, base), overload or "default")
            aten.impl(name, _kernel(op, dtype), KEY)


def _kernel(op, dtype):
    excluded = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(value):
        if isinstance(value, (list, tuple)):
            return type(value)(cast(item) for item in value)
        if not isinstance(value, torch.Tensor) or value.is_cpu:
            return value
        castable = value.is_floating_point() and value.dtype is not torch.float64
        return value.to(dtype or torch.get_autocast_dtype("npu")) if castable else value

    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return op(*cast(args), **{key: cast(value) for key, value in kwargs.items()})

    return kernel
