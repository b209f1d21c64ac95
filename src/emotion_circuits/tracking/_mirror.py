"""Sending records, with a place to fall back to and a limit on the time; nothing in here ends a study."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.store import Run, Store
from emotion_circuits.tracking._contract import INCOMPLETE, FilePolicy, Record, Tracker, TrackerError
from emotion_circuits.tracking._record import record_of, records
from emotion_circuits.tracking._within import within

RECORD_SECONDS = 60.0
"""Most time for one record; a record that takes longer counts as not mirrored."""

Sent = Literal["sent", "unchanged"]
MirrorState = Literal["mirrored", "changed", "incomplete", "missing"]


@dataclass
class Outcome:
    """What became of the records: identities by fate, and what the user should know, in whole sentences.

    ``kept_local`` went to the fallback instead of the place that was asked for; ``missing`` went nowhere.
    """

    target: str
    sent: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    kept_local: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything is where it was asked for."""
        return not self.kept_local and not self.missing


def mirror_run(run: Run, tracker: Tracker, policy: FilePolicy | None = None) -> Sent:
    """Show one run in ``tracker``, or update what is shown; a mirror that is complete and unchanged is left alone.

    Raises:
        TrackerError: the tracker does not answer or refuses; StoreError: the run folder cannot be read.
    """
    with tracker.session():
        _connect(tracker)
        return _send(record_of(run, policy), tracker, RECORD_SECONDS)


def mirror_results(
    store: Store,
    tracker: Tracker,
    profile: str | None = None,
    *,
    policy: FilePolicy | None = None,
    seconds: float | None = None,
    fall_back: Literal["local", "none"] = "local",
) -> Outcome:
    """Show every run and report below the results (of one profile) that is not shown yet, changed, or was begun only.

    A tracker that does not answer within its ``connect_seconds``, now or half-way, is given up, and what is left
    goes to its fallback. Raises nothing: what went wrong is in the outcome's ``notes``.

    Args:
        seconds: most time for this tracker as a whole (``None``: :data:`RECORD_SECONDS` for each record); what is
            left over goes to the fallback.
    """
    outcome = Outcome(tracker.target)
    sending = _Sending(store, tracker, outcome, profile, seconds, fall_back)
    try:
        for record in records(store, profile, policy, outcome.notes):
            sending.send(record)
    except (EmotionCircuitsError, OSError) as error:  # a run folder that is broken or went away while it was read
        outcome.notes.append(f"tracking stopped early: {error}")
    finally:
        sending.close()
    return outcome


def states(
    store: Store, tracker: Tracker, profile: str | None = None, policy: FilePolicy | None = None
) -> Iterator[tuple[Record, MirrorState]]:
    """Every record below the results with what the tracker has of it; raises :class:`TrackerError` when it is down."""
    with tracker.session():
        _connect(tracker)
        for record in records(store, profile, policy):
            found = _known(record, tracker)
            state: MirrorState = "changed"
            if found is None:
                state = "missing"
            elif found == INCOMPLETE:
                state = "incomplete"
            elif found == record.fingerprint:
                state = "mirrored"
            yield record, state


def _connect(tracker: Tracker) -> None:
    within(tracker.connect_seconds, tracker.connect, f"connecting to {tracker.target}")


def _known(record: Record, tracker: Tracker) -> str | None:
    return within(RECORD_SECONDS, lambda: tracker.mirrored(record), f"asking {tracker.target} for {record.identity}")


def _send(record: Record, tracker: Tracker, seconds: float) -> Sent:
    fingerprint = record.fingerprint

    def work() -> Sent:
        if tracker.mirrored(record) == fingerprint:
            return "unchanged"
        tracker.send(record)
        return "sent"

    return within(seconds, work, f"sending {record.identity} to {tracker.target}")


class _Sending:
    """One pass over the records: which place they go to, and why not to the one that was asked for."""

    def __init__(
        self, store: Store, tracker: Tracker, outcome: Outcome, profile: str | None, seconds: float | None,
        fall_back: Literal["local", "none"],
    ) -> None:  # fmt: skip
        self.outcome, self.wanted, self.fall_back = outcome, tracker, fall_back
        self.deadline = None if seconds is None else time.monotonic() + seconds
        words = ["emotion-circuits", "track", "sync", "--to", tracker.target, "--results", str(store.root)]
        self.later = shlex.join([*words, *(["--profile", profile] if profile else [])])
        self.place: Tracker | None = None
        self.refused_in_a_row = 0
        self._enter(tracker)

    def send(self, record: Record) -> None:
        """To the present place; to its fallback where that fails; else into ``missing``."""
        while self.place is not None:
            try:
                fate = _send(record, self.place, self._seconds_left())
            except TrackerError as error:
                if self._still_there(error):
                    break
                continue
            self.refused_in_a_row = 0
            if self.place is not self.wanted:
                self.outcome.kept_local.append(record.identity)
            else:
                (self.outcome.sent if fate == "sent" else self.outcome.unchanged).append(record.identity)
            return
        self.outcome.missing.append(record.identity)

    def close(self) -> None:
        if self.place is not None:
            self.session.__exit__(None, None, None)
            self.place = None
        left = len(self.outcome.kept_local) + len(self.outcome.missing)
        if left:
            records = "1 record is" if left == 1 else f"{left} records are"
            self.outcome.notes.append(f"{records} not in {self.wanted.target} (nothing is lost): {self.later}")

    def _still_there(self, error: TrackerError) -> bool:
        """Whether only this record failed; a place that is gone, or refuses twice in a row, is given up."""
        place = self.place
        assert place is not None
        self.refused_in_a_row += 1
        if self.refused_in_a_row < 2 and self._seconds_left() > 1:
            try:
                _connect(place)
            except TrackerError:
                pass
            else:
                self.outcome.notes.append(f"not mirrored: {error.what}")
                return True
        self._leave(error)
        return False

    def _enter(self, place: Tracker) -> None:
        self.place, self.refused_in_a_row = place, 0
        self.session = place.session()
        self.session.__enter__()
        try:
            _connect(place)
        except TrackerError as error:
            self._leave(error)

    def _leave(self, error: TrackerError) -> None:
        """Give the present place up, say so once, and go to its fallback."""
        place = self.place
        assert place is not None
        self.session.__exit__(None, None, None)
        self.place = None
        other = place.fallback() if self.fall_back == "local" else None
        where = f"; the runs go to {other.target} instead" if other else ""
        self.outcome.notes.append(f"tracking: {error.what}{where}")
        if other is not None:
            self._enter(other)

    def _seconds_left(self) -> float:
        if self.deadline is None or self.place is not self.wanted:
            return RECORD_SECONDS
        return max(0.0, min(RECORD_SECONDS, self.deadline - time.monotonic()))
