"""Files of a report: their names, their addresses, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from emotion_circuits.store.files import replacing, write_text

__all__ = ["address_of", "unique_stems", "write_atomically", "write_text"]


def write_atomically(path: Path, fill: Callable[[BinaryIO], None]) -> Path:
    """Let ``fill`` write a temporary file, then rename it to ``path``; raises :class:`StoreError` if it cannot."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        fill(stream)
    return path


def unique_stems(names: Iterable[tuple[str, str]]) -> Iterator[str]:
    """``section/name`` for every pair of names, made safe for any file system and unique, in the order given."""
    taken: set[str] = set()
    for section, name in names:
        stem = wanted = f"{_file_name(section)}/{_file_name(name)}"
        number = 2
        while stem.casefold() in taken:
            stem, number = f"{wanted}-{number}", number + 1
        taken.add(stem.casefold())
        yield stem


def address_of(path: Path, page: Path) -> str:
    """What a link from ``page`` to ``path`` says."""
    return quote(Path(os.path.relpath(path, page.parent)).as_posix(), safe="/.:")


def _file_name(name: str) -> str:
    """Letters, digits, dot, dash and underscore only; never hidden, never a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name[:200])[:80].strip(".-_") or "unnamed"
