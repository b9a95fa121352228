"""BiLSTM-CRF sequence taggers, trained through Ray on NPUs, GPUs or CPUs.

Importing this package imports neither torch nor ray: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_bilstm.config import Config
    from ray_bilstm.corpus import Corpus, Sentence, read_corpus
    from ray_bilstm.predict import Entity, Tagger

__version__ = "0.1.0"

__all__ = ["Config", "Corpus", "Entity", "Sentence", "Tagger", "read_corpus"]

_HOME = {
    "Config": "config",
    "Corpus": "corpus",
    "Entity": "predict",
    "Sentence": "corpus",
    "Tagger": "predict",
    "read_corpus": "corpus",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ray_bilstm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ray_bilstm.{_HOME[name]}"), name)
