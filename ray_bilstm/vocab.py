"""Characters, bigrams and tags <-> ids, built from the training sentences, and from nothing else unless asked to.

Ids 0 and 1 of characters and bigrams are padding and the unknown one. The bigram of a position is its token and the
next, the last one's with the end of the sentence. Names that only vectors from outside know come last: no training
sentence has them. Tags have no padding id: tag 0 is `O`, which any path may pass. Words of a lexicon have no ids in a
sentence: a model finds them by their characters (`lexicon.py`).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, repeat
from operator import add
from typing import Any, NamedTuple

import numpy as np

from ray_bilstm.tags import OUTSIDE, SCHEMES, is_tag, split
from ray_bilstm.words import LENGTHS

PADDING, UNKNOWN = 0, 1
OWN_COUNT = 3
"""Times that a word of a lexicon is seen in train before it gets a vector of its own."""
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
    words: tuple[str, ...] = ()
    """those of a lexicon whose characters are known, those with a vector of their own first"""
    own_words: int = 0
    """how many have one"""

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

    def with_words(self, words: Iterable[str], sentences: Sequence[Any]) -> Vocab:
        """A vocabulary that also knows those of `words` whose characters it knows. Those that occur at least
        `OWN_COUNT` times in `sentences` get a vector of their own."""
        known = self._char_ids
        kept = [word for word in dict.fromkeys(words) if len(word) in LENGTHS and all(char in known for char in word)]
        if kept and self.word_base ** LENGTHS[-1] >= 2**63:
            raise VocabError(f"got {len(known):,} characters, expected at most 55,000 with a lexicon")
        vocab = dataclasses.replace(self, words=tuple(kept))
        counts = vocab._count_words(sentences)
        order = sorted(range(len(kept)), key=lambda i: counts[i] < OWN_COUNT)
        own = int((counts >= OWN_COUNT).sum())
        return dataclasses.replace(self, words=tuple(kept[i] for i in order), own_words=own)

    @property
    def num_words(self) -> int:
        """Rows of the word embedding: none, a word of each length, and those with a vector of their own."""
        return 1 + len(LENGTHS) + self.own_words

    @property
    def word_base(self) -> int:
        """A word's key has the ids of its characters as digits to this base, the first one lowest."""
        return len(self.all_chars) + 2

    def word_keys(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys of all words of `length`, rising, and the row of each: int64."""
        numbers, keys = self._keys(length)
        rows = np.where(numbers < self.own_words, 1 + len(LENGTHS) + numbers, 1 + LENGTHS.index(length))
        order = np.argsort(keys)
        return keys[order], rows[order]

    def _keys(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Place in `words` and key of each word of `length`."""
        numbers = np.array([i for i, word in enumerate(self.words) if len(word) == length], np.int64)
        text = "".join(self.words[i] for i in numbers)
        ids = np.fromiter(map(self._char_ids.__getitem__, text), np.int64, len(text)).reshape(-1, length)
        return numbers, ids @ self.word_base ** np.arange(length)

    def _count_words(self, sentences: Sequence[Any]) -> np.ndarray:
        """How often each of `words` stands in the sentences."""
        # A line feed, which is no character of a word, keeps words from reaching into the next sentence.
        tokens = chain.from_iterable((*sentence.tokens, END) for sentence in sentences)
        ids = np.fromiter(map({**self._char_ids, END: PADDING}.get, tokens, repeat(UNKNOWN)), np.int64)
        counts = np.zeros(len(self.words), np.int64)
        for length in LENGTHS:
            numbers, keys = self._keys(length)
            order = np.argsort(keys)
            size = max(0, len(ids) - length + 1)
            found = sum((ids[k : k + size] * self.word_base**k for k in range(length)), np.zeros(size, np.int64))
            place = np.searchsorted(keys[order], found)
            hit = place[place < len(keys)][keys[order][place[place < len(keys)]] == found[place < len(keys)]]
            counts[numbers[order]] = np.bincount(hit, minlength=len(keys))
        return counts

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
        bigrams = np.full(total, UNKNOWN, np.int32)
        if self._bigram_ids:
            ids = map(self._bigram_ids.__getitem__, chain.from_iterable(map(_bigrams, tokens)))
            bigrams[:] = np.fromiter(ids, np.int32, total)
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
            plain = ("scheme", "own_words")
            values: dict[str, Any] = {name: v if name in plain else tuple(v) for name, v in fields.items()}
            vocab = cls(**values)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise VocabError(f"not a vocabulary: {error}") from None
        named = (vocab.scheme, *vocab.all_chars, *vocab.all_bigrams, *vocab.tags, *vocab.words)
        if vocab.scheme not in list(SCHEMES) or not all(isinstance(name, str) for name in named):
            raise VocabError(f"not a vocabulary: scheme {vocab.scheme!r}, names must be strings")
        known = all(len(word) in LENGTHS and all(char in vocab._char_ids for char in word) for word in vocab.words)
        if not known or type(vocab.own_words) is not int or not 0 <= vocab.own_words <= len(vocab.words):
            raise VocabError("not a vocabulary: words are not of its characters, or fewer than have vectors")
        if not vocab.tags or vocab.tags[0] != OUTSIDE or not all(is_tag(tag, vocab.scheme) for tag in vocab.tags):
            raise VocabError(f"not a vocabulary: tags {', '.join(vocab.tags)} are not O and {vocab.scheme} tags")
        return vocab


def _bigrams(tokens: Sequence[str]) -> Iterable[str]:
    return map(add, tokens, (*tokens[1:], END))


def _by_count(counts: Counter[str], at_least: int) -> tuple[str, ...]:
    kept = [name for name, count in counts.items() if count >= at_least]
    return tuple(sorted(kept, key=lambda name: (-counts[name], name)))
