"""Leave-one-emotion-out maps: what a shared emotion gives, and that "none of the others" is not enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.calibration.worlds import linear_world
from emotion_circuits.representations.left_out import leave_one_emotion_out, unspanned


def estimate(world, **changes):
    return leave_one_emotion_out(
        world.source, changes.get("target", world.target), world.map_source, world.map_target, seed=0
    )


def test_shared_emotions_pass_through_maps_that_never_saw_them():
    found = estimate(linear_world("shared", n=300, scenarios=30, widths=(96, 120), q=60, seed=1))
    assert len(found) == 6
    assert min(found.values()) > 0.85


@pytest.mark.parametrize("relation", ["content", "nothing"])
def test_emotions_that_are_not_shared_stay_at_chance(relation):
    means = [
        np.mean(list(estimate(linear_world(relation, n=300, scenarios=30, widths=(96, 120), q=60, seed=s)).values()))
        for s in range(4)
    ]
    assert 0.35 < np.mean(means) < 0.65


def test_the_one_emotion_that_the_target_lacks_is_not_found_by_exclusion():
    """All others are shared, so "none of the others" would pick the missing one with an AUROC far above one half."""
    alone, rest = [], []
    for seed in range(4):
        world = linear_world("shared", n=300, scenarios=30, widths=(96, 120), q=60, seed=seed)
        labels = np.asarray(world.target.labels)
        missing = str(sorted(set(labels.tolist()))[0])
        x = np.array(world.target.x, dtype=float)
        rows = labels == missing
        # The missing emotion's texts hold a direction of their own instead of the shared one.
        shared = x[rows].mean(axis=0) - x[~rows].mean(axis=0)
        other = np.random.default_rng(seed).normal(size=x.shape[1])
        x[rows] += other / np.linalg.norm(other) * np.linalg.norm(shared) - shared
        found = estimate(world, target=replace(world.target, x=x))
        alone.append(found.pop(missing))
        rest.append(np.mean(list(found.values())))
    assert abs(np.mean(alone) - 0.5) < 0.15
    assert np.mean(rest) > 0.85


def test_only_the_part_that_the_others_do_not_span_is_pushed():
    means = np.random.default_rng(0).normal(size=(4, 10))
    own = unspanned(means, 1)
    np.testing.assert_allclose(np.delete(means, 1, axis=0) @ own, 0, atol=1e-12)
    assert own @ means[1] > 0


def test_words_of_a_text_are_averaged_and_texts_have_to_be_the_same():
    world = linear_world("shared", n=300, scenarios=30, widths=(96, 120), q=60, seed=1)
    twice = [np.repeat(m, 2, axis=0) for m in (world.map_source, world.map_target)]
    again = leave_one_emotion_out(world.source, world.target, *twice, map_groups=np.repeat(np.arange(300), 2))
    assert again == pytest.approx(estimate(world))
    other = replace(world.target, clusters=[f"other {c}" for c in world.target.clusters])
    with pytest.raises(UsageError, match="not the same"):
        leave_one_emotion_out(world.source, other, world.map_source, world.map_target)
