"""Top heads of two models: what is shared is found, what is not shown or not measured is said as that."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_circuits.circuits.cross_model import HeadMatch, HeadProfile, match_heads
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments.heads_match import _profile, _why_unmeasured
from emotion_circuits.report.translation import Catalogue, entries


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
    assert found.p_depth > 0.9 and "no match of their depths beyond random heads was shown" in found.sentence()


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


def test_roles_that_were_not_measured_are_no_result_on_roles():
    """Texts without emotion words: their attention is None in one model, and nothing is concluded from it."""

    class Screened:
        model = "m"

        def __init__(self, measured):
            rng = np.random.default_rng(3)
            self.scores = [
                {"emotion": "anger", "layer": layer, "head": head, "ablation": rng.normal(),
                 "emotion_mean_attn": rng.exponential() if measured else None,
                 "neutral_mean_attn": rng.exponential() if measured else None}
                for layer in range(12) for head in range(8)
            ]  # fmt: skip
            self.note = (
                "anger: 2 emotion words had no matched neutral word"
                if measured
                else "anger: the texts have no emotion words"
            )

        def read_summary(self):
            return {"layers": 12, "heads_per_layer": 8, "scores": self.scores,
                    "gates": {"anger": {"attention": self.note}}}  # fmt: skip

    runs = [Screened(True), Screened(False)]
    for pair in (runs, runs[::-1]):
        profiles = [_profile(run, "anger") for run in pair]
        found = match_heads(*profiles, 5, draws=99)
        assert found.role is None and found.p_role is None and len(found.pairs) == 5
        said = found.sentence(_why_unmeasured(pair, profiles, "anger"))
        assert (
            said.endswith("roles not measured: the texts have no emotion words") and "match of their roles" not in said
        )


@pytest.mark.parametrize(("p_depth", "p_role"), [(0.01, 0.4), (0.4, 0.01), (0.4, None)])
def test_every_answer_has_its_japanese(p_depth, p_role):
    found = HeadMatch((), 0.1, 0.2, p_depth, p_role, 99)
    said = f"anger: {found.sentence('the texts have no emotion words, so attention to them is not measured')}."
    assert "do not match" not in said
    catalogue = Catalogue(entries("ja"))
    catalogue.sentence(said)
    assert not catalogue.unknown


def test_impossible_requests_are_refused():
    rng = np.random.default_rng(0)
    a = profile(rng, 12, 8, 0.5)
    with pytest.raises(UsageError):
        match_heads(a, a, 49)
    with pytest.raises(UsageError, match="figures"):
        match_heads(a, HeadProfile("b", a.importance, a.figures[..., :2]), 3)
