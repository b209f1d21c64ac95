"""The text of a growing list of tokens, piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a tokenizer writes for a character of which bytes are missing."""


class Pieces:
    """Decodes each token once or twice, however long the text is.

    A token cannot be decoded alone: tokenizers drop the space in front of the first one, and a character may be spread
    over several. So each is decoded behind the tokens of the piece before it, whose own text is then taken off.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """What the token adds to the text; nothing while a character waits for its other bytes."""
        self._pending.append(token)
        known, text = self._decoded(self._before), self._decoded([*self._before, *self._pending])
        if text.endswith(UNFINISHED) or len(text) <= len(known):
            return ""
        self._before, self._pending = self._pending, []
        return text[len(known) :]

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)) if tokens else ""
