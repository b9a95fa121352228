"""Many texts, tagged by the workers of a cluster through Ray Data.

The rows of the dataset are not texts but parts of files (`parts.py`), a row a block: each goes to an actor that holds
the model, reads the part, tags it and writes the file of its output, and only counts come back. So neither the
driver nor Ray's object store holds a text, a worker holds what `Tagger.predict_iter` reads ahead, and what has been
written need not be done again (`bulk_directory.py`). All nodes reach the files under the same paths.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import ray
import ray.data
import torch

from ray_bilstm import accelerator, cluster
from ray_bilstm.accelerator import Accelerator
from ray_bilstm.backend import assigned_devices
from ray_bilstm.bulk_directory import Task, open_directory, remove_unfinished, unfinished
from ray_bilstm.config import Config
from ray_bilstm.ensemble_directory import read_tagger
from ray_bilstm.launch import connect, fit_to_cluster
from ray_bilstm.loop import TrainingError
from ray_bilstm.parts import PART_BYTES, Part, find_sources, is_unchanged, iter_part
from ray_bilstm.predict import Tagger
from ray_bilstm.texts import TextError, iter_jsonl, write_lines

if TYPE_CHECKING:
    from ray_bilstm.texts import Tagged

MOST_DEATHS = 3
"""Of workers at one part, which is then left out. Ray itself replaces a worker and tries its part again for ever."""

COUNTED = ("sentences", "characters", "entities")


class Counts(NamedTuple):
    """What has been tagged by this call."""

    sentences: int = 0
    characters: int = 0
    entities: int = 0
    parts: int = 0
    all_parts: int = 0
    """of the inputs"""
    found_parts: int = 0
    """that an earlier call had written"""
    faults: tuple[str, ...] = ()
    """why parts could not be read or written, in the order of the inputs"""
    seconds: float = 0.0
    """of wall time: the start of Ray and of the workers, and the work"""


def tag_files(
    model: str | Path,
    inputs: Sequence[str | Path],
    output_dir: str | Path,
    *,
    num_workers: int | None = None,
    device: str = "auto",
    scores: bool = True,
    overwrite: bool = False,
    part_bytes: int = PART_BYTES,
    on_part: Callable[[Counts], None] | None = None,
) -> Counts:
    """Tag files, and those in folders, into JSON lines in `output_dir`, a file a part; parts that are there are kept.

    There are as many workers as the cluster has devices, or cores, unless `num_workers` says how many. `on_part` gets
    what has been done so far, after each part. A part with a fault is left out, and the others go on: see `faults`.
    Raises TextError, CheckpointError, ConfigError, ClusterError, AcceleratorError, RunError or TrainingError, with a
    sentence each.
    """
    started = time.monotonic()
    model, directory = Path(model).absolute(), Path(output_dir).absolute()
    sources = find_sources(inputs)
    read_tagger(model)  # so that a damaged one is said before anything starts
    config = Config().with_fields(
        device=device,
        num_workers=1 if num_workers is None else num_workers,
        distributed=num_workers is None,
        output_dir=str(output_dir),
    )
    connect(config)
    chosen, claim, config = fit_to_cluster(config)
    tasks = open_directory(directory, sources, model=model, scores=scores, overwrite=overwrite, part_bytes=part_bytes)
    todo = [task for task in tasks if not task.output.exists()]
    counts = Counts(all_parts=len(tasks), found_parts=len(tasks) - len(todo))
    faults: dict[str, str] = {}
    for row in _iter_done(todo, Worker.arguments(model, chosen, claim, scores), claim, config.run.num_workers):
        if row["fault"]:
            faults[row["output"]] = row["fault"]
        else:
            counts = _add(counts, row)
        counts = counts._replace(
            faults=tuple(faults[name] for name in sorted(faults)), seconds=time.monotonic() - started
        )
        if on_part:
            on_part(counts)
    remove_unfinished(tasks)
    changed = next((source.path for source in sources if not is_unchanged(source)), None)
    if changed:
        raise TextError(f"{changed}: has changed while it was read: run again with --overwrite")
    return counts._replace(seconds=time.monotonic() - started)


def _add(counts: Counts, row: dict[str, Any]) -> Counts:
    return counts._replace(parts=counts.parts + 1, **{name: getattr(counts, name) + row[name] for name in COUNTED})


def _iter_done(
    tasks: Sequence[Task], arguments: dict[str, Any], claim: cluster.Claim, num_workers: int
) -> Iterator[dict[str, Any]]:
    """What `Worker` says of each task, as they are done."""
    if not tasks:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"source": str(task.source), **task.part._asdict(), "output": str(task.output)} for task in tasks]
    claims = dict(claim.resources)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(tasks)), max_tasks_in_flight_per_actor=1),
        num_cpus=claims.pop("CPU", 0),
        num_gpus=claims.pop("GPU", 0),
        resources=claims,
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise TrainingError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error


class Worker:
    """An actor: a model on a device of its own."""

    def __init__(self, *, model: str, chosen: Accelerator, threads: int, scores: bool) -> None:
        torch.set_num_threads(threads)
        accelerator.keep_freed_memory()
        device = accelerator.worker_device(chosen, assigned_devices(chosen))
        self.tagger = Tagger.load(model, device=device)
        self.scores = scores

    @staticmethod
    def arguments(model: Path, chosen: Accelerator, claim: cluster.Claim, scores: bool) -> dict[str, Any]:
        """Of a worker with `claim`."""
        return {"model": str(model), "chosen": chosen, "threads": claim.threads, "scores": scores}

    def __call__(self, table: pa.Table) -> dict[str, list[Any]]:
        """Tag the part that the one row of `table` names, and count."""
        (row,) = table.to_pylist()
        part, output = Part(row["begin"], row["end"], row["first"]), row["output"]
        self.counts, fault = dict.fromkeys(COUNTED, 0), ""
        try:
            if len(unfinished(Path(output))) >= MOST_DEATHS:
                raise TextError(
                    f"{row['source']}:{part.first}: {MOST_DEATHS} workers died at the part that begins here: killed, or"
                    " out of memory. Ray's logs (by default under /tmp/ray/session_latest/logs) say more"
                )
            write_lines(Path(output), iter_jsonl(self._tag(Path(row["source"]), part)))
        except (TextError, OSError) as error:
            fault = str(error)
        return {name: [value] for name, value in {**self.counts, "output": output, "fault": fault}.items()}

    def _tag(self, source: Path, part: Part) -> Iterator[Tagged]:
        asked, kept = tee(iter_part(source, part))
        found = self.tagger.predict_iter((text.text for text in asked), scores=self.scores)
        for text, entities in zip(kept, found, strict=True):
            for name, count in zip(COUNTED, (1, sum(map(len, text.text)), len(entities)), strict=True):
                self.counts[name] += count
            yield text, entities
