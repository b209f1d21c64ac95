"""From :class:`Positions` to token indices: absolute, mask-aware and independent of padding and tokenizer."""

from __future__ import annotations

from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import Encoded
from emotion_circuits.types import Positions


def prompt_indices(encoded: Encoded, positions: Positions) -> list[int]:
    """Absolute indices (prefix included, padding not) of the prompt tokens that ``positions`` names.

    Raises:
        UsageError: an emotion word or span that is not there, an explicit position outside the text.
    """
    content = encoded.content
    _check_values(positions)
    match positions.kind:
        case "last" | "onward":
            return content[-1:]
        case "all" | "mean-content" | "prompt":
            return content
        case "generated":
            return []
        case "window":
            return content[-positions.values[0] :]
        case "at":
            return _explicit(encoded, content, positions.values)
        case "span":
            start, end = positions.values
            return _overlapping(encoded, content, [(start, end)], f"characters {start}-{end}")
        case "emotion-word":
            return _emotion_word(encoded, content, positions)


def _check_values(positions: Positions) -> None:
    """A window of 0 would be the whole text, and -1 another token than the one meant: refused, not interpreted."""
    smallest = {"window": 1, "at": 0, "span": 0}.get(positions.kind)
    if smallest is None:
        return
    count = {"window": 1, "span": 2}.get(positions.kind, max(1, len(positions.values)))
    if len(positions.values) != count or min(positions.values) < smallest:
        raise UsageError(
            f"position {positions.kind!r} cannot have the values {positions.values}",
            "write window:3, at:0,2 or span:4-9 (positions count from 0, the first content token)",
        )


def _explicit(encoded: Encoded, content: list[int], wanted: tuple[int, ...]) -> list[int]:
    for index in wanted:
        if index >= len(content):
            raise UsageError(
                f"position {index} is outside prompt {encoded.prompt.id!r}, which has {len(content)} tokens",
                f"choose positions from 0 to {len(content) - 1}",
            )
    return [content[i] for i in wanted]


def _emotion_word(encoded: Encoded, content: list[int], positions: Positions) -> list[int]:
    spans = sorted(encoded.prompt.spans)
    if not spans:
        raise UsageError(
            f"prompt {encoded.prompt.id!r} has no emotion word, but position {positions} asks for one",
            "use --position last or mean-content for this text, or give its character spans",
        )
    if positions.which == "first":
        return _overlapping(encoded, content, spans[:1], "its first emotion word")[:1]
    if positions.which == "last":
        return _overlapping(encoded, content, spans[-1:], "its last emotion word")[-1:]
    return _overlapping(encoded, content, spans, "its emotion words")


def _overlapping(encoded: Encoded, content: list[int], spans: list[tuple[int, int]], what: str) -> list[int]:
    # By overlap, because a token may include the space in front of the word or share a multi-byte character.
    found = [i for i in content if any(encoded.offsets[i][0] < e and encoded.offsets[i][1] > s for s, e in spans)]
    if not found:
        raise UsageError(f"no token of prompt {encoded.prompt.id!r} covers {what}", "check the spans against the text")
    return found
