"""The whole argument on one page: observation → causality → structure → alignment → circuits, and what is still open.

Answers are the experiments' own sentences; nothing is judged again here. What is open names the command that does it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from emotion_circuits.report.commands import Asked, filled_in
from emotion_circuits.report.failures import folder_of, lost_by
from emotion_circuits.report.variants import said
from emotion_circuits.store import ARROW, PAIR
from emotion_circuits.types import Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments import Failure, Study
    from emotion_circuits.store import Run

DONE, FAILED, OPEN = "done", "did not finish", "open"
PARTLY = "done for {done}, not for {failed}"
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
        "An item is done when a finished run is part of this report and no model failed it; with an interval, where it "
        "says so. The command adds it; the next report has it. FILE stands for a file of yours.",
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
    """The command that adds an experiment of the checklist to the study, or what its texts lack for that."""
    items = (item for phase in phases() for item in phase["item"])
    return _to_add(next(item for item in items if experiment in item["experiments"]), study, asked)


def _to_add(item: Mapping[str, Any], study: Study, asked: Asked, typed: Sequence[str] = ()) -> str:
    # A file that only the reader has is no reason: the command says where its name goes.
    refused = None if item["command"].endswith(" FILE") else study.profile.refusal(item["experiments"][0])
    if refused is not None:
        return f"{refused.what} → {refused.fix}"
    return filled_in(item["command"], study, asked, typed)


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
        for line in said(run, study.profile)
    ]
    missing = {"phase": phase["name"], "question": phase["question"], "from": ", ".join(phase["answers"])}
    return found or [{**missing, "answer": "not answered by this study"}]


def _item(study: Study, phase: str, item: Mapping[str, Any], asked: Asked) -> dict[str, str]:
    names = item["experiments"]
    done = _listed(shown_model(run.model) for run in study.runs if run.experiment in names and _counts(run, item))
    # Without any run of it, a point that a failure only stands before is open, as it would be without the failure.
    lost = lost_by(study, names) if done else [f for f in study.failures if f.experiment in names]
    failed = _listed(_shown_failure(f, study, done) for f in lost)
    if done and failed:
        state = PARTLY.format(done=", ".join(done), failed=", ".join(failed))
    else:
        state = DONE if done else FAILED if failed else OPEN
    command = "" if state == DONE else _to_add(item, study, asked, _typed(lost))
    return {"phase": phase, "what": item["what"], "state": state, "models": ", ".join(done or failed),
            "command": command}  # fmt: skip


def _counts(run: Run, item: Mapping[str, Any]) -> bool:
    """Whether a run is evidence for the item: a single text, or texts without neutral ones, have no interval."""
    return not item.get("interval") or any(row.get("ci") for row in run.read_summary()["results"])


def _listed(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _shown_failure(failure: Failure, study: Study, done: Sequence[str]) -> str:
    """The model that failed; with the experiment where another run of that model is there."""
    model = shown_model(folder_of(failure.model, study))
    return f"{model} ({failure.experiment})" if model in done else failure.model


def _typed(lost: Sequence[Failure]) -> Sequence[str]:
    """The model, or the two models, of the first failure as they were typed."""
    return lost[0].model.split(ARROW) if lost else ()


def shown_model(model: str) -> str:
    """A pair's folder name as readers write a pair."""
    return model.replace(PAIR, ARROW)
