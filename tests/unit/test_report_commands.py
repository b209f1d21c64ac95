"""Commands of a report: models that cannot be typed are left out, and runs beside the study have their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_circuits.experiments import Study, load_profile
from emotion_circuits.report.answers import verdicts
from emotion_circuits.report.assemble import assemble_report
from emotion_circuits.report.checklist import how_to_add
from emotion_circuits.report.collect import study_on_disk
from emotion_circuits.report.commands import Asked, study_command
from emotion_circuits.report.reproduce import reproduce
from emotion_circuits.store import Store
from finished_runs import finished
from pages import refusal

SCRIPT, MODULE = "/usr/bin/emotion-circuits", "/src/emotion_circuits/__main__.py"
TWIN = "b-untrained-1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def on_disk(store: Store, profile: str = "atlas") -> Study:
    return study_on_disk(store, load_profile(profile))


def again(study: Study, *models: str, results: str = "results") -> list[str]:
    return reproduce(study, Asked(study.profile.name, Path(results), models)).splitlines()


def with_twin(store: Store) -> Study:
    """A pair, and before it the source with the target's untrained twin."""
    typed = [MODULE, "run", "transfer", "--source", "a", "--target", "b", "--target-untrained", "--json"]
    finished(store, ("a", TWIN), "transfer", addresses=["a", ""], argv=typed)
    finished(store, ("a", "b"), "transfer", addresses=["a", "b"])
    return on_disk(store)


def test_a_twin_stands_in_no_command(store: Store) -> None:
    study = with_twin(store)
    assert study_command(study, Asked("atlas")) == "emotion-circuits study atlas --model a b"
    command = how_to_add(study, "overlap", Asked("atlas"))
    assert command == "emotion-circuits run overlap --source a --target b --profile atlas"


def test_a_twin_is_no_second_model(store: Store) -> None:
    finished(store, "a", "directions", addresses=["a"])
    finished(store, ("a", TWIN), "align", addresses=["a", ""])
    study = on_disk(store)
    assert TWIN in study.sources
    first, second, *_ = verdicts(study, Asked("atlas"))
    assert first.answers == ["found"], "one model needs no name before its answers"
    command = "emotion-circuits study atlas --model a gemma-3-270m"
    assert second.reason == f"not asked: add --model gemma-3-270m: {command}"


def test_models_in_memory_are_named_where_there_are_no_others(store: Store) -> None:
    finished(store, "mine", "directions", addresses=[""])
    study = on_disk(store)
    assert again(study) == ["emotion-circuits study atlas --model mine"]
    assert how_to_add(study, "sweep", Asked("atlas")).startswith("emotion-circuits run sweep --model mine ")


def test_a_study_alone_has_one_command(store: Store) -> None:
    for model in ("a", "b"):
        finished(store, model, "directions", argv=[SCRIPT, "study", "atlas", "--model", "a", "b"])
    finished(store, ("a", "b"), "transfer", argv=[SCRIPT, "run", "transfer", "--source", "a", "--target", "b"])
    assert again(on_disk(store)) == ["emotion-circuits study atlas --model a b"], "the profile plans that run too"


def test_what_the_study_does_not_contain_has_its_own_command(store: Store) -> None:
    for model in ("a", "b"):
        finished(store, model, "directions")
    finished(store, ("a", "b"), "transfer")
    own = [SCRIPT, "run", "transfer", "--source", "a", "--target", "b", "--on", "my texts.jsonl", "--results", "/gone"]
    finished(store, ("a", "b"), "transfer", changed={"on": "my texts.jsonl"}, argv=[*own, "--force", "--quiet"])
    finished(store, "a", "compare", argv=[MODULE, "run", "compare", "--model", "a", "--track=mlflow:http://me:pw@x"])
    study, *further = again(on_disk(store))
    assert study == "emotion-circuits study atlas --model a b"
    compare, transfer = sorted(further)
    assert compare == "emotion-circuits run compare --model a"
    assert transfer == "emotion-circuits run transfer --source a --target b --on 'my texts.jsonl'"
    assert [refusal(command) for command in (study, compare, transfer)] == [""] * 3
    assert f"{compare} --results here" in again(on_disk(store), results="here")


def test_a_twins_run_has_its_own_command(store: Store) -> None:
    assert again(with_twin(store)) == [
        "emotion-circuits study atlas --model a b",
        "emotion-circuits run transfer --source a --target b --target-untrained",
    ]


@pytest.mark.parametrize("argv", [["my script.py", "run"], ["/src/emotion_circuits/runners/worker.py", "m.json", "0"],
                                  [SCRIPT, "study", "quickstart"], [SCRIPT], []])  # fmt: skip
def test_a_run_without_a_command_is_named(store: Store, argv: list[str]) -> None:
    finished(store, "a", "directions", profile="quickstart")
    finished(store, "a", "sweep", profile="quickstart", changed={"scenarios": 10}, argv=argv)
    assert again(on_disk(store, "quickstart"))[1:] == ["# sweep [scenarios=10] (a)"]


def test_a_run_of_another_seed_or_model_has_its_own_command(store: Store) -> None:
    finished(store, "a", "doctor")
    finished(store, "a", "directions", seed=1, argv=[SCRIPT, "run", "directions", "--model", "a", "--seed", "1"])
    finished(store, "b", "directions", argv=[SCRIPT, "run", "directions", "--model", "b"])
    found = again(on_disk(store), "a")
    assert found[1:] == [
        "emotion-circuits run directions --model a --seed 1",
        "emotion-circuits run directions --model b",
    ]


def test_the_page_shows_every_command(store: Store) -> None:
    study = with_twin(store)
    assert assemble_report(study, Asked("atlas")).command.splitlines() == again(study)
