"""Tokens as running text: words have a space between them, characters have none.

A corpus of Chinese has a character a token, one of English a word, and many have both. A space stands between two
tokens where letters or digits would run together that are not East Asian, unless both are single characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

WIDE = "WF"
"""East Asian width of Chinese, Japanese and Korean characters (Unicode Standard Annex 11)."""


def spell(tokens: Sequence[str]) -> str:
    """The text of some tokens; of a string, that string."""
    if isinstance(tokens, str):
        return tokens
    return "".join([*tokens[:1], *(gap(*pair) + pair[1] for pair in pairwise(tokens))])


def gap(before: str, token: str) -> str:
    """What stands between two tokens: a space or nothing."""
    apart = len(before) > 1 or len(token) > 1
    return " " if apart and _is_letter(before[-1:]) and _is_letter(token[:1]) else ""


def _is_letter(char: str) -> bool:
    return char.isalnum() and unicodedata.east_asian_width(char) not in WIDE
