"""The whole argument on one page: observation → causality → structure → alignment → circuits, and what is still open.

Answers are the experiments' own sentences; nothing is judged again here. What is open names the command that does it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from emotion_circuits.report.commands import Asked, filled_in
from emotion_circuits.types import Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments import Study

DONE, FAILED, OPEN = "done", "did not finish", "open"
_CHECK = "doctor"


def checklist(study: Study, asked: Asked) -> Section:
    """The section that answers the research questions phase by phase and lists what was done and what was not."""
    rows = [_item(study, phase["name"], item, asked) for phase in phases() for item in phase["item"]]
    done = sum(row["state"] == DONE for row in rows)
    argument = Table(
        "argument",
        "The research questions, in the order of the argument",
        "Each answer is the sentence of the experiment named; what it rests on is in its section above.",
        {"phase": "phase", "question": "question", "answer": "answer", "from": "experiment"},
        [row for phase in phases() for row in _answers(study, phase)],
    )
    items = Table(
        "checklist",
        "Checklist",
        "An item is done when a finished run is part of this report. The command adds it; the next report has it. "
        "FILE stands for a file of yours.",
        {"phase": "phase", "what": "what", "state": "state", "models": "models", "command": "command"},
        rows,
    )
    answer = [
        f"{done} of {len(rows)} points of the checklist are part of this report.",
        "Each phase rests on the one before it: a direction that separates texts causes nothing by that alone, and a "
        "direction that steers is not thereby shared.",
    ]
    return Section("checklist", "The research questions and the checklist", answer, tables=[argument, items])


@cache
def phases() -> Sequence[Mapping[str, Any]]:
    """The phases with their questions and items, from ``checklist.toml``."""
    text = resources.files(__package__).joinpath("checklist.toml").read_text(encoding="utf-8")
    found: list[Mapping[str, Any]] = tomllib.loads(text)["phase"]
    return found


def place_of(experiment: str) -> tuple[int, int, int]:
    """Where an experiment's section stands: by question, what answers it first; checks of the model stand last."""
    for phase in phases():
        if experiment in phase["answers"]:
            return phase["number"], 0, phase["answers"].index(experiment)
    for phase in phases():
        for index, item in enumerate(phase["item"]):
            if experiment in item["experiments"] and experiment != _CHECK:
                return phase["number"], 1, index
    return len(phases()) + 1, 0, 0


def how_to_add(study: Study, experiment: str, asked: Asked) -> str:
    """The command that adds an experiment of the checklist to the study."""
    items = (item for phase in phases() for item in phase["item"])
    return filled_in(next(item["command"] for item in items if experiment in item["experiments"]), study, asked)


def _answers(study: Study, phase: Mapping[str, Any]) -> list[dict[str, str]]:
    found = [
        {
            "phase": phase["name"],
            "question": phase["question"],
            "from": f"{run.experiment} ({shown_model(run.model)})",
            "answer": line,
        }
        for run in study.runs
        if run.experiment in phase["answers"]
        for line in run.read_summary().get("verdicts", ())
    ]
    missing = {"phase": phase["name"], "question": phase["question"], "from": ", ".join(phase["answers"])}
    return found or [{**missing, "answer": "not answered by this study"}]


def _item(study: Study, phase: str, item: Mapping[str, Any], asked: Asked) -> dict[str, str]:
    models = [run.model for run in study.runs if run.experiment in item["experiments"]]
    failed = [f.model for f in study.failures if f.experiment in item["experiments"]]
    state = DONE if models else FAILED if failed else OPEN
    command = "" if state == DONE else filled_in(item["command"], study, asked)
    shown = ", ".join(dict.fromkeys(shown_model(model) for model in models or failed))
    return {"phase": phase, "what": item["what"], "state": state, "models": shown, "command": command}


def shown_model(model: str) -> str:
    """A pair's folder name as readers write a pair."""
    return model.replace("--", " → ")
