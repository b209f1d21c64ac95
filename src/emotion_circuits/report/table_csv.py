"""A table as CSV: every row, numbers in the shortest digits that are exact, texts whole.

Spreadsheets run a cell that begins like a formula, and texts of a model may begin like anything: such a text gets an
apostrophe in front. The file begins with a byte order mark, without which they would not read it as UTF-8.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from emotion_circuits.report.files import write_atomically
from emotion_circuits.report.text import clean_text, is_missing, is_number

FORMULA = tuple("=+-@＝＋－＠")
"""What begins a formula; spreadsheets of some languages take the wide forms too."""


def write_csv(path: Path, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a heading and a line for each row; ``columns`` maps a row's key to its heading."""

    def fill(stream: BinaryIO) -> None:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(map(csv_cell, columns.values()))
            writer.writerows(map(csv_cell, map(row.get, columns)) for row in rows)

    return write_atomically(path, fill)


def csv_cell(value: Any) -> str:
    """A value as a cell: nothing where it is missing, an interval as ``[low, high]``, a text that is no formula."""
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return _harmless(clean_text(value))
    if isinstance(value, Sequence):
        plain = all(is_missing(item) or is_number(item) for item in value)
        shown = ", ".join(_item(item) for item in value)
        return f"[{shown}]" if plain else _harmless(shown)
    return _item(value)


def _item(value: Any) -> str:
    if is_missing(value):
        return ""
    if isinstance(value, bool) or not is_number(value):
        return clean_text(str(value))
    # A number of numpy says its type in its own repr.
    return str(value.item() if hasattr(value, "item") else value)


def _harmless(text: str) -> str:
    # Blanks in front do not keep a spreadsheet from calculating.
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
