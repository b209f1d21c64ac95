"""Untrusted text and plain values, made fit to be shown.

Model output, prompts and labels may hold anything: control characters, lone surrogates, bidirectional overrides, a
megabyte without a space. Escaping is the template's work; this file makes sure that what is escaped is short, encodable
and cannot reorder the text around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from emotion_circuits.report.words import Words

CELL_CHARACTERS = 1_200
"""A table cell or a sentence shows at most this many characters (a long generation fits)."""
LABEL_CHARACTERS = 68
"""A label inside a figure shows at most this many characters."""

# Embeddings, overrides and isolates; plain right-to-left letters and marks stay as they are.
_BIDI_CONTROLS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_REPLACED: dict[int, str] = {
    # C0 controls become their visible pictures (U+2400 …); tab, line feed stay, carriage return is a line feed.
    **{code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A, 0x0D)},
    0x0D: "\n",
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
    **dict.fromkeys(_BIDI_CONTROLS, "\ufffd"),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),  # lone surrogates cannot be written as UTF-8
    0x2028: "\n",
    0x2029: "\n",
    0xFFFE: "\ufffd",
    0xFFFF: "\ufffd",
}


def clean_text(text: str) -> str:
    """``text`` without characters that cannot be encoded, are invisible controls, or reorder their surroundings."""
    return text.replace("\r\n", "\n").translate(_REPLACED)


def shorten(text: str, words: Words, limit: int = CELL_CHARACTERS) -> str:
    """At most ``limit`` cleaned characters, followed by a word that says how long the whole text is."""
    if len(text) <= limit:
        return clean_text(text)
    return f"{clean_text(text[:limit])}… {words['shortened'].format(total=f'{len(text):,}')}"


def figure_label(value: Any) -> str:
    """One line of at most ``LABEL_CHARACTERS`` characters for an axis, a legend or a tooltip."""
    text = value if isinstance(value, str) else format_plain(value)
    # Cut before cleaning: a megabyte label must not cost a megabyte of work per row.
    line = " ".join(clean_text(text[: 4 * LABEL_CHARACTERS]).split())
    return line if len(line) <= LABEL_CHARACTERS else f"{line[: LABEL_CHARACTERS - 1]}…"


def is_missing(value: Any) -> bool:
    """None and NaN are missing; zero, empty text and infinity are values."""
    return value is None or (isinstance(value, Real) and math.isnan(value))


def is_number(value: Any) -> bool:
    """A real number (numpy's included) that is not a truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_pair(value: Any) -> bool:
    """An interval: two numbers, either of which may be missing."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and len(value) == 2 and all(is_missing(item) or is_number(item) for item in value)


def format_setting(value: float) -> str:
    """A number that somebody chose (a reference, a strength): as short as it was written."""
    return f"{value:.6g}".replace("-", "−")


def format_number(value: float) -> str:
    """A number for reading: integers whole, AUROCs with three decimals, large ones grouped, tiny ones as powers."""
    if isinstance(value, Integral):
        return str(int(value))
    number = float(value)
    size = abs(number)
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    if size == 0:
        return "0"
    if size >= 1000:
        shown = f"{number:,.0f}"
    elif size >= 100:
        shown = f"{number:.1f}"
    elif size >= 0.001:
        shown = f"{number:.3f}" if round(size, 3) >= 0.01 else f"{number:.4f}"
    else:
        shown = f"{number:.2g}"
    return shown.replace("-", "−", 1) if shown.startswith("-") else shown


def format_plain(value: Any) -> str:
    """A number as in :func:`format_number`, anything else as text (no words needed)."""
    return format_number(value) if is_number(value) else str(value)


def format_value(value: Any, words: Words) -> str:
    """What a table cell shows: a number, an interval ``[low, high]`` for a pair, yes or no, text, or a dash."""
    if is_missing(value):
        return "–"
    if isinstance(value, bool):
        return words["yes"] if value else words["no"]
    if is_number(value):
        return format_number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(format_value(item, words) for item in value)
        return shorten(f"[{shown}]" if all(is_missing(v) or is_number(v) for v in value) else shown, words)
    return shorten(str(value), words)
