"""The user's own texts as a profile: matched by scenario, or not matched at all, which the report must say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

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
    run().refused(2, "prompt set mine has 0 texts of 'neutral'")


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
    answer.refused(2, "'anger' and 'neutral' together", "an interval needs 5 and 2", "prompts build")
    assert not list(tmp_path.glob("r/*/*/extract"))


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
        2, "0 texts of 'neutral' in its fit split", "prompts build"
    )
