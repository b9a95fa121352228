"""Vectors in word2vec and GloVe text."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm.embeddings import EmbeddingsError, Vectors, read_vectors, rescaled


def read(tmp_path, text, *, size=2, wanted=lambda name: True):
    path = tmp_path / "vectors.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_vectors(path, size=size, wanted=wanted)


@pytest.mark.parametrize(
    "text",
    [
        "的 1 -2\n中国 0.5 3e-1\n",
        "2 2\n的 1 -2\n中国 0.5 3e-1\n",
        "2 2 \r\n的 1 -2 \r\n中国 0.5 3e-1 \r\n\r\n",
        "\ufeff的 1 -2\n\n中国 0.5 .3",
    ],
)
def test_with_and_without_a_header(tmp_path, text):
    vectors = read(tmp_path, text)
    assert vectors.names == ("的", "中国")
    assert vectors.matrix.dtype == np.float32
    np.testing.assert_allclose(vectors.matrix, [[1, -2], [0.5, 0.3]], rtol=1e-6)
    assert (vectors.size, vectors.lines, vectors.repeated) == (2, 2, 0)


def test_only_what_is_wanted_is_kept(tmp_path):
    vectors = read(tmp_path, "的 1 2\n中国 3 4\n国 5 6\n", wanted=lambda name: len(name) == 1)
    assert vectors.names == ("的", "国")
    assert vectors.matrix.tolist() == [[1, 2], [5, 6]]
    assert vectors.lines == 3
    assert read(tmp_path, "的 1 2\n", wanted=lambda name: False).matrix.shape == (0, 2)


def test_the_first_of_equal_names_counts(tmp_path):
    vectors = read(tmp_path, "3 2\n的 1 2\n国 5 6\n的 3 4\n")
    assert vectors.names == ("的", "国")
    assert vectors.matrix.tolist() == [[1, 2], [5, 6]]
    assert vectors.repeated == 1


def test_names_may_be_odd(tmp_path):
    """Spaces that are no separator, digits, and the spaces of GloVe."""
    vectors = read(tmp_path, "\u3000 1 2\n7 3 4\n. . 5 6\n\xa0 7 8\n")
    assert vectors.names == ("\u3000", "7", ". .", "\xa0")


def test_gzip(tmp_path):
    path = tmp_path / "vectors.vec.gz"
    path.write_bytes(gzip.compress("1 2\n的 1 2\n".encode()))
    assert read_vectors(path, size=2, wanted=lambda name: True).names == ("的",)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EmbeddingsError, match=r"vectors\.vec\.gz: got a damaged gzip file"):
        read_vectors(path, size=2, wanted=lambda name: True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 3\n的 1 2 3\n国 1 2 3\n", "1: got vectors of 3 numbers, expected 2: set --embedding-size 3"),
        ("的 1 2 3\n国 1 2 3\n", "1: got vectors of 3 numbers, expected 2: set --embedding-size 3"),
        ("的 1 2\n国 1 2 3\n", "2: got 3 numbers after the name, expected 2"),
        ("的 1 2\n国 1\n", "2: got 1 numbers after the name, expected 2"),
        ("的 1 2\n国\n", "2: got 0 numbers after the name, expected 2"),
        ("的 1 2\n国 1 x2\n", "2: got 'x2', expected a number"),
        ("的 x1 2\n", "1: got 'x1', expected a number"),
        ("的 1 nan\n", "1: got a number that is not finite"),
        ("的 1 1e99\n", "1: got a number that is not finite"),
        ("3 2\n的 1 2\n国 1 2\n", "1: the header says 3 vectors, expected the 2 that follow"),
        ("的 1 2\n".encode() + "国 1 2\n".encode("gbk"), "2: got the name .*, expected UTF-8"),
        ("<html>\n<body>\n", "1: got 0 numbers after the name, expected 2"),
    ],
)
def test_complaints_name_the_line(tmp_path, text, message):
    with pytest.raises(EmbeddingsError, match=rf"vectors\.txt:{message}"):
        read(tmp_path, text)


NAMES = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="\ufeff"), min_size=1, max_size=3)
NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3)


@given(st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=8), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, rows, header):
    lines = [f"{len(rows)} 3"] if header else []
    lines += [f"{name} {' '.join(map(repr, numbers))}" for name, numbers in rows.items()]
    vectors = read(tmp_path_factory.mktemp("vectors"), "\n".join(lines), size=3)
    assert vectors.names == tuple(rows)
    assert vectors.matrix.tolist() == list(rows.values())


def test_rescaling_keeps_directions():
    vectors = Vectors(("a", "b"), np.array([[0.1, 0.3], [-0.2, 0.2]], np.float32))
    scaled, factor = rescaled(vectors)
    assert scaled.matrix.std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(scaled.matrix, vectors.matrix * factor, rtol=1e-6)
    nothing = Vectors(("a",), np.zeros((1, 2), np.float32))
    assert rescaled(nothing)[1] == 1
