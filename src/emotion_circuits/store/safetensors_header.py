"""The header of a safetensors file: 8 bytes of length, JSON, then the tensors one after another."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

LARGEST_HEADER = 100_000_000
"""The format's own limit in bytes."""


class HeaderError(ValueError):
    """What is wrong with the header, to be read after the file's name ("is truncated: …")."""


@dataclass(frozen=True)
class SafetensorsHeader:
    """``tensors``: name → ``dtype``, ``shape``, ``data_offsets``. Offsets count from byte ``start``; the file should be
    ``announced`` bytes long and is ``size`` bytes."""

    tensors: Mapping[str, Any]
    start: int
    announced: int
    size: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_safetensors_header(file: BinaryIO) -> SafetensorsHeader:
    """The header of an open file; raises :class:`HeaderError` when there is none or it cannot be read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > LARGEST_HEADER:
        raise HeaderError(f"is truncated or not a safetensors file ({size:,} bytes)")
    if size < 8 + length:
        raise HeaderError(f"is truncated: {size:,} bytes, but its header alone takes {8 + length:,} bytes")
    try:
        header = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        announced = 8 + length + int(end)
        metadata = {str(key): str(value) for key, value in header.get("__metadata__", {}).items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise HeaderError("has a damaged safetensors header") from error
    return SafetensorsHeader(tensors, 8 + length, announced, size, metadata)
