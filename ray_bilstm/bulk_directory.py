"""The directory of tagged parts: what is in it, what is still to do, and whether it is that of this work.

manifest.json                   model (SHA-256), scores, and of each input path, size, time of change and cut
0001-resumes.txt-00001.jsonl    part 1 of input 1: its texts with their entities

The manifest comes first. A part appears whole, by renaming a finished temporary file: one that is there is done.
Numbers have as many digits as it takes for the parts to be in the order of the inputs when sorted by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray_bilstm.checkpoint import CONFIG, MODEL, VOCAB, write_file
from ray_bilstm.ensemble_directory import member_paths
from ray_bilstm.parts import PART_BYTES, Part, Source, cut
from ray_bilstm.run_directory import RunError

MANIFEST = "manifest.json"
FORMAT = 1
NAME_CHARACTERS = 40
"""Of an input's name in those of its parts."""
CHANGES = "pass --overwrite to begin anew, or choose another --output-dir"


class Task(NamedTuple):
    """A part to tag, and the file to write."""

    source: Path
    part: Part
    output: Path


def model_digest(model: Path) -> str:
    """SHA-256 of all that decides what a model, or an ensemble, says."""
    digest = hashlib.sha256()
    for member in member_paths(model):
        for name in (CONFIG, VOCAB, MODEL):
            digest.update(hashlib.sha256((member / name).read_bytes()).digest())
    return digest.hexdigest()


def open_directory(
    directory: Path,
    sources: Sequence[Source],
    *,
    model: Path,
    scores: bool,
    overwrite: bool = False,
    part_bytes: int = PART_BYTES,
) -> list[Task]:
    """Make `directory` ready, and return all its tasks, done or not. What a killed run left unfinished is removed.

    Raises RunError where it holds other work and `overwrite` is not given, or things that are none.
    """
    wanted = {"format": FORMAT, "model": model_digest(model), "scores": scores, "inputs": list(map(_describe, sources))}
    held = _read_manifest(directory)
    if held:
        changed = _difference(held, wanted)
        if changed and not overwrite:
            raise RunError(f"{directory}: holds parts of other work: {changed}; {CHANGES}")
        if overwrite:
            for task in _tasks(directory, _sources(held)):
                task.output.unlink(missing_ok=True)
            held = {}
    elif directory.is_dir() and any(directory.iterdir()):
        raise RunError(
            f"{directory}: holds files and no {MANIFEST}, expected a new or empty directory, or one to resume"
        )
    if not held:
        held = wanted | {"inputs": list(map(_describe, cut(sources, part_bytes=part_bytes)))}
        write_file(directory / MANIFEST, json.dumps(held, ensure_ascii=False) + "\n")
    tasks = _tasks(directory, _sources(held))
    remove_unfinished(tasks)
    return tasks


def _describe(source: Source) -> dict[str, Any]:
    return {**source._asdict(), "path": str(source.path)}


def _sources(manifest: dict[str, Any]) -> list[Source]:
    return [
        Source(Path(one["path"]), one["bytes"], one["mtime_ns"], tuple(Part(*part) for part in one["parts"]))
        for one in manifest["inputs"]
    ]


def _read_manifest(directory: Path) -> dict[str, Any]:
    """Empty where there is none."""
    path = directory / MANIFEST
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory}: got a file, expected a directory for the tagged parts")
    if not path.is_file():
        return {}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, expected {FORMAT}")
        _sources(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not the manifest of tagged parts: {error!r}; choose another --output-dir") from error
    return manifest


def _difference(held: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What first differs, in words; nothing where all is the same. The cut is that of the manifest."""
    if held["model"] != wanted["model"]:
        return "they are of another model, or the model has changed"
    if held["scores"] != wanted["scores"]:
        return f"they are {'with' if held['scores'] else 'without'} scores"
    before, now = ({one["path"]: one for one in manifest["inputs"]} for manifest in (held, wanted))
    if list(before) != list(now):
        odd = next((path for path in [*before, *now] if (path in before) != (path in now)), None)
        if odd is None:
            return "the inputs came in another order"
        return f"they are {'with' if odd in before else 'without'} {odd}"
    for path, one in before.items():
        if any(one[key] != now[path][key] for key in ("bytes", "mtime_ns")):
            return f"{path} has changed since"
    return ""


def _tasks(directory: Path, sources: Sequence[Source]) -> list[Task]:
    inputs = max(4, len(str(len(sources))))
    parts = max(5, len(str(max((len(source.parts) for source in sources), default=0))))
    return [
        Task(source.path, part, directory / f"{i:0{inputs}}-{source.path.name[-NAME_CHARACTERS:]}-{k:0{parts}}.jsonl")
        for i, source in enumerate(sources, start=1)
        for k, part in enumerate(source.parts, start=1)
    ]


def unfinished(output: Path) -> list[Path]:
    """Temporary files of a part, of one that is being written and of each whose writer died: `.NAME.xxxxxxxx`."""
    return [path for path in output.parent.iterdir() if path.name.startswith(f".{output.name}.")]


def remove_unfinished(tasks: Sequence[Task]) -> None:
    """Remove what writers that died left."""
    names = {task.output.name for task in tasks}
    for folder in {task.output.parent for task in tasks}:
        for path in folder.glob(".*"):
            if path.name[1:].rpartition(".")[0] in names:
                path.unlink(missing_ok=True)
