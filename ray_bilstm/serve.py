"""A model as a service: Ray Serve, texts of many clients in one batch.

Each replica holds the model, answers HTTP and computes in a thread of its own, so that it still answers while it
computes. A reload replaces the model within the replicas: what is being computed ends with the old one, and no request
waits or fails. Ray is started here, for this service alone, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from fastapi import HTTPException
from fastapi.responses import HTMLResponse
from ray import serve

from ray_bilstm import __version__, accelerator, cluster
from ray_bilstm.accelerator import ACCELERATORS, Accelerator
from ray_bilstm.backend import assigned_devices
from ray_bilstm.bulk_directory import model_digest
from ray_bilstm.checkpoint import CheckpointError
from ray_bilstm.ensemble_directory import read_tagger
from ray_bilstm.predict import Entity, Tagger
from ray_bilstm.web import REFUSALS, Answer, Health, Question, check_texts, make_answer, make_app, render_page

APPLICATION = "tagger"
QUIET = {"log_level": "ERROR", "enable_access_log": False}
"""How Ray Serve logs: no texts, no addresses."""

MOST_WAITING = 1024
"""Requests that a replica holds; more are refused."""
DRAIN_SECONDS = 30.0
"""For requests that are being answered when the service ends."""

app = make_app()


class ServeError(RuntimeError):
    """A service that cannot start."""


class Loaded(NamedTuple):
    """A model in use."""

    tagger: Tagger
    digest: str


class Service:
    """A replica: a model on a device of its own, and what it answers."""

    def __init__(
        self, model: str, *, chosen: Accelerator, threads: int, max_batch: int, batch_wait_seconds: float
    ) -> None:
        torch.set_num_threads(threads)
        accelerator.keep_freed_memory()
        self.path = Path(model)
        self.device = accelerator.worker_device(chosen, assigned_devices(chosen))
        self.loaded = self._load()
        self.waiting = 0
        self.predict = serve.batch(self._predict, max_batch_size=max_batch, batch_wait_timeout_s=batch_wait_seconds)

    def _load(self) -> Loaded:
        return Loaded(Tagger.load(self.path, device=self.device), model_digest(self.path))

    async def reload(self) -> str:
        """Take the model that the directory now holds; its digest. The old one stays where that cannot be read."""
        self.loaded = await asyncio.to_thread(self._load)
        return self.loaded.digest

    async def _predict(self, asked: list[tuple[str, bool]]) -> list[list[Entity]]:
        """The entities of each text; scores where any of a batch wants them."""
        texts, scores = [text for text, _ in asked], any(scores for _, scores in asked)
        return await asyncio.to_thread(self.loaded.tagger.predict, texts, scores=scores)

    async def tag(self, question: Question) -> Answer:
        """Raises HTTPException 503 where too many requests wait."""
        if self.waiting >= MOST_WAITING:
            raise HTTPException(
                503, f"requests: got over {MOST_WAITING:,} at a time, expected fewer: try again", {"Retry-After": "1"}
            )
        self.waiting += 1
        try:
            found = await asyncio.gather(*(self.predict((text, question.scores)) for text in question.texts))
        finally:
            self.waiting -= 1
        if not question.scores:
            found = [[entity._replace(score=None) for entity in entities] for entities in found]
        return make_answer(found)


def _service() -> Service:
    """Of this replica."""
    service: Service = serve.get_replica_context().servable_object
    return service


@app.post("/tag", response_model_exclude_none=True, responses=REFUSALS)
async def tag(question: Question) -> Answer:
    """Tag one text or several."""
    check_texts(question)
    return await _service().tag(question)


@app.get("/health")
async def health() -> Health:
    """Whether the service answers, and with which model."""
    service = _service()
    tagger, digest = service.loaded
    types = list(tagger.scorer.types)
    return Health(status="ok", model=service.path.name, digest=digest, types=types, version=__version__)


@app.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page() -> HTMLResponse:
    service = _service()
    return HTMLResponse(render_page(service.path.name, service.loaded.tagger.scorer.types))


class Running(NamedTuple):
    """A service that answers."""

    url: str
    handle: Any

    def reload(self) -> str:
        """Have all replicas take the model that the directory now holds; its digest.

        Raises CheckpointError, or OSError, where it cannot be read: the replicas go on with what they have.
        """
        try:
            digests: list[str] = self.handle.broadcast("reload").results()
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, (CheckpointError, OSError)) else error from None
        return digests[0]


@contextmanager
def serving(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int = 1,
    device: str = "cpu",
    max_batch: int = 64,
    batch_wait_ms: float = 2.0,
) -> Iterator[Running]:
    """A service of the model in a directory, for as long as the block runs; requests that it is answering then are
    answered. `port` 0 is any free one.

    Raises ServeError, CheckpointError, AcceleratorError or ClusterError, with a sentence, where it cannot start.
    """
    path = Path(model).absolute()
    read_tagger(path)  # so that a damaged one is said before anything starts
    port = _free_port(host, port)
    chosen = ACCELERATORS[device]
    accelerator.load(chosen)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve neighbours
    local = "127.0.0.1"
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _node_ip_address=local)
    try:
        nodes = [node["Resources"] for node in ray.nodes()]
        claim = cluster.plan_claim(chosen, replicas, nodes, flag="--replicas")
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=QUIET)
        deployment = _deployment(claim, replicas).bind(
            str(path),
            chosen=chosen,
            threads=claim.threads,
            max_batch=max_batch,
            batch_wait_seconds=batch_wait_ms / 1000,
        )
        try:
            handle = serve.run(deployment, name=APPLICATION, logging_config=QUIET)
            yield Running(f"http://{f'[{host}]' if ':' in host else host}:{port}", handle)
        finally:
            serve.delete(APPLICATION)  # shutdown alone would cut off what is being answered
    finally:
        serve.shutdown()
        ray.shutdown()


def _deployment(claim: cluster.Claim, replicas: int) -> Any:
    resources = dict(claim.resources)
    options = {"num_cpus": resources.pop("CPU", 0), "num_gpus": resources.pop("GPU", 0), "resources": resources}
    return serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=2 * MOST_WAITING,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options=options,
    )(serve.ingress(app)(Service))


def _free_port(host: str, port: int) -> int:
    """`port`, or for 0 a free one. Raises ServeError where the address cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            return int(trial.getsockname()[1])
    except (OSError, OverflowError, UnicodeError) as error:
        raise ServeError(f"--host {host} --port {port}: {error}: expected an address that is free here") from error
