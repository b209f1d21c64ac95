"""Writing files so that a reader sees the old content or the new one, never half of either.

Every write goes to a temporary file in the same folder, is flushed to the disk and then renamed. What the operating
system refuses (full disk, no permission, read-only, a file where a folder must be) becomes a :class:`StoreError` that
says what to do; nothing that was finished before is touched.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emotion_circuits.errors import StoreError
from emotion_circuits.store.keys import plain

TEMPORARY_SUFFIX, DISCARDED_SUFFIX = ".tmp", ".discarded"

_FULL = "free some space (`emotion-circuits cache list` shows what the cache holds) or choose another --results, then "
_REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FULL + "run the same command again: what was finished is kept"),
    errno.EDQUOT: ("the disk quota is used up", _FULL + "run the same command again: what was finished is kept"),
    errno.EFBIG: ("the file would be larger than this system allows", "raise `ulimit -f` or choose another --results"),
    errno.EACCES: ("permission denied", "change the folder's permissions or choose another one with --results"),
    errno.EPERM: ("permission denied", "change the folder's permissions or choose another one with --results"),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written with --results"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "move that file away or choose another --results"),
    errno.EEXIST: ("a file stands where a folder is needed", "move that file away or choose another --results"),
    errno.EISDIR: ("a folder stands where a file is needed", "move that folder away or choose another --results"),
    errno.ENAMETOOLONG: ("the path is too long for this file system", "choose a shorter --results"),
    errno.ENOENT: (
        "there is no such file",
        "run the experiment that writes it first; `emotion-circuits ls` lists runs",
    ),
    errno.EMFILE: ("too many files are open", "raise `ulimit -n`, then run the same command again"),
}


@contextmanager
def translating(path: Path, doing: str) -> Iterator[None]:
    """Turn an :class:`OSError` about ``path`` into a :class:`StoreError`; ``doing`` is "write", "read", …"""
    try:
        yield
    except OSError as error:
        unknown = (error.strerror or str(error), "check the disk, then run the same command again")
        reason, fix = _REASONS.get(error.errno or 0, unknown)
        if (
            error.errno == errno.ENOENT and doing != "read"
        ):  # a drive that is gone, or a place where nothing can be made
            reason, fix = "its folder does not exist and cannot be made", "choose another --results"
        raise StoreError(f"cannot {doing} {path}: {reason}", fix) from error


def make_folder(folder: Path) -> Path:
    """Create ``folder`` with its parents; raises :class:`StoreError` where that is not possible."""
    with translating(folder, "create the folder"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def require_marker(marker: Path | None) -> None:
    """Raise :class:`StoreError` when a file that marks a shared folder as being there has gone; None marks nothing."""
    if marker is not None and not marker.exists():
        raise StoreError(
            f"{marker} has gone: the shared folder was unmounted, moved or removed",
            "mount it again, then run the same command again: it resumes",
        )


def look_anew(*folders: Path) -> None:
    """Make a network file system ask its server which names are in these folders.

    An NFS client remembers for up to a minute that a name did not exist. Opening a folder has it ask whether that has
    changed, and forget its names if so; the outer folder first, where the inner one may be new as well.
    """
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for _ in entries:
                pass


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (where the system allows to open folders)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse fsync on a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed to ``path``.

    The temporary file is removed when the block raises, and ``path`` keeps its former content.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    with translating(path, "write"):
        try:
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left half-written in or below ``folder``; only while holding the run's lock."""
    for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        with translating(leftover, "remove"):
            leftover.unlink(missing_ok=True)


def discard_folder(folder: Path, run_folder: Path) -> None:
    """Remove ``folder``, renamed first so that half of it never looks like all; only while holding the run's lock.

    It gets a hidden name beside the run's folder, where :func:`remove_discarded` finds what a kill left of it.
    """
    if folder.exists():
        aside = run_folder.with_name(f".{run_folder.name}.{secrets.token_hex(4)}{DISCARDED_SUFFIX}")
        with translating(folder, "remove"):
            folder.rename(aside)
    remove_discarded(run_folder.parent, f".{run_folder.name}.*")


def remove_discarded(folder: Path, pattern: str) -> None:
    """Remove what is left of discarded folders below ``folder``; nobody reads them, and others may remove them too."""
    for leftover in folder.glob(pattern + DISCARDED_SUFFIX):
        shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(text.encode("utf-8"))
    return path


def write_once(path: Path, text: str) -> bool:
    """Write ``text`` unless the file exists; True when this call wrote it. Of several writers exactly one does.

    A hard link is exclusive and shows the whole content at once, on network file systems too.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    with translating(path, "write"):
        try:
            with temporary.open("wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            return _link(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # No hard links here (FAT, some FUSE mounts): exclusive creation is the next best.
        try:
            with path.open("xb") as file:
                file.write(temporary.read_bytes())
        except FileExistsError:
            return False
    return True


def write_json(path: Path, value: object) -> Path:
    """Write ``value`` as indented strict JSON, atomically: dataclasses, models, paths and arrays become plain values,
    a number that is not finite becomes ``null``."""
    return write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises :class:`StoreError` when it is missing or not JSON."""
    with translating(path, "read"):
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StoreError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg})",
            f"remove the folder {path.parent} and run the same command again",
        ) from error


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Append one line per row and flush them to the disk.

    A line that an earlier kill left without its end is cut off first; when the disk is full the file keeps exactly
    the lines that it had before this call.
    """
    make_folder(path.parent)
    lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    with translating(path, "write"), path.open("a+b", buffering=0) as file:
        whole = _end_of_last_line(path)
        file.truncate(whole)
        try:
            write_fully(file.fileno(), "".join(lines).encode("utf-8"))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(whole)
            raise
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a JSON-lines file (an unfinished last line is left out); none when there is no file."""
    return [row for _, row in _lines(path)]


def keep_jsonl(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Keep only the ``wanted`` rows of a JSON-lines file, atomically."""
    lines = _lines(path)
    kept = [line for line, row in lines if wanted(row)]
    if len(kept) < len(lines):
        write_text(path, b"".join(kept).decode("utf-8"))


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The complete lines of a JSON-lines file, as they stand there and as what they say."""
    if not path.exists():
        return []
    with translating(path, "read"):
        content = path.read_bytes()[: _end_of_last_line(path)]
    rows: list[tuple[bytes, dict[str, Any]]] = []
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            rows.append((line, json.loads(line)))
        except ValueError as error:
            raise StoreError(
                f"{path} line {number} is not valid JSON", f"remove {path} and run the same command again"
            ) from error
    return rows


def write_fully(descriptor: int, data: bytes | memoryview) -> None:
    """``os.write`` until everything is written (one call may write less)."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _end_of_last_line(path: Path) -> int:
    """Size in bytes of the file up to and including its last line end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
