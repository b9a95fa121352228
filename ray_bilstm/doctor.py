"""Would training work here? What is installed, which devices Ray and torch see, and whether two workers can train.

The last part is no guess: two workers (one where there is one device) start as they do for training, join, add numbers
through both process groups, and take a few steps at every precision level that the device has.
"""

from __future__ import annotations

import itertools
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
import torch

from ray_bilstm import accelerator, cluster, collective
from ray_bilstm.accelerator import ACCELERATORS, Accelerator, AcceleratorError
from ray_bilstm.backend import assigned_devices
from ray_bilstm.batches import Shard
from ray_bilstm.cluster import ClusterError
from ray_bilstm.config import Config, ModelConfig
from ray_bilstm.failures import explain
from ray_bilstm.launch import connect, fit_to_cluster, make_trainer
from ray_bilstm.loop import TrainingError
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.precision import Precision
from ray_bilstm.sample import sample_corpus
from ray_bilstm.vocab import Vocab

SUPPORTED = {
    "python": ((3, 10), (3, 13)),
    "torch": ((2, 11), (2, 13)),
    "ray": ((2, 60), (2, 60)),
}
"""First and last version that pyproject.toml promises, as (major, minor)."""

OK, NOTE, FAILED = "ok", "note", "FAILED"


class Finding(NamedTuple):
    """One line of the examination."""

    subject: str
    state: str
    """OK, NOTE or FAILED: training would not work"""
    text: str


def examine(device: str = "auto") -> list[Finding]:
    """Everything that training on `device` needs. Connects to Ray as training does."""
    findings = [*_versions(), *_torch_sees(device)]
    try:
        connect(Config())
        resources = {name: n for name, n in ray.cluster_resources().items() if name in ("CPU", "GPU", "NPU")}
        has = ", ".join(f"{n:g} {name}" for name, n in sorted(resources.items()))
        findings.append(Finding("Ray has", OK, f"{has} on {len(ray.nodes())} node(s)"))
        chosen, _, config = fit_to_cluster(Config().with_fields(device=device))
        findings += _toolkit() if chosen.name == "npu" else []
        findings += _try_workers(chosen, config)
    except (AcceleratorError, ClusterError, TrainingError) as error:
        findings.append(Finding(device, FAILED, str(error)))
    return findings


def _versions() -> list[Finding]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "ray": ray.__version__}
    findings = []
    for name, (first, last) in SUPPORTED.items():
        inside = first <= tuple(int(part) for part in found[name].split(".")[:2]) <= last
        span = " to ".join(dict.fromkeys(".".join(map(str, version)) for version in (first, last)))
        findings.append(Finding(name, OK if inside else NOTE, f"{found[name]} (supported: {span})"))
    try:
        npu = metadata.version("torch_npu")
    except metadata.PackageNotFoundError:
        return [*findings, Finding("torch_npu", NOTE, "not installed (needed on npu only)")]
    same = npu.split(".")[:2] == torch.__version__.split(".")[:2]
    text = npu if same else f"{npu} does not go with torch {torch.__version__}: pip install torch_npu=={_plain_torch()}"
    return [*findings, Finding("torch_npu", OK if same else NOTE, text)]


def _plain_torch() -> str:
    return torch.__version__.partition("+")[0]


def _toolkit() -> list[Finding]:
    """CANN, as its set_env.sh leaves it in the environment."""
    home = os.environ.get("ASCEND_HOME_PATH")
    if home is None:
        return [
            Finding("CANN", NOTE, "ASCEND_HOME_PATH is not set here: source set_env.sh in the shell that starts Ray")
        ]
    version = next(iter(sorted(Path(home).glob("*/ascend_toolkit_install.info"))), None)
    lines = version.read_text(encoding="utf-8").splitlines() if version else []
    return [Finding("CANN", OK, next((line for line in lines if line.startswith("version")), f"at {home}"))]


def _torch_sees(device: str) -> list[Finding]:
    findings = []
    for known in ACCELERATORS.values():
        if device not in ("auto", known.name):
            continue
        try:
            module = accelerator.load(known)
        except AcceleratorError as error:
            findings.append(Finding(f"torch on {known.name}", NOTE, str(error)))
            continue
        count = f"{module.device_count()} x " if module else ""
        findings.append(
            Finding(f"torch on {known.name}", OK, count + accelerator.device_name(torch.device(known.name)))
        )
    return findings


def _try_workers(chosen: Accelerator, config: Config) -> list[Finding]:
    """Two workers that do what workers do; one if there is but one device."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    workers = 1 if chosen.name != "cpu" and cluster.count_accelerators(chosen, nodes) == 1 else 2
    claim = cluster.plan_claim(chosen, workers, nodes)
    with tempfile.TemporaryDirectory() as storage:
        settings = {"accelerator": chosen, "threads": claim.threads}
        trainer = make_trainer(_work, settings, chosen=chosen, num_workers=workers, claim=claim, storage=Path(storage))
        try:
            findings: list[Finding] = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            raise explain(error) from error
    works = all(finding.state != FAILED for finding in findings)
    text = f"on {chosen.name} at {config.run.amp_opt_level}, its default: {'works' if works else 'would fail'}"
    return [*findings, Finding("training", OK if works else FAILED, text)]


def _work(settings: dict[str, Any]) -> list[Finding]:
    """What each worker tries."""
    chosen: Accelerator = settings["accelerator"]
    torch.set_num_threads(settings["threads"])
    device = accelerator.worker_device(chosen, assigned_devices(chosen))
    findings = [Finding("worker", OK, f"{device}, {accelerator.device_name(device)}"), _reach(chosen, device)]
    trials = [("O0", "float32"), *itertools.product(("O1", "O2"), ("float16", "bfloat16"))]
    auto = torch.float32 if chosen.default_level == "O0" else accelerator.half_dtype(chosen, "auto")
    for level, dtype in trials:
        finding = _try_level(chosen, device, level, dtype)
        is_default = (level, f"torch.{dtype}") == (chosen.default_level, str(auto))
        findings.append(finding._replace(state=FAILED) if is_default and finding.state != OK else finding)
    return findings


def _reach(chosen: Accelerator, device: torch.device) -> Finding:
    """Do the ranks add up, on their devices and in host memory?"""
    world = collective.world_size()
    if world == 1:
        return Finding(chosen.backend, NOTE, f"one {chosen.resource}: no second worker to reach")
    largest = collective.max_on_devices(torch.tensor([float(collective.rank())], device=device))
    added = collective.sum_over_ranks(torch.tensor([1]))
    reached = float(largest) == world - 1 and int(added) == world
    backends = " and ".join(dict.fromkeys((chosen.backend, "gloo")))
    return Finding(backends, OK if reached else FAILED, f"{world} workers reach{'' if reached else ' not'} one another")


def _try_level(chosen: Accelerator, device: torch.device, level: str, dtype: str) -> Finding:
    """A few training steps of a small model."""
    subject = f"{chosen.name} {level}"
    try:
        half = torch.float32 if level == "O0" else accelerator.half_dtype(chosen, dtype)
        half_lstm = accelerator.half_lstm(chosen, "auto", half, level=level)
        losses = _losses(Precision(level, dtype=half, device=device, half_lstm=half_lstm))
    except AcceleratorError as error:
        return Finding(subject, NOTE, str(error))
    except Exception as error:  # whatever the device's kernels raise
        return Finding(subject, NOTE, f"{dtype} fails: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
    if not np.isfinite(losses).all():
        return Finding(subject, NOTE, f"{dtype} fails: the losses are {losses}")
    lstm = "" if half_lstm or level == "O0" else ", LSTM in float32"
    return Finding(subject, OK, f"{dtype}{lstm}: loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps")


def _losses(precision: Precision) -> list[float]:
    """Of three training steps."""
    sentences = sample_corpus().train[:8]
    vocab = Vocab.build(sentences, scheme="BMES", bigram_min_count=2)
    encoded = vocab.encode([s.tokens for s in sentences], [s.tags for s in sentences])
    shard = Shard(encoded, np.arange(len(sentences)), device=precision.device)
    batch = shard.batch(shard.rows, int(encoded.lengths.max()), sentences=len(sentences))
    torch.manual_seed(0)
    model = BiLstmCrf(ModelConfig(), vocab).to(precision.device)
    precision.prepare(model)
    optimizer = torch.optim.AdamW(precision.trained(), fused=True)
    losses = []
    for _ in range(3):
        with precision.autocast():
            loss = model(batch).sum() / len(sentences)
        precision.step(loss, optimizer, clip_norm=5.0)
        losses.append(float(loss))
    return losses


def verdict(findings: list[Finding]) -> int:
    """The exit code: 0 where training would work."""
    return int(any(finding.state == FAILED for finding in findings))
