"""Ray, started: the cluster, what a worker may claim of it, and a trainer on our own backend.

What training, searching and the doctor share; each then runs a function of its own on the workers.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from ray_bilstm import accelerator, cluster
from ray_bilstm.accelerator import Accelerator
from ray_bilstm.backend import CollectiveConfig
from ray_bilstm.config import Config


def connect(config: Config) -> None:
    """Join the Ray cluster that RAY_ADDRESS names (`auto`: the one of this machine), else start one here; quietly.

    Ray by itself would look for a cluster here, and wait many minutes for one that was killed.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for workers started here: spinning threads starve neighbours
    address = os.environ.get("RAY_ADDRESS", "local")
    if config.run.local_rank is not None:
        if address != "local":
            raise cluster.ClusterError(
                f"--local-rank {config.run.local_rank} names a device of this machine, but the cluster at {address}"
                " assigns devices itself: leave it out, or set RAY_ADDRESS=local"
            )
        for known in accelerator.ACCELERATORS.values():
            if known.visible_devices and config.run.device in ("auto", known.name):
                os.environ[known.visible_devices] = str(config.run.local_rank)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": passed_on()} if address != "local" else None,
        )
    except ConnectionError as error:
        raise cluster.ClusterError(f"{error}. Start it, or set RAY_ADDRESS=local to start Ray here") from error


def passed_on() -> dict[str, str]:
    """Variables that matter before a worker of a running cluster imports torch; workers started here inherit them.

    None in a submitted job, whose environment the one who submits it sets.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    passed = {name: os.environ[name] for name in ("TORCH_DEVICE_BACKEND_AUTOLOAD",) if name in os.environ}
    folders = [os.path.abspath(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if folders:
        passed["PYTHONPATH"] = os.pathsep.join([*folders, "${PYTHONPATH}"])
    return passed


def fit_to_cluster(config: Config) -> tuple[Accelerator, cluster.Claim, Config]:
    """The accelerator, the claim of a worker, and `config` with what `auto`, --distributed and --local_rank mean."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    chosen = accelerator.choose(config.run.device, ray.cluster_resources())
    num_workers = config.run.num_workers
    if config.run.distributed:
        num_workers = max(1, cluster.count_accelerators(chosen, nodes))
    if config.run.local_rank is not None:
        num_workers = 1
    if not cluster.count_accelerators(chosen, nodes):
        accelerator.load(chosen)  # what this machine lacks says more than that Ray has found none
    level = config.run.amp_opt_level
    config = config.with_fields(
        device=chosen.name,
        num_workers=num_workers,
        amp_opt_level=chosen.default_level if level == "auto" else level,
    )
    few = config.run.min_workers
    if few is not None:
        return chosen, cluster.plan_elastic_claim(chosen, few, num_workers, nodes), config
    return chosen, cluster.plan_claim(chosen, num_workers, nodes), config


def make_trainer(
    function: Callable[[dict[str, Any]], Any],
    settings: dict[str, Any],
    *,
    chosen: Accelerator,
    num_workers: int | tuple[int, int],
    claim: cluster.Claim,
    storage: Path,
    callbacks: Sequence[ray.train.UserCallback] = (),
    max_failures: int = 0,
    **datasets: Any,
) -> ray.train.torch.TorchTrainer:
    """A TorchTrainer that runs `function(settings)` on workers that have joined through our own backend: a fixed number
    of them, or from the least to the most of a pair, as nodes come and go."""
    return ray.train.torch.TorchTrainer(
        function,
        train_loop_config=settings,
        torch_config=CollectiveConfig(accelerator=chosen),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers, use_gpu="GPU" in claim.resources, resources_per_worker=claim.resources
        ),
        run_config=ray.train.RunConfig(
            name=f"{function.__name__}-{time.time_ns()}",
            storage_path=str(storage),
            callbacks=list(callbacks),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            # By default Ray starts workers that cannot start (a package missing on their node, say) again for ever.
            failure_config=ray.train.FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures),
        ),
        **datasets,
    )
