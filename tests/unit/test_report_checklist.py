"""The integrated section: questions in the order of the argument, what is done, and a command for what is not."""

from __future__ import annotations

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
from finished_runs import finished
from pages import refusal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


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


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("extended", {"check", "iterative", "swap", "transfer-steer"}),
        ("atlas", {"check", "sweep", "controls", "compare", "real-world", "iterative", "swap", "transfer-steer",
                   "heads.screen", "neurons.saliency", "circuit.ov-qk", "circuit.report"}),
    ],
)  # fmt: skip
def test_studies_of_two_models_fill_the_phases_that_are_cheap(name: str, left: set[str]) -> None:
    """What is left needs a file of the reader's, or takes much longer than the rest."""
    planned = {experiment for experiment, _ in load_profile(name).experiments}
    items = [item["experiments"] for phase in phases() for item in phase["item"]]
    assert {names[0] for names in items if not planned & {*names}} == left


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


def test_what_one_of_two_models_failed_is_not_done(store: Store) -> None:
    for experiment in ("doctor", "directions"):
        finished(store, "a", experiment)
    study = study_on_disk(store, load_profile("atlas"))
    study.failures.append(Failure("./b", "doctor", EmotionCircuitsError("broke", "mend it")))
    rows = table(study, "checklist")
    assert [row["state"] for row in rows[:2]] == ["done for a, not for ./b"] * 2, "what came after it was skipped"
    assert rows[0]["command"] == "emotion-circuits run directions --model ./b --profile atlas"
    assert rows[2]["state"] == "open"
    assert sum(row["state"] == "done" for row in rows) == 0


def test_an_alternative_that_failed_on_the_same_model_is_named(store: Store) -> None:
    finished(store, "a", "swap")
    study = study_on_disk(store, load_profile("atlas"))
    study.failures.append(Failure("a", "patch", EmotionCircuitsError("broke", "mend it")))
    (row,) = [r for r in table(study, "checklist") if r["what"].startswith("Residuals exchanged")]
    assert row["state"] == "done for a, not for a (patch)"


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


@pytest.mark.parametrize(("ci", "state"), [(None, "open"), ([0.6, 0.9], "done")])
def test_a_check_without_an_interval_leaves_its_point_open(store: Store, ci: list[float] | None, state: str) -> None:
    finished(store, "a", "check", "n 1", summary={"results": [{"emotion": "joy", "n": 1, "ci": ci}]})
    (row,) = [r for r in table(study_on_disk(store, load_profile("atlas")), "checklist") if "of your own" in r["what"]]
    assert row["state"] == state
