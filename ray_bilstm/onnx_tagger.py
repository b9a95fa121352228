"""Tag texts with an exported model: NumPy and ONNX Runtime, no torch, nothing else of the project.

An export has a copy of this file as tagger.py. In its directory, or with `ray_bilstm.onnx_tagger` for `tagger`:

    from tagger import OnnxTagger
    OnnxTagger("runs/NAME/best-onnx").predict("王芳：女，汉族，硕士。")

The graph gives the emissions; what remains is looking up ids, Viterbi, and reading entities off the tags. To compute
emissions elsewhere (an .om file on an NPU), override `emissions`.

Shapes: B texts, L characters, T tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNKNOWN = 1
"""Id of a character or bigram that the model does not know; 0 is padding."""

BATCH_SIZE = 64


class Entity(NamedTuple):
    """`text[start:end]` of the input is an entity of `type`; offsets count Unicode code points."""

    text: str
    type: str
    start: int
    end: int


class OnnxTagger:
    """An exported model. Texts are strings, or lists of tokens, and are read whole."""

    def __init__(
        self,
        directory: str | Path,
        *,
        model: str = "model.onnx",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        """`model` may be one of fixed shape, such as model-8x128.onnx: batches are then filled up to it. `threads` 0:
        as many as ONNX Runtime chooses."""
        import onnxruntime

        names = json.loads((Path(directory) / "tagger.json").read_text(encoding="utf-8"))
        self.chars = {char: i for i, char in enumerate(names["chars"], UNKNOWN + 1)}
        self.bigrams = {bigram: i for i, bigram in enumerate(names["bigrams"], UNKNOWN + 1)}
        self.tags: list[str] = names["tags"]
        self.scores = tuple(np.array(names[part], np.float32) for part in ("transitions", "start", "end"))
        self.continues_TT = np.array(names["continues"], bool)
        self.begins_T, self.ends_T = np.array(names["begins"], bool), np.array(names["ends"], bool)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(Path(directory) / model), settings, providers=list(providers))
        rows, length = self.session.get_inputs()[0].shape
        self.rows, self.length = (size if isinstance(size, int) else None for size in (rows, length))

    def predict(self, text: str | Sequence[str | Sequence[str]]) -> list[Any]:
        """The entities of a text, or a list of them for each of several texts."""
        if isinstance(text, str):
            return list(self._entities(text, self._ids([text])[0]))
        return [list(self._entities(one, ids)) for one, ids in zip(text, self._ids(text), strict=True)]

    def tag(self, texts: Sequence[str | Sequence[str]]) -> list[list[str]]:
        """The tag of each token of each text."""
        return [[self.tags[i] for i in ids] for ids in self._ids(texts)]

    def emissions(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """Score of each tag at each position, float32, (B, L, T), of a batch from `encode`."""
        return np.asarray(self.session.run(["emissions"], feeds)[0])

    def encode(self, texts: Sequence[str | Sequence[str]]) -> dict[str, np.ndarray]:
        """A batch: `chars` and, where the model reads them, `bigrams`, both (B, L), and `lengths`, (B); all int64."""
        longest = self.length or max(1, *map(len, texts))
        if max(map(len, texts)) > longest:
            raise ValueError(
                f"got a text of {max(map(len, texts)):,} characters, expected at most {longest:,}:"
                " cut it, or use model.onnx, which takes any length"
            )
        shape = (self.rows or len(texts), longest)
        chars, bigrams, lengths = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape[0], np.int64)
        for i, text in enumerate(texts):
            lengths[i] = len(text)
            chars[i, : len(text)] = [self.chars.get(char, UNKNOWN) for char in text]
            pairs = zip(text, [*text[1:], "\n"], strict=True) if text else ()
            bigrams[i, : len(text)] = [self.bigrams.get(one + other, UNKNOWN) for one, other in pairs]
        feeds = {"chars": chars, "lengths": lengths}
        return feeds | {"bigrams": bigrams} if self.bigrams else feeds

    def _ids(self, texts: Sequence[str | Sequence[str]]) -> list[np.ndarray]:
        """Tag ids of each text. Texts of about one length share a batch."""
        found = [np.zeros(0, np.int64)] * len(texts)
        order, size = sorted(range(len(texts)), key=lambda i: len(texts[i])), self.rows or BATCH_SIZE
        for batch in (order[start : start + size] for start in range(0, len(order), size)):
            feeds = self.encode([texts[i] for i in batch])
            paths_BL = viterbi(self.emissions(feeds), feeds["lengths"], *self.scores)
            for i, path_L in zip(batch, paths_BL, strict=False):
                found[i] = path_L[: len(texts[i])]
        return found

    def _entities(self, text: str | Sequence[str], ids: np.ndarray) -> Iterator[Entity]:
        start = 0
        for end in range(1, len(ids) + 1):
            if end < len(ids) and self.continues_TT[ids[end - 1], ids[end]]:
                continue
            if self.begins_T[ids[start]] and self.ends_T[ids[end - 1]]:
                yield Entity("".join(text[start:end]), self.tags[ids[start]].partition("-")[2], start, end)
            start = end


def viterbi(
    emissions_BLT: np.ndarray, lengths_B: np.ndarray, transitions_TT: np.ndarray, start_T: np.ndarray, end_T: np.ndarray
) -> np.ndarray:
    """Best path of each text: int64, (B, L); what stands behind its length holds no meaning."""
    B, L, _ = emissions_BLT.shape
    score_BT = start_T + emissions_BLT[:, 0]
    before_LBT = np.zeros((L, *score_BT.shape), np.int64)
    for i in range(1, L):
        moves_BTT = score_BT[:, :, None] + transitions_TT
        before_LBT[i] = moves_BTT.argmax(1)
        inside_B1 = (i < lengths_B)[:, None]
        score_BT = np.where(inside_B1, moves_BTT.max(1) + emissions_BLT[:, i], score_BT)
    paths_BL = np.zeros((B, L), np.int64)
    tag_B = (score_BT + end_T).argmax(1)
    for i in range(L - 1, -1, -1):
        paths_BL[:, i] = tag_B
        tag_B = np.where(i < lengths_B, before_LBT[i, np.arange(B), tag_B], tag_B) if i else tag_B
    return paths_BL
