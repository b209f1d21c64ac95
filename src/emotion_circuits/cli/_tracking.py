"""``--track`` on verbs that compute: a profile's runs and report are mirrored when the work ends, also if it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emotion_circuits.cli._console import say
from emotion_circuits.cli._options import TrackOptions

MOST_SECONDS = 120.0
"""Longest time that a mirror may add to a study; what is left then goes to `track sync`."""


@contextmanager
def tracking(options: TrackOptions, results: Path, profile: str, *, quiet: bool = False) -> Iterator[None]:
    """Mirror the profile's runs and report to ``--track`` after the block, also after a failure, but not after Ctrl-C.

    A tracker that does not exist or is not installed is refused before the block; anything later is said on stderr
    and changes neither the results nor the exit code.
    """
    if options.track is None:
        yield
        return
    from emotion_circuits.store import Store
    from emotion_circuits.tracking import mirror_results, open_tracker

    tracker = open_tracker(options.track, results)
    stopped = False
    try:
        yield
    except KeyboardInterrupt:
        stopped = True
        raise
    finally:
        if not stopped:
            outcome = mirror_results(Store(results), tracker, profile, seconds=MOST_SECONDS)
            for note in outcome.notes:
                say(note)
            if outcome.complete:
                say(f"{len(outcome.sent)} records mirrored to {outcome.target}", quiet=quiet)
