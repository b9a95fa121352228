"""What the simulated NPU does and refuses, in a process that has it: tests/test_simulated_npu.py runs this file."""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch_npu
from torch import nn
from torch.nn.parallel import DistributedDataParallel

NPU = torch.device("npu", 0)


def test_tensors_views_and_in_place_operators_share_memory():
    base = torch.zeros(4, 6, device=NPU)
    base[1].add_(2)
    base[:, 2] = torch.arange(4.0, device=NPU)
    torch.add(base[0], 1.0, out=base[3])
    expected = torch.zeros(4, 6)
    expected[1] += 2
    expected[:, 2] = torch.arange(4.0)
    expected[3] = expected[0] + 1
    assert base.device == NPU
    assert torch.equal(base.cpu(), expected)
    assert torch.equal(base.to("cpu", copy=True).to(NPU)[1].cpu(), expected[1])
    assert torch.equal(torch.sum(base, 0, out=torch.empty(0, device=NPU)).cpu(), expected.sum(0))
    assert torch.equal(base.bool().cpu(), expected.bool())


def test_out_is_written_where_it_stands_or_resized():
    a, b = torch.rand(3, 4, device=NPU), torch.rand(3, 4, device=NPU)
    rows, turned, empty = torch.zeros(2, 3, 4, device=NPU), torch.zeros(4, 3, device=NPU), torch.empty(0, device=NPU)
    torch.div(a, b, out=rows[1])
    torch.add(a, b, out=turned.T)
    torch.mul(a, b, out=empty)
    values, places = torch.empty(0, device=NPU), torch.empty(0, dtype=torch.int64, device=NPU)
    torch.max(a, 1, out=(values, places))
    x, y = a.cpu(), b.cpu()
    expected = [torch.zeros(3, 4), x / y, (x + y).T, x * y, *x.max(1)]
    for found, right in zip((*rows, turned, empty, values, places), expected, strict=True):
        assert torch.equal(found.cpu(), right)
    for size in (2, 9):  # too small, too large
        other = torch.zeros(size, device=NPU)
        with pytest.warns(UserWarning, match="was resized"):
            torch.add(torch.ones(5, device=NPU), 1.0, out=other)
        assert other.tolist() == [2.0] * 5


def train_a_tagger(device):
    """Weights after five steps of the product's model."""
    from ray_bilstm.batches import Batch
    from ray_bilstm.config import ModelConfig
    from ray_bilstm.model import BiLstmCrf
    from ray_bilstm.precision import Precision
    from ray_bilstm.sample import sample_corpus
    from ray_bilstm.vocab import Vocab

    torch.manual_seed(0)
    vocab = Vocab.build(sample_corpus().train[:20], scheme="BMES", bigram_min_count=2)
    sizes = {"embedding_size": 8, "bigram_size": 4, "hidden_size": 8, "num_layers": 2, "dropout": 0.5}
    model = BiLstmCrf(ModelConfig(**sizes), vocab)
    highs = (vocab.num_chars, vocab.num_bigrams, len(vocab.tags))
    ids = [torch.randint(1, high, (4, 7)).to(device) for high in highs]
    batch = Batch(*ids, torch.tensor([7, 5, 1, 0]).to(device), rows=np.arange(3), sentences=3)
    precision = Precision("O0", dtype=torch.float32, device=device)
    precision.prepare(model.to(device))
    optimizer = torch.optim.AdamW(precision.trained(), lr=0.01, fused=True)
    for _ in range(5):
        precision.step(model(batch).sum() / 3, optimizer, clip_norm=5.0)
    return precision.state_dict()


def test_five_steps_of_a_tagger_give_the_weights_of_the_cpu():
    """With dropout: random numbers are the CPU's."""
    expected, found = train_a_tagger(torch.device("cpu")), train_a_tagger(NPU)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scaler", ["torch", "dynamic", "static"])
def test_scalers_skip_a_step_that_overflowed(scaler, fused):
    settings = {"init_scale": 64.0, "growth_interval": 1}
    if scaler == "torch":
        scale = torch.amp.GradScaler("npu", **settings)
    else:
        scale = torch.npu.amp.GradScaler(**settings, dynamic=scaler == "dynamic")
    weight = nn.Parameter(torch.ones(3, device=NPU))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    changed, scales = [], []
    for factor in (1e38, 1.0):
        before = weight.detach().clone()
        optimizer.zero_grad()
        scale.scale((weight * factor).sum()).backward()
        scale.step(optimizer)
        scale.update()
        changed.append(not torch.equal(before, weight))
        scales.append(scale.get_scale())
    expected = ([True, True], [64.0, 64.0]) if scaler == "static" else ([False, True], [32.0, 64.0])
    assert (changed, scales) == expected


def test_random_numbers_are_those_of_the_cpu():
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(5, device=NPU).cpu(), expected)


def test_autocast_follows_torch_npu():
    lstm, linear, inputs = nn.LSTM(3, 4).to(NPU), nn.Linear(3, 4).to(NPU), torch.randn(5, 2, 3, device=NPU)
    with torch.autocast("npu", torch.float16):
        assert lstm(inputs)[0].dtype is torch.float32
        assert linear(inputs).dtype is torch.float16
        assert linear(inputs).logsumexp(1).dtype is torch.float32
        wide = torch.ones(2, 2, dtype=torch.float64, device=NPU)
        assert (wide @ wide).dtype is torch.float64


def test_what_an_npu_refuses():
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 2, 3, device=NPU), [5, 3])
    with pytest.raises(NotImplementedError, match="PackedSequence on npu"):
        nn.LSTM(3, 4).to(NPU)(packed)
    with pytest.raises(RuntimeError, match="107001"):
        torch.npu.set_device(torch.npu.device_count())
    torch.npu.config.allow_internal_format = False
    with pytest.raises(AttributeError):
        _ = torch.npu.config.allow_internal_format


def test_the_trace_counts_waits_and_shapes():
    values = torch.arange(6.0, device=NPU)
    with torch_npu.trace() as seen:
        _ = values * 2
        _ = values[:3] * 2
        assert not seen.waits
        _ = values.sum().item()
        _ = values.cpu()
        _ = values[values > 2]
    assert seen.copies["to the host"] == 1
    assert seen.ops["mul"] == 2
    with torch_npu.trace() as changed:
        values.add_(values).div_(3)
    assert changed.ops == {"add_": 1, "div_": 1}, "no allocation is counted with an operator"
    assert len([name for name, _ in seen.shapes if name == "mul"]) == 2
    assert set(seen.waits) == {"_local_scalar_dense", "copy to the host", "nonzero"}


def test_visible_devices_and_chips(monkeypatch):
    for visible, count in (("3", 1), ("0,1,5", 3), ("", 0)):
        monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
        assert (torch.npu.device_count(), torch.npu.is_available()) == (count, count > 0)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES")
    monkeypatch.setenv("SIMULATED_NPU_SOC", "Ascend910A")
    assert torch.npu.get_device_name() == "Ascend910A (simulated)"
    assert not torch.npu.is_bf16_supported()
    assert torch.npu.get_amp_supported_dtype() == [torch.float16, torch.float32]
    monkeypatch.setenv("SIMULATED_NPU_COUNT", "2")
    assert torch.npu.device_count() == 2
    with pytest.raises(AssertionError, match="Invalid device id"):
        torch.npu.get_device_name(2)


def test_it_is_found_like_a_package_and_operators_load_by_path():
    assert importlib.metadata.version("torch_npu") == torch_npu.__version__ == "2.13.0+simulated"
    assert sys.modules["torch.npu"] is torch.npu
    spec = importlib.util.spec_from_file_location("operators", Path(__file__).parent / "on_host.py")
    operators = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(operators)
    tensor = torch.zeros(2, device=NPU)
    operators.to_host(tensor).add_(1)
    assert tensor.tolist() == [1.0, 1.0]


def work(rank, store_file, results):
    """One of two ranks of an hccl group, with DDP against the whole batch on one process."""
    torch.set_num_threads(1)
    torch.npu.set_device(NPU)
    dist.init_process_group("hccl", store=dist.FileStore(store_file, 2), rank=rank, world_size=2)
    assert dist.get_backend() == "hccl"
    assert torch.npu.log[-2:] == [("set_device", 0), ("hccl", rank, 2)], "the device came before the group"
    total = torch.full((2,), rank + 1.0, device=NPU)
    dist.all_reduce(total)
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        ones = torch.ones(3, dtype=dtype, device=NPU)
        dist.all_reduce(ones)
        assert ones.tolist() == [2] * 3
        dist.broadcast(ones.mul_(rank), src=1)
        assert ones.tolist() == [2] * 3
    gathered = torch.empty(4, device=NPU)
    dist.all_to_all_single(gathered[:2], total / 3 + rank)
    assert gathered[:2].tolist() == [1.0, 2.0]
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name since torch 2.13
    gather(gathered, total / 3 + rank)
    assert gathered.tolist() == [1.0, 1.0, 2.0, 2.0]
    if rank == 0:
        dist.send(gathered, 1)
    else:
        dist.recv(gathered.zero_(), 0)
    assert gathered.tolist() == [1.0, 1.0, 2.0, 2.0]
    objects = [None, None]
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": 0}, {"rank": 1}]
    objects = [None, None]
    host = dist.new_group(backend="gloo")
    dist.all_gather_object(objects, {"rank": rank}, group=host)
    for refused in (torch.zeros(1), torch.zeros(1, dtype=torch.float64, device=NPU)):
        with pytest.raises(RuntimeError, match=r"No backend type|float64"):
            dist.all_reduce(refused)
    dist.barrier()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(NPU)
    inputs = torch.randn(8, 3)
    parallel = DistributedDataParallel(model, static_graph=True, gradient_as_bucket_view=True)
    half = DistributedDataParallel(nn.Linear(3, 1).to(NPU, torch.float16))
    half(inputs.to(NPU, torch.float16)).sum().backward()
    assert half.module.weight.grad.dtype is torch.float16
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(5):
        optimizer.zero_grad()
        parallel(inputs[rank::2].to(NPU)).square().mean().backward()
        optimizer.step()
    weights = [weight.detach().cpu() for weight in model.parameters()]
    torch.save([total.cpu(), objects, inputs, weights], f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_hccl_adds_up_and_ddp_equals_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(work, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    inputs = torch.randn(8, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(5):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    for rank in range(2):
        total, objects, same, weights = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert total.tolist() == [3.0, 3.0]
        assert objects == [{"rank": 0}, {"rank": 1}]
        assert torch.equal(same, inputs)
        for found, expected in zip(weights, model.parameters(), strict=True):
            torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)


def test_a_worker_makes_its_device_current_with_its_settings(monkeypatch):
    """The product's own function, on what torch.npu records."""
    from ray_bilstm.accelerator import ACCELERATORS, worker_device

    npu = ACCELERATORS["npu"]
    for variable in npu.environment:
        monkeypatch.setenv(variable, "")  # so that what is set here does not outlive this test
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "1800")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,6")
    torch.npu.log.clear()
    assert worker_device(npu, ["6"]) == torch.device("npu", 1)
    expected = [("set_device", 1), ("set_compile_mode", False), ("config.allow_internal_format", False)]
    assert torch.npu.log == expected
    assert {name: os.environ[name] for name in npu.environment} == {**npu.environment, "HCCL_CONNECT_TIMEOUT": "1800"}
