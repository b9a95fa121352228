"""The model card: README.md of a model directory, in Hugging Face's form, filled from the figures of the run.

A pure function from dictionaries to text, like the report.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ray_bilstm.report_values import (
    KINDS,
    PARTS,
    SPLITS,
    by_type,
    clean,
    corpus_splits,
    dig,
    finite,
    prf,
    scored_split,
    setting,
)

FEW = 30  # a type with fewer entities than this has a score that one sentence can move by whole points
RECIPE = ("seed", "batch_size", "train_epochs", "best_epoch", "num_workers", "amp_opt_level", "dtype", "device_name")


def render_card(result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """README.md of a model directory: Hugging Face's YAML front matter, then the model, its scores and limits."""
    name, head, split = result.get("name") or "ray_bilstm model", result.get("head") or "crf", scored_split(result)
    sample, size = dig(result, "corpus", "embedded_sample"), finite(result.get("parameters"))
    path = "sample corpus of ray_bilstm" if sample else str(dig(result, "corpus", "path") or "")
    corpus, types = _plain(PurePath(path).name) or "unnamed", dig(result, split, "per_type") or {}
    recipe = {key: result.get(key) for key in RECIPE}
    for part in ("model", "training"):
        recipe |= {f"{part}.{key}": value for key, value in (config.get(part) or {}).items()}
    recipe |= {f"{key} version": value for key, value in (result.get("versions") or {}).items()}
    settings = [[key, setting(value)] for key, value in recipe.items() if value is not None]
    scores = [
        [f"{one}, {label}", *prf(dig(result, one, kind))]
        for one in SPLITS
        if result.get(one)
        for kind, label in KINDS.items()
    ]
    kind = "BiLSTM-CRF" if head == "crf" else f"BiLSTM ({_line(head)})"
    demonstration = "> A demonstration, trained on the small sample corpus of ray_bilstm, not on ResumeNER.\n\n"
    return f"""---
{_front_matter(result, _plain(name), corpus, split)}
---

# {_line(name)}

{demonstration if sample else ""}A {kind} tagger for Chinese named entities, character by character, trained with \
ray_bilstm{f" ({size:,.0f} parameters)" if size else ""}.{_lesson(dig(result, "teacher", "models"))}
{f"Entity types: {', '.join(map(_line, sorted(types)))}." if types else ""}

## How to load

In the folder that holds the model directory `best`:

```python
from ray_bilstm import Tagger

entities = Tagger.load("best").predict("沈遥：女，中国国籍，无境外居留权，")
```

Each entity has `text`, `type`, `start` and `end`.

## Data

Corpus: {_line(corpus)}.{_start(dig(result, "outside") or {})}

{_markdown(("split", "sentences", "SHA-256"), corpus_splits(result))}

## Scores

{_markdown(("split and measure", *PARTS), scores)}

{_markdown((f"type, on {split}", *PARTS, "support"), by_type(types)) if types else ""}

## Recipe

{_markdown(("setting", "value"), settings)}

## Limits

{_limits(result, split, types)}
"""


def _lesson(models: Any) -> str:
    """What else than gold tags the model was trained on."""
    if not models:
        return ""
    return f" Besides gold tags, it learnt from {f'{models} models that vote' if models > 1 else 'another model'}."


def _start(outside: Mapping[str, Any]) -> str:
    """What the model knows besides the corpus: names without their folders, which are of the training machine."""
    named = ("embeddings", "init_from", "lexicon")
    sources = [f"{key} {PurePath(str(outside[key])).name}" for key in named if outside.get(key)]
    return f" Knowledge from outside: {_line(', '.join(sources))}." if sources else ""


def _limits(result: Mapping[str, Any], split: str, types: Mapping[str, Any]) -> str:
    rare = [_line(name) for name in sorted(types) if (finite(dig(types[name], "support")) or 0) < FEW]
    limits = [
        "The scores hold for text like the corpus above; no other kind of text was measured.",
        "Entities are flat: of nested or overlapping ones at most one is found.",
        "Names and careers of people are personal data: see that you may process the text you tag.",
    ]
    if rare:
        limits.append(f"Fewer than {FEW} entities in {split}, so uncertain scores: {', '.join(rare)}.")
    if split == "dev" and result.get("dev"):
        limits.append("The epoch was chosen on dev and no test score was made: the scores flatter the model.")
    return "\n".join(f"- {limit}" for limit in limits)


def _front_matter(result: Mapping[str, Any], name: str, corpus: str, split: str) -> str:
    """YAML lines; what comes from outside is written as JSON, which YAML reads as it is."""
    metrics = [
        {"type": part, "name": f"{part} ({label})", "value": round(value, 4)}
        for kind, label in KINDS.items()
        for part in PARTS
        if (value := finite(dig(result, split, kind, part))) is not None
    ]
    slug = re.sub(r"[^a-z0-9]+", "-", corpus.lower()).strip("-") or "corpus"
    dataset = json.dumps({"name": corpus, "type": slug, "split": split}, ensure_ascii=False)
    index = f"""
model-index:
- name: {json.dumps(name, ensure_ascii=False)}
  results:
  - task: {{"type": "token-classification", "name": "Named Entity Recognition"}}
    dataset: {dataset}
    metrics:
"""
    return """language: zh
library_name: ray_bilstm
pipeline_tag: token-classification
tags: [named-entity-recognition, token-classification, bilstm, crf, chinese, ray]
metrics: [precision, recall, f1]""" + (
        index + "\n".join(f"    - {json.dumps(metric)}" for metric in metrics) if metrics else ""
    )


def _plain(value: Any) -> str:
    """One line of printable text."""
    return " ".join("".join(char if char.isprintable() else " " for char in clean(value)).split())


def _line(value: Any) -> str:
    """One line of Markdown in which nothing is markup."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", _plain(value))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *([_line(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else "None."
