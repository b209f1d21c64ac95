"""What a file of the research plan's layout is: its path, whose results it holds, and the function that writes it.

A new file is one function::

    @plan_file("alignment/head_scores_{model}.json", "every head's scores", "heads.screen", RUN)
    def head_scores(results: Results) -> Iterator[File]:
        for run in results.latest("heads.screen"):
            yield json_file(f"alignment/head_scores_{run.model}.json", run, partial(_scores, run))

It says which files there are at once and makes their bytes only when they are asked for, one after another.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from emotion_circuits.store import Run, Store, plain, slug
from emotion_circuits.store.runs import LATEST

RUN = "emotion-circuits run {experiment} --model {{model}} --profile {{profile}}"
RUN_PAIR = "emotion-circuits run {experiment} --source {{source}} --target {{target}} --profile {{profile}}"
"""The commands that make the results of an experiment on one model, and on two."""


@dataclass(frozen=True)
class File:
    """One file: its path below the output folder, the run that it comes from, and what makes its bytes."""

    path: str
    source: Path
    make: Callable[[], bytes]


@dataclass(frozen=True)
class Results:
    """The finished runs of a profile, and the folder they lie in."""

    store: Store
    profile: str

    @property
    def folder(self) -> Path:
        return self.store.root / slug(self.profile)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run of the profile, whatever became of it, oldest first."""
        return tuple(self.store.find(self.profile))

    def newest_first(self, experiment: str) -> dict[str, list[Run]]:
        """Model or pair (``A--B``) → its finished runs; the one that was asked for last comes first."""
        found: dict[str, list[Run]] = {}
        for run in reversed(self.runs):
            if run.experiment == experiment and run.done:
                found.setdefault(run.model, []).append(run)
        return {model: sorted(runs, key=lambda r: not _is_latest(r)) for model, runs in sorted(found.items())}

    def latest(self, experiment: str) -> list[Run]:
        """The finished run of an experiment that was asked for last, of every model or pair."""
        return [runs[0] for runs in self.newest_first(experiment).values()]


Writer = Callable[[Results], Iterator[File]]


@dataclass(frozen=True)
class PlanFile:
    """A path of the plan (places in braces), what it holds, which experiment measures that, what to type for it."""

    path: str
    what: str
    experiment: str
    command: str
    files: Writer


_FILES: dict[str, PlanFile] = {}


def plan_file(path: str, what: str, experiment: str, command: str = RUN) -> Callable[[Writer], Writer]:
    """Register the writer of one path of the plan."""

    def register(writer: Writer) -> Writer:
        _FILES[path] = PlanFile(path, what, experiment, command.format(experiment=experiment), writer)
        return writer

    return register


def plan_files() -> list[PlanFile]:
    """Every path of the plan that can be written, in the order of its phases."""
    import emotion_circuits.exports.plan as package

    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return list(_FILES.values())


def json_file(path: str, run: Run, content: Callable[[], object]) -> File:
    """Strict, indented JSON; a number that is not finite becomes null."""

    def make() -> bytes:
        text = json.dumps(plain(content()), indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")

    return File(path, run.folder, make)


def pair_of(run: Run) -> tuple[str, str]:
    """Source and target of a run on two models."""
    source, _, target = run.model.partition("--")
    return source, target


def in_path(label: str) -> str:
    """An emotion's label as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", label)


def position_suffix(position: str) -> str:
    """How the plan marks a token position: nothing for the sentence's end, ``_token_based`` for emotion words."""
    if position == "last":
        return ""
    return "_token_based" if position.startswith("emotion-word") else f"_{in_path(position)}"


def _is_latest(run: Run) -> bool:
    pointer = run.folder.parent / LATEST
    return pointer.exists() and pointer.read_text(encoding="utf-8").strip() == run.key
