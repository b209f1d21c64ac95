"""Rows of summary.csv: every experiment whose summary has an estimate per emotion, under columns that do not change."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.experiments import load_profile
from emotion_circuits.report.collect import study_on_disk
from emotion_circuits.report.comparison import COLUMNS, summary_csv, summary_rows
from emotion_circuits.report.translation import Catalogue, entries
from emotion_circuits.store import Store
from finished_runs import finished

CI = [-2.0, -1.0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def rows_of(store: Store, experiment: str, **summary: Any) -> list[dict[str, Any]]:
    finished(store, "a", experiment, profile="baseline", summary=summary)
    rows = summary_rows(study_on_disk(store, load_profile("baseline")))
    say = Catalogue(entries("ja"))
    for row in rows:
        assert list(row) == list(COLUMNS) and row["experiment"] == experiment and row["model"] == "a"
        for column in ("measure", "verdict"):
            say.sentence(row[column] or "")
    assert not say.unknown
    return rows


def picked(row: dict[str, Any], *columns: str) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


@pytest.mark.parametrize(("experiment", "what"), [("heads.screen", "heads"), ("neurons.saliency", "neurons")])
def test_chosen_components(store: Store, experiment: str, what: str) -> None:
    row = {"emotion": "anger", "mode": "resample", "change": -1.5, "ci": CI, "p": 0.01, "confirmed": True}
    without = {**row, "mode": "zero", "p": None, "confirmed": False}
    missed = {**row, "emotion": "joy", "p": 0.6, "confirmed": False}
    found = rows_of(store, experiment, confirmation=[row, without, missed])
    columns = "question", "emotion", "measure", "estimate", "low", "high", "p", "verdict"
    assert [picked(r, *columns) for r in found] == [
        (4, "anger", f"top {what} ablated (resample)", -1.5, *CI, 0.01, "confirmed"),
        (4, "anger", f"top {what} ablated (zero)", -1.5, *CI, None, None),
        (4, "joy", f"top {what} ablated (resample)", -1.5, *CI, 0.6, "not confirmed"),
    ]


def test_a_screen_from_before_there_were_confirmations(store: Store) -> None:
    assert rows_of(store, "heads.screen") == []


def test_circuits(store: Store) -> None:
    circuit = {"emotion": "anger", "faithfulness": 0.8, "beaten": 9, "random_circuits": 19}
    nothing = {"emotion": "joy", "gap": 1.2, "ci": [-1.1, 2.2], "texts": 6}
    found = rows_of(store, "circuit.report", results=[circuit], unexplained=[nothing])
    assert [picked(r, "question", "emotion", "estimate", "low", "high", "verdict") for r in found] == [
        (4, "anger", 0.8, None, None, "nearer to 1 than 9 of 19 random circuits"),
        (4, "joy", 1.2, -1.1, 2.2, "no circuit"),
    ]


def test_texts_of_the_users_own(store: Store) -> None:
    result = {"emotion": "anger", "layer": 3, "auroc": 0.9, "ci": [0.8, 1.0], "own_vs_rest": None}
    first, second = rows_of(store, "check", results=[result], position="last")
    assert picked(first, "question", "layer", "position", "measure", "estimate", "low") == (
        1, 3, "last", "AUROC on texts of your own", 0.9, 0.8,
    )  # fmt: skip
    assert picked(second, "measure", "estimate") == ("own-vs-rest AUROC on texts of your own", None)


def test_written_texts_against_their_controls(store: Store) -> None:
    row = {"emotion": "anger", "layer": 3, "scorer": "embedded", "arm": "+v", "against": "random: isotropic",
           "mean_diff": 0.2, "ci": [0.1, 0.3], "p_permutation": 0.02}  # fmt: skip
    asked = {**row, "arm": "prompting", "against": "baseline", "ci": None, "p_permutation": None}
    others = [{**row, "scorer": "lexicon"}, {**row, "arm": "-v"}, {**row, "arm": "random: shuffled"}]
    found = rows_of(store, "controls", results=[row, asked, *others])
    assert [picked(r, "question", "measure", "estimate", "low", "p") for r in found] == [
        (3, "steered texts' classifier score over random: isotropic", 0.2, 0.1, 0.02),
        (3, "asked for texts' classifier score over baseline", 0.2, None, None),
    ]


def test_the_columns_of_the_file_stay() -> None:
    assert COLUMNS == (
        "question", "experiment", "source", "model", "emotion", "position", "source_layer", "source_depth", "layer",
        "depth", "measure", "estimate", "low", "high", "p", "verdict",
    )  # fmt: skip


def test_what_is_not_there_is_empty(store: Store) -> None:
    nothing = {"emotion": "joy", "gap": 1.2, "ci": None, "texts": 6}
    finished(store, "a", "circuit.report", profile="baseline", summary={"unexplained": [nothing]})
    (row,) = csv.DictReader(io.StringIO(summary_csv(study_on_disk(store, load_profile("baseline")))))
    assert (row["estimate"], row["low"], row["p"], row["layer"]) == ("1.2", "", "", "")
