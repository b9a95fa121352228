"""The table of accelerators, and which device and precision a worker takes. Devices that are not here are stood in for
by modules that answer as torch's do; the simulated NPU and torch_npu itself have tests of their own."""

import sys
import types

import pytest
import torch

from ray_bilstm import accelerator
from ray_bilstm.accelerator import ACCELERATORS, AcceleratorError, choose, half_dtype, half_dtypes, half_lstm

NPU, CUDA, CPU = (ACCELERATORS[name] for name in ("npu", "cuda", "cpu"))


class Device(types.SimpleNamespace):
    """`torch.cuda` or `torch.npu`, with or without bfloat16 units."""

    def __init__(self, bfloat16: bool) -> None:
        super().__init__(calls=[], bfloat16=bfloat16)

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.bfloat16 or (including_emulation and "emulated bfloat16 is slow")

    def set_device(self, device: torch.device) -> None:
        self.calls.append(device)


@pytest.fixture
def stand_in(monkeypatch, request):
    """One that every accelerator but the cpu loads."""
    found = Device(getattr(request, "param", True))
    monkeypatch.setattr(accelerator, "load", lambda known: None if known is CPU else found)
    return found


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"CPU": 8, "GPU": 2, "NPU": 8}, NPU),
        ({"CPU": 8, "GPU": 2}, CUDA),
        ({"CPU": 8, "GPU": 0.5}, CPU),
        ({"CPU": 8}, CPU),
        ({}, CPU),
    ],
)
def test_auto_takes_the_first_that_the_cluster_has(resources, expected):
    assert choose("auto", resources) is expected
    assert choose("cuda", resources) is CUDA


@pytest.mark.parametrize(
    ("known", "stand_in", "expected"),
    [
        (NPU, True, ["float16", "bfloat16"]),
        (NPU, False, ["float16"]),  # Ascend 910A
        (CUDA, True, ["bfloat16", "float16"]),
        (CUDA, False, ["float16"]),  # V100
    ],
    indirect=["stand_in"],
)
def test_half_precisions(known, stand_in, expected):
    assert [f"torch.{name}" for name in expected] == [str(dtype) for dtype in half_dtypes(known)]
    assert str(half_dtype(known, "auto")) == f"torch.{expected[0]}"
    if len(expected) == 1:
        with pytest.raises(AcceleratorError, match=f"bfloat16 is not to be had on this {known.name}: .* float16"):
            half_dtype(known, "bfloat16")


def test_float16_is_refused_on_a_cpu_without_units_for_it():
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this cpu has float16 units")
    assert half_dtype(CPU, "auto") is half_dtype(CPU, "bfloat16") is torch.bfloat16
    with pytest.raises(AcceleratorError, match="float16 is not to be had on this cpu: use --amp-dtype bfloat16"):
        half_dtype(CPU, "float16")


@pytest.mark.parametrize(
    ("known", "requested", "dtype", "level", "expected"),
    [
        (NPU, "auto", torch.float16, "O1", False),
        (NPU, "auto", torch.bfloat16, "O2", False),
        (NPU, "half", torch.float16, "O2", True),
        (CUDA, "auto", torch.bfloat16, "O2", True),
        (CUDA, "float32", torch.bfloat16, "O1", False),
        (CPU, "auto", torch.bfloat16, "O1", True),
        (CPU, "auto", torch.float16, "O2", False),
    ],
)
def test_precision_of_the_lstm(known, requested, dtype, level, expected):
    assert half_lstm(known, requested, dtype, level=level) is expected


def test_autocast_on_npu_has_no_half_lstm():
    with pytest.raises(AcceleratorError, match="--amp-opt-level O2 with --lstm-dtype half"):
        half_lstm(NPU, "half", torch.float16, level="O1")


@pytest.mark.parametrize(
    ("visible", "assigned", "index"),
    [
        ("5", ["5"], 0),  # Ray shows a worker its own device
        ("4,5,6", ["6"], 2),
        (None, ["6"], 6),  # Ray was told to leave the variable alone
        ("3", [], 0),
        (None, [], 0),
    ],
)
def test_torch_counts_visible_devices(visible, assigned, index, stand_in, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert accelerator.worker_device(CUDA, assigned) == torch.device("cuda", index)
    assert stand_in.calls == [torch.device("cuda", index)], "made current"


def test_a_hidden_device_is_named(stand_in, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(AcceleratorError, match="Ray assigned GPU 2, but CUDA_VISIBLE_DEVICES=0,1 hides it"):
        accelerator.worker_device(CUDA, ["2"])


def test_npu_without_torch_npu_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AcceleratorError, match=r"torch_npu is not installed: pip install 'ray_bilstm\[npu\]'"):
        accelerator.load(NPU)


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "Exception"])
def test_torch_npu_without_cann_says_what_to_source(error, tmp_path, monkeypatch):
    (tmp_path / "torch_npu.py").write_text(f"raise {error}('libhccl.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    with pytest.raises(AcceleratorError, match=r"torch_npu cannot load \(libhccl.so.*\): install CANN.*set_env.sh"):
        accelerator.load(NPU)


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(AcceleratorError, match=r"no cuda device .*: check `nvidia-smi` and CUDA_VISIBLE_DEVICES=7"):
        accelerator.load(CUDA)


def test_without_a_working_triton_torch_operations_stand_in(monkeypatch):
    """Here it lacks a GPU; on a bare machine, a C compiler."""
    triton = pytest.importorskip("triton", reason="pip install triton")

    class Driver:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(triton.runtime, "driver", Driver())
    with pytest.warns(UserWarning, match=r"cannot build kernels here \(Failed to find C compiler\).*gcc"):
        assert not accelerator._has_triton.__wrapped__()
    assert not accelerator.has_kernels(torch.device("cpu"))
