"""Writing a file of a report so that a reader never sees half of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from emotion_circuits.store.files import replacing, write_text

__all__ = ["write_atomically", "write_text"]


def write_atomically(path: Path, fill: Callable[[BinaryIO], None]) -> Path:
    """Let ``fill`` write a temporary file, then rename it to ``path``; raises :class:`StoreError` if it cannot."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        fill(stream)
    return path
