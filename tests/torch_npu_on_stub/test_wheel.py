"""What the product calls, against the real torch_npu: names, signatures, chips, devices, errors, autocast, kernels.

The tests of tensors and twenty steps against the CPU are tests/test_device.py, test_crf.py and test_model.py, which
this stage runs too, with `--device npu`.
"""

import ast
import functools
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch_npu
from cpu_kernels import kernels_of_the_wheel, on_host
from torch import nn

import ray_bilstm.accelerator
from ray_bilstm.accelerator import ACCELERATORS, load, profiler, worker_device
from ray_bilstm.batches import Shard
from ray_bilstm.config import ModelConfig
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.vocab import Vocab

ROOT = Path(__file__).parents[2]
NPU = ACCELERATORS["npu"]
TRAP = {name: os.environ[name] for name in os.environ if name != "LD_LIBRARY_PATH"}
"""The environment of one who installed torch_npu and not CANN."""


THE_MODULE = re.compile(r"(accelerator\.)?load\(\w+\)|getattr\(torch, \w+\.\w+\)|torch(_npu)?\.npu")
"""Expressions for torch.npu in the product: what `accelerator.load` returns, or the module of a device's type."""


def uses_of_the_product():
    """(dotted name below torch.npu, the syntax node, its call or None), wherever the product reaches it."""
    for path in Path(ray_bilstm.accelerator.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        made = [
            n.targets[0].id for n in nodes if isinstance(n, ast.Assign) and THE_MODULE.fullmatch(ast.unparse(n.value))
        ]
        calls = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            root = node
            while isinstance(root, ast.Attribute) and not THE_MODULE.fullmatch(ast.unparse(root)):
                root = root.value
            text = ast.unparse(root) if isinstance(node, ast.Attribute) and root is not node else ""
            if text in made or THE_MODULE.fullmatch(text):
                yield ast.unparse(node).removeprefix(f"{text}."), node, calls.get(id(node))


def test_every_name_the_product_uses_exists_and_every_call_binds():
    uses = list(uses_of_the_product())
    expected = {"is_available", "device_count", "set_device", "synchronize", "get_device_name", "set_compile_mode"}
    assert expected | {"is_bf16_supported", "max_memory_allocated", "config"} <= {name for name, _, _ in uses}
    for name, node, call in uses:
        if isinstance(node.ctx, ast.Load):
            found = functools.reduce(getattr, name.split("."), torch.npu)
        if call:
            inspect.signature(found).bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})


def test_the_profiler_takes_what_the_product_gives_it(tmp_path, monkeypatch):
    """Started it is not: it would ask CANN for an NPU's counters."""
    seen = {}
    for name in ("profile", "tensorboard_trace_handler"):
        signature = inspect.signature(getattr(torch_npu.profiler, name))
        record = functools.partial(lambda name, signature, *a, **k: seen.update({name: signature.bind(*a, **k)}), name)
        monkeypatch.setattr(torch_npu.profiler, name, functools.partial(record, signature))
    profiler(torch.device("npu"), tmp_path, name="rank0")
    assert seen["tensorboard_trace_handler"].arguments == {"dir_name": str(tmp_path), "worker_name": "rank0"}
    assert "profile" in seen


def test_settings_of_a_worker_reach_torch_npu(monkeypatch):
    """torch_npu takes a setting of any name in silence, so the names are looked for where it passes them on."""
    options = {}
    monkeypatch.setattr(torch_npu._C, "_npu_setOption", options.update)
    assert worker_device(NPU) == torch.device("npu", 0)
    assert options == {"jitCompile": "disable", "ALLOW_INTERNAL_FORMAT": "disable"}
    with pytest.raises(AttributeError):
        _ = torch.npu.config.allow_internal_format


def ask(code: str, **variables: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-W", "ignore", "-c", code]
    settings = {"capture_output": True, "text": True, "timeout": 120, "cwd": ROOT}
    return subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT), **variables}, **settings)


HALVES = """
import json
from ray_bilstm.accelerator import ACCELERATORS, AcceleratorError, half_dtype
found = []
for requested in ("auto", "float16", "bfloat16"):
    try:
        found.append(str(half_dtype(ACCELERATORS["npu"], requested)))
    except AcceleratorError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.mark.parametrize("chip", ["Ascend910A", "Ascend910B3", "Ascend910_9391"])
def test_half_precisions_of_the_chips(chip):
    done = ask(HALVES, FAKE_NPU_SOC=chip)
    assert done.returncode == 0, done.stderr
    auto, float16, bfloat16 = json.loads(done.stdout.splitlines()[-1])
    assert auto == float16 == "torch.float16"
    refused = "bfloat16 is not to be had on this npu: use --amp-dtype float16"
    assert bfloat16 == (refused if chip == "Ascend910A" else "torch.bfloat16")


LOAD = "from ray_bilstm.accelerator import ACCELERATORS, load; load(ACCELERATORS['npu'])"


def test_no_device_is_named():
    done = ask(LOAD, FAKE_NPU_COUNT="0")
    assert "AcceleratorError: torch sees no npu device on this machine: check `npu-smi info`" in done.stderr


def test_devices_have_indices_and_a_wrong_one_is_an_error():
    code = "import torch; print(torch.ones(2, device='npu:1').device); torch.npu.set_device(5)"
    done = ask(code, FAKE_NPU_COUNT="2")
    assert "npu:1" in done.stdout
    assert "107001" in done.stderr
    assert load(NPU) is torch.npu


def test_torch_npu_without_cann():
    """The trap: torch itself does not import. With its autoloading off, cpu works, and npu says what is missing."""

    def ask_trapped(code: str, **variables: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-W", "ignore", "-c", code]
        environment = {**TRAP, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)

    assert "Failed to load the backend extension: torch_npu" in ask_trapped("import torch").stderr
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert ask_trapped(LOAD.replace("npu", "cpu"), **off).returncode == 0
    error = ask_trapped(LOAD, **off).stderr
    assert "AcceleratorError: torch_npu cannot load" in error
    assert "install CANN" in error
    assert "set_env.sh" in error
    cli = "from ray_bilstm.cli import main; main(['evaluate', 'nowhere']); import torch; print(torch.ones(1))"
    done = ask_trapped(cli)
    assert "tensor([1.])" in done.stdout, "the command line turns the autoloading off before torch is imported"
    assert "error: nowhere" in done.stderr


def test_autocast_of_torch_npu_leaves_the_lstm_alone():
    lstm, linear, inputs = nn.LSTM(3, 4).npu(), nn.Linear(3, 4).npu(), torch.randn(5, 2, 3, device="npu")
    with torch.autocast("npu", torch.float16):
        assert lstm(inputs)[0].dtype is torch.float32
        assert linear(inputs).dtype is torch.float16
        assert linear(inputs).logsumexp(1).dtype is torch.float32


def test_importing_torch_npu_registers_hccl():
    assert "hccl" in dist.Backend.backend_list
    assert dist.Backend.default_device_backend_map["npu"] == "hccl"


ADAMW = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False, "maximize": False}
WAITS = {
    "an item": (lambda x: x[0].item(), "_local_scalar_dense"),
    "a copy to the host": (lambda x: x.cpu(), "copy to the host"),
    "a copy to the device": (lambda x: x.copy_(torch.ones(3)), "copy to the device"),
    "a new tensor": (lambda x: torch.tensor([1.0], device=x.device), "copy to the device"),
    "a mask": (lambda x: x[x > 1], "index by a mask"),
    "a masked assignment": (lambda x: x.index_put_((x > 1,), x.sum()), "index_put_ by a mask"),
    "no kernel": (lambda x: x.lgamma(), "aten.lgamma.out is left to the CPU"),
    "no kernel of an overload": (
        lambda x: torch._fused_adamw_(*[[x.clone()] for _ in range(4)], [], [x.sum()], lr=x.sum(), **ADAMW),
        "aten._fused_adamw_.tensor_lr is left to the CPU",
    ),
}


@pytest.mark.parametrize("what", WAITS)
def test_the_trace_sees_what_the_host_waits_for(what):
    act, expected = WAITS[what]
    inputs = torch.arange(3.0, device="npu")
    with on_host.trace() as seen:
        inputs + 1
        assert not seen.waits
        act(inputs)
    assert set(seen.waits) == {expected}


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_every_operator_of_a_step_has_a_kernel_of_torch_npu(level, head, sentences, vocab: Vocab):
    """None is left to the CPU: test_device.py has no wait at the other precisions either."""
    device = torch.device("npu", 0)
    torch.manual_seed(0)
    model = BiLstmCrf(ModelConfig(head=head, num_layers=2, hidden_size=16), vocab).to(device)
    precision = Precision(level, dtype=torch.float16, device=device, half_lstm=False)
    precision.prepare(model)
    optimizer = torch.optim.AdamW(precision.trained(), fused=True)
    encoded = vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences])
    shard = Shard(encoded, np.arange(len(sentences)), device=device)
    batch = shard.batch(shard.rows, int(encoded.lengths.max()), sentences=len(sentences))
    with on_host.trace() as seen:
        for _ in range(2):
            with precision.autocast():
                loss = model(batch).mean()
            precision.step(loss, optimizer, clip_norm=5.0)
        model.eval()
        model.decode(batch)
    assert not seen.waits
    assert len(seen.ops) > 30
    assert seen.ops["_fused_adamw_"] == 2
    assert {"_fused_adamw_", "lstm.input", "_foreach_copy_", "logsumexp"} <= kernels_of_the_wheel
