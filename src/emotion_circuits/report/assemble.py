"""From the finished runs of a study to one report: verdicts by question, then each experiment's section."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from emotion_circuits import __version__
from emotion_circuits.experiments._study import failed_file
from emotion_circuits.report.answers import verdicts
from emotion_circuits.report.checklist import checklist, place_of, shown_model
from emotion_circuits.report.collect import further_runs
from emotion_circuits.report.commands import OF_MODEL, Asked, ls_command
from emotion_circuits.report.comparison import comparison
from emotion_circuits.report.methods import methods
from emotion_circuits.report.reproduce import reproduce
from emotion_circuits.report.variants import COMPARED, first_of_each, given, marked, pair_of, resaid
from emotion_circuits.store import ARROW, Store
from emotion_circuits.types import Figure, Report, Section

if TYPE_CHECKING:
    from emotion_circuits.experiments import Profile, Study
    from emotion_circuits.store import Run

SIDE_BY_SIDE = (0, 0, 0)
"""Where several models are compared: before the questions."""
PAIRS = (2, -1, 0)
"""Where the matrix of all pairs stands: at the head of question 2."""


def assemble_report(study: Study, asked: Asked, *, alone: bool = False) -> Report:
    """The report of a study; failures become part of it. ``alone``: what lies beside its runs on disk is not read."""
    # In the order of the argument, so that whatever was run beside the profile stands with its question.
    found = [(run, section) for run in study.runs if (section := _section(run)) is not None]
    models: dict[str, set[str]] = {}
    for run, section in found:
        models.setdefault(section.heading, set()).add(run.model)
    beside = _Beside(study, asked, alone)
    # Runs with other parameters come behind the profile's own, whose figures thus keep the names of their files.
    placed: list[tuple[tuple[int, ...], Section]] = [
        (
            (*place_of(run.experiment), int(given(run, study.profile) != "")),
            beside.told(run, _named(section, run, models, study.profile)),
        )
        for run, section in found
    ]
    placed += [(PAIRS, section) for section in _pairs(study)]
    placed += [(SIDE_BY_SIDE, section)] if (section := comparison(study)) is not None else []
    sections = [section for _, section in sorted(placed, key=lambda found: found[0])]
    profile = study.profile
    return Report(
        title=profile.title,
        profile=profile.name,
        verdicts=verdicts(study, asked),
        sections=[*sections, *_failures(study, asked), checklist(study, asked)],
        methods=methods(study.runs),
        command=reproduce(study, asked),
        provenance=_provenance(study),
    )


def _pairs(study: Study) -> Sequence[Section]:
    """The matrix of verdicts over all ordered pairs of models, one run of each."""
    runs = [run for run in first_of_each(study.runs) if run.experiment == "transfer"]
    if not runs:
        return ()
    found = [run.read_summary() for run in runs]
    rows = [
        {"row": s["source"], "column": s["target"], "value": s["tau"],
         "label": f"{s['verdict']} ({'–' if s['tau'] is None else format(s['tau'], '.2f')})"}
        for s in found
    ]  # fmt: skip
    figure = Figure(
        "verdicts", "matrix", "Verdicts of all ordered pairs",
        "τ: 0 is the highest floor (shuffled maps, untrained target, embedding layers), 1 a probe of the target's own.",
        "Matrix of verdicts, sources in rows, targets in columns.", rows, {"x": "target", "y": "source", "value": "τ"},
    )  # fmt: skip
    sentences = [
        resaid(f"{s['source']}{ARROW}{s['target']}: {s['verdict']}.", run, study.profile)
        for run, s in zip(runs, found, strict=True)
    ]
    return (Section("pairs", "Which models share emotions", sentences, [figure]),)


def _section(run: Run) -> Section | None:
    path = run.path("section.json")
    if not path.exists():
        return None
    section: Section = TypeAdapter(Section).validate_python(run.read_json("section.json"))
    return section


def _named(section: Section, run: Run, models: Mapping[str, Collection[str]], profile: Profile) -> Section:
    """The section with its model in the heading, where several have the same one, and with what the run was given."""
    heading = section.heading
    if len(models[heading]) > 1:
        heading += OF_MODEL + shown_model(run.model)
    if told := given(run, profile):
        heading += f"{OF_MODEL}with {told}"
    pair = pair_of(run) if run.experiment == COMPARED else ""
    answer = [resaid(line, run, profile) if pair and line.startswith(pair) else line for line in section.answer]
    return replace(section, heading=heading, answer=answer)


class _Beside:
    """Says, once for every experiment on every model, how many further runs of it lie on disk."""

    def __init__(self, study: Study, asked: Asked, alone: bool) -> None:
        self.left = {} if alone else dict(further_runs(study))
        self.command = ls_command(study.profile.name, asked.results)

    def told(self, run: Run, section: Section) -> Section:
        count = self.left.pop((run.model, run.experiment), 0)
        if not count:
            return section
        told = (
            f"Finished runs of {run.experiment} on {shown_model(run.model)} that are not shown, with other parameters "
            f"or seeds: {count}. `{self.command}` lists them."
        )
        return replace(section, limits=[*section.limits, told])


def _failures(study: Study, asked: Asked) -> Sequence[Section]:
    if not study.failures:
        return ()
    answer = [f"{f.experiment} on {f.model}: {f.error}" for f in study.failures]
    noted = {f.model: failed_file(Store(asked.results), study.profile.name, f.model) for f in study.failures}
    limits = [
        f"{model} stays in this list until it goes through. If it is given up for good, remove `{file}`."
        for model, file in noted.items()
        if file.exists()
    ]
    return (Section("failures", "What did not finish", answer, limits=limits),)


def _provenance(study: Study) -> dict[str, str]:
    facts: dict[str, str] = {f"model {name}": source for name, source in study.sources.items()}
    for run in study.runs:
        spec: dict[str, Any] = run.read_json("spec.json")
        facts[f"run {run.experiment}{marked(run, study.profile)} ({run.model})"] = (
            f"key {run.key}, started {spec['started']}"
        )
        facts["device"] = str(spec["recorded"].get("device", ""))
    return facts | {"emotion-circuits": __version__, "python": platform.python_version()}
