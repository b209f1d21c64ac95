"""Top heads of two models: what is shared is found, what is not is called no."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_circuits.circuits.cross_model import HeadProfile, match_heads
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments.heads_match import _profile


def profile(rng: np.random.Generator, layers: int, heads: int, depth: float | None) -> HeadProfile:
    """Six important heads, of three kinds of role; at one relative depth if it is given, else anywhere."""
    importance = 0.1 * rng.normal(size=(layers, heads))
    figures = rng.normal(size=(layers, heads, 3))
    for i in range(6):
        layer = int(rng.integers(layers)) if depth is None else round(depth * (layers - 1))
        head = i if depth is not None else int(rng.integers(heads))
        importance[layer, head] = 5 + i
        if depth is not None:
            figures[layer, head] = 4 * np.eye(3)[i % 3]
    return HeadProfile("m", importance, figures)


def test_heads_of_equal_depth_and_role_match():
    rng = np.random.default_rng(0)
    a, b = profile(rng, 12, 8, 0.6), profile(rng, 20, 9, 0.6)
    found = match_heads(a, b, 6, draws=299)
    assert found.p_depth <= 0.01 and found.p_role <= 0.01 and found.depth < 0.1 and found.role < 0.3
    assert {h.layer for h, _ in found.pairs} == {7} and {h.layer for _, h in found.pairs} == {11}
    assert "match more than random heads" in found.sentence()


def test_depths_that_differ_do_not_match():
    rng = np.random.default_rng(1)
    found = match_heads(profile(rng, 12, 8, 0.1), profile(rng, 20, 9, 0.9), 6, draws=199)
    assert found.p_depth > 0.9 and "their depths do not match more" in found.sentence()


def test_unrelated_models_are_called_matching_no_more_than_chance():
    ps = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        found = match_heads(profile(rng, 12, 8, None), profile(rng, 10, 6, None), 5, draws=99, seed=seed)
        ps += [(found.p_depth, found.p_role)]
    assert (np.array(ps) <= 0.05).mean(0).max() <= 0.12  # .05 + 3 SE
    assert 0.4 < np.mean(ps) < 0.6


def test_what_selects_the_heads_is_no_part_of_their_role():
    """Unrelated models, where what a head writes is a part of its ablation: roles match as often as p says."""

    class Screened:
        model = "m"

        def __init__(self, seed):
            rng = np.random.default_rng(seed)
            self.scores = [
                {"emotion": "anger", "layer": layer, "head": head, "ablation": -direct + 0.5 * rng.normal(),
                 "emotion_mean_attn": rng.exponential(), "neutral_mean_attn": rng.exponential(), "direct": direct}
                for layer in range(12) for head in range(8) for direct in (rng.exponential() ** 2,)
            ]  # fmt: skip

        def read_summary(self):
            return {"layers": 12, "heads_per_layer": 8, "scores": self.scores}

    ps = []
    for seed in range(120):
        a, b = (_profile(Screened(2 * seed + k), "anger") for k in range(2))
        ps.append(match_heads(a, b, 5, draws=99, seed=seed).p_role)
    assert (np.array(ps) <= 0.05).mean() <= 0.12 and 0.4 < np.mean(ps) < 0.6


def test_impossible_requests_are_refused():
    rng = np.random.default_rng(0)
    a = profile(rng, 12, 8, 0.5)
    with pytest.raises(UsageError):
        match_heads(a, a, 49)
    with pytest.raises(UsageError, match="figures"):
        match_heads(a, HeadProfile("b", a.importance, a.figures[..., :2]), 3)
