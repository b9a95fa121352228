"""Long texts in parts: nothing lost, nothing twice, cuts where sentences end."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm import windows
from ray_bilstm.windows import CONTEXT, LONGEST, Window, iter_windows

texts = st.lists(
    st.tuples(st.sampled_from(["王", "a", "。", "”", "，", "\n", "😀"]), st.integers(1, 700)), max_size=6
).map(lambda runs: "".join(char * count for char, count in runs))


@given(texts)
def test_parts_cover_a_text_and_have_their_context(text):
    parts = list(iter_windows(text))
    assert parts[0].start == 0
    assert parts[-1].end == len(text)
    assert all(one.end == other.start for one, other in itertools.pairwise(parts))
    assert all(0 < part.end - part.start <= LONGEST for part in parts) or text == ""
    assert all(part.left == max(0, part.start - CONTEXT) for part in parts)
    assert all(part.right == min(len(text), part.end + CONTEXT) for part in parts)
    assert list(iter_windows(list(text))) == parts
    assert len(parts) == 1 or len(text) > LONGEST


def test_a_text_that_is_not_long_is_read_whole():
    assert list(iter_windows("")) == [Window(0, 0, 0, 0)]
    assert list(iter_windows("王" * LONGEST)) == [Window(0, LONGEST, 0, LONGEST)]


def ends(text):
    return [text[part.start : part.end] for part in iter_windows(text)]


def test_cuts_fall_where_sentences_end():
    first, second = "王" * 300 + "说：“好。”", "王，" * 150 + "！！"
    assert ends(first + second) == [first, second]
    clauses = "王芳，" * 200  # no sentence ends
    assert all(part.endswith("，") for part in ends(clauses))
    assert [len(part) for part in ends("王" * 1100)] == [LONGEST, LONGEST, 1100 - 2 * LONGEST]
    assert ends("a" * 400 + ". " + "b" * 400) == ["a" * 400 + ". ", "b" * 400]


def test_the_longest_sentence_of_what_the_project_trains_on_is_not_cut(resume_ner):
    lines = (resume_ner / "train.char.bmes").read_text(encoding="utf-8").split("\n\n")
    assert max(len(sentence.splitlines()) for sentence in lines) < windows.LONGEST
