"""Tables of results whose columns keep one type, whichever cells a run happens to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

WHOLE = frozenset({"layer", "n", "clusters", "df", "permutations", "family_size", "k", "n_required"})
LOGICAL = frozenset({"best", "selected"})
TEXT = frozenset(
    {
        "experiment", "model", "emotion", "position", "scorer", "split", "arm", "g_z_method", "family", "status",
        "question", "design", "rule",
    }
)  # fmt: skip
"""Columns of whole numbers, of yes or no, and of text; every other column holds real numbers."""


def typed_frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A data frame of exactly these columns; absent and empty entries are missing values of the column's type."""
    import pandas as pd

    frame: dict[str, pd.Series[Any]] = {}
    for name in columns:
        values = [None if _empty(row.get(name)) else row[name] for row in rows]
        if name in WHOLE:
            frame[name] = pd.Series(values, dtype="Int64")
        elif name in LOGICAL:
            frame[name] = pd.Series(values, dtype="boolean")
        elif name in TEXT:
            frame[name] = pd.Series(values, dtype="str")
        else:
            frame[name] = pd.Series(values, dtype="float64")
    return pd.DataFrame(frame, columns=list(columns))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain mappings without their missing entries."""
    import pandas as pd

    return [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in table.to_dict("records")]


def _empty(value: Any) -> bool:
    return value is None or value == "" or value != value
