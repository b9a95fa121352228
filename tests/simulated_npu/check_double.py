"""What the simulated NPU does and refuses, in a process that has it: tests/test_simulated_npu.py runs this file."""

import os

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
    assert seen.ops["mul"] == 2
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


def work(rank, store_file, results):
    """One of two ranks of an hccl group, with DDP against the whole batch on one process."""
    torch.set_num_threads(1)
    dist.init_process_group("hccl", store=dist.FileStore(store_file, 2), rank=rank, world_size=2)
    assert dist.get_backend() == "hccl"
    total = torch.full((2,), rank + 1.0, device=NPU)
    dist.all_reduce(total)
    objects = [None, None]
    host = dist.new_group(backend="gloo")
    dist.all_gather_object(objects, {"rank": rank}, group=host)
    for refused in (torch.zeros(1), torch.zeros(1, dtype=torch.float64, device=NPU)):
        with pytest.raises(RuntimeError, match=r"No backend type|float64"):
            dist.all_reduce(refused)
    dist.barrier()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(NPU)
    parallel, inputs = DistributedDataParallel(model), torch.randn(8, 3)
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
