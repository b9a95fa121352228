"""The command that tags texts: which files and formats, and how far it is."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ray_bilstm.formats import COLUMN_SUFFIXES, JSON_SUFFIXES
from ray_bilstm.highlight import iter_html
from ray_bilstm.texts import INPUTS, Text, TextError, input_format, iter_conll, iter_jsonl, iter_texts, write_lines

if TYPE_CHECKING:
    from ray_bilstm.predict import Tagger
    from ray_bilstm.texts import Tagged

STDIN = "-"
OUTPUTS = {
    **dict.fromkeys(JSON_SUFFIXES, "jsonl"),
    **dict.fromkeys(COLUMN_SUFFIXES, "conll"),
    **dict.fromkeys((".html", ".htm"), "html"),
}
"""Output format by suffix."""

QUIET_SECONDS = 3.0
"""Shorter work shows no progress."""


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="directory of a model, such as runs/NAME/best, or of an ensemble")
    parser.add_argument("files", nargs="*", metavar="file", help="files to tag; -, or none at all: standard input")
    parser.add_argument("--text", action="append", default=[], help="a text to tag; may be given several times")
    parser.add_argument("--input-format", choices=INPUTS, help="format of the files (default: by suffix; text)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="file to write (default: standard output)")
    parser.add_argument(
        "--format", choices=("jsonl", "conll", "html"), help="format to write (default: by the suffix of FILE; jsonl)"
    )
    parser.add_argument("--no-scores", action="store_true", help="leave out the scores: about a third less time")
    parser.add_argument("--device", choices=("cpu", "cuda", "npu"), default="cpu", help="what computes (default: cpu)")


def predict_command(options: argparse.Namespace) -> int:
    """Tag texts: JSON lines, CoNLL columns or a highlighted HTML page out of text, JSON lines, CoNLL or Parquet.

    Text is a line a text. Files are read and written bit by bit, and a file that is written appears when all is done.
    Each entity has its text, type, offsets in Unicode characters (in tokens, where tokens were given) and score: the
    probability that exactly this span is an entity of exactly this type.

    examples:
      python -m ray_bilstm predict runs/NAME/best --text 王芳：女，汉族，硕士。
      python -m ray_bilstm predict runs/NAME/best resumes.txt more.jsonl --output tagged.jsonl
      python -m ray_bilstm predict runs/NAME/best resumes.txt --output tagged.html
      cut -f 2 table.tsv | python -m ray_bilstm predict runs/NAME/best --format conll
    """
    inputs = _Inputs(options.files or ([] if options.text else [STDIN]), options.input_format)
    format = options.format or _output_format(options.output)
    from ray_bilstm.accelerator import ACCELERATORS, worker_device
    from ray_bilstm.predict import Tagger

    tagger = Tagger.load(options.model, device=worker_device(ACCELERATORS[options.device]))
    texts = (text for source in ((Text(text, {}) for text in options.text), inputs) for text in source)
    tagged = _with_progress(tag(tagger, texts, scores=not options.no_scores, at_once=inputs.is_terminal), inputs)
    lines = _iter_lines(format, tagged, tagger, title=", ".join(options.files) or "texts")
    if options.output:
        write_lines(options.output, lines)
        print(options.output)
    else:
        for line in lines:
            sys.stdout.write(line)
            if inputs.is_terminal:
                sys.stdout.flush()
    return 0


def _output_format(output: Path | None) -> str:
    """By the suffix; JSON lines for standard output."""
    if output is None:
        return "jsonl"
    suffix = output.suffix.lower()
    if suffix not in OUTPUTS:
        raise TextError(f"{output}: got the suffix {suffix!r}, expected one of {' '.join(OUTPUTS)}, or a --format")
    return OUTPUTS[suffix]


def _iter_lines(format: str, tagged: Iterable[Tagged], tagger: Tagger, *, title: str) -> Iterator[str]:
    if format == "html":
        return iter_html(tagged, tagger.scorer.types, title=title)
    return iter_conll(tagged, tagger.vocab.scheme) if format == "conll" else iter_jsonl(tagged)


def tag(tagger: Tagger, texts: Iterable[Text], *, scores: bool, at_once: bool) -> Iterator[Tagged]:
    """Each text with its entities. A person who types sees them at once."""
    if at_once:
        for text in texts:
            yield text, tagger.predict([text.text], scores=scores)[0]
        return
    asked, kept = tee(texts)
    entities = tagger.predict_iter((text.text for text in asked), scores=scores)
    yield from zip(kept, entities, strict=True)


class _Inputs:
    """The texts of several files, one after another."""

    def __init__(self, names: list[str], format: str | None) -> None:
        for name in names:
            if name != STDIN and not Path(name).is_file():
                got = "a folder" if Path(name).is_dir() else "no such file"
                raise TextError(f"{name}: got {got}, expected a file of texts: a text itself is given with --text")
        self.names = names
        self.format = format
        self.is_terminal = STDIN in names and sys.stdin.isatty()
        self._sizes = [0 if name == STDIN else Path(name).stat().st_size for name in names]
        self._done = 0
        self._file: BinaryIO | None = None

    def __iter__(self) -> Iterator[Text]:
        for name, size in zip(self.names, self._sizes, strict=True):
            if name == STDIN:
                yield from iter_texts(sys.stdin.buffer, "standard input", self.format or "text")
                continue
            with open(name, "rb") as self._file:
                yield from iter_texts(self._file, name, self.format or input_format(name))
            self._file = None
            self._done += size

    def share(self) -> float | None:
        """How much has been read, 0 to 1; None where that is not known."""
        if not self.names or STDIN in self.names:
            return None
        return (self._done + (self._file.tell() if self._file else 0)) / max(1, sum(self._sizes))


def _with_progress(tagged: Iterable[Tagged], inputs: _Inputs) -> Iterator[Tagged]:
    """The same; how far it is goes to standard error: to a terminal twice a second, elsewhere every 10 seconds."""
    terminal = sys.stderr.isatty()
    every = 0.5 if terminal else 10.0
    begin = time.monotonic()
    due, texts, characters = begin + max(every, QUIET_SECONDS), 0, 0
    shown = False

    def show(end: str) -> None:
        share = inputs.share()
        read = "" if share is None else f"{share:4.0%}  "
        rate = characters / (time.monotonic() - begin)
        line = f"{read}{texts:,} texts, {characters:,} characters, {rate:,.0f} characters/s"
        print(f"\r{line:<78}" if terminal else line, end=end, file=sys.stderr, flush=True)

    for text, entities in tagged:
        yield text, entities
        texts += 1
        characters += len(text.text)
        if time.monotonic() >= due and not inputs.is_terminal:
            show("" if terminal else "\n")
            shown, due = True, time.monotonic() + every
    if shown:
        show("\n")
