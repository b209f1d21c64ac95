"""The page of a study: what a call has found stands before what lies on disk, and takes the place of its own there."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.experiments import Failure, Study, load_profile
from emotion_circuits.experiments._study import leave_log
from emotion_circuits.report.collect import study_on_disk, with_disk
from emotion_circuits.report.commands import addresses
from emotion_circuits.report.failures import name_of
from emotion_circuits.store import Run, Store
from finished_runs import finished


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def found(*runs: Run, **sources: str) -> Study:
    """What a call on the profile has just found."""
    return Study(load_profile("quickstart"), [*runs], [], sources)


def leave_failure(store: Store, *models: str) -> None:
    error = EmotionCircuitsError("broke", "mend it")
    leave_log(store, "quickstart", Failure(" → ".join(models), "directions", error), models)


def failed(study: Study) -> list[str]:
    return [failure.model for failure in study.failures]


def test_a_model_that_ran_has_not_failed_however_it_was_typed_before(store: Store) -> None:
    run = finished(store, "tiny-0a1b2c", "directions", profile="quickstart", addresses=["/here/tiny"])
    for typed in ("tiny-0a1b2c", "google/gemma-3-270m", "other"):
        leave_failure(store, typed)
    study = found(run, **{run.model: "folder"})
    assert failed(with_disk(store, study, ["/here/tiny"])) == ["google/gemma-3-270m", "other"]
    gemma = finished(store, "gemma-3-270m", "directions", profile="quickstart", addresses=["gemma-3-270m"])
    assert failed(with_disk(store, found(gemma, **{gemma.model: "hub"}), ["gemma-3-270m"])) == ["other", "tiny-0a1b2c"]


def test_a_model_whose_path_ends_alike_has_still_failed(store: Store) -> None:
    run = finished(store, "tiny-0a1b2c", "directions", profile="quickstart", addresses=["/here/tiny"])
    leave_failure(store, "/there/tiny")
    study = with_disk(store, found(run, **{run.model: "folder"}), ["/here/tiny"])
    assert failed(study) == ["/there/tiny"]
    assert (
        name_of("/here/tiny", study) == name_of("tiny", study) == run.model and name_of("/there/tiny", study) == "tiny"
    )


def test_the_page_of_a_study_shows_the_runs_of_the_report(store: Store) -> None:
    finished(store, "a", "sweep", profile="quickstart", seed=1)
    own = finished(store, "a", "sweep", profile="quickstart")
    quick = finished(store, "a", "sweep", profile="quickstart", changed={"scenarios": 10})
    page = with_disk(store, found(own, a="here"), ["a"])
    assert [run.key for run in page.runs] == [own.key, quick.key]
    assert [run.key for run in study_on_disk(store, load_profile("quickstart")).runs] == [own.key, quick.key]


def test_what_a_call_found_takes_the_place_of_the_profiles_own_on_disk(store: Store) -> None:
    finished(store, "a", "sweep", profile="quickstart")
    finished(store, "b", "sweep", profile="quickstart")
    fresh = finished(store, "a", "sweep", profile="quickstart", seed=1)
    finished(store, "a", "sweep", profile="quickstart", seed=2)
    page = with_disk(store, found(fresh, a="here"), ["a"])
    assert [(run.model, run.inputs["seed"]) for run in page.runs] == [("a", 1), ("b", 0)]


def test_where_a_model_came_from_and_what_to_type_for_it_are_this_calls(store: Store) -> None:
    finished(store, "gemma-3-270m", "compare", profile="quickstart", addresses=["google/gemma-3-270m"])
    finished(store, "b", "directions", profile="quickstart", addresses=["b"])
    fresh = finished(store, "gemma-3-270m", "directions", profile="quickstart", addresses=["gemma-3-270m"])
    page = with_disk(store, found(fresh, **{fresh.model: "wheel"}), [fresh.model])
    assert len(page.runs) == 3 and page.sources == {"gemma-3-270m": "wheel", "b": "here"}
    assert [*page.sources] == ["gemma-3-270m", "b"] and addresses(page) == {"gemma-3-270m": "gemma-3-270m", "b": "b"}
