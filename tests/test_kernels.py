"""The kernels against the torch operations they stand for: compiled with `--device cuda`, else interpreted."""

import pytest
import torch

from ray_bilstm import model, recursions

pytest.importorskip("triton", reason="kernels are written in Triton: pip install triton")
from ray_bilstm import crf_kernels, lstm_kernels

SHAPES = [(1, 1, 2), (3, 7, 5), (4, 12, 28), (2, 5, 40)]
"""B, L, T"""


@pytest.fixture
def operations(device, monkeypatch):
    if device.type == "npu":
        pytest.skip("Triton is for cuda")
    for module in (recursions, model):  # torch operations, on cuda too
        monkeypatch.setattr(module, "has_kernels", lambda device: False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recursions(shape, dtype, device, operations):
    B, L, T = shape
    torch.manual_seed(0)
    potentials, steps, ends = (
        torch.rand(*size, dtype=dtype, device=device).square() for size in ((L, 2, B, T), (2, T, T), (2, T))
    )
    found, expected = crf_kernels.recur(potentials, steps, ends), recursions._recur(potentials, steps, ends)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_best_paths(shape, device, operations):
    B, L, T = shape
    torch.manual_seed(0)
    emissions, transitions, start, end = (
        torch.randn(*size, device=device) * 3 for size in ((B, L, T), (T, T), (T,), (T,))
    )
    transitions[0, 1] = start[1] = recursions.ILLEGAL
    for lengths in (torch.full((B,), L), torch.randint(0, L + 1, (B,))):
        arguments = emissions, lengths.to(device), transitions, start, end
        (found, score), (expected, best) = crf_kernels.decode(*arguments), recursions.viterbi(*arguments)
        assert torch.equal(found, expected)
        torch.testing.assert_close(score, best)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 3, 16), (7, 18, 12, 16), (12, 5, 40, 32)])
def test_a_bilstm_layer(shape, dtype, device, operations):
    """States and all gradients, in float32 for comparison; what stands in the padding has no part in either."""
    if dtype is torch.bfloat16 and device.type != "cuda":
        pytest.skip("the interpreter multiplies bfloat16 as if it were integers")
    L, B, E, H = shape
    torch.manual_seed(0)
    lengths = torch.randint(0, L + 1, (B,), device=device)
    lengths[0] = L
    layer = model.BiLSTM(E, H, num_layers=1, dropout=0.0).to(device)
    (ahead,), (back,) = layer.forwards, layer.backwards
    for weight in layer.parameters():
        weight.data.mul_(2)  # gates that close
    inputs, factors = torch.randn(L, B, E, device=device), torch.randn(L, B, 2 * H, device=device)
    inside = (torch.arange(L, device=device)[:, None] < lengths)[:, :, None]
    found = []
    for compute, kind in ((model._layer, torch.float32), (lstm_kernels.bilstm_layer, dtype)):
        own = inputs.clone().requires_grad_()
        layer.zero_grad()
        states = compute(own.to(kind), lengths, ahead, back).float()
        (states * factors).masked_fill(~inside, 0.0).sum().backward()
        found.append([states.masked_fill(~inside, 0.0), own.grad, *(weight.grad for weight in layer.parameters())])
    for expected, got in zip(*found, strict=True):
        error, size = torch.linalg.vector_norm(got - expected), torch.linalg.vector_norm(expected)
        assert error <= size * (0.005 if dtype is torch.float16 else 0.04)
