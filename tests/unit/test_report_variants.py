"""Two runs of one experiment on one model: both are reported and told apart, and the profile's own comes first."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.experiments import Study, load_profile
from emotion_circuits.report.answers import verdicts
from emotion_circuits.report.assemble import assemble_report
from emotion_circuits.report.collect import further_runs, study_on_disk
from emotion_circuits.report.commands import Asked
from emotion_circuits.report.comparison import COLUMNS, comparison, summary_csv
from emotion_circuits.report.translation import Catalogue, entries, translated
from emotion_circuits.report.variants import given, is_own, marked
from emotion_circuits.report.write import write_report
from emotion_circuits.store import Store
from emotion_circuits.types import Report
from finished_runs import finished

OWN = "a → b: inconclusive (the largest null p is 0.2); layers 3 → 4"
OTHER = "a → b: partly shared (the largest null p is 0.2); layers 3 → 4"
ON = {"on": "/home/me/goemotions-eight.jsonl"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def twice(store: Store) -> Study:
    """The profile's transfer, then one on other texts: the first scores 0.1, the second 0.6."""
    for model in ("a", "b"):
        finished(store, model, "directions", summary=of_one())
    finished(store, ("a", "b"), "transfer", OWN, summary={"tau": 0.1, "verdict": "inconclusive"})
    finished(store, ("a", "b"), "transfer", OTHER, changed=ON, summary={"tau": 0.6, "verdict": "partly shared"})
    return study_on_disk(store, load_profile("atlas"))


def of_one() -> dict[str, Any]:
    row = {"emotion": "anger", "position": "last", "layer": 3, "established": True, "auroc_test": 0.9, "ci": [0.8, 1.0],
           "p_shuffled": 0.01, "own_vs_rest": 0.8, "own_vs_rest_ci": None}  # fmt: skip
    return {"results": [row]}


def report_of(study: Study) -> Report:
    return assemble_report(study, Asked(study.profile.name))


def test_a_verdict_on_other_texts_names_them(store: Store) -> None:
    second = verdicts(twice(store), Asked("atlas"))[1]
    assert second.answers == [
        OWN,
        "a → b on goemotions-eight.jsonl: partly shared (the largest null p is 0.2); layers 3 → 4",
    ]


def test_other_sets_of_texts_are_named(store: Store) -> None:
    run = finished(store, ("a", "b"), "transfer", OTHER, changed={"texts": ["extended"], "per_emotion": 99})
    assert marked(run, load_profile("atlas")) == " on extended [per-emotion=99]"
    assert given(run, load_profile("atlas")) == "texts=extended per-emotion=99"


def test_a_comparison_that_nobody_planned_names_its_texts_alone(store: Store) -> None:
    run = finished(store, ("a", "b"), "transfer", OTHER, profile="implicit", changed={**ON, "resamples": 200})
    (found,) = study_on_disk(store, load_profile("implicit")).runs
    assert found.key == run.key and marked(found, load_profile("implicit")) == " on goemotions-eight.jsonl"


def test_another_position_in_the_texts_is_told_where_nobody_planned_the_comparison(store: Store) -> None:
    finished(store, ("a", "b"), "transfer", OTHER, profile="implicit", changed={"position": "last"})
    (found,) = study_on_disk(store, load_profile("implicit")).runs
    assert marked(found, load_profile("implicit")) == " [position=last]"


def test_the_table_of_estimates_says_where_texts_were_read(store: Store) -> None:
    each = {"tau": 0.1, "ci": None, "p": {}, "verdict": "x"}
    summary = {**each, "layer_pair": {"source": 3, "target": 4}, "per_emotion": [{**each, "emotion": "joy"}]}
    finished(store, ("a", "b"), "transfer", OTHER, changed={"position": "last"}, summary=summary)
    rows = [*csv.DictReader(io.StringIO(summary_csv(study_on_disk(store, load_profile("atlas")))))]
    assert [row["position"] for row in rows] == ["last", "last"]


@pytest.mark.parametrize(("places", "label"), [(("last",), "anger"), (("last", "mean-content"), "anger (last)")])
def test_figures_of_estimates_name_positions_where_there_are_several(
    store: Store, places: tuple[str, ...], label: str
) -> None:
    (row,) = of_one()["results"]
    for model in ("a", "b"):
        finished(store, model, "directions", summary={"results": [{**row, "position": p} for p in places]})
    section = comparison(study_on_disk(store, load_profile("atlas")))
    assert section is not None and section.figures[0].data[0]["label"] == label


def test_both_runs_have_a_section_that_says_which_it_is(store: Store) -> None:
    report = report_of(twice(store))
    headings = [s.heading for s in report.sections if s.name == "transfer"]
    assert headings == ["transfer", "transfer · with on=goemotions-eight.jsonl"]
    answers = [list(s.answer) for s in report.sections if s.name == "transfer"]
    assert answers == [
        [OWN + "."],
        ["a → b on goemotions-eight.jsonl: partly shared (the largest null p is 0.2); layers 3 → 4."],
    ]
    assert sum(key.startswith("run transfer") for key in report.provenance) == 2


def test_the_matrix_and_the_comparison_show_the_profiles_own_run(store: Store) -> None:
    study = twice(store)
    (pairs,) = [s for s in report_of(study).sections if s.name == "pairs"]
    assert [row["value"] for row in pairs.figures[0].data] == [0.1] and pairs.answer == ["a → b: inconclusive."]
    beside = comparison(study)
    assert beside is not None
    (taus,) = [f for f in beside.figures if f.name == "comparison-tau"]
    assert [row["value"] for row in taus.data] == [0.1]
    assert [line for line in beside.answer if "→" in line] == ["a → b, layers 1 → 1: inconclusive (τ 0.10)."]
    assert [r["experiment"] for r in beside.tables[0].rows if r["emotion"] == "all"] == [
        "transfer", "transfer on goemotions-eight.jsonl",
    ]  # fmt: skip


def test_the_only_run_of_a_pair_is_shown_with_its_texts(store: Store) -> None:
    finished(store, ("a", "b"), "transfer", OTHER, changed=ON, summary={"verdict": "partly shared"})
    (pairs,) = [s for s in report_of(study_on_disk(store, load_profile("atlas"))).sections if s.name == "pairs"]
    assert pairs.answer == ["a → b on goemotions-eight.jsonl: partly shared."]


def test_a_quick_run_does_not_take_the_place_of_the_studys(store: Store) -> None:
    own = finished(store, "a", "sweep", "anger: established", profile="quickstart")
    quick = finished(store, "a", "sweep", "anger: not established", profile="quickstart", changed={"scenarios": 10})
    study = study_on_disk(store, load_profile("quickstart"))
    assert [run.key for run in study.runs] == [own.key, quick.key]
    assert verdicts(study, Asked("quickstart"))[2].answers == [
        "anger: established", "[scenarios=10] anger: not established",
    ]  # fmt: skip
    headings = [s.heading for s in report_of(study).sections if s.name == "sweep"]
    assert headings == ["sweep", "sweep · with scenarios=10"]


def test_headings_name_the_model_and_what_was_given(store: Store) -> None:
    for model in ("a", "b"):
        finished(store, model, "sweep", profile="quickstart")
    finished(store, "a", "sweep", profile="quickstart", changed={"scenarios": 10})
    report = report_of(study_on_disk(store, load_profile("quickstart")))
    headings = [s.heading for s in report.sections if s.name == "sweep"]
    assert headings == ["sweep · a", "sweep · b", "sweep · a · with scenarios=10"]


def test_the_latest_of_the_profiles_own_runs_is_the_one_that_counts(store: Store) -> None:
    finished(store, "a", "directions")
    later = finished(store, "a", "directions", seed=1)
    assert [run.key for run in study_on_disk(store, load_profile("atlas")).runs] == [later.key]


def test_the_profiles_own_run_is_of_the_latest_ones_seed(store: Store) -> None:
    same = finished(store, "a", "directions", seed=1)
    finished(store, "a", "directions", seed=0)
    quick = finished(store, "a", "directions", changed={"permutations": 99}, seed=1)
    assert [run.key for run in study_on_disk(store, load_profile("atlas")).runs] == [same.key, quick.key]


def test_further_runs_are_counted_and_say_how_to_list_them(store: Store) -> None:
    for permutations in (99, 199, 299):
        finished(store, "a", "directions", changed={"permutations": permutations})
    finished(store, "a", "directions")
    study = study_on_disk(store, load_profile("atlas"))
    assert further_runs(study) == {("a", "directions"): 3}
    (section,) = [s for s in report_of(study).sections if s.name == "directions"]
    assert section.limits == [
        "Finished runs of directions on a that are not shown, with other parameters or seeds: 3. "
        "`emotion-circuits ls --profile atlas` lists them."
    ]
    say = Catalogue(entries("ja"))
    assert "3 件" in say.sentence(section.limits[0]) and not say.unknown


def test_an_experiment_beside_the_profile_is_shown_once(store: Store) -> None:
    finished(store, "a", "compare", "first")
    finished(store, "a", "compare", "second", changed={"resamples": 200})
    study = study_on_disk(store, load_profile("atlas"))
    assert [run.read_summary()["verdicts"] for run in study.runs] == [["second"]]
    assert further_runs(study) == {("a", "compare"): 1}


def test_parameters_that_a_run_was_too_old_to_know_are_the_defaults(store: Store) -> None:
    run = finished(store, "a", "directions")
    known = {k: v for k, v in run.read_json("spec.json")["inputs"]["params"].items() if k != "permutations"}
    old = store.run("atlas", "b", "directions", {"params": known})
    older = store.run("atlas", "c", "directions", {"params": {**known, "gone": 3}})
    assert is_own(old, load_profile("atlas")) and given(older, load_profile("atlas")) == "gone=3"


def test_parameters_inside_others_are_named_and_long_lists_cut(store: Store) -> None:
    inner = {"directions": {"permutations": 99}, "strengths": [-0.2, -0.1, 0.1, 0.2], "texts": "grid", "samples": 9}
    run = finished(store, "a", "sweep", profile="quickstart", changed=inner)
    told = given(run, load_profile("quickstart"))
    assert told.endswith(" …") and "strengths=-0.2,-0.1,0,…" in told and "directions.permutations=99" in told


def test_the_csv_keeps_its_columns_and_tells_the_runs_apart(store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO(summary_csv(twice(store)))))
    assert tuple(rows[0]) == COLUMNS
    taus = {row["experiment"]: row["estimate"] for row in rows if row["measure"] == "tau"}
    assert taus == {"transfer": "0.1", "transfer on goemotions-eight.jsonl": "0.6"}


def test_files_and_anchors_of_two_runs_do_not_collide(store: Store, tmp_path: Path) -> None:
    written = write_report(report_of(twice(store)), tmp_path / "out", "ja")
    page = written.html.read_text(encoding="utf-8")
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids)) and len(set(written.figures)) == len(written.figures)
    assert "設定：on=goemotions-eight.jsonl" in page and "a → b（goemotions-eight.jsonl）：部分的" in page


def test_translations_of_a_verdict_on_other_texts() -> None:
    say = Catalogue(entries("ja"))
    found = "τ 0.45 [0.20, 0.70]: transfer 0.70, highest floor 0.60, native 0.90; the largest null p is 0.2"
    both = "a → b on x.jsonl [per-emotion=150 depths=0.5,0.65]"
    assert say.sentence(f"{both}, implicit texts: shared ({found})").startswith(
        "a → b（x.jsonl [per-emotion=150 depths=0.5,0.65]）、感情語なしの文章：共有されている（τ 0.45"
    )
    for line in (
        f"a → b on x.jsonl: shared ({found}); layers 3 → 4", f"a → b on x.jsonl, explicit texts: shared ({found})",
        "a → b on x.jsonl, by emotion: shared: anger, joy; not shared: awe", "a → b on x.jsonl: shared.",
        "a → b on x.jsonl, layers 3 → 4: shared (τ 0.45).",
    ):  # fmt: skip
        assert say.sentence(line).startswith("a → b（x.jsonl）"), line
    assert not say.unknown
    assert say("a → b [resamples=200]: shared.") == "a → b [resamples=200]：共有されている。"


def test_the_translated_report_keeps_the_models_names(store: Store) -> None:
    shown, _ = translated(report_of(twice(store)), "ja")
    assert any(s.heading.endswith("· 設定：on=goemotions-eight.jsonl") for s in shown.sections)
