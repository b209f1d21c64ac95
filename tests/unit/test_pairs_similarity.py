"""What stands beside the verdict on sharing: similarities in standard coordinates of every model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotion_circuits.experiments._pairs.transfer_numbers import similarities
from emotion_circuits.representations.alignment_scaling import fit_scaling


def test_cka_of_the_untrained_twin_does_not_depend_on_the_units_of_its_dimensions() -> None:
    """A twin that is the target in other units, one of them massive, is as similar as the target."""
    rng = np.random.default_rng(0)
    texts, neutral = rng.normal(size=(2, 60, 12))
    labels, splits = np.array(["joy", "fear"] * 30), np.array(["test"] * 60)
    other = texts @ rng.normal(size=(12, 12)) + rng.normal(size=(60, 12))
    units = np.array([1e4, 300, *np.ones(10)])

    def side(x: Any) -> Any:
        return SimpleNamespace(texts=SimpleNamespace(x=x[:, None], splits=splits, labels=labels), layers=(3,))

    target, twin = side(other), side(other * units + 50)
    rows = {id(target): neutral, id(twin): neutral * units + 50}
    data: Any = SimpleNamespace(
        source=side(texts), target=target, untrained=twin, map_target=lambda layer, side: rows[id(side)]
    )
    fitted: Any = SimpleNamespace(source=fit_scaling(neutral), target=fit_scaling(neutral))
    found = similarities(data, fitted, (3, 3), seed=0)
    assert found["cka_untrained"]["value"] == pytest.approx(found["cka"]["value"], rel=1e-6)
    assert found["cka"]["value"] > 0.2
