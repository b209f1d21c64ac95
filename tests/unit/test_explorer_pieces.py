"""Text piece by piece: the pieces are the text, characters stay whole, and a long text costs no more per token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from emotion_circuits.explorer.pieces import UNFINISHED, Pieces
from tiny_models import byte_level_tokenizer, metaspace_tokenizer

TOKENIZERS = {"byte-level": byte_level_tokenizer(), "metaspace": metaspace_tokenizer()}


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, inner: PreTrainedTokenizerFast) -> None:
        self.inner, self.decoded = inner, 0

    def decode(self, tokens: list[int], **options: bool) -> str:
        self.decoded += len(tokens)
        return str(self.inner.decode(tokens, **options))


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters=UNFINISHED), max_size=30))
def test_pieces_of_any_text_are_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    pieces = Pieces(tokenizer)
    written = [pieces.add(token) for token in tokens]
    assert "".join(written) == tokenizer.decode(tokens, skip_special_tokens=True)
    assert not any(UNFINISHED in piece for piece in written)


def test_a_character_of_four_bytes_comes_with_its_last_one() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    tokens = tokenizer("no 🙂 yes", add_special_tokens=False).input_ids
    pieces = Pieces(tokenizer)
    written = [pieces.add(token) for token in tokens]
    assert written.count("") == 3, "the first three bytes of the character wait"
    assert any(piece.endswith("🙂") for piece in written)


def test_special_tokens_add_nothing_and_take_nothing_away() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    words = tokenizer("the bus left", add_special_tokens=False).input_ids
    tokens = [words[0], tokenizer.eos_token_id, *words[1:], tokenizer.eos_token_id]
    pieces = Pieces(tokenizer)
    assert "".join(pieces.add(token) for token in tokens) == "the bus left"


def test_a_token_costs_the_same_at_the_end_of_a_long_text() -> None:
    tokenizer = Counting(TOKENIZERS["byte-level"])
    tokens = tokenizer.inner("the bus left at noon " * 50, add_special_tokens=False).input_ids
    pieces = Pieces(tokenizer)  # type: ignore[arg-type]
    for token in tokens:
        pieces.add(token)
    assert len(tokens) > 200 and tokenizer.decoded <= 3 * len(tokens)
