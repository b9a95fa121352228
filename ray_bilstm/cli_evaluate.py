"""The command that scores a model: which labelled sentences, and where the report goes.

What needs NumPy is imported late: it would slow down every key press of completion.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ray_bilstm.cli_train import at_least
from ray_bilstm.corpus import Sentence, read_corpus, read_sentences
from ray_bilstm.sample import sample_corpus
from ray_bilstm.tags import convert
from ray_bilstm.texts import write_lines

SCREEN = "-"


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="directory of a model, such as runs/NAME/best, or of an ensemble")
    parser.add_argument("data", type=Path, nargs="?", help="a labelled file, or a corpus folder (default: the sample)")
    parser.add_argument("--split", choices=("train", "dev", "test"), default="test", help="of a folder (default: test)")
    parser.add_argument(
        "--train",
        type=Path,
        help="labelled file or corpus folder whose entities count as seen (default: DATA, where that is a folder)",
    )
    parser.add_argument("--errors", type=at_least(0), default=10, help="wrong sentences to show (default: 10)")
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path(SCREEN),
        metavar="FILE",
        help="write the report as JSON, the confusion matrix of tags included; without FILE: print it instead of text",
    )


def evaluate_command(options: argparse.Namespace) -> int:
    """Score a model on labelled sentences, and show what it gets wrong.

    Entity and token scores, F1 with 95 % intervals (bootstrap over sentences), kinds of mistakes, types taken for one
    another, entities that train has and has not, and the sentences that went wrong, worst first.

    examples:
      python -m ray_bilstm evaluate runs/NAME/best
      python -m ray_bilstm evaluate runs/NAME/best ResumeNER --split dev --errors 50
      python -m ray_bilstm evaluate runs/NAME/best mine.jsonl --train ResumeNER --json report.json
    """
    sentences, scheme, path = _read(options.data, options.split)
    has_train = options.data is None or options.data.is_dir()
    train = _read(options.train or options.data, "train") if options.train or has_train else None
    from ray_bilstm.evaluation import evaluate, format_evaluation
    from ray_bilstm.predict import Tagger

    tagger = Tagger.load(options.model)
    sentences = _in_scheme(sentences, scheme, tagger.vocab.scheme)
    report = evaluate(
        sentences,
        tagger.predict([sentence.tokens for sentence in sentences], whole=True),
        tags=tagger.vocab.tags,
        scheme=tagger.vocab.scheme,
        train=train and _in_scheme(train[0], train[1], tagger.vocab.scheme),
        errors=options.errors,
    )
    text = json.dumps({"model": str(options.model), "data": path, **report}, ensure_ascii=False)
    if options.json == Path(SCREEN):
        print(text)
        return 0
    print(f"{options.model} on {path}: {len(sentences):,} sentences\n\n{format_evaluation(report, path=path)}")
    if options.json:
        write_lines(options.json, [text, "\n"])
    return 0


def _read(data: Path | None, split: str) -> tuple[list[Sentence], str, str]:
    """Sentences of a file, or of a split of a folder or of the sample; their scheme; and where they stand."""
    if data is not None and data.is_file():
        sentences, scheme, _ = read_sentences(data)
        return sentences, scheme, str(data)
    corpus = read_corpus(data) if data is not None else sample_corpus()
    return corpus.splits[split], corpus.scheme, corpus.files.get(split, f"{corpus.path}, {split}")


def _in_scheme(sentences: list[Sentence], source: str, target: str) -> list[Sentence]:
    return [s._replace(tags=tuple(convert(s.tags, source, target))) for s in sentences]
