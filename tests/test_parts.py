"""Cutting files of texts: nothing lost, doubled or divided, and faults keep their line."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import parts
from ray_bilstm.texts import TextError, input_format, iter_texts

TEXTS = ["王芳：女，汉族。", "", "甲", "李强先生，现任东海银行副行长，", "\ufeff乙", "长" * 90, "无境外居留权。"]


def write(path, texts, *, end="\n", last=True):
    """The texts in the format of the suffix; without `last`, the file ends without an end of line."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "n": range(len(texts))}), path, row_group_size=3)
        return path
    if path.suffix == ".bmes":
        lines = [line for text in texts if text for line in [*(f"{c} O" for c in text), ""]]
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "n": n}, ensure_ascii=False) for n, text in enumerate(texts)]
    else:
        lines = texts
    path.write_bytes((end.join(lines) + (end if last else "")).encode())
    return path


def whole(path):
    with path.open("rb") as file:
        return list(iter_texts(file, str(path), input_format(path)))


def cut(path, part_bytes):
    (source,) = parts.cut(parts.find_sources([path]), part_bytes=part_bytes)
    return source.parts


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "bmes", "parquet"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("part_bytes", [1, 7, 30, 64, 10**6])
def test_the_parts_are_the_whole(tmp_path, suffix, end, last, part_bytes):
    path = write(tmp_path / f"some.{suffix}", TEXTS * 3, end=end, last=last)
    found = cut(path, part_bytes)
    assert [text for part in found for text in parts.iter_part(path, part)] == whole(path)
    assert all(part.begin < part.end for part in found)
    assert len(found) == 1 if part_bytes > 10**5 else len(found) > 3


@given(data=st.binary(max_size=60), part_bytes=st.integers(1, 20))
def test_any_bytes(tmp_path_factory, data, part_bytes):
    """Columns of any bytes that are UTF-8 have the same texts whole and in parts."""
    folder = tmp_path_factory.mktemp("any")
    for suffix in ("bmes", "txt"):
        path = folder / f"any.{suffix}"
        path.write_bytes(data.replace(b"\x01", b"\n").replace(b"\x02", b"\n\n").decode(errors="ignore").encode())
        assert [text for part in cut(path, part_bytes) for text in parts.iter_part(path, part)] == whole(path)


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "bmes"])
@pytest.mark.parametrize("part_bytes", [1, 30, 10**6])
def test_a_fault_has_its_line_in_any_part(tmp_path, suffix, part_bytes):
    path = write(tmp_path / f"some.{suffix}", TEXTS)
    lines = path.read_bytes().split(b"\n")
    for number in (1, len(lines) // 2, len(lines) - 2):
        path.write_bytes(b"\n".join([*lines[: number - 1], b"\xff", *lines[number:]]))
        with pytest.raises(TextError, match=rf"^{path}:{number}: got byte 0xFF"):
            for part in cut(path, part_bytes):
                list(parts.iter_part(path, part))


def test_a_fault_has_its_row(tmp_path):
    path = write(tmp_path / "some.parquet", [*TEXTS, None])
    found = cut(path, 20)
    assert len(found) > 2
    with pytest.raises(TextError, match=rf"^{path}:{len(TEXTS) + 1}: "):
        list(parts.iter_part(path, found[-1]))


def test_rows_are_read_from_their_row_groups_alone(tmp_path):
    """The first row group is broken; only parts that have rows of it notice."""
    path = write(tmp_path / "some.parquet", TEXTS * 2)
    expected = [text.text for text in whole(path)]
    found = cut(path, 1)
    assert len(found) == len(expected)
    start = pq.read_metadata(path).row_group(0).column(0).dictionary_page_offset
    end = pq.read_metadata(path).row_group(1).column(0).dictionary_page_offset
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"\xff" * (end - start) + data[end:])
    assert [text.text for part in found[3:] for text in parts.iter_part(path, part)] == expected[3:]
    with pytest.raises(TextError, match=f"^{path}:1: got no Parquet"):
        list(parts.iter_part(path, found[1]))


HELD = """
import re, sys
from pathlib import Path
from ray_bilstm import parts
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
(source,) = parts.cut(parts.find_sources(sys.argv[1:]))
before = peak()
list(parts.iter_part(source.path, source.parts[-1]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_row_group_is_never_held_as_a_whole(tmp_path):
    path = tmp_path / "some.parquet"
    table = pa.table({"text": ["长" * 400] * 60_000})
    pq.write_table(table, path, row_group_size=len(table), compression="none", use_dictionary=False)
    assert path.stat().st_size > 64 * 2**20
    words = [sys.executable, "-c", HELD, path]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1], timeout=60)
    assert int(done.stdout) < 24 * 2**20


def test_parts_grow_where_there_would_be_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MOST_PARTS", 5)
    path = write(tmp_path / "some.txt", ["甲"] * 1000)
    assert len(cut(path, 1)) <= 5


def test_inputs_are_files_and_folders(tmp_path):
    for name in ("b.txt", "a.jsonl", "c.parquet", ".hidden.txt", "README.rst"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "d.txt").write_bytes(b"")
    found = parts.find_sources([tmp_path / "README.rst", tmp_path, tmp_path / "b.txt"])
    assert [source.path.name for source in found] == ["README.rst", "a.jsonl", "b.txt", "c.parquet"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TextError, match="empty: got a folder without such files, expected some of"):
        parts.find_sources([tmp_path / "empty"])
    with pytest.raises(TextError, match="nothing: got no such file, expected a file or a folder of texts"):
        parts.find_sources([tmp_path / "nothing"])
    with pytest.raises(TextError, match=r"c\.parquet: got no Parquet"):
        parts.cut(found)


def test_a_change_is_seen(tmp_path):
    path = write(tmp_path / "some.txt", TEXTS)
    (source,) = parts.cut(parts.find_sources([path]))
    assert parts.is_unchanged(source)
    path.write_text("乙\n", encoding="utf-8")
    assert not parts.is_unchanged(source)
    path.unlink()
    assert not parts.is_unchanged(source)
