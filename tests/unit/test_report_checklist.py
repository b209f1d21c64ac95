"""The integrated section: questions in the order of the argument, what is done, and a command for what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.experiments import Failure, Study, experiments, load_profile
from emotion_circuits.experiments._contract import PairExperiment
from emotion_circuits.report.assemble import assemble_report
from emotion_circuits.report.checklist import checklist, phases, place_of
from emotion_circuits.report.collect import study_on_disk
from emotion_circuits.report.commands import Asked
from emotion_circuits.store import Store
from pages import refusal

RECORDED = {"device": "cpu", "source": "here"}


READ: dict[str, Any] = {
    "layers": 30, "results": [], "test": [], "per_emotion": [], "layer_pair": {"source": 1, "target": 1},
    "ci": [0.1, 0.7], "p": {"max": 0.2},
}  # fmt: skip
"""What the section that sets models side by side reads of a summary, empty."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def finished(store: Store, model: str | tuple[str, str], experiment: str, verdict: str = "found") -> None:
    """A finished run with one verdict and a section."""
    source = "here" if isinstance(model, str) else "here → there"
    inputs = {"params": {"permutations": 9, "resamples": 9}}
    run = store.run("atlas", model, experiment, inputs, RECORDED | {"source": source})
    with run.open():
        section = {
            "name": experiment,
            "heading": experiment,
            "answer": [verdict],
            "figures": [],
            "tables": [],
            "limits": [],
        }
        run.path("section.json").write_text(json.dumps(section))
        pair: dict[str, Any] = (
            {} if isinstance(model, str) else {"source": "a", "target": "b", "tau": 0.4, "verdict": "x"}
        )
        run.finish({"verdicts": [verdict] if verdict else [], "paired": True, **READ, **pair})


def table(study: Study, name: str) -> list[dict[str, Any]]:
    (found,) = [t for t in checklist(study, Asked(study.profile.name)).tables if t.name == name]
    return [dict(row) for row in found.rows]


def test_the_argument_has_its_five_phases_and_names_experiments_that_exist() -> None:
    assert [phase["name"] for phase in phases()] == ["Observation", "Causality", "Structure", "Alignment", "Circuits"]
    named = {name for phase in phases() for item in phase["item"] for name in item["experiments"]}
    assert named | {name for phase in phases() for name in phase["answers"]} <= {*experiments()}


def test_every_open_point_has_a_command_that_the_command_line_accepts() -> None:
    rows = table(Study(load_profile("quickstart"), sources={"smollm2-135m": "x"}), "checklist")
    assert {row["state"] for row in rows} == {"open"}
    for row in rows:
        assert refusal(row["command"]) == "", row
        pair = isinstance(experiments()[row["command"].split()[2]], PairExperiment)
        assert ("--source smollm2-135m --target gemma-3-270m" in row["command"]) == pair


def test_runs_of_models_and_pairs_are_found_and_answer_their_phase(store: Store) -> None:
    finished(store, "a", "directions", "a has it")
    finished(store, ("a", "b"), "transfer", "a and b share it")
    finished(store, "a-untrained-0", "shared-texts", "")
    study = study_on_disk(store, load_profile("atlas"))
    assert study.sources == {"a": "here", "b": "there"}
    answers = {row["phase"]: (row["answer"], row["from"]) for row in table(study, "argument")}
    assert answers["Observation"] == ("a has it", "directions (a)")
    assert answers["Alignment"] == ("a and b share it", "transfer (a → b)")
    assert answers["Circuits"][0] == "not answered by this study"
    done = [row for row in table(study, "checklist") if row["state"] == "done"]
    assert [(row["models"], row["command"]) for row in done] == [("a", ""), ("a → b", "")]


def test_what_failed_is_neither_done_nor_open() -> None:
    failure = Failure("a", "sweep", EmotionCircuitsError("broke", "mend it"))
    rows = table(Study(load_profile("quickstart"), failures=[failure], sources={"a": "x"}), "checklist")
    assert [(row["state"], row["models"]) for row in rows if row["state"] != "open"] == [("did not finish", "a")]


def test_sections_stand_in_the_order_of_the_questions(store: Store) -> None:
    for experiment in ("heads.screen", "doctor", "directions", "controls", "sweep"):
        finished(store, "a", experiment)
    finished(store, ("a", "b"), "transfer")
    report = assemble_report(study_on_disk(store, load_profile("atlas")), Asked("atlas"))
    names = [section.name for section in report.sections]
    assert names == ["directions", "pairs", "transfer", "sweep", "controls", "heads.screen", "doctor", "checklist"]
    assert "emotion-circuits run" not in report.verdicts[3].lines()[0]


def test_a_question_that_was_not_asked_says_how_to_ask_it(store: Store) -> None:
    finished(store, "a", "directions")
    report = assemble_report(study_on_disk(store, load_profile("atlas")), Asked("atlas"))
    assert "emotion-circuits run heads.screen --model a --profile atlas" in report.verdicts[3].reason


def test_an_experiment_outside_the_argument_stands_last() -> None:
    assert place_of("no-such") == place_of("doctor") > place_of("circuit.report")
