"""Model directories: safetensors and JSON, nothing pickled, each file written whole or not at all.

    best/   model.safetensors   float32 weights
            config.json         shape of the model, and the settings it was trained with
            vocab.json          characters, bigrams, tags, tag scheme
            README.md           model card
    last/   the same, and train_state.safetensors: weights, best weights, optimiser state and epoch for --resume

A file appears by renaming a finished temporary one, so that a killed run leaves the old file or the new one.
train_state.safetensors is complete by itself: no second file has to agree with it. The one before it stays beside it
as train_state.previous.safetensors, for a disk that loses what it was given.

Files of tensors carry a digest of their content, and model.safetensors one of its settings and vocabulary too: a bit
that has changed is an error, not another model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ray_bilstm.config import Config, ModelConfig, section_from_dict
from ray_bilstm.loop import Progress
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.vocab import Vocab, VocabError

MODEL, CONFIG, VOCAB, CARD, STATE = (
    "model.safetensors",
    "config.json",
    "vocab.json",
    "README.md",
    "train_state.safetensors",
)
PREVIOUS = "train_state.previous.safetensors"
PARTIAL = ".partial"
"""Ends the names of files that are being written."""
FORMAT = 1


class CheckpointError(RuntimeError):
    """A model directory or training state that cannot be read."""


def write_file(path: Path, content: str | bytes, *, previous: Path | None = None) -> None:
    """Write a whole file or leave what was there: temporary file in the same folder, flushed, renamed. What was there
    is kept as `previous`, where that is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _flush_names(path.parent)


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left in `folder`."""
    for file in folder.glob(f".*{PARTIAL}"):
        file.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    """Have a renamed file keep its name through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_model(directory: Path, weights: dict[str, Tensor], *, config: Config, vocab: Vocab) -> None:
    """A model directory without its card. The weights come last: they replace those of an earlier epoch."""
    settings = {"format": FORMAT, **{name: config.to_dict()[name] for name in ("model", "training")}}
    words = vocab.to_json()
    write_file(directory / CONFIG, json.dumps(settings, ensure_ascii=False, indent=2) + "\n")
    write_file(directory / VOCAB, words)
    digest = _digest(weights, _shape(settings), words)
    write_file(directory / MODEL, save(weights, metadata={"digest": digest}))


def read_model(directory: str | Path) -> tuple[BiLstmCrf, Vocab]:
    """The model of a directory, in evaluation mode on the cpu. Raises CheckpointError with what is wrong and where."""
    directory = Path(directory)
    config, vocab, weights = read_weights(directory)
    if "emission.weight" not in weights and "char_embedding.weight" in weights:
        raise CheckpointError(f"{directory}: got a pretrained model, not a tagger: start one from it with --init-from")
    expected = _expected_shapes(directory, config, vocab, most_layers=len(weights))
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    if got != expected:
        wrong = sorted(name for name in {*got, *expected} if got.get(name) != expected.get(name))
        raise CheckpointError(
            f"{directory / MODEL}: {wrong[0]!r} has shape {got.get(wrong[0])}, expected {expected.get(wrong[0])} from "
            f"{CONFIG} and {VOCAB}: the files are not of one model"
        )
    for name, weight in weights.items():
        if weight.dtype is not torch.float32:
            raise CheckpointError(f"{directory / MODEL}: {name} is {weight.dtype}, expected torch.float32")
    model = BiLstmCrf(config, vocab)
    model.load_state_dict(weights)
    return model.eval(), vocab


def _expected_shapes(
    directory: Path, config: ModelConfig, vocab: Vocab, *, most_layers: int
) -> dict[str, tuple[int, ...]]:
    """What the settings ask for, without making it: they may be of a stranger."""
    try:
        if config.num_layers > most_layers:
            raise ValueError(f"num_layers is {config.num_layers}, but {MODEL} has {most_layers} tensors")
        with torch.device("meta"):
            return {name: tuple(weight.shape) for name, weight in BiLstmCrf(config, vocab).named_parameters()}
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{directory / CONFIG}: not the settings of a model that can be: {reason}") from error


def read_weights(directory: Path) -> tuple[ModelConfig, Vocab, dict[str, Tensor]]:
    """What stands in a model directory: as it was written, where the files say so. Raises CheckpointError."""
    missing = [name for name in (MODEL, CONFIG, VOCAB) if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory}: got no {', '.join(missing)}, expected a model directory such as runs/NAME/best"
        )
    try:
        settings = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        if settings["format"] != FORMAT:
            raise ValueError(f"format {settings['format']!r}, expected {FORMAT}")
        config = section_from_dict(ModelConfig, settings["model"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{directory / CONFIG}: not the settings of a model: {error!r}") from error
    try:
        words = (directory / VOCAB).read_text(encoding="utf-8")
        vocab = Vocab.from_json(words)
    except (OSError, VocabError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{directory / VOCAB}: {error}") from error
    weights, metadata = _read_tensors(directory / MODEL)
    if "digest" in metadata:
        _check_digest(directory / MODEL, metadata, weights, _shape(settings), words)
    return config, vocab, weights


def _shape(settings: dict[str, Any]) -> str:
    """The part of the settings that a model is made from, in one spelling."""
    return json.dumps(settings["model"], sort_keys=True)


def _digest(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """SHA-256 of names, types, shapes and bytes, and of `texts`."""
    digest = hashlib.sha256(repr(texts).encode("utf-8"))
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode("utf-8"))
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_digest(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor], *texts: str) -> None:
    if metadata.get("digest") != _digest(tensors, *texts):
        beside = f", or {CONFIG} or {VOCAB} beside it are of another model" if path.name == MODEL else ""
        raise CheckpointError(f"{path}: not what was written: it has been damaged{beside}; take another copy")


def write_state(directory: Path, progress: Progress) -> None:
    """What `--resume` needs, in one file. Where the last weights are the best, they are kept once."""
    kinds = [k for k in _TENSORS if k != "best_weights" or not _last_is_best(progress)]
    tensors = {f"{kind}/{name}": t for kind in kinds for name, t in getattr(progress, kind).items()}
    scalars = {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress) if f.name not in _TENSORS}
    text = json.dumps(scalars)
    metadata = {"progress": text, "digest": _digest(tensors, text)}
    write_file(directory / STATE, save(tensors, metadata=metadata), previous=directory / PREVIOUS)


def _last_is_best(progress: Progress) -> bool:
    return progress.best_epoch == progress.epoch and not progress.steps


def has_state(directory: Path) -> bool:
    """Whether `write_state` has left something there."""
    return (directory / STATE).is_file() or (directory / PREVIOUS).is_file()


def read_state(directory: Path, *, warn: Callable[[str], None] = lambda text: None) -> Progress:
    """The last state that `write_state` left whole; `warn` is told where a later one is passed over.

    Raises CheckpointError where there is none.
    """
    if not has_state(directory):
        raise CheckpointError(f"{directory}: got no {STATE}, expected the last/ directory of a run")
    try:
        return _read_state(directory / STATE)
    except CheckpointError as error:
        if not (directory / PREVIOUS).is_file():
            raise
        try:
            progress = _read_state(directory / PREVIOUS)
        except CheckpointError as second:
            raise CheckpointError(f"{error}; {second}. Neither can be resumed: start anew with --overwrite") from error
        warn(f"warning: {error}. Going on from the state before it")
        return progress


def _read_state(path: Path) -> Progress:
    tensors, metadata = _read_tensors(path)
    try:
        _check_digest(path, metadata, tensors, metadata["progress"])
        scalars = json.loads(metadata["progress"])
        groups: dict[str, Any] = {kind: {} for kind in _TENSORS}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            groups[kind][rest] = tensor
        progress = Progress(**scalars, **groups)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a training state: {error!r}") from error
    if _last_is_best(progress):
        progress.best_weights = progress.weights
    return progress


_TENSORS = ("weights", "best_weights", "moments", "loss_scale", "begun")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Those of a safetensors file, by name. Raises CheckpointError where it cannot be read."""
    return _read_tensors(path)[0]


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
