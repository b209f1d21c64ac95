"""Runs that are not the profile's own: with other parameters than it plans, and how a report tells them apart.

A profile plans an experiment once, and a command may run it again with other parameters. What was given is read from
the run itself, so that runs that are finished already say it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.store import ARROW, PAIR, canonical

if TYPE_CHECKING:
    from emotion_circuits.experiments import Profile
    from emotion_circuits.store import Run

TEXTS = ("on", "texts")
"""Parameters that say which texts two models are compared on."""
READ_AT = "position"
"""The parameter that says where in the texts."""
COMPARED = "transfer"
"""The experiment that answers question 2."""
NOTHING = "none"
"""How a parameter that was left out is written."""
MOST_NAMED = 3
"""So many parameters are named where more differ."""


def is_own(run: Run, profile: Profile) -> bool:
    """Whether the profile plans this run: the experiment, with these parameters."""
    return _plans(profile, run.experiment) and not [*_changed(run, profile)]


def given(run: Run, profile: Profile) -> str:
    """What a planned experiment was given instead of the profile's parameters (``limit=5 exact=20``), or nothing.

    Of a comparison that the profile does not plan, only other texts, or another position in them, are told.
    """
    return _listed(_told(run, profile))


def said(run: Run, profile: Profile) -> list[str]:
    """The verdicts of a run, a line each; a run that is not the profile's own says what it was given."""
    lines: Sequence[str] = run.read_summary().get("verdicts", ())
    return [resaid(line, run, profile) for line in lines]


def resaid(line: str, run: Run, profile: Profile) -> str:
    """A verdict of a run with what the run was given: behind the pair of models that it is about, or in front."""
    if not (mark := marked(run, profile)):
        return line
    pair = pair_of(run)
    return f"{pair}{mark}{line[len(pair) :]}" if pair and line.startswith(pair) else f"{mark.strip()} {line}"


def marked(run: Run, profile: Profile) -> str:
    """`` on FILE`` where two models are compared on other texts than the profile's, `` [name=value]`` for the rest."""
    told = dict(_told(run, profile))
    texts = ""
    if run.experiment == COMPARED:
        own, sets = (told.pop(name, "") for name in TEXTS)
        texts = sets if own in ("", NOTHING) else own
    return (f" on {texts}" if texts else "") + (f" [{_listed(told.items())}]" if told else "")


def pair_of(run: Run) -> str:
    """The two models of a run as its verdicts write them; nothing for a run on one model."""
    summary = run.read_summary()
    return f"{summary['source']}{ARROW}{summary['target']}" if PAIR in run.model and "source" in summary else ""


def identity(run: Run) -> tuple[Any, Any]:
    """The parameters and the seed of a run, in a form that can be compared."""
    return canonical(run.inputs.get("params", {})), run.inputs.get("seed")


def first_of_each(runs: Iterable[Run]) -> list[Run]:
    """One run of every experiment on every model: the first, which is the profile's own where there is one."""
    found: dict[tuple[str, str], Run] = {}
    for run in runs:
        found.setdefault((run.model, run.experiment), run)
    return list(found.values())


def _plans(profile: Profile, experiment: str) -> bool:
    return any(name == experiment for name, _ in profile.experiments)


def _told(run: Run, profile: Profile) -> list[tuple[str, str]]:
    if _plans(profile, run.experiment):
        return [*_changed(run, profile)]
    return [c for c in _changed(run, profile) if c[0] in (*TEXTS, READ_AT)] if run.experiment == COMPARED else []


def _changed(run: Run, profile: Profile) -> Iterator[tuple[str, str]]:
    """Parameters of a run that differ from the profile's (an experiment that it does not plan: from the defaults)."""
    own: Mapping[str, Any] = canonical(profile.params(run.experiment))
    yield from _differing(_recorded(run), own, "")


def _recorded(run: Run) -> Mapping[str, Any]:
    """A run's parameters; one that an earlier version did not know has its default."""
    found: Mapping[str, Any] = canonical(run.inputs.get("params", {}))
    try:
        complete: Mapping[str, Any] = canonical(find_experiment(run.experiment).Params.model_validate(found))
    except (ValidationError, UsageError):  # a parameter or a value that this version does not take
        return found
    return complete


def _differing(found: Mapping[str, Any], own: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        planned = own.get(name)
        if value == planned:
            continue
        if isinstance(value, Mapping) and isinstance(planned, Mapping):
            yield from _differing(value, planned, f"{above}{name}.")
        else:
            yield f"{above}{name}".replace("_", "-"), _shown(value)  # as the command line writes it


def _listed(found: Iterable[tuple[str, str]]) -> str:
    every = [f"{name}={value}" for name, value in found]
    # No comma between them: the verdict that they stand in has commas of its own.
    return " ".join([*every[:MOST_NAMED], *(["…"] if len(every) > MOST_NAMED else [])])


def _shown(value: Any) -> str:
    """A value in short: of a path its last part, of a long list its beginning."""
    if value is None or value == []:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join([*map(_shown, value[:MOST_NAMED]), *(["…"] if len(value) > MOST_NAMED else [])])
    if isinstance(value, float):
        return f"{value:g}"
    return PurePath(value).name if isinstance(value, str) and "/" in value else str(value)
