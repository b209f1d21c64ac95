"""Which token of one tokenizer corresponds to which of another: words, matched by where they end in the text.

Two tokenizers cut a word differently, and a causal model knows a whole word only at its last token. So a pair is made
of the last tokens of the same word, found by the character at which the word ends. Pure functions of offset lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from emotion_circuits.errors import UsageError

Offsets = Sequence[tuple[int, int]]

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def word_ends(text: str) -> list[int]:
    """Character position behind each word of ``text`` (apostrophes and hyphens stay inside words)."""
    return [match.end() for match in _WORD.finditer(text)]


def word_pairs(text: str, first: Offsets, second: Offsets) -> list[tuple[int, int]]:
    """Index pairs ``(i, j)`` of the tokens that end the same word in both tokenizations, in text order.

    Args:
        text: the text that both lists of character spans refer to.
        first, second: ``(start, end)`` per token, prefix tokens and zero-width tokens as ``(n, n)`` (as in
            ``Encoded.offsets``). A token may include the space in front of its word.

    A word is left out where a tokenizer has no token that ends where the word ends (it joins the word with what
    follows), or where the token also holds the end of the word before, so that a pair is always word against word.
    """
    ends = word_ends(text)
    by_end = [_last_token_by_end(offsets, len(text)) for offsets in (first, second)]
    starts = [0, *ends[:-1]]
    pairs = []
    for start, end in zip(starts, ends, strict=True):
        i, j = by_end[0].get(end), by_end[1].get(end)
        if i is not None and j is not None and first[i][0] >= start and second[j][0] >= start:
            pairs.append((i, j))
    return pairs


def _last_token_by_end(offsets: Offsets, length: int) -> dict[int, int]:
    """End character → index of the last token with a width that ends there."""
    found = {}
    for index, (start, end) in enumerate(offsets):
        if not 0 <= start <= end <= length:
            raise UsageError(
                f"token {index} has the character span ({start}, {end}) in a text of {length} characters",
                "give the offsets of this very text",
            )
        if end > start:
            found[end] = index
    return found
