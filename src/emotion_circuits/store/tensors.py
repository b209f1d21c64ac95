"""Safetensors files that are written row by row and read without copying.

A capture of thousands of prompts does not fit into memory, and a memory-mapped output counts as resident memory. So
the header, whose size depends on the shapes only, is written first, and each row goes to its place with a plain
``pwrite``: memory use does not grow with the number of rows. Rows count as finished once their data is flushed to the
disk; their numbers are appended to a small file beside the tensors, from which a killed writer resumes.

Layout (https://github.com/huggingface/safetensors): 8 bytes length of the header, the header as JSON, the tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store import files
from emotion_circuits.store.safetensors_header import HeaderError, SafetensorsHeader, read_safetensors_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

DTYPES: dict[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
"""Safetensors dtype names and the NumPy ones that they are read as (bfloat16 has none)."""

FLUSH_BYTES, FLUSH_SECONDS = 64 << 20, 5.0
"""Rows are flushed to the disk when this much was written or this much time went by: what a kill can cost."""


@dataclass(frozen=True)
class _Slot:
    """Where one tensor lies: ``start`` counts from the beginning of the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.row_shape)


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> Path:
    """Write named arrays as one safetensors file, atomically."""
    import numpy as np

    header, slots, _ = _layout({name: (array.shape, array.dtype) for name, array in arrays.items()}, metadata)
    with files.replacing(path) as temporary, temporary.open("wb", buffering=0) as file:
        files.write_fully(file.fileno(), header)
        for name, slot in slots.items():
            data = np.asarray(arrays[name], dtype=slot.dtype, order="C")
            files.write_fully(file.fileno(), _bytes_of(data))
    return path


def open_tensors(path: Path | str) -> dict[str, np.memmap[Any, Any]]:
    """The tensors of a safetensors file as read-only arrays that are mapped, not loaded.

    Raises :class:`StoreError` for a truncated file, something that is no safetensors file, and bfloat16.
    """
    import numpy as np

    path = Path(path)
    header = _read_header(path)
    entries, start = header.tensors, header.start
    tensors: dict[str, Any] = {}
    for name, entry in entries.items():
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        if math.prod(shape) == 0:  # an empty range cannot be mapped
            tensors[name] = np.empty(shape, dtype)
            tensors[name].flags.writeable = False
            continue
        with files.translating(path, "read"):
            tensors[name] = np.memmap(path, dtype, mode="r", offset=start + entry["data_offsets"][0], shape=shape)
    return tensors


def read_metadata(path: Path | str) -> Mapping[str, str]:
    """What a safetensors file says about itself; empty where it says nothing."""
    return _read_header(Path(path)).metadata


class TensorFileWriter:
    """Writes the rows of several tensors in any order and resumes after a kill.

    ::

        with TensorFileWriter(path, {"resid_post@last": ((400, 30, 576), "F32")}) as writer:
            for rows in batches_of(writer.missing_rows()):
                writer.write_rows("resid_post@last", rows, values)   # values: [row, 30, 576]
                writer.finish_rows(rows)

    All tensors have the same number of rows (their first dimension). Leaving the block closes the file under its
    final name; leaving it by an exception keeps ``path.partial``. Hold the run's lock while writing.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[Sequence[int], DTypeLike]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        import numpy as np

        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.progress = self.path.with_name(self.path.name + ".rows")
        self._header, self._slots, self._size = _layout(tensors, metadata)
        lengths = {slot.shape[:1] for slot in self._slots.values()}
        if len(lengths) != 1 or () in lengths:
            raise UsageError(
                f"tensors written row by row need the same number of rows, not {sorted(lengths)}",
                "write tensors of another length to a file of their own with write_tensors",
            )
        self.rows: int = lengths.pop()[0]
        self._done = np.zeros(self.rows, dtype=bool)
        self._unflushed: list[int] = []
        self._unflushed_bytes, self._flushed_at = 0, time.monotonic()
        files.make_folder(self.path.parent)
        with files.translating(self.partial, "write"):
            if self._resumable():
                self._load_progress()
            else:
                self._start()
            flags = os.O_WRONLY | getattr(os, "O_BINARY", 0)
            self._data: int | None = os.open(self.partial, flags)
            self._log: int | None = os.open(self.progress, flags | os.O_APPEND)

    def missing_rows(self) -> NDArray[np.intp]:
        """``[missing]``: numbers of the rows that are still to be written, in order."""
        import numpy as np

        return np.flatnonzero(~self._done)

    def write_rows(self, name: str, rows: int | Sequence[int] | NDArray[np.integer[Any]], values: NDArray[Any]) -> None:
        """Put ``values`` (``[row, …]``; ``[…]`` when ``rows`` is one number) in place, cast to the tensor's dtype."""
        import numpy as np

        if name not in self._slots:
            raise UsageError(f"{self.path.name} has no tensor {name!r}", f"it has {', '.join(self._slots)}")
        slot = self._slots[name]
        index = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        data = np.asarray(values, dtype=slot.dtype, order="C")
        data = data[None] if np.ndim(rows) == 0 else data
        if data.shape != (len(index), *slot.row_shape):
            raise UsageError(
                f"{name}: {len(index)} rows of shape {slot.row_shape} expected, not an array of shape {data.shape}",
                "give one entry of values per row number",
            )
        if len(index) and not (index.min() >= 0 and index.max() < self.rows):
            raise UsageError(f"{name}: row numbers must lie in 0…{self.rows - 1}", "check the row numbers")
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        for piece in np.split(np.arange(len(index)), breaks):
            if len(piece):
                offset = slot.start + int(index[piece[0]]) * slot.row_bytes
                self._write_at(_bytes_of(data[piece[0] : piece[-1] + 1]), offset)

    def finish_rows(self, rows: int | Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Say that every tensor holds these rows; they survive a kill from the next flush on."""
        import numpy as np

        self._unflushed += [int(row) for row in np.atleast_1d(np.asarray(rows, dtype=np.int64))]
        late = time.monotonic() - self._flushed_at > FLUSH_SECONDS
        if late or self._unflushed_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Bring the data to the disk, and only then the numbers of the finished rows."""
        if self._data is None or self._log is None:
            raise UsageError(f"{self.path.name} is closed", "open a new TensorFileWriter")
        if self._unflushed:
            with files.translating(self.partial, "write"):
                os.fsync(self._data)
                files.write_fully(self._log, (" ".join(map(str, self._unflushed)) + "\n").encode("ascii"))
                os.fsync(self._log)
            self._done[self._unflushed] = True
        self._unflushed, self._unflushed_bytes, self._flushed_at = [], 0, time.monotonic()

    def close(self) -> Path:
        """Flush everything and give the file its final name; every row must be finished."""
        self.flush()
        missing = self.missing_rows()
        if len(missing):
            raise UsageError(
                f"{self.path.name}: {len(missing)} of {self.rows} rows were not written (first: {missing[0]})",
                "write and finish every row before close()",
            )
        self._release()
        with files.translating(self.path, "write"):
            self.partial.replace(self.path)
            files.sync_folder(self.path.parent)
            self.progress.unlink(missing_ok=True)
        return self.path

    def suspend(self) -> None:
        """Stop in the middle, after an error or an interruption: what was finished is flushed, a later writer resumes.

        Never raises for a full disk, so that the error that led here stays the one to show.
        """
        with suppress(StoreError):
            if self._data is not None:
                self.flush()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.suspend()
            return
        try:
            self.close()
        finally:
            self._release()

    def _release(self) -> None:
        for descriptor in (self._data, self._log):
            if descriptor is not None:
                os.close(descriptor)
        self._data = self._log = None

    def _write_at(self, data: memoryview, offset: int) -> None:
        if self._data is None:
            raise UsageError(f"{self.path.name} is closed", "open a new TensorFileWriter")
        self._unflushed_bytes += len(data)
        with files.translating(self.partial, "write"):
            while data:
                written = _pwrite(self._data, data, offset)
                data, offset = data[written:], offset + written

    def _signature(self) -> str:
        return hashlib.sha256(self._header).hexdigest()

    def _resumable(self) -> bool:
        """True to go on with what is there, False to begin anew; raises when something else is there."""
        if not self.partial.exists() or not self.progress.exists():
            return False
        lines = self.progress.read_bytes().split(b"\n")
        if len(lines) < 2:  # killed before the first line was complete: no row can be finished
            return False
        fix = f"remove {self.partial} (or add --force) and run the same command again"
        if lines[0].decode("ascii", "replace") != self._signature():
            raise StoreError(f"{self.partial} was begun with other tensors or shapes", fix)
        with self.partial.open("rb") as file:
            same = file.read(len(self._header)) == self._header and file.seek(0, os.SEEK_END) == self._size
        if not same:
            raise StoreError(f"{self.partial} is damaged (its header or size is not what was written)", fix)
        return True

    def _load_progress(self) -> None:
        content = self.progress.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # the line that a kill cut short
            os.truncate(self.progress, whole)
        for line in content[:whole].split(b"\n")[1:]:
            rows = [int(word) for word in line.split()]
            if rows and not (min(rows) >= 0 and max(rows) < self.rows):
                raise StoreError(f"{self.progress} is damaged", f"remove {self.partial} and run the same command again")
            self._done[rows] = True

    def _start(self) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < self._size:
            raise StoreError(
                f"{self.path} needs {self._size / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free",
                "free some space or choose another --results",
            )
        self.progress.unlink(missing_ok=True)
        with self.partial.open("wb") as file:
            file.write(self._header)
            file.truncate(self._size)  # a hole: no disk blocks, no memory
            file.flush()
            os.fsync(file.fileno())
        # Only now: a progress file says that the header beside it is complete.
        with self.progress.open("wb") as file:
            file.write(f"{self._signature()}\n".encode("ascii"))
            file.flush()
            os.fsync(file.fileno())


def _layout(
    tensors: Mapping[str, tuple[Sequence[int], DTypeLike]], metadata: Mapping[str, str] | None
) -> tuple[bytes, dict[str, _Slot], int]:
    """Header bytes, place of each tensor and size of the whole file. Wide dtypes come first, so all are aligned."""
    import numpy as np

    names = {np.dtype(text): name for name, text in DTYPES.items()}
    kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, (shape, dtype) in tensors.items():
        wanted = np.dtype(DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype).newbyteorder("<")
        if wanted not in names:
            raise UsageError(f"tensor {name!r}: dtype {wanted} cannot be written", f"use one of {', '.join(DTYPES)}")
        kinds[name] = (tuple(int(n) for n in shape), wanted)
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset, offsets = 0, {}
    for name, (shape, dtype) in sorted(kinds.items(), key=lambda item: (-item[1][1].itemsize, item[0])):
        end = offset + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offsets[name], offset = offset, end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    slots = {name: _Slot(kinds[name][1], kinds[name][0], len(header) + start) for name, start in offsets.items()}
    return header, slots, len(header) + offset


def _read_header(path: Path) -> SafetensorsHeader:
    """The header of a file whose tensors NumPy can read, checked against the size of the file."""
    import numpy as np

    again = f"remove {path} and run the command that wrote it again"
    try:
        with files.translating(path, "read"), path.open("rb") as file:
            header = read_safetensors_header(file)
        for name, entry in header.tensors.items():
            if entry["dtype"] not in DTYPES:
                raise StoreError(
                    f"{path}: tensor {name!r} has dtype {entry['dtype']}, which NumPy cannot read",
                    "save it as F32 or F16",
                )
            begin, end = entry["data_offsets"]
            if end - begin != math.prod(entry["shape"]) * np.dtype(DTYPES[entry["dtype"]]).itemsize or begin < 0:
                raise StoreError(f"{path}: tensor {name!r} has a shape that does not fit its bytes", again)
    except HeaderError as error:
        raise StoreError(f"{path} {error}", again) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise StoreError(f"{path} has a damaged safetensors header", again) from error
    if header.size < header.announced:
        raise StoreError(f"{path} is truncated: {header.size} bytes of {header.announced}", again)
    return header


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The array's own memory as bytes, no copy (``array`` is contiguous)."""
    import numpy as np

    return array.reshape(-1).view(np.uint8).data


def _pwrite(descriptor: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pwrite
    return os.write(descriptor, data)
