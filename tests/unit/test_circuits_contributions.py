"""Direct contributions add up to the projection of the residual stream, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.circuits.contributions import Reading, direct_contributions, endpoint_contributions
from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.decode import BASELINE, next_token_logits
from emotion_circuits.engine.score import log_sum_exp_difference, score
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Positions, Prompt, Site
from tiny_models import ARCHITECTURES

TEXTS = ("Thank you for walking the dog.", "He parked in my space again and I had to leave the car in the street.")
PROMPTS = [Prompt(f"p{i}", t) for i, t in enumerate(TEXTS)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("position", ["last", "mean-content"])
def test_parts_sum_to_the_projection(tiny, architecture, position):
    lm = tiny(architecture)
    rng = np.random.default_rng(0)
    sites = [Site("resid_post", lm.n_layers - 1), Site("resid_pre", 1), Site("resid_post", 0)]
    if not lm.parallel:
        sites.append(Site("resid_mid", 1))
    readings = [Reading(s, rng.normal(size=lm.d_model)) for s in sites]
    where = Positions.parse(position)
    for reading, found in zip(readings, direct_contributions(lm, PROMPTS, readings, where), strict=True):
        assert found.error() <= 1e-4
        residual = capture(lm, PROMPTS, [reading.site.kind], [where]).get(reading.site.kind, where)[
            :, reading.site.layer
        ]
        unit = reading.vector / np.linalg.norm(reading.vector)
        np.testing.assert_allclose(found.total, residual @ unit, rtol=1e-4, atol=1e-5)
        parts = found.heads.sum((1, 2)) + found.mlps.sum(1) + found.embedding + found.bias
        np.testing.assert_allclose(parts, residual @ unit, rtol=1e-3, atol=1e-4)
    assert not found.heads[:, 2:].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_endpoint_contributions_sum_to_the_difference_of_mean_logits(tiny, architecture):
    lm = tiny(architecture)
    endpoint = Endpoint((5, 9), (7, 30))
    found = endpoint_contributions(lm, PROMPTS, endpoint.direction(lm))
    logits = next_token_logits(lm, [(e, BASELINE) for e in lm.encode(PROMPTS)]).double()
    wanted = logits[:, [5, 9]].mean(1) - logits[:, [7, 30]].mean(1)
    bias = getattr(lm.model.get_output_embeddings(), "bias", None)
    if bias is not None:
        wanted = wanted - (bias[[5, 9]].mean() - bias[[7, 30]].mean()).double()
    parts = found.heads.sum((1, 2)) + found.mlps.sum(1) + found.embedding + found.bias
    np.testing.assert_allclose(parts, wanted.detach().numpy(), rtol=1e-4, atol=1e-4)
    assert found.error() <= 1e-4


def test_biases_stand_apart(tiny):
    lm = tiny("gpt2")
    site = Site("resid_post", 2)
    vector = np.random.default_rng(1).normal(size=lm.d_model)
    (found,) = direct_contributions(lm, PROMPTS, [Reading(site, vector)], Positions("last"))
    unit = torch.from_numpy(vector / np.linalg.norm(vector))
    wanted = sum(
        float(lm.module(layer, part).bias.double() @ unit)
        for layer in range(3)
        for part in ("out_projection", "down_projection")
    )
    np.testing.assert_allclose(found.bias, wanted, rtol=1e-6)
    assert abs(wanted) > 0.1


@pytest.mark.parametrize(
    ("site", "vector"),
    [
        (Site("attn_out", 1), np.ones(32)),
        (Site("resid_post", 9), np.ones(32)),
        (Site("resid_post", 1), np.ones(31)),
        (Site("resid_post", 1), np.zeros(32)),
    ],
)
def test_readings_that_cannot_be_are_refused(tiny, site, vector):
    with pytest.raises(UsageError):
        direct_contributions(tiny("llama"), PROMPTS, [Reading(site, vector)], Positions("last"))


def test_an_endpoint_needs_tokens_on_both_sides():
    with pytest.raises(UsageError):
        Endpoint((1, 2), (2, 3))
    with pytest.raises(UsageError):
        Endpoint((), (2,))


def test_an_endpoint_is_a_metric_of_scores(tiny):
    lm, endpoint = tiny("llama"), Endpoint((5, 9), (7, 30))
    found = score(lm, PROMPTS, [BASELINE], [endpoint, log_sum_exp_difference((5, 9), (7, 30))])
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    logits = torch.randn(3, 40)
    half = endpoint(logits.half())
    assert half.dtype == torch.float32 and torch.equal(half, endpoint(logits.half().float()))
