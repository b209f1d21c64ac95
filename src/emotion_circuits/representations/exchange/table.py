"""CSV: the column ``layer_14`` is the vector of layer 14, a row a dimension, in the shortest digits that are exact."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.exchange.card import Card, VectorFile, require_length
from emotion_circuits.store.files import write_text

PREFIX = "layer_"


def write(path: Path, content: VectorFile) -> None:
    """Write one column a layer; the card is in the file beside."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([f"{PREFIX}{layer}" for layer in content.vectors])
    writer.writerows(zip(*(map(repr, v.tolist()) for v in content.vectors.values()), strict=True))
    write_text(path, lines.getvalue())


def read(path: Path, beside: Card) -> VectorFile:
    """The columns ``layer_N`` of a table."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no table: {error}", "give a CSV file in UTF-8") from error
    heading = rows[0] if rows else []
    if not heading or not all(name.startswith(PREFIX) and name.removeprefix(PREFIX).isdecimal() for name in heading):
        raise UsageError(
            f"{path} has no columns {PREFIX}N in its first line", f"name the column of layer 14 {PREFIX}14"
        )
    if len(set(heading)) != len(heading):
        raise UsageError(f"{path} has two columns of one layer", "give one column a layer")
    try:
        values = np.array(rows[1:], dtype=np.float64)
    except ValueError as error:
        raise UsageError(
            f"{path} has a cell that is no number, or a line of another length: {error}", "mend it"
        ) from error
    if values.shape != (len(rows) - 1, len(heading)) or not len(values):
        raise UsageError(f"{path} has no rows of {len(heading)} numbers", "give a row a dimension")
    vectors = {int(n.removeprefix(PREFIX)): require_length(values[:, i], path, 0) for i, n in enumerate(heading)}
    return VectorFile(dict(sorted(vectors.items())), beside)
