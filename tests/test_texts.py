"""Texts in any format come in as they are, and tagged texts go out so that they can be read back."""

import io
import itertools
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import formats, records, tags, texts
from ray_bilstm.predict import Entity
from ray_bilstm.texts import Text, TextError, input_format, iter_conll, iter_jsonl, iter_texts, write_lines

characters = st.characters(exclude_categories=["Cs"])
lines = st.text(characters.filter(lambda char: char not in "\n\r"))


def read(data: bytes, format: str) -> list[Text]:
    return list(iter_texts(io.BytesIO(data), "here", format))


@given(st.lists(lines, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_a_line_is_a_text(found, ending):
    data = "".join(line + ending for line in found).encode()
    expected = [line.removeprefix("\ufeff") if i == 0 else line for i, line in enumerate(found)]
    assert [text for text, _ in read(data, "text")] == expected
    if found and found[-1]:
        assert read(data.removesuffix(ending.encode()), "text") == read(data, "text")


@given(st.lists(st.text(characters), max_size=4))
def test_json_lines_keep_what_else_they_hold(found):
    records = [{"id": i, "text": text, "entities": [[0, 1, "NAME"]], "label": None} for i, text in enumerate(found)]
    data = "\n\n".join(map(json.dumps, records)).encode()
    assert read(data, "jsonl") == [Text(text, {"id": i}) for i, text in enumerate(found)]


def test_tokens_are_a_text_too():
    assert read(b'{"tokens": ["Ada", "met", "Bob"]}', "jsonl") == [Text(["Ada", "met", "Bob"], {})]


def test_the_first_column_counts():
    data = "-DOCSTART- O\n\n王 B-NAME\r\n芳\n\n\n  O\n\u3000\tx\tO\nAda Lovelace\tO".encode()
    assert read(data, "conll") == [Text(["王", "芳"], {}), Text([" ", "\u3000", "Ada Lovelace"], {})]


class Pipe(io.BytesIO):
    def seekable(self):
        return False


def test_rows_of_parquet(tmp_path):
    rows = [{"text": "王芳", "n": 1, "tags": None}, {"text": "", "n": 2, "tags": ["O"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    expected = [Text("王芳", {"n": 1}), Text("", {"n": 2})]
    assert read(data, "parquet") == list(iter_texts(Pipe(data), "a pipe", "parquet")) == expected


@pytest.mark.parametrize(
    ("data", "format", "message"),
    [
        (b"a\n\xff\n", "text", "here:2: got byte 0xFF, expected UTF-8"),
        (b'{"text": "a"}\n{"text"\n', "jsonl", "here:2: got no JSON"),
        (b"[]", "jsonl", "here:1: got list, expected an object with text or tokens"),
        (b'{"words": []}', "jsonl", "here:1: got the keys words, expected exactly one of text, tokens"),
        (b'{"w\\n": 1, "\\ud800": 1}', "jsonl", r"here:1: got the keys 'w\\n', '\\ud800', expected exactly one of"),
        (b'{"text": "\\ud800"}', "jsonl", "here:1: got half a surrogate pair"),
        (b'{"tokens": ["a", ""]}', "jsonl", "here:1: got \\['a', ''\\] for tokens, expected a list of strings"),
        (b"PAR1", "parquet", "here:1: got no Parquet"),
    ],
)
def test_what_cannot_be_read_is_named(data, format, message):
    with pytest.raises(TextError, match=f"^{message}"):
        read(data, format)


def test_a_text_of_parquet_that_is_not_utf8(tmp_path):
    texts = pyarrow.array([b"a", b"\xff"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "x.parquet")
    with pytest.raises(TextError, match=r"^here:1: got no Parquet \('utf-8' codec can't decode"):
        read((tmp_path / "x.parquet").read_bytes(), "parquet")


@pytest.mark.parametrize("format", ["text", "jsonl", "conll"])
def test_no_more_is_read_than_asked_for(format):
    endless = itertools.cycle([b'{"text": "a"}\n', b"\n"])
    assert len(list(itertools.islice(iter_texts(endless, "here", format), 5))) == 5


def test_formats_by_suffix():
    assert input_format("a.txt") == input_format("a") == input_format("a.csv") == "text"
    assert [input_format(f"a.{s}") for s in ("JSONL", "json", "parquet", "bmes", "conll", "tsv")] == [
        *("jsonl", "jsonl", "parquet", "conll", "conll", "conll"),
    ]


@st.composite
def tagged_texts(draw):
    """A text, of characters or tokens, and entities in it."""
    token = characters.filter(lambda char: char not in "\t\n\r")
    tokens = draw(
        st.lists(token, max_size=8) | st.lists(st.text(token, min_size=1).filter(lambda t: t != formats.DOCSTART))
    )
    text = "".join(tokens) if all(len(token) == 1 for token in tokens) and draw(st.booleans()) else tokens
    edges = sorted(draw(st.sets(st.integers(0, len(text)))))
    spans = [span for span in itertools.pairwise(edges) if draw(st.booleans())]
    kinds = st.sampled_from(["NAME", "ORG"])
    return Text(text, {}), [Entity("".join(text[a:b]), draw(kinds), a, b, 0.25) for a, b in spans]


@given(st.lists(tagged_texts(), max_size=3), st.sampled_from(sorted(tags.SCHEMES)))
def test_what_is_written_can_be_read_as_labelled_sentences(tagged, scheme):
    expected = [
        (tuple(text.text), [(e.start, e.end, e.type) for e in entities]) for text, entities in tagged if text.text
    ]
    parsed = formats.parse_jsonl("".join(iter_jsonl(tagged)).encode())
    assert not parsed.complaints
    assert [(s.tokens, tags.to_spans(s.tags, records.SPAN_SCHEME)) for s in parsed.sentences] == expected
    parsed = formats.parse_columns("".join(iter_conll(tagged, scheme)).encode())
    assert not parsed.complaints
    assert [(s.tokens, tags.to_spans(s.tags, scheme)) for s in parsed.sentences] == expected
    assert read("".join(iter_jsonl(tagged)).encode(), "jsonl") == [text for text, _ in tagged]


def test_columns_refuse_what_they_cannot_hold():
    with pytest.raises(TextError, match=r"^text 2: columns cannot hold the token '\\t': write .jsonl"):
        list(iter_conll([(Text("王", {}), []), (Text("\t", {}), [])], "BMES"))


def test_scores_are_left_out_where_there_are_none():
    line = json.loads(next(iter_jsonl([(Text("王芳", {"id": 7}), [Entity("王芳", "NAME", 0, 2)])])))
    assert line == {"id": 7, "text": "王芳", "entities": [{"text": "王芳", "type": "NAME", "start": 0, "end": 2}]}


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out"
    path.write_text("before", encoding="utf-8")

    def failing():
        yield "half"
        raise TextError("no more")

    with pytest.raises(TextError):
        write_lines(path, failing())
    assert path.read_text(encoding="utf-8") == "before"
    write_lines(path, ["王\n", "芳\n"])
    assert path.read_bytes() == "王\n芳\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert texts.ROWS > 1
