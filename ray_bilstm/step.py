"""One optimiser step of one rank: forward, backward, mean over ranks, update. The host waits for nothing in it.

A model this small is done with a kernel sooner than a host launches the next one. So on cuda a step is recorded as CUDA
graphs, one for the losses and gradients of each shape of a batch and one for the update, and replayed from then on: the
host then launches three things a step instead of some hundreds. Between the two, gradients are averaged as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ray_bilstm.batches import Batch, Lessons, TrainingSet
from ray_bilstm.collective import average, world_size
from ray_bilstm.config import TrainingConfig
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision


def make_step(model: nn.Module, config: TrainingConfig, precision: Precision) -> Step:
    """What takes the steps of `model`, which `precision` has prepared."""
    return (RecordedStep if precision.device.type == "cuda" else Step)(model, config, precision)


class Step:
    """Takes optimiser steps."""

    def __init__(self, model: nn.Module, config: TrainingConfig, precision: Precision) -> None:
        self.model = model
        self.config = config
        self.precision = precision
        self.optimizer = self._make_optimizer(config.learning_rate)

    def _make_optimizer(self, learning_rate: float | Tensor) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.precision.trained(),
            lr=learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
            capturable=isinstance(learning_rate, Tensor),
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def prepare(self, train: TrainingSet) -> None:
        """Make ready for the steps of `train`, once, before the first."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of the batch and gradient norm before clipping, which is infinite where an overflowed step was skipped:
        (), both on the device."""
        loss = self._loss(batch, world_size() / batch.sentences)
        return loss.detach(), self.precision.step(loss, self.optimizer, clip_norm=self.config.clip_norm)

    def _loss(self, batch: Batch, share: float | Tensor) -> Tensor:
        with self.precision.autocast():
            return summed_loss(self.model, batch, self.config) * share


class Recording(NamedTuple):
    """A step's losses and gradients for batches of one shape."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    share: Tensor
    """what it reads"""
    loss: Tensor
    """what it writes, besides gradients"""


class RecordedStep(Step):
    """Steps as CUDA graphs, which read and write memory of their own: batches are copied in, losses out. Gradients have
    one place for all shapes."""

    def __init__(self, model: nn.Module, config: TrainingConfig, precision: Precision) -> None:
        super().__init__(model, config, precision)
        self.recordings: dict[tuple[int, ...], Recording] = {}
        self.weights = [weight for weight, master in precision.weights.values() if master.requires_grad]
        self.gradients = [torch.zeros_like(weight) for weight in self.weights]
        self.update: tuple[torch.cuda.CUDAGraph, Tensor] | None = None
        self.updates = 0
        self.stream = torch.cuda.Stream(precision.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def _make_optimizer(self, learning_rate: float | Tensor) -> torch.optim.Optimizer:
        return super()._make_optimizer(torch.tensor(learning_rate, device=self.precision.device))

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(learning_rate)

    def prepare(self, train: TrainingSet) -> None:
        """Record all shapes; one that turns up later all the same is recorded then."""
        self.model.train()
        for batch in train.blanks():
            self._record_gradients(batch)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.chars_BL.shape not in self.recordings:
            self._record_gradients(batch)
        recording = self.recordings[batch.chars_BL.shape]
        torch._foreach_copy_(_tensors(recording.batch), _tensors(batch))
        recording.share.fill_(world_size() / batch.sentences)
        recording.graph.replay()
        loss = recording.loss.clone()
        average(self.gradients)
        return loss, self._update()

    def _record_gradients(self, batch: Batch) -> None:
        lessons = batch.lessons and Lessons(*(values.clone() for values in batch.lessons))
        own = batch._replace(
            chars_BL=batch.chars_BL.clone(),
            bigrams_BL=batch.bigrams_BL.clone(),
            tags_BL=batch.tags_BL.clone(),
            lengths_B=batch.lengths_B.clone(),
            lessons=lessons,
        )
        share = torch.ones((), device=self.precision.device)
        with torch.random.fork_rng([self.precision.device]):
            # Once as it stands: kernels are chosen and compiled, which a recording cannot do.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self._fill_gradients(own, share)
            torch.cuda.current_stream().wait_stream(self.stream)
        graph, loss = self._record(lambda: self._fill_gradients(own, share))
        self.recordings[batch.chars_BL.shape] = Recording(graph, own, share, loss)

    def _fill_gradients(self, batch: Batch, share: Tensor) -> Tensor:
        self.precision.clear()
        loss = self._loss(batch, share)
        self.precision.backward(loss)
        torch._foreach_copy_(self.gradients, self.precision.gradients())
        self.precision.clear()
        return loss.detach()

    def _update(self) -> Tensor:
        """As it stands at first, when the optimiser makes its moments, and where ranks talk inside it."""
        self.updates += 1
        if self.updates == 1 or (self.precision.loss_scale and world_size() > 1):
            return self._use_gradients()
        if self.update is None:
            self.update = self._record(self._use_gradients)
        graph, norm = self.update
        graph.replay()
        return norm.clone()

    def _use_gradients(self) -> Tensor:
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            weight.grad = gradient
        return self.precision.update(self.optimizer, clip_norm=self.config.clip_norm)

    def _record(self, compute: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Other threads of a worker may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = compute()
        return graph, result


def _tensors(batch: Batch) -> list[Tensor]:
    return [*batch[:4], *(batch.lessons or ())]


def summed_loss(model: nn.Module, batch: Batch, config: TrainingConfig) -> Tensor:
    """Of the sentences of this rank: (). Times the number of ranks over that of the sentences of all ranks, it has
    gradients whose average over ranks is the gradient of the mean loss."""
    if config.adversarial and isinstance(model, BiLstmCrf):
        losses_B = model.adversarial(batch, config.adversarial)
    else:
        losses_B = model(batch)
    return losses_B.sum()
