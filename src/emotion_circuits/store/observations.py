"""The observation table on disk: a Parquet file with one row per measured value, as :class:`types.Observation`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store.files import replacing, translating
from emotion_circuits.types import OBSERVATION_COLUMNS, Observation

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONAL_COLUMNS = frozenset({"layer", "position", "strength", "split"})
_ROWS_AT_A_TIME = 20_000
_TYPES = {"layer": "int32", "sample": "int32", "strength": "float64", "value": "float64"}


def observation_schema() -> pa.Schema:
    """Arrow schema of the observation table: texts, ``int32`` layer and sample, ``float64`` strength and value; only
    layer, position, strength and split may be empty."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(name, pa.type_for_alias(_TYPES.get(name, "string")), nullable=name in OPTIONAL_COLUMNS)
            for name in OBSERVATION_COLUMNS
        ]
    )


def write_observations(path: Path, observations: Iterable[Observation | Mapping[str, Any]]) -> int:
    """Write the table atomically, a few thousand rows at a time (an iterator is never held whole); returns the number
    of rows. Raises :class:`UsageError` when a row has missing, unknown, empty or wrongly typed columns."""
    import pyarrow.parquet as pq

    schema, count, rows = observation_schema(), 0, iter(observations)
    # A Python file, so that a full disk arrives as the operating system's own error.
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        while batch := list(islice(rows, _ROWS_AT_A_TIME)):
            writer.write_table(_to_table(batch, count, schema))
            count += len(batch)
    return count


def read_observations(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """The table (or some of its columns); raises :class:`StoreError` when it is missing, truncated or not ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = None if columns is None else list(columns)
    again = f"remove the folder {path.parent} and run the same command again"
    with translating(path, "read"), path.open("rb") as file:
        try:
            table = pq.read_table(file, columns=wanted)
        except pa.ArrowInvalid as error:
            raise StoreError(f"{path} is truncated or not a Parquet file ({error})", again) from error
    expected = set(OBSERVATION_COLUMNS if wanted is None else wanted)
    if missing := expected - set(table.column_names):
        raise StoreError(f"{path} has no column {', '.join(sorted(missing))}", again)
    return table


def _to_table(batch: list[Observation | Mapping[str, Any]], offset: int, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    rows = [_as_mapping(row, offset + i) for i, row in enumerate(batch)]
    columns = []
    for field in schema:
        try:
            column = pa.array([row[field.name] for row in rows], type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
            raise UsageError(
                f"observation column {field.name!r} holds a value that is not {field.type}: {error}",
                "convert the value before it becomes an observation",
            ) from error
        if column.null_count and not field.nullable:
            row = offset + next(i for i, r in enumerate(rows) if r[field.name] is None)
            raise UsageError(
                f"observation {row} has no {field.name}", f"only {', '.join(sorted(OPTIONAL_COLUMNS))} may be empty"
            )
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _as_mapping(row: Observation | Mapping[str, Any], number: int) -> Mapping[str, Any]:
    if isinstance(row, Observation):
        return {name: getattr(row, name) for name in OBSERVATION_COLUMNS}
    if set(row) != set(OBSERVATION_COLUMNS):
        missing, unknown = set(OBSERVATION_COLUMNS) - set(row), set(row) - set(OBSERVATION_COLUMNS)
        parts = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        parts += [f"has unknown columns {', '.join(sorted(unknown))}"] * bool(unknown)
        raise UsageError(
            f"observation {number} {' and '.join(parts)}",
            f"give exactly these columns: {', '.join(OBSERVATION_COLUMNS)}",
        )
    return row
