"""Reading a figure's plain rows: required and optional columns, missing values, labels fit to be shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError
from emotion_circuits.report.text import figure_label, is_missing, is_number

if TYPE_CHECKING:
    from emotion_circuits.types import Figure

Row = dict[str, Any]


def read_rows(
    figure: Figure,
    *,
    labels: Sequence[str] = (),
    numbers: Sequence[str] = (),
    optional_labels: Sequence[str] = (),
    optional_numbers: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> list[Row]:
    """The figure's rows with exactly these keys.

    Labels become short single lines; numbers become ``float``, or ``None`` where they are missing or not finite;
    optional keys that a row does not have are ``None`` and flags ``False``. Raises :class:`UsageError` that names the
    figure, the row and the key.
    """
    return [
        {key: figure_label(_required(figure, index, row, key)) for key in labels}
        | {key: _number(figure, index, key, _required(figure, index, row, key)) for key in numbers}
        | {key: None if is_missing(row.get(key)) else figure_label(row[key]) for key in optional_labels}
        | {key: _number(figure, index, key, row.get(key)) for key in optional_numbers}
        | {key: bool(row.get(key)) for key in flags}
        for index, row in enumerate(figure.data)
    ]


def has_values(rows: Iterable[Row], key: str = "value") -> bool:
    """Whether any row has a value to draw."""
    return any(row[key] is not None for row in rows)


def missing_count(rows: Iterable[Row], key: str = "value") -> int:
    """How many rows lack the value."""
    return sum(row[key] is None for row in rows)


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """The different values of a column in order of appearance, without missing ones."""
    return list(dict.fromkeys(row[key] for row in rows if row[key] is not None))


def gaps_as_nan(values: Iterable[float | None]) -> list[float]:
    """``None`` → NaN, which matplotlib leaves out of lines, bands and bars."""
    return [math.nan if value is None else value for value in values]


def number_option(figure: Figure, option: str) -> float | None:
    """A numeric option, or ``None`` where it is absent."""
    return _number(figure, None, option, figure.options.get(option))


def text_option(figure: Figure, option: str, default: str) -> str:
    """A text option as a single line."""
    return figure_label(figure.options.get(option, default))


def _required(figure: Figure, index: int, row: Any, key: str) -> Any:
    if key not in row:
        raise UsageError(
            f"figure {figure.name!r} ({figure.kind}): row {index} has no {key!r}; it has {', '.join(map(str, row))}",
            f"give every row a {key!r} (None where it is missing)",
        )
    return row[key]


def _number(figure: Figure, index: int | None, key: str, value: Any) -> float | None:
    if is_missing(value):
        return None
    if not is_number(value):
        where = f"option {key!r}" if index is None else f"row {index}, {key!r}"
        raise UsageError(
            f"figure {figure.name!r} ({figure.kind}): {where} is {figure_label(repr(value))}, not a number",
            "give a number, or None where it is missing",
        )
    number = float(value)
    return number if math.isfinite(number) else None
