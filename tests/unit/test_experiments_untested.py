"""What was not tested is not said as if it were: too few texts have no interval, and two numbers have no winner."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotion_circuits.circuits import pairs
from emotion_circuits.experiments import _sweep_report
from emotion_circuits.experiments.circuit_ov_qk import _routing


@pytest.mark.parametrize(("texts", "tested"), [(3, False), (5, False), (6, True)])
def test_routing_of_fewer_texts_than_an_interval_needs_has_none(
    monkeypatch: pytest.MonkeyPatch, texts: int, tested: bool
) -> None:
    matched = [SimpleNamespace(cluster=f"s{i}") for i in range(texts)]
    monkeypatch.setattr(pairs, "length_matched", lambda lm, testing: matched)
    bench: Any = SimpleNamespace(
        context=SimpleNamespace(lm=None, seed=0), params=SimpleNamespace(resamples=200),
        saved=lambda name, compute: {"change": np.linspace(0.1, 0.4, texts)},
    )  # fmt: skip
    found = _routing(bench, SimpleNamespace(emotion="joy", testing=matched, metric=None), [])  # type: ignore[arg-type]
    assert ("ci" in found) is tested and ("too few to test" in found["sentence"]) is not tested


@pytest.fixture
def grid() -> Any:
    """A sweep of one layer and strength, without texts."""
    return SimpleNamespace(
        layers=(1,), strengths=(0.0, 0.2), unit="fraction", rows=lambda split: np.ones(4, dtype=bool), texts=None
    )


def established_row() -> dict[str, Any]:
    """An established row of the tested cell."""
    return {
        "emotion": "joy", "established": True, "damage_ok": True, "layer": 1, "alpha": 0.2, "effect": 3.0,
        "ci": [2.0, 4.0], "effect_embedded": 0.1, "ci_embedded": [0.0, 0.2], "prompting_effect": 2.26,
        "steering_effect": 3.02, "prompting_embedded": 0.1, "steering_embedded": 0.2, "others": {},
        "evaluators_agree": True, "passed_on_dev": True,
    }  # fmt: skip


def test_asking_and_steering_are_shown_without_a_winner(grid: Any) -> None:
    said = " ".join(_sweep_report._answer(grid, [established_row()]))
    assert "+2.26" in said and "+3.02" in said and "the difference was not tested" in said and "wins" not in said


@pytest.mark.parametrize("broken", [True, False])
def test_sound_sampled_texts_do_not_hide_broken_greedy_ones(
    grid: Any, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    cell = _sweep_report.cell_name("joy", 1, 0.2)
    monkeypatch.setattr(_sweep_report, "broken_cells", lambda grid: {cell} if broken else set())
    said = " ".join(_sweep_report._answer(grid, [established_row()]))
    assert ("The greedy texts at the tested cell of joy fail the damage gate" in said) is broken
