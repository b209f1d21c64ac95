"""Reading tokens: neutral ones have mean 0 and SD 1, a planted direction is found, promoted tokens rise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from emotion_circuits.engine import capture
from emotion_circuits.errors import UsageError
from emotion_circuits.models import LM
from emotion_circuits.representations.directions import DirectionSet
from emotion_circuits.representations.readout import Reader, neutral_texts, promoted_tokens, readout, token_scale
from emotion_circuits.types import Positions, Prompt

TEXTS = [Prompt(f"n{i}", t) for i, t in enumerate(["the cat sat on the mat", "a train leaves at noon", "rain on tin"])]


def directions_of(lm: LM, layers: tuple[int, ...] = (0, 2)) -> DirectionSet:
    rng = np.random.default_rng(1)
    shape = (len(layers), lm.d_model)
    vectors = {m: {e: rng.standard_normal(shape) for e in ("joy", "anger")} for m in ("neutral", "centred")}
    return DirectionSet(("joy", "anger"), layers, vectors, rng.standard_normal(shape), 1 + rng.random(shape),
                        np.ones(len(layers)))  # fmt: skip


@pytest.fixture(params=["llama", "gpt2"])
def lm(request: pytest.FixtureRequest, tiny: Callable[..., LM]) -> LM:
    return tiny(request.param)


def test_neutral_tokens_have_mean_0_and_sd_1_at_every_layer(lm: LM) -> None:
    directions = directions_of(lm)
    scale = token_scale(lm, directions, TEXTS)
    values = np.concatenate([readout(lm, p, directions, scale).values for p in TEXTS])
    assert len(values) == scale.tokens
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0, ddof=1), 1, atol=1e-5)


def test_values_are_the_probe_of_the_residual_stream_by_layer_and_emotion(lm: LM) -> None:
    directions = directions_of(lm)
    scale = token_scale(lm, directions, TEXTS, method="neutral")
    found = readout(lm, "the cat left", directions, scale, method="neutral")
    x = np.asarray(capture(lm, [Prompt("t", "the cat left")], ["resid_post"], [Positions("all")], layers=(2,)).get(
        "resid_post", "all"))  # fmt: skip
    expected = directions.scores(np.repeat(x, 2, axis=1), "neutral", "anger")[1]
    raw = found.values[:, 1, 1] * scale.sd[1, 1] + scale.mean[1, 1]
    np.testing.assert_allclose(raw, expected, rtol=1e-6)
    assert "".join(found.pieces).strip() == "the cat left"
    assert [found.text[a:b] for a, b in found.spans] == [p if p in found.text else p.strip() for p in found.pieces]


def test_a_token_moved_along_a_direction_reads_as_that_emotion(lm: LM) -> None:
    directions = directions_of(lm)
    scale = token_scale(lm, directions, TEXTS)
    reader = Reader(directions, scale)
    still = np.zeros((1, 2, lm.d_model))
    moved = still + np.stack([v / np.linalg.norm(v) for v in directions.vectors["centred"]["joy"]])
    rise = reader.read(moved) - reader.read(still)
    assert (rise[..., 0] > 0).all() and (rise[..., 0] > np.abs(rise[..., 1])).all()


def test_promoted_tokens_are_those_that_the_models_own_head_reads(lm: LM) -> None:
    directions = directions_of(lm)
    table = promoted_tokens(lm, directions, "joy", 2, 5)
    mean, vector = directions.neutral_mean[1], directions.vectors["neutral"]["joy"][1]
    assert lm.final_norm.weight is not None
    with torch.inference_mode():
        x, v = torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(vector, dtype=torch.float32)
        x, v = (x - x.mean(), v - v.mean()) if lm.family.norm == "layer" else (x, v)
        # The norm's scale is that of the mean, so the change is linear in the vector.
        change = lm.model.get_output_embeddings()(lm.final_norm.weight * v / x.square().mean().sqrt())
    change = (change - change.mean()).numpy()
    assert [row["id"] for row in table["up"]] == list(np.argsort(-change)[:5])
    assert [row["id"] for row in table["down"]] == list(np.argsort(change)[:5])
    np.testing.assert_allclose([row["logit"] for row in table["up"]], np.sort(change)[:-6:-1], rtol=1e-3)
    assert table["up"][0]["logit"] > 0 > table["down"][0]["logit"]


def test_a_longer_vector_promotes_the_same_tokens_by_as_much_more(lm: LM) -> None:
    directions = directions_of(lm)
    longer = {m: {e: 3 * v for e, v in found.items()} for m, found in directions.vectors.items()}
    once, thrice = (
        promoted_tokens(lm, replace(directions, vectors=vectors), "joy", 2, 5)
        for vectors in (directions.vectors, longer)
    )
    assert [t["id"] for t in once["up"]] == [t["id"] for t in thrice["up"]]
    np.testing.assert_allclose([3 * t["logit"] for t in once["up"]], [t["logit"] for t in thrice["up"]], rtol=1e-4)


def test_calibration_says_how_many_texts_it_has_read_and_can_be_ended(lm: LM) -> None:
    directions, read = directions_of(lm), []
    token_scale(lm, directions, TEXTS * 20, advance=lambda texts, note: read.append(texts))
    assert len(read) > 1 and sum(read) == 60

    def stop(texts: int, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_scale(lm, directions, TEXTS, advance=stop)


def test_refusals(lm: LM) -> None:
    directions = directions_of(lm)
    with pytest.raises(UsageError, match="no spread"):
        token_scale(lm, directions, [])
    with pytest.raises(UsageError, match="pride"):
        promoted_tokens(lm, directions, "pride", 2)
    with pytest.raises(UsageError, match="layer 1"):
        promoted_tokens(lm, directions, "joy", 1)
    wide = np.zeros((2, lm.d_model + 1))
    other = DirectionSet(
        ("joy",), (0, 2), {m: {"joy": wide} for m in ("neutral", "centred")}, wide, wide + 1, np.ones(2)
    )
    with pytest.raises(UsageError, match="wide"):
        readout(lm, "the cat", other, token_scale(lm, directions, TEXTS))


def test_calibration_texts_are_neutral_and_of_the_fit_half() -> None:
    texts = neutral_texts()
    assert len(texts) > 50 and all(p.emotion == "neutral" and p.split == "fit" for p in texts)
