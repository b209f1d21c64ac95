"""Verdicts by question: answers, what did not finish on which model, what nobody ran yet, and what to type."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_circuits.errors import EmotionCircuitsError, UnknownModelError
from emotion_circuits.experiments import Failure, Profile, Study, load_profile
from emotion_circuits.experiments._study import leave_log
from emotion_circuits.report.answers import verdicts
from emotion_circuits.report.assemble import assemble_report
from emotion_circuits.report.collect import study_on_disk
from emotion_circuits.report.commands import Asked
from emotion_circuits.report.failures import models_of, name_of
from emotion_circuits.report.translation import Catalogue, entries
from emotion_circuits.store import Store
from emotion_circuits.types import Verdict
from finished_runs import finished


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def quickstart() -> Profile:
    return load_profile("quickstart")


def failure(model: str, experiment: str) -> Failure:
    return Failure(model, experiment, EmotionCircuitsError("broke", "mend it"))


def said(study: Study, *models: str) -> list[Verdict]:
    return verdicts(study, Asked(study.profile.name, models=models))


def study_of(store: Store, profile: Profile, *failures: Failure) -> Study:
    study = study_on_disk(store, profile)
    study.failures.extend(failures)
    return study


def test_what_nobody_ran_is_not_said_to_have_failed(quickstart: Profile) -> None:
    reasons = [v.reason for v in said(Study(quickstart, sources={"smollm2-135m": "here"}))]
    run = "not run yet: emotion-circuits run"
    assert reasons[0] == f"{run} directions --model smollm2-135m --profile quickstart"
    assert reasons[1].startswith("not asked: add --model gemma-3-270m: emotion-circuits study quickstart --model ")
    assert reasons[2] == f"{run} sweep --model smollm2-135m --profile quickstart"
    assert reasons[3] == f"{run} heads.screen --model smollm2-135m --profile quickstart"


def test_a_pair_that_nobody_ran_is_not_said_to_have_failed(quickstart: Profile) -> None:
    study = Study(quickstart, sources={"a": "here", "b": "there"})
    command = "emotion-circuits run transfer --source a --target b --profile quickstart"
    assert said(study)[1].reason == f"not run yet: {command}"


def test_a_model_that_failed_stands_beside_the_answers_of_the_other(store: Store, quickstart: Profile) -> None:
    for experiment in ("doctor", "directions", "sweep"):
        finished(store, "a", experiment, f"{experiment} found", profile="quickstart")
    first, second, third, fourth = said(study_of(store, quickstart, failure("b", "directions")))
    assert first.answers == ["directions found", "b: did not finish (directions)"]
    assert third.answers == ["sweep found", "b: did not finish (directions)"], "the study skipped it"
    assert second.reason.startswith("not asked: add --model gemma-3-270m: "), "one model has runs"
    assert fourth.reason == "did not finish"


def test_half_a_question_that_failed_shows(store: Store, quickstart: Profile) -> None:
    for experiment in ("directions", "sweep", "heads.screen"):
        finished(store, "a", experiment, f"{experiment} found", profile="quickstart")
    answers = [v.answers for v in said(study_of(store, quickstart, failure("a", "circuit.report")))]
    assert answers == [["directions found"], [], ["sweep found"],
                       ["heads.screen found", "a: did not finish (circuit.report)"]]  # fmt: skip


def test_what_ran_before_the_failure_lost_nothing(store: Store, quickstart: Profile) -> None:
    """Another command may have run what the study skipped."""
    for experiment in ("directions", "heads.screen", "circuit.report"):
        finished(store, "a", experiment, "found", profile="quickstart")
    answers = [v.answers for v in said(study_of(store, quickstart, failure("a", "sweep")))]
    assert answers[0] == ["found"] and answers[3] == ["found", "found"]
    assert said(study_of(store, quickstart, failure("a", "sweep")))[2].reason == "did not finish"


def test_a_pair_that_failed_stands_beside_the_other_pair(store: Store) -> None:
    for model in ("a", "b"):
        finished(store, model, "directions")
    finished(store, ("a", "b"), "transfer", "a → b: shared")
    second = said(study_of(store, load_profile("atlas"), failure("b → a", "transfer")))[1]
    assert second.answers == ["a → b: shared", "b → a: did not finish (transfer)"]


def test_a_failure_of_one_model_costs_its_pairs(store: Store) -> None:
    finished(store, "a", "directions")
    finished(store, ("a", "b"), "transfer", "a → b: shared")
    study = study_of(store, load_profile("atlas"), failure("b", "directions"))
    assert said(study)[1].answers == ["a → b: shared", "b: did not finish (directions)"], "b → a is not there"
    finished(store, ("b", "a"), "transfer", "b → a: shared")
    study = study_of(store, load_profile("atlas"), failure("b", "directions"))
    assert said(study)[1].answers == ["a → b: shared", "b → a: shared"]


def test_one_model_that_failed_is_still_asked_for_a_second(store: Store, quickstart: Profile) -> None:
    finished(store, "a", "doctor", profile="quickstart")
    second = said(study_of(store, quickstart, failure("a", "directions")), "a")[1]
    assert second.reason.startswith("not asked: add --model gemma-3-270m: emotion-circuits study quickstart --model a")
    nothing = Study(quickstart, failures=[failure("gemma-3-270m", "doctor")])
    assert said(nothing, "gemma-3-270m")[1].reason.startswith("not asked: add --model smollm2-135m: ")


def test_a_model_without_any_run_is_not_typed_again(store: Store, quickstart: Profile) -> None:
    """Its name may be mistyped; a model that is known and failed is proposed where there is no other."""
    finished(store, "smollm2-135m", "directions", profile="quickstart")
    for name in ("smolm2", "gemma-3-270m"):
        study = study_of(store, quickstart, failure(name, "doctor"))
        command = "emotion-circuits study quickstart --model smollm2-135m gemma-3-270m"
        first, second, *_ = said(study, name, "smollm2-135m")
        assert first.answers[0] == "found" and second.reason == f"not asked: add --model gemma-3-270m: {command}"


def test_a_failure_says_which_file_to_remove(store: Store, quickstart: Profile) -> None:
    finished(store, "a", "directions", profile="quickstart")
    for model in ("b", "c"):
        leave_log(store, "quickstart", failure(model, "doctor"), model)
    leave_log(store, "quickstart", failure("a → b", "transfer"), ("a", "b"))
    report = assemble_report(study_on_disk(store, quickstart), Asked("quickstart", store.root))
    (section,) = [s for s in report.sections if s.name == "failures"]
    files = [store.root / "quickstart" / folder / "failed.json" for folder in ("a--b", "b", "c")]
    stays = "stays in this list until it goes through. If it is given up for good, remove"
    models = ("a → b", "b", "c")
    assert section.limits == [f"{model} {stays} `{file}`." for model, file in zip(models, files, strict=True)]
    for file in files:
        file.unlink()
    assert study_on_disk(store, quickstart).failures == []
    say = Catalogue(entries("ja"))
    assert say.sentence(section.limits[1]).startswith("b は、最後まで") and not say.unknown


def test_nothing_is_left_of_what_is_no_model(store: Store, quickstart: Profile) -> None:
    error = UnknownModelError("unknown model 'smolm2'", "choose one", "smolm2")
    leave_log(store, "quickstart", Failure("smolm2", "doctor", error), "smolm2")
    assert not store.root.joinpath("quickstart").exists()
    leave_log(store, "quickstart", Failure("b", "sweep", error), "b")
    assert [f.model for f in study_on_disk(store, quickstart).failures] == ["b"], "its evaluator is none, it is one"


def test_a_model_is_known_again_as_it_was_typed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished(store, "my-model-0a1b2c", "directions", addresses=[str(tmp_path / "my model")])
    study = study_of(store, load_profile("atlas"), failure("./my model", "doctor"))
    assert name_of("./my model", study) == "my-model-0a1b2c" and models_of(study) == ["my-model-0a1b2c"]
    assert name_of("my-model", study) == "my-model-0a1b2c" and name_of("./other", study) == "other"


def test_every_reason_and_failure_has_a_translation(quickstart: Profile) -> None:
    say = Catalogue(entries("ja"))
    for text in ("not run yet: emotion-circuits run sweep", "gpt2: did not finish (sweep)", "did not finish",
                 "a → b: did not finish (transfer)", "done for a, not for b"):  # fmt: skip
        assert say.sentence(text) != text
    assert say("gpt2: did not finish (sweep)") == "gpt2：未完了（sweep）" and not say.unknown
