"""The commands that compute a report's figures again: the study's, and one for each run that is no part of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.report.checklist import shown_model
from emotion_circuits.report.commands import PROGRAM, Asked, options_for, settings, study_command, typed_models
from emotion_circuits.report.failures import name_of
from emotion_circuits.report.variants import is_own, marked
from emotion_circuits.store import PAIR

if TYPE_CHECKING:
    from emotion_circuits.experiments import Study
    from emotion_circuits.store import Run

SWITCHES = ("--json", "--quiet", "--force")
"""What a command was given for its display, or to compute again what would be reused."""
REPLACED = ("--results", "--track")
"""Options with a value: where results are now is known, and where runs were mirrored to is nobody else's business."""


def reproduce(study: Study, asked: Asked) -> str:
    """A command a line; a run whose command is not known is named in a comment."""
    models = [name_of(typed, study) for typed in typed_models(study, asked)]
    contained = {*models, *map(PAIR.join, study.profile.pairs_of(models))}
    further = [
        _again(run, study, asked)
        for run in study.runs
        if run.model not in contained or not is_own(run, study.profile) or settings(run) != settings(study.runs[0])
    ]
    return "\n".join(dict.fromkeys([study_command(study, asked), *further]))


def _again(run: Run, study: Study, asked: Asked) -> str:
    words: Sequence[str] = run.read_json("spec.json").get("machine", {}).get("command") or ()
    # A study makes its runs with the parameters that its profile has now, which are not those of this one.
    if len(words) > 1 and _is_program(words[0]) and words[1] != "study":
        return shlex.join([PROGRAM, *_kept(words[1:]), *options_for(asked.results)])
    return f"# {run.experiment}{marked(run, study.profile)} ({shown_model(run.model)})"


def _is_program(path: str) -> bool:
    """Whether a process was started as this program, as a script or as ``python -m emotion_circuits``."""
    parts = Path(path.replace("\\", "/")).parts
    return parts[-2:] == ("emotion_circuits", "__main__.py") or parts[-1:] in ((PROGRAM,), (f"{PROGRAM}.exe",))


def _kept(words: Sequence[str]) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        if word in REPLACED:
            next(rest, None)
        elif word not in SWITCHES and not word.startswith(tuple(f"{option}=" for option in REPLACED)):
            yield word
