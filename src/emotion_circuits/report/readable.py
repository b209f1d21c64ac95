"""Which runs on disk cannot be read or shown (damaged, or of another version), so that they do not cost the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.errors import EmotionCircuitsError, StoreError
from emotion_circuits.experiments._study import Study, failure_notes, read_failure
from emotion_circuits.report.assemble import assemble_report
from emotion_circuits.report.comparison import summary_csv
from emotion_circuits.store import Run, read_json
from emotion_circuits.store.runs import check_schema

if TYPE_CHECKING:
    from emotion_circuits.experiments import Profile
    from emotion_circuits.report.commands import Asked
    from emotion_circuits.store import Store

UNREADABLE = (EmotionCircuitsError, ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""What reading or showing a run may raise that is damaged, or that another version wrote."""


def unreadable(store: Store, profile: Profile, asked: Asked) -> Mapping[Path, StoreError]:
    """What of a profile cannot be read or shown, run folders and notes of failures, each with the reason."""
    found = {}
    for note in failure_notes(store, profile.name):
        try:
            read_failure(note)
        except UNREADABLE as error:
            found[note] = StoreError(f"{note} cannot be read {met(error)}", "remove that file")
    for spec in store.specs(profile.name):
        try:
            check_schema(spec)
            content = read_json(spec)
            run = Run(spec.parent, content["inputs"], content.get("recorded", {}))
            if run.done:
                run.read_summary()
                show(run, profile, asked)
        except UNREADABLE as error:
            found[spec.parent] = told(spec.parent, error)
    return found


def show(run: Run, profile: Profile, asked: Asked) -> None:
    """Make the page and the rows of one run by itself; raises one of :data:`UNREADABLE` where that is not possible."""
    alone = Study(profile, [run])
    assemble_report(alone, asked, alone=True)
    summary_csv(alone)


def told(folder: Path, error: Exception) -> StoreError:
    """The error as one that names the run folder and says what to do about it."""
    return StoreError(
        f"{folder} cannot be read {met(error)}", "run its command again with --force, or remove that folder"
    )


def met(error: Exception) -> str:
    """What was met, in brackets: the kind of error and its first line."""
    return f"({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
