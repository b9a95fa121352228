"""What the best model of a finished run gets wrong: evaluation.json.

Its driver reads the scored split once more with the model as it was saved, as anyone will who uses it: on the CPU, in
float32, whatever the run computed on. At O0 on the CPU the scores are those of the run; elsewhere they may differ in
the last digits.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from ray_bilstm.checkpoint import write_file
from ray_bilstm.corpus import Corpus
from ray_bilstm.evaluation import evaluate
from ray_bilstm.predict import Tagger
from ray_bilstm.run_directory import BEST, EVALUATION

MOST_SENTENCES = 20_000
"""Of a larger split, the first."""
MOST_ERRORS = 200

logger = logging.getLogger(__name__)


def review(path: Path, corpus: Corpus, *, threads: int) -> dict[str, Any]:
    """Write evaluation.json of the run at `path` and return its content.

    A run that has trained is worth more than a look at it: a failure is logged, and returned as `failed`.
    """
    before = torch.get_num_threads()
    try:
        (path / EVALUATION).unlink(missing_ok=True)
        torch.set_num_threads(threads)
        record = _evaluate(path / BEST, corpus)
        write_file(path / EVALUATION, json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        return record
    except Exception as error:
        logger.warning("%s: not written; the run has its result", path / EVALUATION, exc_info=True)
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        torch.set_num_threads(before)


def _evaluate(model: Path, corpus: Corpus) -> dict[str, Any]:
    started = time.time()
    split = "test" if corpus.test else "dev"
    sentences = corpus.splits[split][:MOST_SENTENCES]
    tagger = Tagger.load(model)
    found = tagger.predict([sentence.tokens for sentence in sentences], whole=True)
    figures = evaluate(
        sentences, found, tags=tagger.vocab.tags, scheme=corpus.scheme, train=corpus.train, errors=MOST_ERRORS
    )
    return {
        "split": split,
        "sentences_of_split": len(corpus.splits[split]),
        "device": "cpu",
        "dtype": "float32",
        "seconds": time.time() - started,
        **figures,
    }
