"""The unit ``sd`` of finished directions: read from the capture they rest on, one number wherever it is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments.directions import load_directions
from emotion_circuits.representations.exchange import read_vectors
from emotion_circuits.representations.steering import scale_of
from emotion_circuits.store import Store, open_tensors
from emotion_circuits.types import Positions

LAYER = 1


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def spread_by_hand(results: Path, emotion: str) -> float:
    """SD of the neutral fit texts on the unit direction, from the files alone."""
    (extract,), (directions,) = (Store(results).find(experiment=e) for e in ("extract", "directions"))
    prompts = extract.read_json("texts.json")["prompts"]
    rows = [i for i, p in enumerate(prompts) if p["emotion"] == "neutral" and p["split"] == "fit"]
    captured = open_tensors(extract.path("texts.safetensors"))["resid_post@mean-content"]
    vectors = open_tensors(directions.path("directions.safetensors"))
    vector = np.array(vectors[f"resid_post/mean-content/neutral/{emotion}"])[LAYER]
    neutral = np.asarray(captured, dtype=np.float64)[rows, LAYER]
    return float((neutral @ (vector / np.linalg.norm(vector))).std(ddof=1))


def test_finished_directions_measure_one_sd_on_the_capture_they_rest_on(
    finished: Path, cli: Callable[..., Any], model: Path, profile: Path, tmp_path: Path
) -> None:
    expected = spread_by_hand(finished, "anger")
    (run,) = Store(finished).find(experiment="directions")
    directions = load_directions(run, "resid_post", "mean-content")
    one = directions.direction("anger", LAYER, run.model, "resid_post", Positions("mean-content"))
    assert scale_of(one, "sd") == pytest.approx(expected, rel=1e-6)
    independent = np.linalg.norm(directions.neutral_sd[LAYER] * one.vector) / np.linalg.norm(one.vector)
    assert abs(independent / expected - 1) > 0.05, "the model cannot tell the two apart"
    common = ["--model", model, "--profile", profile, "--results", finished]
    file = tmp_path / "v.npz"
    assert cli("vectors", "export", f"2sd anger @ L{LAYER}", "--output", file, *common).code == 0
    assert np.linalg.norm(read_vectors(file).vectors[LAYER]) == pytest.approx(2 * expected, rel=1e-6)


def test_a_capture_that_is_gone_is_named_where_the_unit_is_sd_and_missed_nowhere_else(
    copied: Path, cli: Callable[..., Any], model: Path, profile: Path, tmp_path: Path
) -> None:
    (folder,) = copied.glob("*/*/extract/*/")
    shutil.rmtree(folder)
    common = ["--output", tmp_path / "v.npz", "--model", model, "--profile", profile, "--results", copied]
    assert cli("vectors", "export", "0.4 anger", *common).code == 0
    cli("vectors", "export", "2sd anger", *common).refused(2, str(folder), "emotion-circuits run directions", "--force")


def test_a_set_with_other_texts_is_not_taken_for_the_one_that_was_fitted(copied: Path) -> None:
    (run,) = Store(copied).find(experiment="directions")
    run.inputs["sets"]["baseline"] = "of other texts"  # type: ignore[index]
    one = load_directions(run, "resid_post", "mean-content").direction(
        "anger", LAYER, run.model, "resid_post", Positions("mean-content")
    )
    with pytest.raises(UsageError, match="other texts by now"):
        scale_of(one, "sd")
