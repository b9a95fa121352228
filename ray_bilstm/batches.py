"""From a shard of encoded sentences to epochs of padded batches.

The plan of an epoch is global: every rank works out the same list of steps from the lengths of all rows, the seed and
the epoch, then takes from each step the rows it owns. So the set of sentences in a step does not depend on the number
of workers, every rank has the same number of steps, and no sentence is dropped or repeated.

Rows are sorted by length once and dealt round and back again, so that ranks hold equally many characters. An epoch
shuffles sentences of one length, cuts the order by length into batches, at another place each time, and shuffles
those. A batch therefore holds sentences of about one length, about equally many from each rank, and is padded to its
longest; for devices that want few shapes to one of a few fixed lengths, chosen to waste the fewest positions, and to a
fixed number of rows.

Where the rows of each step stand goes to the device once an epoch: making a batch copies nothing from the host.

Shapes: B sentences, L positions, N rows of a corpus. Padding: id 0 everywhere, length 0 for rows without a sentence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ray_bilstm.vocab import UNKNOWN, Encoded

LANES = 16
"""Shuffling moves a row by multiples of this in the order by length, so that each of up to 8 ranks (a power of two)
keeps its part of a batch: 16 is where the dealing to 8 repeats itself."""


class Lessons(NamedTuple):
    """A distribution over the paths of each sentence, to learn instead of one path: its `expected_counts`."""

    tags_BLT: Tensor
    moves_BTT: Tensor


class Batch(NamedTuple):
    """Sentences of one rank in one step."""

    chars_BL: Tensor
    bigrams_BL: Tensor
    tags_BL: Tensor
    lengths_B: Tensor
    rows: np.ndarray
    """place of each sentence in the corpus; empty for a batch of padding"""
    sentences: int
    """sentences of the step on all ranks together"""
    lessons: Lessons | None = None

    def part(self, start: int, stop: int) -> Batch:
        """Some of its sentences, padded to the longest of them; without lessons."""
        lengths_B = self.lengths_B[start:stop]
        size = max(1, int(lengths_B.max()))
        chars_BL, bigrams_BL, tags_BL = (
            ids[start:stop, :size] for ids in (self.chars_BL, self.bigrams_BL, self.tags_BL)
        )
        return Batch(chars_BL, bigrams_BL, tags_BL, lengths_B, self.rows[start:stop], self.sentences)


class Step(NamedTuple):
    """The global plan of one optimiser step."""

    rows: np.ndarray
    length: int


class Shard:
    """The rows of one rank, held as flat arrays on its device."""

    def __init__(self, encoded: Encoded, rows: np.ndarray, *, device: torch.device | str = "cpu") -> None:
        """`rows[i]`, rising, is the place in the corpus of sentence i of `encoded`."""
        self.rows = rows
        self.device = torch.device(device)
        flat = (encoded.chars, encoded.bigrams, encoded.tags)
        # One padding id at the end, so that an empty shard can be indexed too.
        self.chars, self.bigrams, self.tags = (torch.from_numpy(np.append(ids, 0)).to(self.device) for ids in flat)
        lengths = encoded.lengths.astype(np.int64)
        self.lengths = torch.from_numpy(np.append(lengths, 0)).to(self.device)
        self.starts = torch.from_numpy(np.append(np.cumsum(lengths) - lengths, 0)).to(self.device)
        self.lessons: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def with_lessons(self, tags_NT: np.ndarray, moves_STT: np.ndarray, *, weight: float) -> Shard:
        """The same sentences, with a teacher's `expected_counts` of each token, (tokens, T), and of each sentence,
        (sentences, T, T): a student learns the share `weight` of them, and of the gold tags the rest."""
        gold_N = self.tags[:-1].long()
        sentence_N = torch.repeat_interleave(self.lengths[:-1])
        # Zeros at the end, for an empty shard and for padding rows.
        tags, moves = (
            torch.from_numpy(np.pad(counts, ((0, 1), *[(0, 0)] * (counts.ndim - 1)))).to(self.device) * weight
            for counts in (tags_NT, moves_STT)
        )
        rest_N = torch.full(gold_N.shape, 1 - weight, device=self.device)
        tags.index_put_((torch.arange(len(gold_N), device=self.device), gold_N), rest_N, accumulate=True)
        inner = sentence_N[1:] == sentence_N[:-1]
        moved = (sentence_N[1:][inner], gold_N[:-1][inner], gold_N[1:][inner])
        moves.index_put_(moved, rest_N[1:][inner], accumulate=True)
        taught = copy.copy(self)
        taught.lessons = (tags, moves)
        return taught

    def drop_tokens(self, share: float) -> Shard:
        """The same sentences with `share` of their characters and of their bigrams unknown, so that the unknown one
        gets a vector and names are not learnt by heart. Drawn for all at once, whatever they are padded to later."""
        if not share:
            return self
        dropped = copy.copy(self)
        dropped.chars, dropped.bigrams = (
            torch.where(torch.rand(len(ids), device=self.device) < share, UNKNOWN, ids)
            for ids in (self.chars, self.bigrams)
        )
        return dropped

    def plan(self, steps: Sequence[np.ndarray], size: int = 1) -> Tensor:
        """Where the rows (places in the corpus, of this shard) of each step stand, filled up to `size` or the longest
        step with -1, which stands for padding: int64, (steps, size), on the device."""
        size = max(size, *(len(rows) for rows in steps), 1)
        index = np.full((len(steps), size), -1)
        for place, rows in zip(index, steps, strict=True):
            place[: len(rows)] = np.searchsorted(self.rows, rows)
        return to_device(index, self.device)

    def gather(self, index_B: Tensor, length: int, *, rows: np.ndarray, sentences: int) -> Batch:
        """A line of `plan`, or the beginning of one, as a batch padded to `length`."""
        positions_L = torch.arange(length, device=self.device)
        lengths_B = self.lengths[index_B]
        flat_BL = (self.starts[index_B][:, None] + positions_L).clamp_(max=len(self.chars) - 1)
        mask_BL = positions_L < lengths_B[:, None]
        chars_BL, bigrams_BL, tags_BL = (
            torch.where(mask_BL, ids[flat_BL].long(), 0) for ids in (self.chars, self.bigrams, self.tags)
        )
        lessons = None
        if self.lessons:
            tags_NT, moves_STT = self.lessons
            lessons = Lessons(tags_NT[flat_BL] * mask_BL[:, :, None], moves_STT[index_B])
        return Batch(chars_BL, bigrams_BL, tags_BL, lengths_B, rows, sentences, lessons)

    def batch(self, rows: np.ndarray, length: int, *, sentences: int) -> Batch:
        """One batch of `rows`, or of one padding row where there are none."""
        return self.gather(self.plan([rows])[0], length, rows=rows, sentences=sentences)


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """On the device; the host does not wait until they have arrived."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def deal(lengths_N: np.ndarray, world_size: int) -> np.ndarray:
    """The rank that owns each row: rows sorted by length, dealt round and back again. int64, (N,)."""
    laps, seats = np.divmod(np.arange(len(lengths_N)), world_size)
    owners_N = np.empty(len(lengths_N), np.int64)
    owners_N[np.argsort(lengths_N, kind="stable")] = np.where(laps % 2, world_size - 1 - seats, seats)
    return owners_N


def padded_lengths(lengths_N: np.ndarray, count: int) -> np.ndarray:
    """At most `count` lengths, rising, that waste the fewest positions when each row is padded to the next of them.

    Dynamic program over the distinct lengths: cost[k][j] is the least number of positions that the rows up to the j-th
    distinct length fill with k padded lengths of which that one is the last. Distinct lengths beyond 512 are thinned.
    """
    sizes, counts = np.unique(lengths_N, return_counts=True)
    if len(sizes) > 512:
        groups = np.array_split(np.arange(len(sizes)), 512)
        counts = np.array([counts[group].sum() for group in groups])
        sizes = np.array([sizes[group[-1]] for group in groups])
    if len(sizes) <= count:
        return sizes
    before = np.concatenate(([0], np.cumsum(counts)))
    # filled[i, j]: positions of the rows with distinct lengths i..j when all are padded to the j-th
    filled = np.where(np.tri(len(sizes), dtype=bool).T, (before[1:] - before[:-1, None]) * sizes, np.inf)
    cost, choices = filled[0], []
    for _ in range(count - 1):
        options = np.concatenate(([np.inf], cost[:-1]))[:, None] + filled
        choices.append(options.argmin(0))
        cost = options.min(0)
    chosen, last = [len(sizes) - 1], len(sizes) - 1
    for choice in reversed(choices):
        last = choice[last] - 1
        chosen.append(last)
    best: np.ndarray = sizes[np.array(chosen[::-1])]
    return best


def plan_epoch(
    lengths_N: np.ndarray, *, batch_size: int, seed: int, epoch: int, shapes: np.ndarray | None
) -> list[Step]:
    """The steps of an epoch: every row once, `batch_size` of them a step, fewer in one of them.

    `shapes` are the allowed lengths, rising, from `padded_lengths`; without, a step is as long as its longest row.
    """
    random = np.random.default_rng((seed, epoch))
    order = np.argsort(lengths_N, kind="stable")
    keys_N = lengths_N + random.random(len(lengths_N))
    for lane in (order[i::LANES] for i in range(LANES)):
        lane[:] = lane[np.argsort(keys_N[lane])]
    count = -(-len(order) // batch_size)
    sizes = np.full(count, batch_size)
    sizes[random.integers(count)] -= count * batch_size - len(order)
    batches = np.split(order, np.cumsum(sizes)[:-1])
    return [_step(batches[i], lengths_N, shapes) for i in random.permutation(count)]


def _step(rows: np.ndarray, lengths_N: np.ndarray, shapes: np.ndarray | None) -> Step:
    longest = max(1, int(lengths_N[rows].max()))
    return Step(rows, longest if shapes is None else int(shapes[np.searchsorted(shapes, longest)]))


class TrainingSet:
    """The training sentences of one rank, as epochs of batches.

    A shard that fits in memory is one window; a larger corpus passes in several windows of rows, one after another,
    each planned like a corpus of its own.
    """

    def __init__(
        self,
        windows: Callable[[], Iterable[Shard]],
        lengths_N: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window: int | None = None,
        shapes: int | None = None,
        fixed_rows: bool = False,
        augment: Callable[[Shard], Shard] | None = None,
        token_dropout: float = 0.0,
    ) -> None:
        """`windows()` gives, each time, the shards of this rank for rows 0 to `window` - 1, `window` to ... (all rows
        by default); `lengths_N` has the length of every row of the corpus, `shapes` is how many lengths to pad to (as
        many as occur, by default), `fixed_rows` whether every batch has as many rows as the fullest one so far,
        `augment` what an epoch makes of a shard, with the same lengths, `token_dropout` the share of characters and of
        bigrams that it then does not know."""
        self.windows = windows
        self.lengths_N = lengths_N
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.starts = range(0, len(lengths_N), window or len(lengths_N))
        self.shapes = padded_lengths(lengths_N, shapes) if shapes else None
        self.fixed_rows = fixed_rows
        self.most_rows = 1
        self.augment = augment
        self.token_dropout = token_dropout

    def __len__(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return sum(-(-len(self._lengths(start)) // self.batch_size) for start in self.starts)

    def blanks(self) -> Iterator[Batch]:
        """A batch of padding of each shape that steps with fixed rows have here, longest first: to prepare for them."""
        if self.shapes is None or not self.fixed_rows:
            return
        shard, lengths = next(iter(self.windows())), self._lengths(0)
        owned = deal(lengths, self.world_size) == self.rank
        plan = plan_epoch(lengths, batch_size=self.batch_size, seed=self.seed, epoch=0, shapes=self.shapes)
        self.most_rows = max(self.most_rows, *(int(owned[step.rows].sum()) for step in plan))
        index_B = shard.plan([np.empty(0, np.int64)], self.most_rows)[0]
        for length in reversed(self.shapes.tolist()):
            yield shard.gather(index_B, length, rows=np.empty(0, np.int64), sentences=1)

    def _lengths(self, start: int) -> np.ndarray:
        lengths: np.ndarray = self.lengths_N[start : start + self.starts.step]
        return lengths

    def _window_seed(self, epoch: int, start: int) -> int:
        return int(np.random.SeedSequence((self.seed, epoch, self.rank, start)).generate_state(1)[0])

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The part of this rank of each step; a step that leaves it nothing gives one padding row."""
        for start, shard in zip(self.starts, self.windows(), strict=True):
            lengths = self._lengths(start)
            owners = deal(lengths, self.world_size)
            plan = plan_epoch(lengths, batch_size=self.batch_size, seed=self.seed, epoch=epoch, shapes=self.shapes)
            own = [start + step.rows[owners[step.rows] == self.rank] for step in plan]
            if start:  # so that a resumed epoch draws the same without the steps before
                torch.manual_seed(self._window_seed(epoch, start))
            shard = (self.augment(shard) if self.augment else shard).drop_tokens(self.token_dropout)
            index_SB = shard.plan(own, self.most_rows)
            self.most_rows = index_SB.shape[1]
            for step, mine, index_B in zip(plan, own, index_SB, strict=True):
                if not self.fixed_rows:
                    index_B = index_B[: max(1, len(mine))]
                yield shard.gather(index_B, step.length, rows=mine, sentences=len(step.rows))


def iter_eval_batches(
    shard: Shard, *, batch_size: int, positions: int | None = None, shapes: int | None = None
) -> Iterator[Batch]:
    """Every sentence of the shard once, sorted by length, exactly padded; fewer than `batch_size` where they would take
    more than so many `positions`. Given `shapes`, padded to at most so many lengths and to `batch_size` rows."""
    lengths_N = shard.lengths[:-1].cpu().numpy()
    if not len(lengths_N):
        return
    order = np.argsort(lengths_N, kind="stable")
    chunks = np.split(order, _cuts(lengths_N[order], batch_size, positions))
    ends = np.array([max(1, lengths_N[chunk[-1]]) for chunk in chunks])
    if shapes:
        allowed = padded_lengths(ends, shapes)
        ends = allowed[np.searchsorted(allowed, ends)]
    index_SB = shard.plan([shard.rows[chunk] for chunk in chunks])
    for chunk, index_B, length in zip(chunks, index_SB, ends.tolist(), strict=True):
        yield shard.gather(
            index_B if shapes else index_B[: len(chunk)], length, rows=shard.rows[chunk], sentences=len(chunk)
        )


def _cuts(rising_N: np.ndarray, batch_size: int, positions: int | None) -> list[int]:
    """Where batches begin, but for the first."""
    cuts, start = [0], 0
    while start < len(rising_N):
        rising_B = rising_N[start : start + batch_size]
        fitting = np.arange(1, len(rising_B) + 1) * rising_B <= (positions or np.inf)
        start += max(1, int(fitting.sum()))
        cuts.append(start)
    return cuts[1:-1]
