"""Methods of a report: a paragraph for every kind of experiment that is part of it, and none for the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_circuits.experiments import experiments
from emotion_circuits.report import methods
from emotion_circuits.store import Store
from finished_runs import finished

NO_FIGURES = ("doctor", "extract", "shared-texts", "directions", "readout.scale")
"""What measures a model or captures texts, and what the paragraphs that stand on every page are about."""


def told(tmp_path: Path, *names: str, summary: dict[str, object] | None = None) -> tuple[str, ...]:
    """What is said of one finished run of each experiment; pairs for those on two models."""
    paired = ("transfer", "transfer-steer", "align", "k-sweep", "subspace-align", "overlap", "heads.match")
    runs = [
        finished(Store(tmp_path), ("a", "b") if name in paired else "a", name, profile="baseline", summary=summary)
        for name in names
    ]
    return methods.methods(runs)


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        ("transfer", (methods.MAPS, *methods.TRANSFER)),
        ("align", (methods.MAPS, methods.SUBSPACES)),
        ("transfer-steer", (methods.STEERING, methods.ENDPOINT, methods.WRITTEN, methods.MAPS, methods.MAPPED)),
        ("heads.screen", (methods.ENDPOINT, methods.ABLATION, methods.ATTRIBUTION)),
        ("circuit.report", (methods.ENDPOINT, methods.ABLATION, methods.ATTRIBUTION, methods.CIRCUIT)),
        ("patch", (methods.ENDPOINT, methods.PATCHING)),
        ("sweep", (methods.STEERING, methods.ENDPOINT, methods.RANDOM, methods.WRITTEN)),
        ("controls", (methods.STEERING, methods.RANDOM_TEXTS, methods.WRITTEN)),
        ("heads.match", (methods.MATCHED,)),
        ("circuit.ov-qk", (methods.ENDPOINT, methods.ABLATION, methods.ROUTES)),
        ("check", (methods.OWN_TEXTS,)),
        ("doctor", ()),
    ],
)
def test_methods_are_those_of_the_experiments(tmp_path: Path, experiment: str, said: tuple[str, ...]) -> None:
    found = told(tmp_path, experiment)
    assert found[:4] == methods.PAIRED, "of the texts and directions that every experiment starts from"
    told_of_runs = ("Strength (", "Emotional texts read at (")
    assert tuple(p for p in found[4:] if not p.startswith(told_of_runs)) == said


def test_where_the_texts_of_two_models_were_read_is_told(tmp_path: Path) -> None:
    assert "Emotional texts read at (transfer, align): mean-content." in told(tmp_path / "a", "transfer", "align")
    run = finished(Store(tmp_path), "a", "transfer", profile="atlas", changed={"position": "last"})
    assert "Emotional texts read at (transfer): last." in methods.methods([run])


@pytest.mark.parametrize("experiment", [name for name in experiments() if name not in NO_FIGURES])
def test_every_experiment_has_a_paragraph_of_its_own(tmp_path: Path, experiment: str) -> None:
    assert len(told(tmp_path, experiment)) > len(methods.PAIRED)


def test_strength_is_told_in_the_unit_of_the_run(tmp_path: Path) -> None:
    fraction = f"Strength (sweep, real-world): {methods.UNITS['fraction']}."
    assert fraction in told(tmp_path / "a", "sweep", "real-world")
    raw = told(tmp_path / "b", "sweep", summary={"unit": "raw"})
    assert f"Strength (sweep): {methods.UNITS['raw']}." in raw and "residual norm" not in " ".join(raw)


def test_controls_steer_in_the_unit_of_their_sweep(tmp_path: Path) -> None:
    changed = {"sweep": {"grid": "plan"}}
    run = finished(Store(tmp_path), "a", "controls", profile="baseline", changed=changed)
    assert f"Strength (controls): {methods.UNITS['raw']}." in methods.methods([run])
