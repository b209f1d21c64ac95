"""What a tracker is, and the record of a run, or of a profile's report, that it is given.

A backend is one file in this folder with one class, registered by name::

    @tracker("mlflow", "…")
    class MlflowTracker: ...                 # made with (address, results folder); see Tracker
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from emotion_circuits.errors import EmotionCircuitsError

RecordStatus = Literal["done", "failed", "partial"]


class TrackerError(EmotionCircuitsError):
    """A tracker did not answer, refused a record, or cannot be written; the run folders are complete all the same."""


@dataclass(frozen=True)
class FilePolicy:
    """Which files of a record a mirror copies: those with one of ``suffixes`` and at most ``largest`` bytes."""

    largest: int = 20_000_000
    suffixes: tuple[str, ...] = (
        ".json", ".jsonl", ".log", ".txt", ".csv", ".md", ".parquet", ".html", ".png", ".svg", ".pdf",
    )  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What a mirror shows of one run, of a model's failures, or of a profile's report.

    ``identity`` is ``profile/model/experiment/key``. ``parameters`` and ``tags`` are texts of any length, ``metrics``
    finite numbers, all by dotted names of any characters: a tracker makes them fit its own rules. ``files`` are
    copied under their own names, relative to ``folder``. ``rewritten``: files that may be written again as they were,
    so that their content says whether they changed, and not their time.
    """

    identity: str
    profile: str
    name: str
    status: RecordStatus
    started: datetime
    ended: datetime
    description: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    folder: Path
    files: tuple[Path, ...]
    rewritten: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is mirrored; the same as long as nothing of it has changed."""
        ended = "" if self.rewritten else self.ended.isoformat()
        states = [(p.relative_to(self.folder).as_posix(), *self._state(p)) for p in self.files]
        content = [self.identity, self.status, ended, self.description, dict(self.parameters), dict(self.metrics),
                   dict(self.tags), states]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _state(self, path: Path) -> tuple[object, ...]:
        if self.rewritten:
            return (hashlib.sha256(path.read_bytes()).hexdigest(),)
        found = path.stat()
        return found.st_size, found.st_mtime_ns


SERVER_SECONDS = 5.0
"""A server that has not answered by then counts as down."""
LOCAL_SECONDS = 60.0
"""Making the tables of a local database takes about six seconds, and longer on a busy machine."""

INCOMPLETE = "incomplete"
"""What :meth:`Tracker.mirrored` answers for a record whose sending was begun and not finished."""


class Tracker(Protocol):
    """A place where records are shown. Every method may raise :class:`TrackerError` and nothing else.

    All calls are made inside :meth:`session`. Each is given a limited time by the caller, who then goes on without it.
    """

    target: str
    """As the user names it: ``mlflow:http://127.0.0.1:5000``."""
    connect_seconds: float
    """Most time for :meth:`connect`: short for a server, which may be down; a place on this machine may be slow."""

    def session(self) -> AbstractContextManager[None]:
        """Settings of the backend's own library (time limits, silence, no telemetry) that hold for our calls only."""

    def connect(self) -> None:
        """Raise unless the place answers and can be written."""

    def mirrored(self, record: Record) -> str | None:
        """The fingerprint with which this record was last sent, :data:`INCOMPLETE`, or ``None``."""

    def send(self, record: Record) -> None:
        """Show the record, or update the one with its identity; sending twice leaves one."""

    def fallback(self) -> Tracker | None:
        """Where to send when this place does not answer: a place on this machine, or ``None``."""
