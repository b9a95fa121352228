"""A lexicon: words in plain text, one a line, of which those of 2 to 4 characters are read.

上海 34 ns             what follows the first space or tab is not looked at, as in the dictionary of jieba
"""

from __future__ import annotations

from pathlib import Path

LENGTHS = (2, 3, 4)
"""Characters of a word that counts."""


class LexiconError(ValueError):
    """A file that is no list of words; the message has path, line, what stands there and what should."""


def read_words(path: str | Path) -> list[str]:
    """The words of a UTF-8 file, each once, in its order. Raises LexiconError, and OSError for a file that cannot be
    read."""
    words: dict[str, None] = {}
    for number, line in enumerate(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            word = line.decode("utf-8").replace("\t", " ").partition(" ")[0].strip()
        except UnicodeDecodeError as error:
            raise LexiconError(
                f"{path}:{number}: got bytes that are not UTF-8 ({error.reason}), expected a word a line"
            ) from None
        if len(word) in LENGTHS:
            words[word] = None
    if not words:
        raise LexiconError(f"{path}: got no word of {LENGTHS[0]} to {LENGTHS[-1]} characters, expected one a line")
    return list(words)
