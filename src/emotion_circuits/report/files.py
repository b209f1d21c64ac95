"""Writing a file so that a reader never sees half of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from emotion_circuits.errors import StoreError


def write_atomically(path: Path, fill: Callable[[BinaryIO], None]) -> Path:
    """Let ``fill`` write a temporary file, then rename it to ``path``; raises :class:`StoreError` if it cannot."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            fill(stream)
        # mkstemp makes the file private; a report is meant to be shared like any other file.
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}",
            "free some space or choose another folder with --results",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8 with ``\\n`` line ends, atomically."""
    return write_atomically(path, lambda stream: _write_bytes(stream, text.encode("utf-8")))


def _write_bytes(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
