"""The process group of a Ray Train run, set up by a backend of our own.

Ray's TorchConfig picks gloo for NPUs, asks its own device manager for the device, never makes an NPU current before the
process group exists, and knows no second group. Here each worker first makes its own device current, with the settings
it wants, then meets the others at a store that rank 0 keeps open on a free port.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from ray_bilstm import accelerator, collective
from ray_bilstm.accelerator import Accelerator

LEAVE_SECONDS = 10

_store: Any = None
"""This worker's end of the store: rank 0's is the store itself, and lives as long as the process group."""


def assigned_devices(chosen: Accelerator) -> list[str]:
    """The ids of the devices that Ray assigned to this worker."""
    return list(ray.get_runtime_context().get_accelerator_ids().get(chosen.resource, []))


class CollectiveBackend(Backend):  # type: ignore[misc]
    """Every worker joins before training, and leaves after it."""

    def on_start(self, worker_group: Any, backend_config: CollectiveConfig) -> None:
        """Raises what a worker raised, or ray.exceptions.RayActorError where one died meanwhile: at once, the others
        are not waited for."""
        chosen = backend_config.accelerator
        ray.get(worker_group.execute_async(_prepare, chosen))
        host, port = worker_group.execute_single(0, _open_store)
        ray.get(worker_group.execute_async(_join, chosen, host, port))

    def on_shutdown(self, worker_group: Any, backend_config: CollectiveConfig) -> None:
        ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=LEAVE_SECONDS)


@dataclasses.dataclass(kw_only=True)
class CollectiveConfig(BackendConfig):  # type: ignore[misc]
    """Which accelerator the workers have; everything else follows from it."""

    accelerator: Accelerator

    @property
    def backend(self) -> str:
        """The name that Ray Train shows."""
        return self.accelerator.backend

    @property
    def backend_cls(self) -> type[Backend]:
        return CollectiveBackend

    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend}


def _prepare(chosen: Accelerator) -> None:
    _choose_interface()
    accelerator.worker_device(chosen, assigned_devices(chosen))


def _choose_interface() -> None:
    """Have gloo listen where Ray does; by itself it takes the address of the host name, on many machines 127.0.1.1."""
    name = collective.interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _open_store() -> tuple[str, int]:
    global _store
    host = ray.util.get_node_ip_address()
    store = collective.open_store(host)
    _store = store
    return host, store.port


def _join(chosen: Accelerator, host: str, port: int) -> None:
    global _store
    context = ray.train.get_context()
    ranks = {
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
    }
    os.environ.update(
        {name: str(value) for name, value in ranks.items()}
    )  # as torchrun leaves it: libraries look there
    wait = collective.timeout(chosen)
    if _store is None:
        _store = collective.reach_store(host, port, wait)
    collective.join(chosen, _store, rank=ranks["RANK"], world_size=ranks["WORLD_SIZE"], wait=wait)


def _leave() -> None:
    global _store
    collective.leave()
    _store = None
