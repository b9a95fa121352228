"""Training on a device against training on the CPU: `pytest tests/test_device.py --device npu`, or cuda.

The same tests run on real hardware where there is any, on the simulated NPU, and on the real torch_npu with a stub of
CANN below it.
"""

import contextlib
import warnings

import numpy as np
import pytest
import torch

from ray_bilstm import accelerator, loop
from ray_bilstm.accelerator import ACCELERATORS
from ray_bilstm.batches import Shard, TrainingSet
from ray_bilstm.config import ModelConfig, TrainingConfig
from ray_bilstm.metrics import Scorer
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.sample import sample_corpus
from ray_bilstm.vocab import Vocab

STEPS = 20
LEVELS = [("O0", "float32"), *((level, dtype) for level in ("O1", "O2") for dtype in ("float16", "bfloat16"))]
TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.05}
"""Of a loss, relative to that on the CPU in float32; half precision rounds to 1/2048 and 1/256."""

SENTENCES = sample_corpus().train[:48]
LENGTHS = np.array([len(sentence.tokens) for sentence in SENTENCES])
VOCAB = Vocab.build(SENTENCES, scheme="BMES", bigram_min_count=2)
SIZES = {"embedding_size": 32, "bigram_size": 16, "hidden_size": 32}


class Run:
    """A model in training on some device, without dropout: random numbers differ between devices."""

    def __init__(self, device, level="O0", dtype=torch.float32, *, fixed_rows=False, shapes=4, half_lstm=None, **sizes):
        torch.manual_seed(0)
        config = ModelConfig(**SIZES | {"dropout": 0.0} | sizes)
        self.model = BiLstmCrf(config, VOCAB).to(device)
        if half_lstm is None:
            half_lstm = accelerator.half_lstm(ACCELERATORS[device.type], "auto", dtype, level=level)
        self.precision = Precision(level, dtype=dtype, device=device, half_lstm=half_lstm)
        self.precision.prepare(self.model)
        if self.precision.loss_scale:
            self.precision.loss_scale.scale.fill_(64.0)
        self.optimizer = torch.optim.AdamW(self.precision.trained(), lr=0.003, fused=True)
        encoded = VOCAB.encode([s.tokens for s in SENTENCES], [s.tags for s in SENTENCES])
        self.shard = Shard(encoded, np.arange(len(SENTENCES)), device=device)
        settings = {"batch_size": 9, "seed": 0, "shapes": shapes, "fixed_rows": fixed_rows}
        self.train = TrainingSet(lambda: [self.shard], LENGTHS, **settings)

    def step(self, batch, factor=1.0):
        """The loss, still on the device, and the gradient norm."""
        with self.precision.autocast():
            loss = self.model(batch).sum() * (factor / batch.sentences)
        return loss.detach(), self.precision.step(loss, self.optimizer, clip_norm=5.0)

    def losses(self, steps=STEPS):
        epochs = (batch for epoch in range(steps) for batch in self.train.batches(epoch))
        return [self.step(batch)[0].item() for _, batch in zip(range(steps), epochs, strict=False)]


def half_or_skip(device, level, dtype):
    if level == "O0":
        return torch.float32
    try:
        return accelerator.half_dtype(ACCELERATORS[device.type], dtype)
    except accelerator.AcceleratorError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("level", "dtype"), LEVELS)
def test_twenty_steps_give_the_losses_of_the_cpu(level, dtype, device):
    expected = Run(torch.device("cpu")).losses()
    found = Run(device, level, half_or_skip(device, level, dtype)).losses()
    assert sum(expected[12:18]) < 0.9 * sum(expected[:6]), "an epoch of six steps, two epochs later"
    assert found == pytest.approx(expected, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_lstm_may_be_computed_in_half_precision_too(dtype, device):
    """`--lstm-dtype half`, which is the default on cuda and cpu."""
    half = half_or_skip(device, "O2", dtype)
    found = Run(device, "O2", half, half_lstm=True)
    assert found.model.bilstm.forwards[0].weight_ih_l0.dtype is half
    assert found.losses() == pytest.approx(Run(torch.device("cpu")).losses(), rel=TOLERANCE[dtype])


@contextlib.contextmanager
def no_waiting(device):
    """Fails where the host waits for the device inside."""
    if device.type == "cuda":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    elif device.type == "npu":
        trace = pytest.importorskip("torch_npu").__dict__.get("trace")
        if trace is None:
            pytest.skip("waits are counted on the simulated npu and on the stub only")
        with trace() as seen:
            yield
        assert not seen.waits
        assert seen.ops["lstm"] >= 2, "the trace sees what happens"
    else:
        pytest.skip("a cpu is its own host")


@pytest.mark.parametrize(("level", "dtype"), LEVELS)
def test_the_host_waits_for_nothing_in_a_step(level, dtype, device):
    run = Run(device, level, half_or_skip(device, level, dtype), dropout=0.5, num_layers=2)
    batches = iter(run.train.batches(0))
    run.step(next(batches))
    with no_waiting(device):
        for batch in batches:
            run.step(batch)


def test_an_epoch_has_few_shapes(device):
    run = Run(device, fixed_rows=True, shapes=3)
    batches = list(run.train.batches(0))
    assert len(batches) == 6
    assert len({batch.chars_BL.shape for batch in batches}) <= 3
    trace = getattr(__import__("torch_npu"), "trace", None) if device.type == "npu" else None
    if trace is None:
        return
    for epoch in (0, 1):
        with trace() as seen:
            for batch in run.train.batches(epoch):
                run.step(batch)
        if epoch == 0:
            first = set(seen.shapes)
    assert {name for name, _ in set(seen.shapes) - first} <= set(), "a second epoch brings no new shape"


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_overflowed_step_is_taken_back(level, device):
    if device.type == "cpu":
        pytest.skip("see test_precision.py")
    run = Run(device, level, half_or_skip(device, level, "float16"))
    batches = list(run.train.batches(0))
    run.step(batches[0])
    before = run.precision.state_dict()
    _, norm = run.step(batches[1], factor=1e6)
    assert norm.item() == torch.inf
    assert all(torch.equal(before[name], weight) for name, weight in run.precision.state_dict().items())
    assert torch.isfinite(run.step(batches[1])[1])
    assert any(not torch.equal(before[name], weight) for name, weight in run.precision.state_dict().items())


def test_a_fit_on_the_device_scores_and_checkpoints(device):
    """The loop as a worker runs it; its weights are float32 in host memory, whatever the device."""
    known = ACCELERATORS[device.type]
    run, records = Run(device), []
    dtype = accelerator.half_dtype(known, "auto")
    half_lstm = accelerator.half_lstm(known, "auto", dtype, level="O2")
    model = BiLstmCrf(ModelConfig(**SIZES), VOCAB).to(device)
    progress = loop.fit(
        model,
        train=run.train,
        dev=run.shard,
        scorer=Scorer(VOCAB.tags, VOCAB.scheme),
        config=TrainingConfig(batch_size=9, train_epochs=12, learning_rate=0.02),
        precision=Precision("O2", dtype=dtype, device=device, half_lstm=half_lstm),
        progress=loop.Progress(),
        on_epoch=lambda record, progress: records.append(record),
    )
    assert progress.best_f1 > 0.5
    assert records[-1]["train_loss"] < records[0]["train_loss"] / 3
    assert all(weight.dtype is torch.float32 and weight.device.type == "cpu" for weight in progress.weights.values())
