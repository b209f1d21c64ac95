"""Lines of answers as reports hold them, made by the experiments' own functions from rows of figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from emotion_circuits.experiments import _direction_report, _sweep_report
from emotion_circuits.experiments._components.circuit import FoundCircuit
from emotion_circuits.experiments._heads import confirmation_sentence
from emotion_circuits.experiments._pairs import transfer_report

DIRECTION = {"emotion": "gratitude", "layer": 13, "auroc_test": 1.0, "ci": (0.84, 1.0), "own_vs_rest": 0.97,
             "p_shuffled": 0.001, "established": True}  # fmt: skip
SWEEP = {"emotion": "anger", "layer": 14, "alpha": 0.3, "effect": 1.08, "ci": (0.76, 1.4), "effect_embedded": 0.03,
         "ci_embedded": (0.02, 0.04), "rank_p_isotropic": 0.001, "established": False, "damage_ok": False}  # fmt: skip
SHARED = {"verdict": "inconclusive", "reason": "the largest null p is 0.0648", "tau": 0.34, "ci": (0.11, 0.55),
          "transfer": 0.85, "floor": {"shuffled": 0.8}, "native": 0.94, "layer_pair": {"source": 22, "target": 11},
          "per_emotion": [{"verdict": "not identified", "emotion": "joy"}]}  # fmt: skip
CONFIRMED = {"emotion": "joy", "components": ["3:5"] * 10, "scenarios": 12, "change": -0.5, "ci": (-0.7, -0.3),
             "beaten": 99, "sets": 100, "layer_slack": 0, "random_mean": -0.1, "p": 0.01, "mode": "resample",
             "confirmed": True}  # fmt: skip


def direction(**changes: Any) -> str:
    """What ``directions`` says of one emotion of a model with 30 layers."""
    return _direction_report.verdict_lines([{**DIRECTION, **changes}], 30, paired=True)[0]


def sweep(**changes: Any) -> str:
    """What ``sweep`` says of one emotion."""
    return _sweep_report.verdict({**SWEEP, **changes})


def transfer(**changes: Any) -> list[str]:
    """What ``transfer`` says of a pair and of its emotions."""
    return transfer_report.verdict_lines(("a", "b"), {**SHARED, **changes}, {})


def confirmed(noun: str = "top heads", **changes: Any) -> str:
    """What ``heads.screen`` and its like say of components that were ablated together."""
    return confirmation_sentence({**CONFIRMED, **changes}, noun)


def circuit() -> str:
    """What ``circuit.report`` says of one emotion."""
    figures = {"faithfulness": 0.9, "cmd": 0.1, "stability": 0.5, "stability_chance": 0.1}
    found = SimpleNamespace(
        summary=SimpleNamespace(emotion="joy", nodes=[None] * 20, figures=figures),
        numbers={"beaten": 99, "random_circuits": 100, "all_nodes": 300},
    )
    return FoundCircuit.sentence(cast(FoundCircuit, found))
