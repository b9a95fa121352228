"""Optimiser steps: plain ones, and on cuda (`pytest tests/test_step.py --device cuda`) recorded ones."""

import numpy as np
import pytest
import torch
from test_device import LEVELS, SENTENCES, VOCAB, Run, half_or_skip, no_waiting

from ray_bilstm.config import TrainingConfig
from ray_bilstm.step import RecordedStep, Step, make_step


def test_a_step_lowers_the_loss(device):
    run = Run(device, fixed_rows=True)
    step = make_step(run.model, TrainingConfig(learning_rate=0.01), run.precision)
    assert type(step) is (RecordedStep if device.type == "cuda" else Step)
    step.prepare(run.train)
    batch = next(iter(run.train.batches(0)))
    losses, norms = zip(*(step(batch) for _ in range(10)), strict=True)
    assert losses[-1] < 0.8 * losses[0]
    assert all(norm > 0 for norm in norms)
    before = run.precision.state_dict()
    step.set_learning_rate(0.0)
    step(batch)
    assert all(torch.equal(before[name], weight) for name, weight in run.precision.state_dict().items())


def test_blanks_have_the_shapes_of_all_steps(device):
    run = Run(device, fixed_rows=True, shapes=3)
    blanks = list(run.train.blanks())
    assert [blank.chars_BL.shape[1] for blank in blanks] == sorted(run.train.shapes.tolist(), reverse=True)
    assert not any(blank.lengths_B.any() or blank.chars_BL.any() for blank in blanks)
    steps = {batch.chars_BL.shape for epoch in range(3) for batch in run.train.batches(epoch)}
    assert steps <= {blank.chars_BL.shape for blank in blanks}


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize(("level", "dtype"), LEVELS)
def test_recorded_steps_are_the_steps(level, dtype, teacher, device):
    """Losses, gradient norms and weights, with dropout: a recorded step draws the random numbers of a plain one. Of the
    shapes, one is recorded late."""
    if device.type != "cuda":
        pytest.skip("steps are recorded on cuda")
    half, seen = half_or_skip(device, level, dtype), []
    for kind in (Step, RecordedStep):
        run = Run(device, level, half, fixed_rows=True, dropout=0.5)
        if teacher:
            tokens = len(run.shard.chars) - 1
            tags = np.random.default_rng(0).dirichlet(np.ones(len(VOCAB.tags)), tokens).astype(np.float32)
            moves = np.ones((len(SENTENCES), len(VOCAB.tags), len(VOCAB.tags)), np.float32)
            run.shard = run.shard.with_lessons(tags, moves, weight=0.5)
        step = kind(run.model, TrainingConfig(learning_rate=0.01), run.precision)
        step.prepare(run.train)
        if kind is RecordedStep:
            step.recordings.popitem()
        torch.manual_seed(0)
        figures = [step(batch) for epoch in range(3) for batch in run.train.batches(epoch)]
        seen.append((torch.tensor(figures), run.precision.state_dict()))
    (figures, weights), (recorded, found) = seen
    assert len(figures) == 18
    torch.testing.assert_close(recorded, figures, rtol=1e-4, atol=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-3, msg=name)


def test_a_recorded_step_waits_for_nothing(device):
    if device.type != "cuda":
        pytest.skip("steps are recorded on cuda")
    run = Run(device, fixed_rows=True, dropout=0.5)
    step = RecordedStep(run.model, TrainingConfig(), run.precision)
    step.prepare(run.train)
    for batch in run.train.batches(0):
        step(batch)
    batches = list(run.train.batches(1))
    with no_waiting(device):
        for batch in batches:
            step.set_learning_rate(0.01)
            step(batch)
