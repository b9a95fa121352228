"""A labelled corpus: find its files, read them, say everything that is wrong with them, write and convert them.

    corpus = read_corpus("ResumeNER")          # Corpus with train, dev, test; CorpusError or warnings with path:line
    convert_file("train.char.bmes", "train.jsonl")

Bad corpora otherwise fail late, silently or without a line number. Two kinds of finding here, both with `path:line`:

- fatal, collected from all files and raised together as one CorpusError (the first 20, then a count): bytes that are
  not UTF-8, a wrong column count, bad JSON or spans, a tag that fits no scheme or not the stated one, an empty split;
- warnings, in `Corpus.warnings`: illegal transitions, over-long sentences, tags that train lacks.

The tag scheme is one for the whole corpus, recognised over all its files or stated. File formats: `formats.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ray_bilstm import tags as schemes
from ray_bilstm.check import iter_warnings, line_of, tags_train_lacks
from ray_bilstm.formats import (
    SUFFIXES,
    Parsed,
    Sentence,
    format_of,
    iter_columns,
    iter_jsonl,
    parse,
    write_parquet,
)
from ray_bilstm.records import SPAN_SCHEME, RecordError
from ray_bilstm.tags import SCHEMES, TagError

__all__ = [
    "Corpus",
    "CorpusError",
    "Sentence",
    "convert_file",
    "find_files",
    "read_corpus",
    "read_sentences",
    "write_sentences",
]

SPLITS = ("train", "dev", "test")
COMPLAINTS_SHOWN = 20

NAMES = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
"""File names up to their first dot, and the split they hold."""


class CorpusError(ValueError):
    """A corpus that cannot be read, written or found: what to do, then every complaint with its `path:line`."""

    def __init__(self, summary: str, complaints: Sequence[str] = ()) -> None:
        shown = [*complaints[:COMPLAINTS_SHOWN]]
        if len(complaints) > COMPLAINTS_SHOWN:
            shown.append(f"and {len(complaints) - COMPLAINTS_SHOWN:,} more")
        super().__init__("\n  ".join([summary, *shown]))


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Three splits of labelled sentences in one tag scheme."""

    path: str
    """The folder, or "embedded sample"."""
    train: list[Sentence]
    dev: list[Sentence]
    test: list[Sentence]
    scheme: str
    """BMES, BIOES, BIO or IOB1."""
    files: dict[str, str]
    """Split -> path."""
    sha256: dict[str, str]
    """Split -> hex digest of the file's bytes."""
    warnings: tuple[str, ...] = ()
    """What is odd and not fatal, each "path:line: ..."."""
    embedded_sample: bool = False

    @property
    def splits(self) -> dict[str, list[Sentence]]:
        """train, dev and test by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


# Find and read --------------------------------------------------------------------------------------------------------


def find_files(data_dir: str | Path) -> dict[str, Path]:
    """The file of each split, in `data_dir` or its subfolder ResumeNER.

    `train.char.bmes`, `dev.char.bmes` and `test.char.bmes` if all are there; else one file a split, named train, dev
    (valid, validation) or test, with a known suffix and perhaps parts between (`train.char.bio`).
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise CorpusError(f"{folder}: got {got}, expected a folder with train, dev and test files")
    folders = [folder, *(inner for inner in [folder / "ResumeNER"] if inner.is_dir())]
    candidates = {place: _candidates(place) for place in folders}
    for found in candidates.values():
        if all(found.values()):
            return {split: _only(split, paths) for split, paths in found.items()}
    there = [str(path.relative_to(folder)) for place in folders for path in sorted(place.iterdir())]
    missing = next((found for found in candidates.values() if any(found.values())), candidates[folder])
    raise CorpusError(
        f"{folder}: got no {' and no '.join(split for split in SPLITS if not missing[split])} file, expected "
        f"train.char.bmes, dev.char.bmes and test.char.bmes, or train.X, dev.X and test.X with X one of "
        f"{' '.join(SUFFIXES)}; there is: {', '.join(there[:COMPLAINTS_SHOWN]) or 'nothing'}"
        f"{f' and {len(there) - COMPLAINTS_SHOWN} more' if len(there) > COMPLAINTS_SHOWN else ''}"
    )


def _candidates(folder: Path) -> dict[str, list[Path]]:
    usual = {split: [folder / f"{split}.char.bmes"] for split in SPLITS}
    if all(path.is_file() for (path,) in usual.values()):
        return usual
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in sorted(folder.iterdir()):
        split = NAMES.get(path.name.partition(".")[0])
        if split and path.suffix.lower() in SUFFIXES and path.is_file():
            found[split].append(path)
    return found


def _only(split: str, paths: list[Path]) -> Path:
    if len(paths) == 1:
        return paths[0]
    raise CorpusError(
        f"{paths[0].parent}: got {len(paths)} files for {split} ({', '.join(path.name for path in paths)}), "
        f"expected one: move the others out of the folder"
    )


def read_corpus(data_dir: str | Path, *, scheme: str = "auto") -> Corpus:
    """The corpus of a folder. CorpusError holds the complaints about all its files."""
    files = find_files(data_dir)
    parsed, sha256 = {}, {}
    for split, path in files.items():
        parsed[split], sha256[split] = _parse_file(path)
    found = _settle([(files[split], parsed[split]) for split in files], scheme)
    warnings = [text for split, path in files.items() for text in iter_warnings(path, parsed[split], found)]
    warnings += tags_train_lacks(files, {split: file.sentences for split, file in parsed.items()})
    return Corpus(
        path=str(data_dir),
        train=parsed["train"].sentences,
        dev=parsed["dev"].sentences,
        test=parsed["test"].sentences,
        scheme=found,
        files={split: str(path) for split, path in files.items()},
        sha256=sha256,
        warnings=tuple(warnings),
    )


def read_sentences(path: str | Path, *, scheme: str = "auto") -> tuple[list[Sentence], str, list[str]]:
    """Sentences of one file, their scheme, and warnings."""
    parsed, _ = _parse_file(Path(path))
    found = _settle([(Path(path), parsed)], scheme)
    return parsed.sentences, found, list(iter_warnings(path, parsed, found))


def _parse_file(path: Path) -> tuple[Parsed, str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: got {error.strerror or error}, expected a readable file") from error
    parsed = parse(data, format_of(path))
    if not parsed.sentences and not parsed.complaints:
        got = f"{len(data)} bytes without a sentence" if data else "an empty file"
        parsed.complaints.append((1, f"got {got}, expected at least one labelled sentence"))
    return parsed, hashlib.sha256(data).hexdigest()


# The scheme -----------------------------------------------------------------------------------------------------------


def _settle(files: list[tuple[Path, Parsed]], scheme: str) -> str:
    """The scheme of all `files`, whose spans become tags of it; raises all complaints about them."""
    if scheme != "auto" and scheme not in SCHEMES:
        raise CorpusError(f"scheme: got {scheme!r}, expected auto or one of {', '.join(SCHEMES)}")
    tagged = [s.tags for _, file in files for i, s in enumerate(file.sentences) if i not in file.spans]
    found, how = (scheme, "stated") if scheme != "auto" else (_recognise(tagged), "recognised")
    for path, file in files:
        if found != SPAN_SCHEME:
            for i in file.spans:
                tags = schemes.convert(file.sentences[i].tags, SPAN_SCHEME, found)
                file.sentences[i] = file.sentences[i]._replace(tags=tuple(tags))
        file.complaints += _unfit_tags(path, file.sentences, found, how)
    complaints = [f"{path}:{line}: {what}" for path, file in files for line, what in sorted(file.complaints)]
    if complaints:
        faults = f"{len(complaints):,} fault{'' if len(complaints) == 1 else 's'}"
        raise CorpusError(f"{faults} in the corpus; correct the lines below and run again", complaints)
    return found


def _unfit_tags(path: Path, sentences: list[Sentence], scheme: str, how: str) -> Iterator[tuple[int, str]]:
    rule = SCHEMES[scheme]
    prefixes = " ".join(dict.fromkeys(rule.begin + rule.inside + rule.end))
    expected = f"expected O or PREFIX-TYPE with a prefix of {scheme} ({how}): {prefixes}"
    found: set[str] = set().union(*(sentence.tags for sentence in sentences))
    unfit = {tag for tag in found if not schemes.is_tag(tag, scheme)}
    for sentence in sentences if unfit else []:
        for i, tag in enumerate(sentence.tags):
            if tag in unfit:
                yield line_of(path, sentence, i), f"got the tag {tag!r}, {expected}"


def _recognise(tagged: list[tuple[str, ...]]) -> str:
    """The scheme of the tags, or of most of them where some fit none: those become complaints."""
    if not tagged:
        return SPAN_SCHEME
    try:
        return schemes.recognise(tagged)
    except TagError:
        counts = Counter(tag for tags in tagged for tag in tags if any(schemes.is_tag(tag, name) for name in SCHEMES))
        prefixes: Counter[str] = Counter()
        for tag, count in counts.items():
            prefixes[schemes.split(tag)[0]] += count
        rarer = "I" if prefixes["M"] >= prefixes["I"] else "M"
        kept = {tag for tag in counts if schemes.split(tag)[0] != rarer}
        return schemes.recognise([tag for tag in tags if tag in kept] for tags in tagged)


# Write and convert ----------------------------------------------------------------------------------------------------


def write_sentences(path: str | Path, sentences: Iterable[Sentence], *, scheme: str) -> None:
    """`sentences`, tagged in `scheme`, in the format of the suffix; whole or not at all."""
    path, sentences = Path(path), list(sentences)
    if path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"{path}: got the suffix {path.suffix!r}, expected one of {' '.join(SUFFIXES)}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if format_of(path) == "parquet":
            write_parquet(temporary, sentences)
        else:
            columns = format_of(path) == "columns"
            lines = iter_columns(sentences, path.suffix) if columns else iter_jsonl(sentences, scheme)
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        os.replace(temporary, path)
    except RecordError as error:
        raise CorpusError(f"{path}: {error}") from error
    except OSError as error:
        raise CorpusError(f"{path}: got {error.strerror or error}, expected to be able to write there") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def convert_file(
    source: str | Path, target: str | Path, *, scheme: str | None = None, source_scheme: str = "auto"
) -> tuple[int, list[str]]:
    """Write the sentences of `source` to `target`, in its format and in `scheme` (None: as they are).

    Returns how many, and the warnings about `source`. Legal sequences survive any conversion; a broken chunk survives
    while only letters change (BMES and BIOES), and is repaired elsewhere: it becomes an entity of its own.
    """
    if scheme is not None and scheme not in SCHEMES:
        raise CorpusError(f"scheme: got {scheme!r}, expected one of {', '.join(SCHEMES)}")
    parsed, _ = _parse_file(Path(source))
    found = _settle([(Path(source), parsed)], source_scheme)
    wanted = scheme or found
    kept = wanted == found or {wanted, found} == {"BMES", "BIOES"}
    consequence = "written as it is" if kept else f"repaired: each broken part became an entity in {wanted}"
    warnings = list(iter_warnings(source, parsed, found, consequence))
    sentences = [s._replace(tags=tuple(schemes.convert(s.tags, found, wanted))) for s in parsed.sentences]
    write_sentences(target, sentences, scheme=wanted)
    return len(sentences), warnings
