"""One process at a time works on a run; the next one waits and says for whom."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from emotion_circuits.errors import StoreError
from emotion_circuits.store.files import make_folder, translating, write_json
from emotion_circuits.store.provenance import now

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 0.2
LONG_SECONDS = 600.0
"""A run is locked while it is computed by one process, which may take hours; a wait says so after ten minutes."""


@contextmanager
def exclusive(path: Path, wait: float | None = None) -> Iterator[None]:
    """Hold the lock file ``path``; the system releases it when the process ends, however it ends.

    ``wait`` is the longest time in seconds (``None``: for ever, ``0``: not at all). While waiting, the log says who
    holds the lock; when the time is over a :class:`StoreError` does.
    """
    import filelock

    make_folder(path.parent)
    # mode: results folders are shared between people of a group.
    lock = filelock.FileLock(path, mode=0o664)
    with translating(path, "lock"):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _wait_for(lock, path, wait)
    owner = _owner_file(path)
    try:
        write_json(owner, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def holder(path: Path) -> str | None:
    """Who holds the lock file ``path`` ("process 12 on host a since …"), or ``None``; never takes the lock itself."""
    owner = _read_owner(path)
    if owner is None or not _is_alive(owner):
        return None
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"


def _wait_for(lock: Any, path: Path, wait: float | None) -> None:
    import filelock

    who = holder(path) or "another process"
    if wait != 0:
        logger.warning("waiting for %s, which works on %s", who, path.parent)
    started = time.monotonic()
    told_at = LONG_SECONDS
    while (waited := time.monotonic() - started) < (float("inf") if wait is None else wait):
        with suppress(filelock.Timeout):
            lock.acquire(timeout=_LOOK_AGAIN_SECONDS if wait is None else min(_LOOK_AGAIN_SECONDS, wait))
            return
        if waited >= told_at:
            told_at *= 2
            # Where a machine dies, some file servers never learn that its lock is free.
            logger.warning(
                "still waiting for %s after %.0f minutes; when that process is known to have ended (its machine was "
                "switched off, say), remove %s and this goes on",
                holder(path) or who, waited / 60, path,
            )  # fmt: skip
    raise StoreError(
        f"{path.parent} is in use by {holder(path) or who}",
        "wait until it has finished, then run the same command again",
    )


def _owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _read_owner(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        owner = json.loads(_owner_file(path).read_text(encoding="utf-8"))
        return owner if isinstance(owner, dict) else None
    return None


def _is_alive(owner: dict[str, Any]) -> bool:
    """False only when the holder is known to be gone: a process of this host that no longer exists."""
    pid = owner.get("pid")
    if os.name != "posix" or owner.get("host") != socket.gethostname() or not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
