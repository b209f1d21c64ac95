"""Patching: everything is 1, nothing is 0, itself changes nothing; layer by layer on the planted circuit."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.patching import Patch, patch_grid, patch_pairs, recovery
from emotion_circuits.engine.hooks import count_hooks
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Positions, Prompt
from planted_circuits import READER, planted
from tiny_models import ARCHITECTURES

ENDPOINT = Endpoint((5, 9), (7, 30))
TEXTS = [("We were on Tuesday away", "We were on Tuesday street"), ("The bus left away", "The bus left street")]
PAIRS = [
    Pair(Prompt(f"e{i}", a, "joy", f"s{i}"), Prompt(f"n{i}", b, scenario=f"s{i}")) for i, (a, b) in enumerate(TEXTS)
]


@pytest.mark.parametrize("way", ["denoising", "noising"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_is_one_nothing_is_zero_itself_is_nothing(tiny, architecture, way):
    lm = tiny(architecture)
    before = count_hooks(lm.model)
    last = lm.n_layers - 1
    patches = [
        Patch("resid_post", (last,)),
        Patch("resid_pre", (0,)),
        Patch(
            "resid_post", (last,), Positions("at", values=(0,))
        ),  # an earlier token of the last layer reaches nothing
    ]
    found = patch_pairs(lm, PAIRS, patches, ENDPOINT, way=way)
    gap = found.clean - found.corrupt
    assert np.abs(gap).min() > 0.01
    m = (found.patched - found.corrupt) / gap
    everything, nothing = (1.0, 0.0) if way == "denoising" else (0.0, 1.0)
    np.testing.assert_allclose(m[:2], everything, atol=1e-4)
    assert np.abs(found.patched[:2] - (found.clean if way == "denoising" else found.corrupt)).max() < 1e-4
    np.testing.assert_allclose(m[2], nothing, atol=1e-4)
    itself = patch_pairs(
        lm, [Pair(p.clean, p.clean) for p in PAIRS], [Patch("z", (0, 1)), Patch("mlp_out", (1,))], ENDPOINT
    )
    np.testing.assert_allclose(
        itself.patched, np.broadcast_to(itself.clean, (2, 2)), atol=1e-6 * np.abs(itself.clean).max()
    )
    assert count_hooks(lm.model) == before


def test_all_parts_of_the_residual_stream_together_are_everything(tiny):
    lm = tiny("gpt2")
    patches = [
        Patch("z", tuple(range(lm.n_layers))),
        Patch("mlp_out", tuple(range(lm.n_layers))),
        Patch("attn_out", (1,), heads=None),
        Patch("z", (1,)),
    ]
    found = patch_pairs(lm, PAIRS, patches, ENDPOINT)
    np.testing.assert_allclose(found.patched[2], found.patched[3], atol=1e-5)  # all heads of a layer = its attn_out
    assert np.abs(found.patched[0] - found.corrupt).min() > 1e-3


def test_the_planted_head_carries_the_effect_from_its_layer_on(tokenizers):
    plant = planted(tokenizers["byte-level"], confirmers=0.0)
    lm = plant.lm
    last = Positions("last")
    grid = patch_grid("resid_post", range(4), [Positions("emotion-word", "all"), last])
    found = patch_pairs(lm, plant.pairs, grid, plant.endpoint)
    m = found.recovery(resamples=500)
    share = m.estimate.reshape(4, 2)
    assert share[0, 0] > 0.95 and share[0, 1] < 0.05  # before the head: at the word
    assert share[1, 0] < 0.05 and share[1, 1] > 0.95  # behind it: at the last token
    heads = patch_pairs(
        lm, plant.pairs, [Patch("z", (1,), last, (h,)) for h in range(4)], plant.endpoint, way="noising"
    )
    lost = 1 - heads.recovery(resamples=500).estimate
    assert lost.argmax() == READER.index and lost[READER.index] > 0.95 and np.sort(lost)[-2] < 0.05
    assert m.low[0] <= m.estimate[0] <= m.high[0]


def test_patching_everything_recovers_everything_to_five_digits(tokenizers):
    plant = planted(tokenizers["byte-level"])
    everything, nothing = Patch("resid_post", (3,)), Patch("resid_post", (3,), Positions("at", values=(0,)))
    for way, wanted in (("denoising", [1, 0]), ("noising", [0, 1])):
        m = patch_pairs(plant.lm, plant.pairs, [everything, nothing], plant.endpoint, way=way).recovery(resamples=200)
        np.testing.assert_allclose(m.estimate, wanted, atol=1e-5)


def test_recovery_is_a_ratio_of_means():
    clean, corrupt = np.array([2.0, 4.0, 3.0]), np.array([0.0, 0.0, 1.0])
    both = np.stack([clean, corrupt, (clean + corrupt) / 2])
    np.testing.assert_allclose(recovery(both, clean, corrupt, resamples=200).estimate, [1, 0, 0.5])
    with pytest.raises(UsageError):
        recovery(both[0], np.array([1.0, -1.0, 0.1]), np.zeros(3), resamples=200)


@pytest.mark.parametrize(
    ("pairs", "patches", "way"),
    [
        ([Pair(Prompt("a", "The bus left"), Prompt("b", "The bus left the station"))], [Patch("z", (0,))], "noising"),
        (PAIRS, [], "noising"),
        (PAIRS, [Patch("pattern", (0,))], "noising"),
        (PAIRS, [Patch("resid_post", (0,), heads=(1,))], "noising"),
        (PAIRS, [Patch("z", (0,), heads=(9,))], "noising"),
        (PAIRS, [Patch("z", (9,))], "noising"),
        (PAIRS, [Patch("z", (0,))], "sideways"),
    ],
)
def test_what_cannot_be_patched_is_refused(tiny, pairs, patches, way):
    with pytest.raises(UsageError) as caught:
        patch_pairs(tiny("gpt2"), pairs, patches, ENDPOINT, way=way)
    assert caught.value.fix
