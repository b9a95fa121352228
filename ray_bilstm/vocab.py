"""Characters, bigrams and tags <-> ids, built from the training sentences, and from nothing else unless asked to.

Ids 0 and 1 of characters and bigrams are padding and the unknown one. The bigram of a position is its token and the
next, the last one's with the end of the sentence. Names that only vectors from outside know come last: no training
sentence has them. Tags have no padding id: tag 0 is `O`, which any path may pass.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from operator import add
from typing import Any, NamedTuple

import numpy as np

from ray_bilstm.tags import OUTSIDE, SCHEMES, is_tag, split

PADDING, UNKNOWN = 0, 1
END = "\n"
"""Second half of the last bigram of a sentence; no token holds a line feed."""


class VocabError(ValueError):
    """A vocabulary that cannot be read or used."""


class _Ids(dict[str, int]):
    """name -> id, with the unknown id for every other name."""

    def __missing__(self, name: str) -> int:
        return UNKNOWN


class Encoded(NamedTuple):
    """Sentences as flat id arrays, one after another: sentence i fills `lengths[:i].sum()` and on."""

    chars: np.ndarray
    bigrams: np.ndarray
    tags: np.ndarray
    lengths: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocab:
    """`chars[i]` has id i + 2, `bigrams[i]` too, `tags[i]` id i; the ids of `outside_chars` follow those of `chars`,
    and so for bigrams. Without bigrams the tuple is empty."""

    chars: tuple[str, ...]
    bigrams: tuple[str, ...]
    tags: tuple[str, ...]
    scheme: str
    outside_chars: tuple[str, ...] = ()
    outside_bigrams: tuple[str, ...] = ()

    @classmethod
    def build(cls, sentences: Sequence[Any], *, scheme: str, bigram_min_count: int) -> Vocab:
        """From sentences with `tokens` and `tags`. Tags: O, then type by type; the rest: most frequent first."""
        chars = Counter(chain.from_iterable(sentence.tokens for sentence in sentences))
        bigrams: Counter[str] = Counter()
        if bigram_min_count:
            bigrams.update(chain.from_iterable(_bigrams(sentence.tokens) for sentence in sentences))
        tags = {tag for sentence in sentences for tag in sentence.tags} - {OUTSIDE}
        return cls(
            chars=_by_count(chars, 1),
            bigrams=_by_count(bigrams, bigram_min_count),
            tags=(OUTSIDE, *sorted(tags, key=lambda tag: split(tag)[::-1])),
            scheme=scheme,
        )

    @property
    def num_chars(self) -> int:
        """Rows of the character embedding that train can teach."""
        return len(self.chars) + 2

    @property
    def num_bigrams(self) -> int:
        """Rows of the bigram embedding that train can teach; 0 without bigrams."""
        return len(self.bigrams) + 2 if self.bigrams else 0

    @property
    def all_chars(self) -> tuple[str, ...]:
        """Those of train and from outside, in the order of their ids."""
        return self.chars + self.outside_chars

    @property
    def all_bigrams(self) -> tuple[str, ...]:
        """The same of bigrams."""
        return self.bigrams + self.outside_bigrams

    @cached_property
    def _char_ids(self) -> _Ids:
        return _Ids((char, i) for i, char in enumerate(self.all_chars, 2))

    @cached_property
    def _bigram_ids(self) -> _Ids:
        return _Ids((bigram, i) for i, bigram in enumerate(self.all_bigrams, 2))

    def with_outside(self, chars: Iterable[str], bigrams: Iterable[str] = ()) -> Vocab:
        """A vocabulary that also knows these, in their order, where it does not yet; bigrams only if it has some."""
        known, pairs = set(self.chars), set(self.bigrams)
        return dataclasses.replace(
            self,
            outside_chars=tuple(dict.fromkeys(char for char in chars if char not in known)),
            outside_bigrams=tuple(dict.fromkeys(pair for pair in bigrams if pair not in pairs)) if pairs else (),
        )

    def bigram_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Character ids of the two halves of each bigram, `PADDING` for the end of a sentence: int64, (pairs, 2); and
        its id: (pairs,). Where tokens are longer than a character, a bigram may have halves in several ways."""
        ids = {**self._char_ids, END: PADDING}
        pairs = [
            (ids[bigram[:cut]], ids[bigram[cut:]], number)
            for bigram, number in self._bigram_ids.items()
            for cut in range(1, len(bigram))
            if bigram[:cut] in ids and bigram[cut:] in ids
        ]
        table = np.array(pairs, np.int64).reshape(-1, 3)
        return table[:, :2], table[:, 2]

    def with_tags_of(self, sentences: Iterable[Any]) -> Vocab:
        """A vocabulary that also numbers tags met only in `sentences`, after its own: to score gold tags that the model
        never learnt. The model keeps the first `len(self.tags)` ids."""
        extra = {tag for sentence in sentences for tag in sentence.tags} - set(self.tags)
        return dataclasses.replace(self, tags=(*self.tags, *sorted(extra)))

    def encode(self, tokens: Iterable[Sequence[str]], tags: Iterable[Sequence[str]] | None = None) -> Encoded:
        """Ids of sentences; characters and bigrams int32, tags int16 (all 0 when `tags` is None), lengths int32.

        Raises VocabError for a tag that the vocabulary lacks.
        """
        tokens = [list(sentence) for sentence in tokens]
        lengths = np.fromiter(map(len, tokens), np.int32, len(tokens))
        total = int(lengths.sum())
        chars = np.fromiter(map(self._char_ids.__getitem__, chain.from_iterable(tokens)), np.int32, total)
        bigram_ids = self._bigram_ids.__getitem__
        bigrams = np.fromiter(map(bigram_ids, chain.from_iterable(map(_bigrams, tokens))), np.int32, total)
        if tags is None:
            return Encoded(chars, bigrams, np.zeros(total, np.int16), lengths)
        tag_ids = {tag: i for i, tag in enumerate(self.tags)}
        try:
            encoded_tags = np.fromiter(map(tag_ids.__getitem__, chain.from_iterable(tags)), np.int16, total)
        except KeyError as error:
            raise VocabError(f"tag {error.args[0]!r} is not in the vocabulary: {', '.join(self.tags)}") from None
        return Encoded(chars, bigrams, encoded_tags, lengths)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Vocab:
        """Raises VocabError unless `text` is what `to_json` writes."""
        try:
            fields = json.loads(text)
            values: dict[str, Any] = {name: v if name == "scheme" else tuple(v) for name, v in fields.items()}
            vocab = cls(**values)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise VocabError(f"not a vocabulary: {error}") from None
        named = (vocab.scheme, *vocab.chars, *vocab.bigrams, *vocab.tags, *vocab.outside_chars, *vocab.outside_bigrams)
        if vocab.scheme not in list(SCHEMES) or not all(isinstance(name, str) for name in named):
            raise VocabError(f"not a vocabulary: scheme {vocab.scheme!r}, names must be strings")
        if not vocab.tags or vocab.tags[0] != OUTSIDE or not all(is_tag(tag, vocab.scheme) for tag in vocab.tags):
            raise VocabError(f"not a vocabulary: tags {', '.join(vocab.tags)} are not O and {vocab.scheme} tags")
        return vocab


def _bigrams(tokens: Sequence[str]) -> Iterable[str]:
    return map(add, tokens, (*tokens[1:], END))


def _by_count(counts: Counter[str], at_least: int) -> tuple[str, ...]:
    kept = [name for name, count in counts.items() if count >= at_least]
    return tuple(sorted(kept, key=lambda name: (-counts[name], name)))
