"""What a model starts from where knowledge from outside is asked for: vectors of a file, or weights of another model.

    --embeddings FILE   vectors of characters, and of bigrams where the sizes are the same
    --init-from DIR     embeddings and BiLSTM of a directory that `pretrain` or `train` wrote
    --lexicon FILE      not vectors, but words: the vocabulary knows them, and the model where they stand

Names decide what goes where: the vector of 王 goes to the row of 王. Characters that only the source knows join the
vocabulary behind those of train, so that text to be tagged may hold them; what the source lacks starts at random as
ever. The driver writes the result as one file of whole tensors, not a number where nothing is known; rank 0 reads it
and the other ranks copy its weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ray_bilstm import checkpoint
from ray_bilstm.config import Config, ConfigError, ModelConfig
from ray_bilstm.corpus import Corpus
from ray_bilstm.embeddings import EmbeddingsError, Vectors, read_vectors, rescaled
from ray_bilstm.vocab import Vocab
from ray_bilstm.words import LexiconError, read_words

CHARS, BIGRAMS = "char_embedding", "bigram_embedding"
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Knowledge by name."""

    chars: Vectors
    bigrams: Vectors
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """of the BiLSTM, by the name that a model has for them"""
    grows_bigrams: bool = False
    """whether bigrams that train lacks join the vocabulary too"""
    source: Record
    """where it comes from, as result.json says it"""


def read_start(config: Config, corpus: Corpus) -> Start | None:
    """What the settings ask for, None for nothing. Raises EmbeddingsError, CheckpointError or ConfigError."""
    if config.data.embeddings is not None:
        return _from_file(Path(config.data.embeddings).expanduser(), config, corpus)
    if config.data.init_from is not None:
        return _from_directory(Path(config.data.init_from).expanduser(), config)
    return None


def _from_file(path: Path, config: Config, corpus: Corpus) -> Start:
    """Characters of one code point, whatever they are, and tokens of train that are longer; all on one scale."""
    size, tokens = config.model.embedding_size, {token for sentence in corpus.train for token in sentence.tokens}
    pairs: set[str] = set()
    if config.data.bigram_min_count and config.model.bigram_size == size:
        pairs.update(a + b for s in corpus.train for a, b in zip(s.tokens, s.tokens[1:], strict=False))
    vectors = read_vectors(path, size=size, wanted=lambda name: len(name) == 1 or name in tokens or name in pairs)
    if not tokens.intersection(vectors.names):
        raise EmbeddingsError(f"{path}: got vectors for none of the {len(tokens):,} characters of train")
    scaled, factor = rescaled(vectors)
    chars = _select(scaled, [len(name) == 1 or name in tokens for name in scaled.names])
    source = {"embeddings": str(path), "vectors": vectors.lines, "repeated": vectors.repeated, "scaled_by": factor}
    return Start(chars=chars, bigrams=_select(scaled, [name in pairs for name in scaled.names]), source=source)


def _from_directory(path: Path, config: Config) -> Start:
    directory = path / "best" if (path / "best").is_dir() else path
    other, vocab, weights = checkpoint.read_weights(directory)
    _check_shapes(directory, other, vocab, config)
    chars, bigrams = (
        Vectors(names, _rows(weights, name)) if f"{name}.weight" in weights else _nothing(size)
        for name, names, size in (
            (CHARS, vocab.all_chars, other.embedding_size),
            (BIGRAMS, vocab.all_bigrams, other.bigram_size),
        )
    )
    lstm = {name: weight for name, weight in weights.items() if name.startswith("bilstm.")}
    source = {"init_from": str(path), "vectors": len(chars.names)}
    return Start(chars=chars, bigrams=bigrams, weights=lstm, grows_bigrams=True, source=source)


def _check_shapes(directory: Path, other: ModelConfig, vocab: Vocab, config: Config) -> None:
    names = ["embedding_size", "hidden_size", *(["bigram_size"] if vocab.bigrams else [])]
    for name in names:
        ours, theirs = getattr(config.model, name), getattr(other, name)
        if ours != theirs:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{name} is {ours}, but that of {directory} is {theirs}: set {flag} {theirs}")
    if bool(vocab.bigrams) != bool(config.data.bigram_min_count):
        theirs, advice = ("bigrams", "1 or more") if vocab.bigrams else ("no bigrams", "0")
        raise ConfigError(
            f"bigram_min_count is {config.data.bigram_min_count}, but {directory} has {theirs}:"
            f" set --bigram-min-count to {advice}"
        )


def _rows(weights: dict[str, Tensor], name: str) -> np.ndarray:
    """Those of names: padding and the unknown one are left out."""
    parts = [weights[f"{name}.weight"][2:], *([weights[f"{name}.outside"]] if f"{name}.outside" in weights else [])]
    rows: np.ndarray = torch.cat(parts).float().numpy()
    return rows


def _nothing(size: int) -> Vectors:
    return Vectors((), np.zeros((0, size), np.float32))


def _select(vectors: Vectors, keep: list[bool]) -> Vectors:
    names = tuple(name for name, kept in zip(vectors.names, keep, strict=True) if kept)
    return Vectors(names, vectors.matrix[np.array(keep, bool)])


def make_vocab(corpus: Corpus, start: Start | None, config: Config) -> Vocab:
    """That of train, and behind it what only the source knows; and the words of a lexicon. Raises LexiconError."""
    vocab = Vocab.build(corpus.train, scheme=corpus.scheme, bigram_min_count=config.data.bigram_min_count)
    if start is not None:
        vocab = vocab.with_outside(start.chars.names, start.bigrams.names if start.grows_bigrams else ())
    if config.data.lexicon is not None:
        vocab = vocab.with_words(read_words(Path(config.data.lexicon).expanduser()), corpus.train)
        if not vocab.words:
            raise LexiconError(f"{config.data.lexicon}: got no word of characters that train has")
    return vocab


def starting_weights(start: Start, vocab: Vocab) -> dict[str, Tensor]:
    """Tensors as the model has them, NaN where it is to keep its own numbers; `vocab` has grown."""
    weights = dict(start.weights)
    embeddings = [(CHARS, start.chars, vocab.chars, vocab.outside_chars)]
    if vocab.num_bigrams and start.bigrams.names:
        embeddings.append((BIGRAMS, start.bigrams, vocab.bigrams, vocab.outside_bigrams))
    for name, vectors, names, outside in embeddings:
        place = {known: i for i, known in enumerate(vectors.names)}
        weights[f"{name}.weight"] = _place(vectors, place, ["", "", *names])
        if outside:
            weights[f"{name}.outside"] = _place(vectors, place, outside)
    return weights


def _place(vectors: Vectors, place: dict[str, int], names: Iterable[str]) -> Tensor:
    rows = np.array([place.get(name, -1) for name in names])
    placed = np.where((rows < 0)[:, None], np.float32(np.nan), vectors.matrix[rows])
    return torch.from_numpy(placed)


def write_start(path: Path, start: Start, vocab: Vocab) -> None:
    """For rank 0, in one file."""
    checkpoint.write_file(path, save(starting_weights(start, vocab)))


@torch.no_grad()
def load_start(path: Path, model: nn.Module) -> None:
    """Give `model` what `write_start` wrote; layers that it lacks are left out. Raises CheckpointError."""
    weights = dict(model.named_parameters())
    for name, values in checkpoint.read_tensors(path).items():
        if name in weights:
            weights[name].copy_(torch.where(values.isnan(), weights[name].cpu(), values))


def coverage(start: Start | None, vocab: Vocab, corpus: Corpus, config: Config) -> Record:
    """How much of each split the source knows: distinct characters, and the share of the running text; and what is
    known of a lexicon. Empty where nothing comes from outside."""
    words: Record = {}
    if vocab.words:
        words = {"lexicon": config.data.lexicon, "words": len(vocab.words), "own_words": vocab.own_words}
    if start is None:
        return words
    known = set(start.chars.names)
    splits = {}
    for split, sentences in corpus.splits.items():
        running = [token for sentence in sentences for token in sentence.tokens]
        distinct = set(running)
        splits[split] = {
            "characters": len(distinct),
            "known_characters": len(distinct & known),
            "known_text": sum(token in known for token in running) / max(1, len(running)),
        }
    pairs = set(start.bigrams.names)
    return (
        start.source
        | words
        | {
            "splits": splits,
            "added_characters": len(vocab.outside_chars),
            "known_bigrams": sum(pair in pairs for pair in vocab.bigrams),
            "bigrams": len(vocab.bigrams),
            "added_bigrams": len(vocab.outside_bigrams),
        }
    )
