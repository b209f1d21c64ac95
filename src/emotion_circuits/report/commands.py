"""Commands that a reader can type: they name profile, models and results as the study had them, quoted for the shell.

A model's name is a folder's name made unique, and a profile's name the last part of a path: neither need be something
that the command line finds again. So commands hold what was typed, or the address that a run recorded.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.store import PAIR

if TYPE_CHECKING:
    from emotion_circuits.experiments import Study
    from emotion_circuits.store import Run

PROGRAM = "emotion-circuits"
DEFAULT_RESULTS, DEFAULT_SEED, DEFAULT_DTYPE = Path("results"), 0, "float32"
OF_MODEL = " · "
"""Between a heading and the model it is about, where sections of several models have the same heading."""
EMBEDDED = ("gemma-3-270m", "smollm2-135m")
"""The embedded models: one of them is the example where a study has no second model."""


@dataclass(frozen=True)
class Asked:
    """What was typed: a profile's name or path, the results folder, and the models (none: those of the runs)."""

    profile: str
    results: Path = DEFAULT_RESULTS
    models: Sequence[str] = ()


def study_command(study: Study, asked: Asked) -> str:
    """The command that makes the study again."""
    models = typed_models(study, asked)
    words = [PROGRAM, "study", asked.profile, *(["--model", *models] if models else [])]
    return shlex.join([*words, *_options(study, asked.results)])


def first_study(profile: str, results: Path) -> str:
    """The command that fills the results of a profile."""
    return shlex.join([PROGRAM, "study", profile, *options_for(results)])


def sweep_of_k(profile: str, results: Path) -> str:
    """The command that compares subspaces of two models over their dimension, in a profile."""
    words = [PROGRAM, "run", "k-sweep", "--source", EMBEDDED[1], "--target", EMBEDDED[0], "--profile", profile]
    return shlex.join([*words, *options_for(results)])


def typed_models(study: Study, asked: Asked) -> list[str]:
    """The models of the study's command: those that were typed, or what to type for those of the runs."""
    return [*asked.models] or [*addresses(study).values()]


def report_command(profile: str, results: Path) -> str:
    """The command that shows the figures and tables of everything that was run in a profile."""
    return shlex.join([PROGRAM, "report", "--profile", profile, *options_for(results)])


def ls_command(profile: str, results: Path) -> str:
    """The command that lists every run of a profile; ``profile`` is its name, whatever was typed for it."""
    return shlex.join([PROGRAM, "ls", "--profile", profile, *options_for(results)])


def filled_in(template: str, study: Study, asked: Asked, wanted: Sequence[str] = ()) -> str:
    """A command with ``{model}``, ``{source}``, ``{target}`` and ``{profile}`` in it, for the models of the study.

    The models ``wanted`` come first, as they were typed. Where there is one model, an embedded one stands for the
    second.
    """
    models = [*wanted, *([*addresses(study).values()] or [*asked.models] or [EMBEDDED[1]])]
    second = next((m for m in (*models[1:], *EMBEDDED) if m != models[0]), EMBEDDED[0])
    names = {"model": models[0], "source": models[0], "target": second, "profile": asked.profile}
    command = template.format(**{name: shlex.quote(value) for name, value in names.items()})
    options = _options(study, asked.results)
    return f"{command} {shlex.join(options)}" if options else command


def addresses(study: Study) -> Mapping[str, str]:
    """Model → what to type for it, as the first run of the study has it; its name where no run recorded more.

    A model in memory (an untrained twin, an object of the caller's) has nothing to type and is left out, unless the
    study is of such models only: then their names stand for them.
    """
    recorded: dict[str, str] = {}
    for run in study.runs:  # what the call itself has found stands first
        recorded = dict(zip(run.model.split(PAIR), _addresses(run), strict=False)) | recorded
    typed = {name: recorded.get(name, name) for name in study.sources}
    return {name: address for name, address in typed.items() if address} or {name: name for name in typed}


def _addresses(run: Run) -> Sequence[str]:
    found: Sequence[str] = run.read_json("spec.json")["recorded"].get("addresses", ())
    return found


def settings(run: Run) -> tuple[int, str]:
    """Seed and number type of a run: they enter its key."""
    spec = run.read_json("spec.json")
    return spec["inputs"].get("seed", DEFAULT_SEED), spec["recorded"].get("dtype", DEFAULT_DTYPE)


def _options(study: Study, results: Path) -> list[str]:
    """The options without which the same runs would not be found again: they enter the keys, or say where to look."""
    words = options_for(results)
    if not study.runs:
        return words
    seed, dtype = settings(study.runs[0])
    words += ["--seed", str(seed)] if seed != DEFAULT_SEED else []
    return words + (["--dtype", dtype] if dtype != DEFAULT_DTYPE else [])


def options_for(results: Path) -> list[str]:
    """The option that says where results are, unless that is where they are looked for anyway."""
    return [] if results == DEFAULT_RESULTS else ["--results", str(results)]
