"""Model directories: safetensors and JSON, nothing pickled, each file written whole or not at all.

    best/   model.safetensors   float32 weights
            config.json         shape of the model, and the settings it was trained with
            vocab.json          characters, bigrams, tags, tag scheme
            README.md           model card
    last/   the same, and train_state.safetensors: weights, best weights, optimiser state and epoch for --resume

A file appears by renaming a finished temporary one, so that a killed run leaves the old file or the new one.
train_state.safetensors is complete by itself: no second file has to agree with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
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
FORMAT = 1


class CheckpointError(RuntimeError):
    """A model directory or training state that cannot be read."""


def write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file or leave what was there: temporary file in the same folder, flushed, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_model(directory: Path, weights: dict[str, Tensor], *, config: Config, vocab: Vocab) -> None:
    """A model directory without its card. The weights come last: they replace those of an earlier epoch."""
    settings = {"format": FORMAT, **{name: config.to_dict()[name] for name in ("model", "training")}}
    write_file(directory / CONFIG, json.dumps(settings, ensure_ascii=False, indent=2) + "\n")
    write_file(directory / VOCAB, vocab.to_json())
    write_file(directory / MODEL, save(weights))


def read_model(directory: str | Path) -> tuple[BiLstmCrf, Vocab]:
    """The model of a directory, in evaluation mode on the cpu. Raises CheckpointError with what is wrong and where."""
    directory = Path(directory)
    config, vocab, weights = read_weights(directory)
    with torch.device("meta"):
        expected = {name: tuple(weight.shape) for name, weight in BiLstmCrf(config, vocab).named_parameters()}
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    if "emission.weight" not in got:
        raise CheckpointError(f"{directory}: got a pretrained model, not a tagger: start one from it with --init-from")
    if got != expected:
        wrong = sorted(name for name in {*got, *expected} if got.get(name) != expected.get(name))
        raise CheckpointError(
            f"{directory / MODEL}: {wrong[0]} has shape {got.get(wrong[0])}, expected {expected.get(wrong[0])} from "
            f"{CONFIG} and {VOCAB}: the files are not of one model"
        )
    model = BiLstmCrf(config, vocab)
    model.load_state_dict(weights)
    return model.eval(), vocab


def read_weights(directory: Path) -> tuple[ModelConfig, Vocab, dict[str, Tensor]]:
    """What stands in a model directory, unchecked against one another. Raises CheckpointError."""
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory / CONFIG}: not the settings of a model: {error!r}") from error
    try:
        vocab = Vocab.from_json((directory / VOCAB).read_text(encoding="utf-8"))
    except (VocabError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{directory / VOCAB}: {error}") from error
    return config, vocab, read_tensors(directory / MODEL)


def write_state(directory: Path, progress: Progress) -> None:
    """What `--resume` needs, in one file. Where the last epoch is the best, its weights are kept once."""
    kinds = [k for k in _TENSORS if k != "best_weights" or progress.best_epoch != progress.epoch]
    tensors = {f"{kind}/{name}": t for kind in kinds for name, t in getattr(progress, kind).items()}
    scalars = {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress) if f.name not in _TENSORS}
    write_file(directory / STATE, save(tensors, metadata={"progress": json.dumps(scalars)}))


def read_state(directory: Path) -> Progress:
    """The state `write_state` left. Raises CheckpointError where there is none or it is damaged."""
    if not (directory / STATE).is_file():
        raise CheckpointError(f"{directory}: got no {STATE}, expected the last/ directory of a run")
    tensors, metadata = _read_tensors(directory / STATE)
    try:
        scalars = json.loads(metadata["progress"])
        groups: dict[str, Any] = {kind: {} for kind in _TENSORS}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            groups[kind][rest] = tensor
        progress = Progress(**scalars, **groups)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{directory / STATE}: not a training state: {error!r}") from error
    if progress.best_epoch == progress.epoch:
        progress.best_weights = progress.weights
    return progress


_TENSORS = ("weights", "best_weights", "moments", "loss_scale")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Those of a safetensors file, by name. Raises CheckpointError where it cannot be read."""
    return _read_tensors(path)[0]


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
