"""Tables that many processes write, a Parquet file each, and that are read as one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import StoreError
from emotion_circuits.store.files import replacing, translating

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"


def write_table(path: Path, columns: Mapping[str, Any]) -> Path:
    """Write columns (arrays or lists of one length) as one Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as temporary, temporary.open("wb") as file:
        pq.write_table(pa.table(dict(columns)), file, compression="zstd")
    return path


def read_tables(folder: Path, names: list[str]) -> pa.Table:
    """The Parquet files ``names`` (without suffix) of a folder as one table, in that order.

    Raises:
        StoreError: one of them is missing, truncated, or has other columns than the first.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for name in names:
        path = folder / f"{name}{SUFFIX}"
        with translating(path, "read"), path.open("rb") as file:
            try:
                tables.append(pq.read_table(file))
            except pa.ArrowInvalid as error:
                raise StoreError(
                    f"{path} is truncated or not a Parquet file ({error})", f"remove {path} and run the command again"
                ) from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise StoreError(
            f"the parts in {folder} do not fit together ({str(error).splitlines()[0]})",
            f"remove {folder} and run the same command again",
        ) from error
