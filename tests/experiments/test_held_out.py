"""What was fitted on tests nothing: copies, scenarios in two splits, and which run counts as the latest answer."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments import Outcome
from emotion_circuits.experiments._captured import fingerprint_prompts
from emotion_circuits.experiments._runner import keep_outcome
from emotion_circuits.experiments._study import read_failures
from emotion_circuits.experiments.directions import established
from emotion_circuits.experiments.extract import select_sets
from emotion_circuits.prompts import build_profile, load_prompts
from emotion_circuits.prompts.copies import require_disjoint
from emotion_circuits.report.methods import methods
from emotion_circuits.store import Store
from emotion_circuits.types import Prompt

LABELS = {"anger": "I hate the", "gratitude": "Thank you for the", "neutral": "This is the"}


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def handmade() -> list[dict[str, Any]]:
    return [
        {"id": f"{label}-{n}", "text": f"{opening} item {n}.", "emotion": label, "scenario": f"item{n}",
         "split": ("fit", "fit", "dev", "test")[n % 4]}
        for n in range(32)
        for label, opening in LABELS.items()
    ]  # fmt: skip


def directions_of(cli: Any, model: Path, path: Path, results: Path, *more: object) -> Any:
    return cli("run", "directions", "--model", model, "--profile", path, "--results", results, "--permutations", 99,
               "--resamples", 200, "--quiet", *more)  # fmt: skip


# ---------------------------------------------------------------- what was fitted on


def test_check_leaves_out_texts_of_fit_and_dev(cli: Any, model: Path, profile: Path, copied: Path) -> None:
    texts = [p for p in select_sets(("baseline",), (), 20)["baseline"] if p.emotion in ("anger", "neutral")]
    rows = [{"text": f"  {p.text.upper()} ", "emotion": p.emotion} for p in texts]
    path = lines(copied / "again.jsonl", rows)
    words = ("run", "check", "--model", model, "--profile", profile, "--results", copied, "--quiet", "--on")
    found = cli(*words, path, "--json").json
    test = [p for p in texts if p.split == "test"]
    assert found["texts_of_the_fit_left_out"] == len(texts) - len(test)
    assert found["results"][0]["n"] + found["results"][0]["n_neutral"] == len(test)
    assert f"{len(texts) - len(test)} texts of the file were left out" in cli(*words, path).out
    seen = lines(copied / "seen.jsonl", [r for r, p in zip(rows, texts, strict=True) if p.split != "test"])
    cli(*words, seen).refused(2, "every text of", "fitted")


def test_copies_in_another_set_test_nothing(cli: Any, model: Path, tmp_path: Path) -> None:
    path = lines(tmp_path / "mine.jsonl", handmade())
    copies = [{**r, "id": f"c{i}", "scenario": f"other{r['scenario']}", "text": r["text"].upper()}
              for i, r in enumerate(handmade())]  # fmt: skip
    other = lines(tmp_path / "other.jsonl", copies)
    rows = directions_of(cli, model, path, tmp_path / "r", "--compare", other, "--json").json["results"]
    assert [r["compare"][str(other)]["n"] for r in rows] == [8, 8], "the copies of test texts only"


@pytest.mark.parametrize("change", [{"split": "test"}, {"text": "I  HATE the item 3.", "emotion": "anger"}])
def test_set_whose_splits_overlap_is_refused(cli: Any, model: Path, tmp_path: Path, change: dict[str, str]) -> None:
    rows = handmade()
    rows[0] = {**rows[0], **change}
    message = "is in the splits" if "split" in change else "are the same text"
    directions_of(cli, model, lines(tmp_path / "mine.jsonl", rows), tmp_path / "r").refused(2, message, "validate")
    assert not list((tmp_path / "r").glob("*/*/*/*/done.json"))


def test_copies_without_scenario_count_once() -> None:
    one, two = Prompt("a", "Thanks!", "gratitude", split="test"), Prompt("b", "thanks!", "gratitude", split="test")
    with pytest.raises(UsageError, match="two independent"):
        require_disjoint("mine", [one, two])
    require_disjoint("mine", [replace(one, scenario="s"), replace(two, scenario="s")])


def test_build_leaves_copies_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(tmp_path / "data"))
    rows = [{"text": t, "emotion": e} for t in ("Item 1.", "item  1.", "Item 2.") for e in ("anger", "neutral")]
    built = build_profile(lines(tmp_path / "in.jsonl", rows), "mine")
    assert len(built.prompts) == 4 and any("2 copies" in note for note in built.notes)
    assert len({p.split for p in built.prompts if p.text.endswith("1.")}) == 1


# ---------------------------------------------------------------- the key and `latest`


def test_key_knows_stratum_and_membership(cli: Any, model: Path, tmp_path: Path) -> None:
    prompts = load_prompts("baseline")[:3]
    assert fingerprint_prompts(prompts) != fingerprint_prompts([replace(prompts[0], stratum="implicit"), *prompts[1:]])
    mine = lines(tmp_path / "mine.jsonl", handmade())
    other = lines(tmp_path / "other.jsonl", handmade()[:60])
    keys = set()
    for rows in (handmade()[:60], handmade()[:66]):  # the union with the main set stays the same
        lines(other, rows)
        found = directions_of(cli, model, mine, tmp_path / "r", "--compare", other, "--json").json["results"]
        keys.add(found[0]["compare"][str(other)]["n"])
    assert len(list((tmp_path / "r").glob("*/*/extract/*/done.json"))) == 1
    assert len(list((tmp_path / "r").glob("*/*/directions/*/done.json"))) == 2


def test_latest_is_what_was_asked_for_last(cli: Any, model: Path, profile: Path, copied: Path) -> None:
    words = ("--model", model, "--profile", profile, "--results", copied, "--quiet")
    (pointer,) = copied.glob("*/*/directions/latest")
    first = pointer.read_text()
    path = lines(copied / "mine.jsonl", [{"text": "I hate it.", "emotion": "anger"},
                                         {"text": "A car.", "emotion": "neutral"}])  # fmt: skip
    assert cli("run", "check", *words, "--on", path, "--position", "last").code == 0
    assert len(list(copied.glob("*/*/directions/*/done.json"))) == 2
    assert pointer.read_text() == first, "directions that only `check` requires answer another request"
    assert cli("run", "directions", *words, "--seed", 5).code == 0 and pointer.read_text() != first
    assert cli("run", "directions", *words).code == 0
    assert pointer.read_text() == first, "reused work is the latest answer too"


# ---------------------------------------------------------------- studies and reports


def test_defect_on_one_model_lets_the_others_go_on(
    cli: Any, profile: Path, model: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Path(shutil.copytree(model, copied / "odd-llama"))
    module = sys.modules["emotion_circuits.models.load"]
    whole = module.load_lm

    def load(source: str, **options: Any) -> Any:
        if "odd" in str(source):
            raise KeyError("strange weights")
        return whole(source, **options)

    monkeypatch.setattr("emotion_circuits.models.load_lm", load)
    answer = cli("study", profile, "--results", copied, "--model", odd, model)
    assert answer.code == 3 and "unexpected failure" in answer.err and "strange weights" in answer.err
    assert "Traceback" not in answer.err
    (log,) = copied.glob("small/odd-llama/failures.jsonl")
    assert "raise KeyError" in json.loads(log.read_text())["traceback"]
    (failure,) = read_failures(Store(copied), "small")
    assert failure.experiment == "directions"
    page = copied / "small" / "report" / "report.html"
    page.unlink()
    assert cli("report", "--profile", profile, "--results", copied).code == 0
    assert "strange weights" in page.read_text(encoding="utf-8")


def test_methods_of_unmatched_texts_do_not_claim_pairs(cli: Any, model: Path, profile: Path, copied: Path,
                                                       tmp_path: Path) -> None:  # fmt: skip
    matched = Store(copied).find(experiment="directions")
    assert "minimal pairs" in methods(matched)[0] and "99 permutations, 200 resamples" in methods(matched)[-1]
    rows = [{k: v for k, v in r.items() if k != "scenario"} for r in handmade()]
    assert directions_of(cli, model, lines(tmp_path / "mine.jsonl", rows), tmp_path / "r").code == 0
    (run,) = Store(tmp_path / "r").find(experiment="directions")
    text = " ".join(methods([run]))
    assert "minimal pairs" not in text and "within scenarios" not in text and "not matched" in text
    captions = [f["caption"] for f in run.read_json("section.json")["figures"] if f["kind"] == "layer-curves"]
    assert captions and all("within scenarios" not in c and "unpaired" in c for c in captions)


# ---------------------------------------------------------------- what a run holds


def test_strata_components_and_curves(cli: Any, model: Path, tmp_path: Path) -> None:
    rows = [{**r, "stratum": "explicit" if r["emotion"] != "neutral" else "none"} for r in handmade()]
    rows += [{"id": f"i-{n}", "text": f"He slammed item {n} down.", "emotion": "anger", "scenario": f"item{n}",
              "split": ("fit", "fit", "dev", "test")[n % 4], "stratum": "implicit"} for n in range(32)]  # fmt: skip
    path = lines(tmp_path / "mine.jsonl", rows)
    found = directions_of(cli, model, path, tmp_path / "r", "--components", 2, "--sites", "resid_post", "mlp_out",
                          "--json").json["results"]  # fmt: skip
    by = {r["emotion"]: r for r in found if r["site"] == "resid_post"}
    assert {k: x["n"] for k, x in by["anger"]["strata"].items()} == {"explicit": 8, "implicit": 8}
    assert by["gratitude"]["strata"] == {} and by["anger"]["n_test"] == 16
    (run,) = Store(tmp_path / "r").find(experiment="directions")
    section = run.read_json("section.json")
    assert any("implicit" in sentence and "anger" in sentence for sentence in section["answer"])
    (table,) = (t for t in section["tables"] if t["name"] == "neutral-components")
    assert [r["auroc"] for r in table["rows"]] == [r["without_neutral_components"]["auroc"] for r in found]
    curves = run.read_json("curves.json")
    chosen = {(r["site"], r["emotion"]): r for r in curves["layers"] if r["chosen"]}
    assert all(chosen[r["site"], r["emotion"]]["auroc"] == r["auroc_test"] for r in found)
    assert len(curves["layers"]) == 2 * 2 * 3 and all(r["l1"] >= r["l2"] > 0 for r in curves["layers"])
    assert len(curves["cosines"]) == 2 * 3 and all(-1 <= r["cosine"] <= 1 for r in curves["cosines"])


def test_first_scenarios_are_those_that_come_first(tmp_path: Path) -> None:
    rows = [{"id": f"{n}{e}", "text": f"{e} {n}", "emotion": e, "scenario": n} for n in ("z", "m", "a")
            for e in ("anger", "neutral")]  # fmt: skip
    path = str(lines(tmp_path / "mine.jsonl", rows))
    assert [p.scenario for p in select_sets((path,), (), 2)[path]] == ["z", "z", "m", "m"]


def test_established_goes_by_the_chosen_layer() -> None:
    above = SimpleNamespace(interval=SimpleNamespace(low=np.array([0.9, 0.9])))
    found = {"row": 0, "own_vs_rest": None, "against_neutral": above, "p_max_layer": 0.001, "p_shuffled": 0.001}
    assert established(SimpleNamespace(**found, p_layer=0.01))  # type: ignore[arg-type]
    assert not established(SimpleNamespace(**found, p_layer=0.2))  # type: ignore[arg-type]


def test_observations_are_streamed(tmp_path: Path) -> None:
    run = Store(tmp_path).run("p", "m", "e", {})
    asked: list[int] = []

    def rows() -> Iterator[Any]:
        for n in range(3):
            asked.append(n)
            yield n

    taken: list[Any] = []

    class Recording:
        def write_observations(self, given: Iterator[Any]) -> None:
            assert asked == [0], "nothing but the first row was made before writing began"
            taken.extend(given)

        def __getattr__(self, name: str) -> Any:
            return getattr(run, name)

    with run.open():
        keep_outcome(Recording(), {}, Outcome({}, observations=rows()), asked=True, summary={})  # type: ignore[arg-type]
    assert taken == [0, 1, 2] and run.done
