"""The directory of an ensemble: its members' model directories, and which they are. It needs no other.

ensemble.json  names of the members
member-1/ ...  model directories (`checkpoint.py`)

It appears whole, by renaming a finished temporary one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ray_bilstm.checkpoint import CARD, CONFIG, MODEL, VOCAB, CheckpointError, read_model, write_file
from ray_bilstm.ensemble import Ensemble, merge
from ray_bilstm.model import BiLstmCrf
from ray_bilstm.vocab import Vocab, VocabError

ENSEMBLE = "ensemble.json"
FORMAT = 1


def write_ensemble(directory: Path, models: Sequence[Path]) -> int:
    """Copy the models in the directories `models` into a new one that votes; the members of one that is an ensemble
    itself become members. Returns how many there are.

    Raises CheckpointError where a model cannot be read, members do not fit together, or `directory` holds something.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory}: exists, expected a new or empty directory for an ensemble")
    sources = [member for model in models for member in member_paths(model)]
    _read_members(sources)
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        names = [f"member-{number}" for number in range(1, len(sources) + 1)]
        for source, name in zip(sources, names, strict=True):
            for file in (CONFIG, VOCAB, MODEL, CARD):
                if (source / file).is_file():
                    write_file(fresh / name / file, (source / file).read_bytes())
        write_file(fresh / ENSEMBLE, json.dumps({"format": FORMAT, "members": names}, indent=2) + "\n")
        fresh.chmod(0o755)
        os.replace(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return len(sources)


def read_tagger(directory: str | Path) -> tuple[BiLstmCrf | Ensemble, Vocab]:
    """The model or the ensemble of a directory, in evaluation mode on the cpu. An ensemble of one is that model.

    Raises CheckpointError with what is wrong and where.
    """
    sources = member_paths(Path(directory))
    vocab, members = _read_members(sources)
    return members[0] if len(members) == 1 else (Ensemble(members, vocab).eval(), vocab)


def member_paths(directory: Path) -> list[Path]:
    """The model directories of an ensemble; of a model, its own. Raises CheckpointError for a damaged ensemble.json."""
    file = directory / ENSEMBLE
    if not file.is_file():
        return [directory]
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']!r}, expected {FORMAT}")
        names = described["members"]
        if not names or not isinstance(names, list) or not all(_is_inside(name) for name in names):
            raise ValueError(f"members {names!r}, expected names of folders beside it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not the description of an ensemble: {error!r}") from error
    return [directory / name for name in names]


def _is_inside(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _read_members(sources: Sequence[Path]) -> tuple[Vocab, list[tuple[BiLstmCrf, Vocab]]]:
    """The models in the directories `sources`, and the vocabulary that knows what each of them knows."""
    members = [read_model(source) for source in sources]
    try:
        vocab = merge({str(source): own for source, (_, own) in zip(sources, members, strict=True)})
    except VocabError as error:
        raise CheckpointError(str(error)) from error
    return vocab, members
