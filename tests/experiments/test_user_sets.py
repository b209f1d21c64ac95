"""The user's own texts as a profile: matched by scenario, or not matched at all, which the report must say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments import _heads, _steering, experiments, load_profile
from emotion_circuits.experiments.directions import Directions
from emotion_circuits.runners.desk import profile_of
from emotion_circuits.runners.plan import plan_study
from emotion_circuits.store import Store

OPENINGS = {"anger": "I hate the", "gratitude": "Thank you for the", "neutral": "This is the"}
THINGS = ("parcel", "window", "dog", "bus", "car", "street", "station", "glass", "space", "kindness", "weekend",
          "morning", "rain", "noon", "Tuesday", "walk", "pay", "year", "left", "city", "road", "key", "desk", "lamp",
          "box", "cup", "map", "hat", "pen", "coin", "bag", "belt", "card", "cake", "rope", "sock")  # fmt: skip


@pytest.fixture
def build(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds the set ``mine`` from texts with or without scenarios."""
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(tmp_path / "data"))

    def make(paired: bool, name: str = "mine", emotions: tuple[str, ...] = tuple(OPENINGS), ending: str = ".") -> None:
        rows = [
            {"text": f"{OPENINGS[label]} {thing}{ending}", "emotion": label} | ({"scenario": thing} if paired else {})
            for thing in THINGS
            for label in emotions
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        answer = cli("prompts", "build", "--from", path, "--name", name)
        assert answer.code == 0, answer.err

    return make


@pytest.fixture
def run(cli: Any, model: Path, tmp_path: Path) -> Any:
    def command(*options: object) -> Any:
        words = ("--permutations", 99, "--resamples", 200, "--quiet", "--results", tmp_path / "results")
        return cli("run", "directions", "--model", model, "--profile", "mine", *words, *options)

    return command


def section(results: Path) -> str:
    (run_,) = Store(results).find(experiment="directions")
    return " ".join(run_.read_json("section.json")["answer"])


def test_matched_set(build: Any, run: Any, cli: Any, tmp_path: Path) -> None:
    build(paired=True)
    answer = run("--positions", "mean-content", "emotion-word-last")
    assert answer.code == 0 and "unpaired" not in answer.out
    assert "unpaired" not in section(tmp_path / "results")
    stats = cli("stats", "effect", "--profile", "mine", "--results", tmp_path / "results", "--json")
    assert stats.code == 0 and any(r["p_permutation"] is not None for r in stats.json["tables"]["effect"])


def test_set_without_scenarios_says_that_it_is_unpaired(build: Any, run: Any, tmp_path: Path) -> None:
    build(paired=False)
    answer = run()
    assert answer.code == 0 and "unpaired texts" in answer.out
    assert "the analysis is unpaired" in section(tmp_path / "results")
    found = run("--json").json
    assert found["paired"] is False and all(r["n_test"] >= 5 for r in found["results"])


def test_unpaired_set_at_its_words(build: Any, run: Any) -> None:
    build(paired=False)
    answer = run("--positions", "emotion-word-last", "--json")
    assert all(r["auroc_test"] > 0.5 for r in answer.json["results"])


def test_statistics_of_an_unpaired_set_do_not_pretend_to_pairs(build: Any, run: Any, cli: Any, tmp_path: Path) -> None:
    build(paired=False)
    run()
    answer = cli("stats", "effect", "--profile", "mine", "--results", tmp_path / "results", "--json")
    assert answer.code in (1, 3), "not everything could be tested"
    rows = json.loads(answer.out)["tables"]["effect"]
    assert rows and all(r["status"].startswith("not tested: not paired") for r in rows)


def test_set_without_neutral_text(build: Any, run: Any) -> None:
    build(paired=True, emotions=("anger", "gratitude"))
    run().refused(2, "prompt set mine has no text of 'neutral'")


def test_set_of_neutral_texts_only(build: Any, run: Any) -> None:
    build(paired=True, emotions=("neutral",))
    run().refused(2, "prompt set mine has no emotional text")


def test_words_are_asked_of_texts_that_have_none(build: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPENINGS, "anger", "Get away from the")
    monkeypatch.setitem(OPENINGS, "gratitude", "You did help with the")
    build(paired=True)
    run("--positions", "emotion-word-last").refused(2, "has an emotion word", "mean-content")


def test_two_sets_whose_texts_have_the_same_ids(build: Any, run: Any) -> None:
    build(paired=True)
    build(paired=True, name="other", ending=" again.")
    rows = run("--compare", "other", "--beside", "other", "--json").json["results"]
    assert all(r["compare"]["other"]["n"] == r["n_test"] for r in rows), "scenarios that were used to fit are left out"
    assert all(r["beside"]["other"]["n"] == r["n_test"] for r in rows)


@pytest.mark.parametrize("shape", ["two texts a side", "one scenario"])
def test_too_few_scenarios_for_an_interval_are_refused_before_anything_is_captured(
    cli: Any, model: Path, tmp_path: Path, shape: str
) -> None:
    """Eight test scenarios in all, but four in each comparison; thirty, but all texts of one label in one."""
    n = 6 if shape == "two texts a side" else 30
    labels = {**OPENINGS, "joy": "I am happy about the"}
    rows = [{"text": f"{opening} {THINGS[i]}.", "emotion": e, "split": ("fit", "dev", "test")[3 * i // n],
             "scenario": "one" if shape == "one scenario" and e == "anger" and 3 * i // n == 2 else f"{e}{i}"}
            for e, opening in labels.items() for i in range(n)]  # fmt: skip
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    answer = cli("run", "directions", "--model", model, "--profile", path, "--results", tmp_path / "r", "--quiet")
    answer.refused(2, "'anger' and 'neutral' together", "an interval needs 5 and 2", f"add rows to {path}")
    assert not list(tmp_path.glob("r/*/*/extract"))


@pytest.mark.parametrize(("paired", "count", "kind"), [(True, 12, "12 scenarios"), (True, 2, "2 scenarios"),
                                                       (False, 1, "3 texts")])  # fmt: skip
@pytest.mark.parametrize("verb", ["study", "run"])
def test_a_set_that_is_too_small_says_how_many_are_the_least_and_how_to_add_them(
    build: Any, cli: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, paired: bool,
    count: int, kind: str,
) -> None:  # fmt: skip
    """No option adds texts to a set, and `study` has neither --emotions nor --scenarios: neither is named."""
    monkeypatch.setattr(sys.modules[__name__], "THINGS", THINGS[:count])
    build(paired)
    words = ("study", "mine") if verb == "study" else ("run", "directions", "--profile", "mine")
    answer = cli(*words, "--model", model, "--results", tmp_path / "r", "--quiet")
    said = f"(it has {kind}; 20 with every label, dealt by `prompts build`, are enough)"
    assert answer.code and said in answer.err and "prompts build --from FILE --name mine" in answer.err
    assert "--emotions" not in answer.err and "--scenarios" not in answer.err


def test_a_limit_that_was_typed_is_what_the_hint_names(build: Any, run: Any) -> None:
    build(paired=True)
    run("--scenarios", 12).refused(2, "it has 12 scenarios", "more than 12 scenarios (--scenarios), or for all")


def test_a_limit_is_not_blamed_for_what_the_whole_set_lacks(
    build: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "THINGS", THINGS[:14])
    build(paired=True)
    answer = run("--scenarios", 12)
    answer.refused(2, "it has 12 scenarios", "prompts build --from FILE --name mine")
    assert "--scenarios" not in answer.err


@pytest.mark.parametrize("texts", [14, 36])
def test_a_small_unpaired_set_goes_through(build: Any, run: Any, monkeypatch: pytest.MonkeyPatch, texts: int) -> None:
    """Halves of few texts may lack a label: then there is less stability to report, and no failure."""
    monkeypatch.setattr(sys.modules[__name__], "THINGS", THINGS[:texts])
    build(paired=False)
    assert len(run("--json").json["results"]) == 2


def test_set_in_a_file_is_a_profile_by_its_path(cli: Any, model: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{o} {thing}.", "emotion": e, "scenario": thing, "split": split}
            for thing, split in zip(THINGS, ("fit", "fit", "dev", "test") * 9, strict=True)
            for e, o in OPENINGS.items()]  # fmt: skip
    path = tmp_path / "handmade.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = (
        "--model",
        model,
        "--profile",
        path,
        "--results",
        tmp_path / "r",
        "--permutations",
        99,
        "--json",
        "--quiet",
    )
    found = cli("run", "directions", *words).json
    assert found["profile"] == "handmade" and [r["n_test"] for r in found["results"]] == [9, 9]
    bare = path.with_name("bare.jsonl")
    bare.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "split"}) + "\n" for r in rows))
    cli("run", "directions", "--model", model, "--profile", bare, "--results", tmp_path / "r").refused(
        2, "(108 of its 108 texts have no split: fit, dev or test)", f"prompts build --from {bare} --name bare"
    )


def sets_named(params: dict[str, Any]) -> set[str]:
    """Prompt sets in parameters, at any depth; the neutral texts of maps hold no emotion."""
    found: set[str] = set()
    for key, value in params.items():
        if isinstance(value, dict):
            found |= sets_named(value)
        elif key in ("prompts", "texts", "sets") and not isinstance(value, int):
            found |= {value} if isinstance(value, str) else {*value}
    return found


def test_whatever_is_run_in_the_profile_of_a_set_reads_that_set(build: Any, tmp_path: Path) -> None:
    build(paired=True)
    profile = load_profile("mine")
    # To continue, to give texts a domain; `texts` of a sweep says which cells are written.
    plain = {"continuations", "real_world", "grid"}
    own = [name for name, e in experiments().items() if type(e).__module__.startswith("emotion_circuits.")]
    named = {name: sets_named(profile.params(name).model_dump()) - plain for name in own}
    assert named == {name: set() if name == "doctor" else {"mine"} for name in own}
    carried = profile_of(plan_study(profile, ["x"], tmp_path, loading={"offline": True}).work)
    assert carried.params("transfer") == profile.params("transfer"), "in other processes too"


def test_options_and_tables_win_over_the_profiles_set(build: Any, tmp_path: Path) -> None:
    build(paired=True)
    asked: Any = load_profile("mine").params("transfer", {"texts": ("mine", "atlas")})
    assert asked.texts == ("mine", "atlas")
    path = tmp_path / "study.toml"
    path.write_text(
        'prompts = "mine"\n[[experiment]]\nname = "directions"\nscenarios = 20\n[[experiment]]\n'
        'name = "transfer"\ntexts = ["atlas"]\n[[experiment]]\nname = "sweep"\ndirections = { scenarios = 12 }\n',
        encoding="utf-8",
    )
    profile: Any = load_profile(str(path))
    assert profile.params("transfer").texts == ("atlas",) and profile.params("overlap").texts == ("mine",)
    assert profile.params("compare").directions == profile.params("directions")
    assert profile.params("sweep").directions.model_dump(include={"prompts", "scenarios"}) == {
        "prompts": "mine", "scenarios": 12,
    }  # fmt: skip
    path.write_text('prompts = 3\n[[experiment]]\nname = "directions"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="prompts must be a text"):
        load_profile(str(path))
    assert load_profile("atlas").params("transfer") == experiments()["transfer"].Params(), "built-in ones say their own"


def test_transfer_in_the_profile_of_a_set_is_about_its_emotions(
    build: Any, cli: Any, model: Path, tmp_path: Path
) -> None:
    build(paired=True)
    words = ("run", "transfer", "--source", model, "--target", model, "--profile", "mine", "--results", tmp_path / "r")
    small = ("--permutations", 99, "--resamples", 100, "--depths", 0, "--map-size", 70, "--floors", "embedding")
    found = cli(*words, *small, "--quiet", "--json").json
    assert {e["emotion"] for e in found["per_emotion"]} == {"anger", "gratitude"}


def test_a_set_of_one_emotion_is_told_what_to_type(build: Any, cli: Any, model: Path, tmp_path: Path) -> None:
    build(paired=True, emotions=("anger", "neutral"))
    words = ("--source", model, "--target", "y", "--profile", "mine", "--results", tmp_path / "r")
    for experiment in ("transfer", "overlap", "align", "k-sweep", "subspace-align", "transfer-steer"):
        cli("run", experiment, *words).refused(2, "mine has texts of 1 emotion(s)", "--texts mine atlas")
    alone = (*words, "--emotions", "anger")
    cli("run", "transfer", *alone).refused(2, "1 emotion(s)", "name more with --emotions")


def test_an_emotion_without_words_is_refused_where_its_words_are_the_endpoint(
    build: Any, cli: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPENINGS, "relief", "At last the")
    build(paired=True, emotions=("relief", "neutral"))
    words = ("--model", model, "--profile", "mine", "--results", tmp_path / "r", "--quiet")
    cli("run", "compare", *words).refused(2, "no emotion word", "give character spans")
    for experiment in ("sweep", "controls", "swap", "patch", "heads.screen", "neurons.saliency", "circuit.ov-qk",
                       "circuit.report"):  # fmt: skip
        cli("run", experiment, *words).refused(2, "'relief' cannot be measured here", "run steer --emotion relief")
    cli("run", "heads.screen", *words, "--prompts", "extended").refused(
        2, "no emotion of extended (", "fitted on mine (relief)", "--prompts mine"
    )
    cli("run", "heads.screen", *words, "--emotions", "relef").refused(2, "did you mean relief")
    assert not list(tmp_path.glob("r/*/*/*/*/done.json")), "nothing was computed before"
    steered = cli("run", "steer", *words, "--emotion", "relief", "--max-new-tokens", 3, "--directions.permutations",
                  99, "--directions.resamples", 200)  # fmt: skip
    assert steered.code == 0, steered.err
    build(paired=True, name="two", emotions=("relief", "anger", "neutral"))
    words = ("--model", model, "--profile", "two", "--results", tmp_path / "r", "--quiet")
    cli("run", "sweep", *words).refused(2, "'relief' cannot be measured here", "--emotions anger")
    monkeypatch.setitem(OPENINGS, "hope", "Maybe the")
    build(paired=True, name="both", emotions=("relief", "hope", "neutral"))
    pair = ("--source", model, "--target", "y", "--profile", "both", "--results", tmp_path / "r")
    cli("run", "transfer-steer", *pair).refused(2, "'hope' and 'relief' cannot be measured here")


def test_an_emotion_of_which_the_fit_reads_no_scenario_is_not_measured(build: Any, tmp_path: Path) -> None:
    build(paired=True, emotions=("anger", "neutral"))
    late = [{"text": f"Thank you for the {thing}.", "emotion": "gratitude", "scenario": thing} for thing in THINGS[30:]]
    file = tmp_path / "late.jsonl"
    file.write_text((tmp_path / "mine.jsonl").read_text() + "".join(json.dumps(row) + "\n" for row in late))
    fitted = Directions.Params(prompts=str(file), scenarios=30)
    assert _heads.expected_emotions(_heads.CircuitParams(prompts=str(file), directions=fitted)) == ("anger",)
    assert _steering.expected_emotions(_steering.SteeringParams(directions=fitted)) == ("anger",)
    with pytest.raises(UsageError, match="gratitude"):
        _heads.expected_emotions(_heads.CircuitParams(prompts=str(file), emotions=("gratitude",), directions=fitted))


def test_an_emotion_of_the_users_is_steered_by_its_own_words(
    build: Any, cli: Any, embedded: Any, worded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded("minilm")
    monkeypatch.setitem(OPENINGS, "nostalgia", "Those days with the")
    build(paired=True, emotions=("nostalgia", "neutral"))
    words = tmp_path / "words.toml"
    words.write_text('[nostalgia]\nplaces = ["garden", "bridge", "window", "those days"]\n', encoding="utf-8")
    assert cli("prompts", "build", "--from", tmp_path / "mine.jsonl", "--name", "mine", "--words", words).code == 0
    answer = cli("run", "sweep", "--model", worded, "--profile", "mine", "--results", tmp_path / "r", "--quiet",
                 "--json", "--layers", 1, "--strengths", -0.4, 0, 0.4, "--samples", 1, "--random", 19,
                 "--max-new-tokens", 4, "--scenarios", 3, "--directions.permutations", 99,
                 "--directions.resamples", 200)  # fmt: skip
    assert answer.code == 0, answer.err
    (row,) = answer.json["test"]
    assert row["emotion"] == "nostalgia" and row["effect"] is not None and row["effect_lexicon"] is not None
    assert row["effect_embedded"] is None and row["evaluators"] == 1, "the classifier has no label for it"


def test_a_report_names_what_the_texts_lack_instead_of_a_command_that_would_be_refused(build: Any) -> None:
    build(paired=True, emotions=("anger", "neutral"))
    profile = load_profile("mine")
    refused = profile.refusal("transfer")
    assert refused is not None and "--texts mine atlas" in refused.fix
    assert profile.refusal("sweep") is None
