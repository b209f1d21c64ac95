"""The folder that holds converted weights: where it is, what is in it, and how an entry gets there whole.

An entry is built in a hidden temporary folder beside its final place and renamed when it is complete, under a lock, so
that two processes never build the same model twice and an interrupted one leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion_circuits.errors import ModelError, StoreError, UsageError, unknown_name

CACHE_VARIABLE = "EMOTION_CIRCUITS_CACHE"
SOURCE_FILE = "source.json"
"""Written last into an entry: where the weights came from; a folder without it is not an entry."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One converted model in the cache; ``bytes`` is what removing it frees."""

    key: str
    name: str
    source: str
    bytes: int
    folder: Path


def cache_root(cache: Path | None = None) -> Path:
    """The cache folder: the argument, else ``EMOTION_CIRCUITS_CACHE``, else the user's cache folder."""
    if cache is not None:
        return cache.expanduser()
    if configured := os.environ.get(CACHE_VARIABLE):
        return Path(configured).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("emotion-circuits", appauthor=False)


def models_folder(cache: Path | None = None) -> Path:
    """Where converted models lie inside the cache."""
    return cache_root(cache) / "models"


def read_source(folder: Path) -> dict[str, Any] | None:
    """The ``source.json`` of an entry, or None when the folder is not a finished entry."""
    try:
        record = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def list_entries(cache: Path | None = None) -> list[CacheEntry]:
    """Finished entries, by key."""
    root = models_folder(cache)
    if not root.is_dir():
        return []
    entries = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if (record := read_source(folder)) is not None:
            name, source = str(record.get("name", folder.name)), str(record.get("source", "unknown"))
            entries.append(CacheEntry(folder.name, name, source, folder_bytes(folder), folder))
    return entries


def clean(names: list[str] | None = None, cache: Path | None = None) -> list[CacheEntry]:
    """Remove the named entries (by model name or key), or all of them with None; returns what was removed.

    Leftovers of interrupted builds go as well. Raises :class:`UsageError` for a name that is not in the cache.
    """
    entries = list_entries(cache)
    if names is not None:
        known = {name for entry in entries for name in (entry.name, entry.key)}
        for name in names:
            if name not in known:
                raise (
                    unknown_name("cached model", name, sorted(known), "emotion-circuits cache list shows what is there")
                    if known
                    else UsageError(f"the cache {models_folder(cache)} is empty, so {name!r} is not in it")
                )
        entries = [entry for entry in entries if entry.name in names or entry.key in names]
    for entry in entries:
        with _locked(entry.folder):
            # Rename first: a reader sees the entry whole or not at all.
            doomed = entry.folder.with_name(f".{entry.key}~removed")
            entry.folder.rename(doomed)
            shutil.rmtree(doomed)
            _remove_leftovers(entry.folder)
    return entries


def folder_bytes(folder: Path) -> int:
    """Total size of the files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise :class:`StoreError` unless ``needed`` bytes are free where ``folder`` is or will be."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StoreError(
            f"{purpose} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free",
            f"free some space (emotion-circuits cache list), or name another disk with --cache or {CACHE_VARIABLE}",
        )


def build_entry(
    folder: Path,
    build: Callable[[Path, Path], Mapping[str, Any]],
    *,
    needed_bytes: int,
    purpose: str,
) -> dict[str, Any]:
    """Return the source record of ``folder``, building the entry first when it is not there.

    Args:
        folder: final place, ``models_folder(cache) / key``.
        build: called as ``build(target, scratch)``: writes the model into ``target``, may use ``scratch`` for
            downloads, returns the source record.
        needed_bytes: disk space that building takes at its peak.
        purpose: for messages, such as "fetching smollm2-135m".
    """
    if (record := read_source(folder)) is not None:
        return record
    with _storage_errors(folder, purpose):
        require_space(folder, needed_bytes, purpose)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if (record := read_source(folder)) is not None:  # another process built it while this one waited
                return record
            _remove_leftovers(folder)
            if folder.exists():
                shutil.rmtree(folder)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}~") as temporary:
                target, scratch = Path(temporary) / "target", Path(temporary) / "scratch"
                target.mkdir()
                scratch.mkdir()
                record = dict(build(target, scratch))
                (target / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
                _make_readable(target)
                target.rename(folder)
    return record


def _make_readable(folder: Path) -> None:
    """Widen file modes: safetensors are saved 0600, which locks the other users of a shared cache out."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary folders of builds of this entry that were killed; the caller holds the entry's lock."""
    for path in folder.parent.glob(f".{folder.name}~*"):
        if path.is_dir():
            shutil.rmtree(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(folder.parent / f".{folder.name}.lock"):
        yield


@contextlib.contextmanager
def _storage_errors(folder: Path, purpose: str) -> Iterator[None]:
    """Say what failed when the disk does; errors that already say so pass through."""
    try:
        yield
    except (ModelError, StoreError):
        raise
    except OSError as error:
        raise StoreError(
            f"{purpose} failed while writing {folder}: {error.strerror or error}",
            f"check that the folder is writable and has space, or name another with --cache or {CACHE_VARIABLE}",
        ) from error
