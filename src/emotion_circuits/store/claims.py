"""Claims on pieces of work in a shared folder: one process each, taken over when its holder has died.

A claim is a file ``{name}.{generation}``, created exclusively, whose time of change its holder renews (the heartbeat).
It is stale when its holder is known to be gone, or when its time did not change for as long as its holder wrote into
it. A first look compares it with the time that a file touched in the same folder gets, so that a file server's clock
is compared with itself; further looks count the seconds since it changed on the watcher's own clock. (Where machines
set the times of files themselves, as on Lustre, their clocks have to agree within those three minutes.) Whoever creates
the next generation has taken it over: nothing is renamed or removed that somebody else may have renewed in between.

A claim only keeps work from being done twice. What was computed is written whole and renamed, and looked for again
once the claim is held, so that a holder that was thought dead and wakes up does no harm.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from emotion_circuits.errors import StoreError
from emotion_circuits.store.files import TEMPORARY_SUFFIX, make_folder, translating, write_once

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0
"""Network file systems show another machine's change after up to a minute."""

_GENERATION = re.compile(r"(.+)\.(\d+)")


@dataclass(frozen=True)
class Holder:
    """Who holds a claim ("process 12 on host a"), and when it was renewed last (nanoseconds, as files have them)."""

    who: str
    beat: int


@dataclass
class Claims:
    """The claims in one folder, as one process sees them. ``clock`` gives seconds that never run backwards.

    ``stale`` is written into the claims that are taken here; those of others count as long as theirs say.
    """

    folder: Path
    heartbeat: float = HEARTBEAT_SECONDS
    stale: float = STALE_SECONDS
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict, init=False, repr=False)
    _ahead: float | None = field(default=None, init=False, repr=False)

    def take(self, name: str) -> Claim | None:
        """The claim ``name``, or None while somebody else holds it; raises :class:`StoreError` when the folder is gone.

        ``name`` may hold letters, digits, ``-`` and ``_``.
        """
        make_folder(self.folder)
        newest = self._newest(name)
        if newest is not None and not self._is_stale(name, newest):
            return None
        generation = 0 if newest is None else newest + 1
        path = self.folder / f"{name}.{generation}"
        if not write_once(path, json.dumps({**_myself(), "stale": self.stale}) + "\n"):
            return None  # another process was quicker
        if generation:
            log.warning("taking over %s: its holder has gone", name)
        return Claim(self, name, generation, path)

    def held(self) -> dict[str, str]:
        """Who holds what ("process 12 on host a"), claims of processes that have gone left out."""
        return {name: holder.who for name, holder in self.holders().items()}

    def holders(self) -> dict[str, Holder]:
        """Who holds what, and since when nothing was heard; claims of processes that have gone left out."""
        newest_of: dict[str, int] = {}
        for name, generation in self._all():
            newest_of[name] = max(generation, newest_of.get(name, 0))
        found = {}
        for name, newest in newest_of.items():
            if not self._is_stale(name, newest):
                path = self.folder / f"{name}.{newest}"
                owner = _read(path)
                with suppress(OSError):  # released while we looked
                    found[name] = Holder(f"process {owner.get('pid')} on {owner.get('host')}", path.stat().st_mtime_ns)
        return found

    def _all(self) -> list[tuple[str, int]]:
        if not self.folder.exists():
            return []
        with translating(self.folder, "read"):
            names = [path.name for path in self.folder.iterdir()]
        return [(m[1], int(m[2])) for m in map(_GENERATION.fullmatch, names) if m]

    def _newest(self, name: str) -> int | None:
        return max((g for n, g in self._all() if n == name), default=None)

    def _is_stale(self, name: str, generation: int) -> bool:
        path = self.folder / f"{name}.{generation}"
        try:
            beat = (generation, path.stat().st_mtime_ns)
        except OSError:  # released while we looked, or it cannot be looked at now
            return False
        owner = _read(path)
        if _is_gone(owner):
            return True
        seen = self._seen.get(name)
        if seen is None or seen[0] != beat:
            age = max(0.0, self._file_time() - beat[1] / 1e9) if seen is None else 0.0
            seen = self._seen[name] = (beat, self.clock() - age)
        stale = owner.get("stale")
        return self.clock() - seen[1] >= (stale if isinstance(stale, int | float) else self.stale)

    def _file_time(self) -> float:
        """What time a file that is touched now in the folder gets."""
        if self._ahead is None:
            probe = self.folder / f".{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
            try:
                probe.touch(exist_ok=False)
                os.utime(probe)
                now = probe.stat().st_mtime
            except OSError:  # who may only read here has nothing better than this machine's clock
                now = time.time()
            finally:
                with suppress(OSError):
                    probe.unlink(missing_ok=True)
            self._ahead = now - self.clock()
        return self.clock() + self._ahead


@dataclass
class Claim:
    """A claim that is held. ``with claim:`` renews it in the background and releases it at the end, however it ends."""

    claims: Claims = field(repr=False)
    name: str
    generation: int
    path: Path
    lost: bool = field(default=False, init=False)
    _unreachable: bool = field(default=False, init=False, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

    def beat(self) -> bool:
        """Renew the claim; False when that was not possible, and :attr:`lost` when somebody has taken it over.

        Never raises: a file server that does not answer now may do so at the next beat.
        """
        newest, unreachable = None, None
        try:
            os.utime(self.path)
            newest = self.claims._newest(self.name)
        except (OSError, StoreError) as error:
            unreachable = error
        if unreachable is not None and not self._unreachable:  # once, however often it fails in a row
            log.warning("the claim on %s cannot be renewed now, which is tried again: %s", self.name, unreachable)
        self._unreachable = unreachable is not None
        self.lost = newest is not None and newest > self.generation
        return not (self.lost or self._unreachable)

    def release(self) -> None:
        """Give the claim back, with what earlier holders left; one that was taken over is left alone. Never raises."""
        self.beat()
        if self.lost:
            return
        for generation in range(self.generation, -1, -1):
            with suppress(OSError):
                (self.claims.folder / f"{self.name}.{generation}").unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        self._thread = threading.Thread(target=self._renew, name=f"heartbeat {self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.release()

    def _renew(self) -> None:
        while not self._stop.wait(self.claims.heartbeat):
            self.beat()
            if self.lost:
                log.warning("the claim on %s was taken over by another process", self.name)
                return


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "place": _place(), "pid": os.getpid(), "born": _born(os.getpid())}


def _place() -> str:
    """Where process numbers mean the same: one boot of one machine, and one container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: then only the heartbeat tells
        return ""


def _born(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None when it is gone (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _is_gone(owner: dict[str, Any]) -> bool:
    """True only when the holder is known to have ended: its process number lives here, and is nobody's or another's."""
    place, pid = owner.get("place"), owner.get("pid")
    if not place or place != _place() or not isinstance(pid, int):
        return False
    return _born(pid) != owner.get("born")


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        owner = json.loads(path.read_text(encoding="utf-8"))
        return owner if isinstance(owner, dict) else {}
    return {}
