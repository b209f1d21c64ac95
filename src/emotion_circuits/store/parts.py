"""Finished pieces of a long experiment: each is written whole or not at all, so a kill costs one piece at most."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store import files
from emotion_circuits.store.observations import read_observations, write_observations
from emotion_circuits.store.tensors import open_tensors, write_tensors
from emotion_circuits.types import Observation

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=,+-]*")
_ARRAYS, _TABLE = ".safetensors", ".parquet"


@dataclass(frozen=True)
class PartSet:
    """The parts in one folder; a part is a set of named arrays or an observation table. Usual use::

    for cell in cells:
        if not parts.has(cell.name):
            parts.write(cell.name, compute(cell))
    run.write_observations(parts.observations())
    """

    folder: Path

    def has(self, name: str) -> bool:
        return any(self._path(name, suffix).exists() for suffix in (_ARRAYS, _TABLE))

    def names(self) -> list[str]:
        """Names of the finished parts, sorted."""
        if not self.folder.exists():
            return []
        with files.translating(self.folder, "read"):
            found = [path for path in self.folder.iterdir() if path.suffix in (_ARRAYS, _TABLE)]
        return sorted(path.stem for path in found if _NAME.fullmatch(path.stem))

    def write(self, name: str, part: Mapping[str, NDArray[Any]] | Iterable[Observation | Mapping[str, Any]]) -> Path:
        """Write named arrays (safetensors) or observations (Parquet), atomically; a part of that name is replaced."""
        suffix, other = (_ARRAYS, _TABLE) if isinstance(part, Mapping) else (_TABLE, _ARRAYS)
        path = self._path(name, suffix)
        if isinstance(part, Mapping):
            write_tensors(path, part)
        else:
            write_observations(path, part)
        with files.translating(path, "replace"):
            self._path(name, other).unlink(missing_ok=True)
        return path

    def arrays(self, name: str) -> dict[str, np.memmap[Any, Any]]:
        """The arrays of one part, mapped read-only."""
        return open_tensors(self._existing(name, _ARRAYS))

    def table(self, name: str) -> pa.Table:
        """The observation table of one part."""
        return read_observations(self._existing(name, _TABLE))

    def observations(self) -> Iterable[Mapping[str, Any]]:
        """Rows of all observation parts, part after part in the order of their names."""
        for name in self.names():
            if self._path(name, _TABLE).exists():
                yield from self.table(name).to_pylist()

    def clear(self) -> None:
        """Remove all parts (once they are merged into the run's own files)."""
        for name in self.names():
            for suffix in (_ARRAYS, _TABLE):
                path = self._path(name, suffix)
                with files.translating(path, "remove"):
                    path.unlink(missing_ok=True)

    def _path(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a part", "use letters, digits and . _ = , + -")
        return self.folder / f"{name}{suffix}"

    def _existing(self, name: str, suffix: str) -> Path:
        path = self._path(name, suffix)
        if not path.exists():
            raise StoreError(f"there is no part {path.name} in {self.folder}", "run the same command again: it resumes")
        return path
