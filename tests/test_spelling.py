"""Tokens as running text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_bilstm.spelling import gap, spell


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([], ""),
        (["王", "芳"], "王芳"),
        (list("Ada 1"), "Ada 1"),
        (["Ada", "met", "Bob", "."], "Ada met Bob."),
        (["I", "am", "4"], "I am 4"),
        (["王", "Ada", "2011", "年"], "王Ada 2011年"),
        (["É", "été"], "É été"),
        (["한국", "사람"], "한국사람"),
    ],
)
def test_text_of_tokens(tokens, text):
    assert spell(tokens) == spell(tuple(tokens)) == text


@given(st.lists(st.text(min_size=1)))
def test_only_spaces_are_added_and_where_gap_says(tokens):
    expected = "".join((gap(tokens[i - 1], token) if i else "") + token for i, token in enumerate(tokens))
    assert spell(tokens) == expected
    assert spell("".join(tokens)) == "".join(tokens)
    assert spell(tokens).replace(" ", "") == "".join(tokens).replace(" ", "")
