"""Activations and emotion vectors, as the plan keeps them: per model, per emotion, every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.exports.contract import RUN, File, Results, in_path, plan_file, position_suffix
from emotion_circuits.exports.tensors import tensor_file

if TYPE_CHECKING:
    from emotion_circuits.store import Run
    from emotion_circuits.types import Activations

KEYS = {"resid_post": "residual_stream", "mlp_out": "mlp_output", "attn_out": "attention_output"}
"""The plan's names of what is captured; other sites keep their own."""

TEXTS, WORDS = "texts", "words"
POSITIONS = f"{RUN} --positions mean-content last emotion-word-first"
"""The first position carries the verdict, so the one that everything else here uses stays in front."""

WORD_POSITIONS = ("emotion-word-first", "emotion-word-last", "emotion-word-all")
"""In the order of the plan's preference: its token-based vectors are read at the first emotion word."""


@plan_file("activations/{model}/activations_{emotion}.pt", "activations [layer, text, d] by position", "extract")
def activations(results: Results) -> Iterator[File]:
    for run in results.latest("extract"):
        for emotion in _emotions(run):
            path = f"activations/{run.model}/activations_{in_path(emotion)}.pt"
            yield tensor_file(path, run, partial(_of_emotion, run, emotion))


@plan_file("emotion_vectors/{model}_vectors.pt", "vectors at the sentence end", "directions", POSITIONS)
def sentence_end_vectors(results: Results) -> Iterator[File]:
    yield from _vector_files(results, "")


@plan_file("emotion_vectors/{model}_vectors_token_based.pt", "vectors at the emotion words", "directions", POSITIONS)
def token_based_vectors(results: Results) -> Iterator[File]:
    yield from _vector_files(results, "_token_based")


@plan_file("emotion_vectors/{model}_vectors_{position}.pt", "vectors at other positions", "directions")
def other_vectors(results: Results) -> Iterator[File]:
    yield from _vector_files(results, None)


def _vector_files(results: Results, wanted: str | None) -> Iterator[File]:
    """Vectors whose position has the suffix ``wanted`` in the plan; None: those that the plan has no name for."""
    for model, runs in results.newest_first("directions").items():
        for position, run in _positions(runs).items():
            suffix = position_suffix(position)
            if suffix == wanted or (wanted is None and suffix not in ("", "_token_based")):
                path = f"emotion_vectors/{model}_vectors{suffix}.pt"
                yield tensor_file(path, run, partial(_vectors, run, position))


def _positions(runs: list[Run]) -> dict[str, Run]:
    """Position → the newest run that has directions there; of several emotion-word positions the plan's first."""
    found: dict[str, Run] = {}
    for run in runs:
        for row in run.read_summary()["results"]:
            if row["site"] == "resid_post":
                found.setdefault(row["position"], run)
    words = [p for p in WORD_POSITIONS if p in found]
    return {p: run for p, run in found.items() if p not in words[1:]}


def _vectors(run: Run, position: str) -> Mapping[str, Any]:
    """``emotion_vectors`` ``{emotion: [layer, d]}``: mean(emotion) − mean(neutral); norms and cosines by layer."""
    from emotion_circuits.experiments.directions import load_directions

    found = load_directions(run, "resid_post", position)
    vectors = found.vectors["neutral"]
    unit = {e: v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-300) for e, v in vectors.items()}
    return {
        "emotion_vectors": vectors,
        "emotion_distances": {f"{a}_vs_{b}": (unit[a] * unit[b]).sum(-1) for a, b in combinations(vectors, 2)},
        "norms": {
            "l1": {e: np.abs(v).sum(-1) for e, v in vectors.items()},
            "l2": {e: np.linalg.norm(v, axis=-1) for e, v in vectors.items()},
        },
        "residual_norm": found.residual_norm,
        "layers": list(found.layers),
        "position": position,
        "model": run.model,
    }


def _captures(run: Run) -> list[str]:
    return [name for name in (TEXTS, WORDS) if run.path(f"{name}.json").exists()]


def _emotions(run: Run) -> list[str]:
    return list(
        dict.fromkeys(p["emotion"] for name in _captures(run) for p in run.read_json(f"{name}.json")["prompts"])
    )


def _of_emotion(run: Run, emotion: str) -> Mapping[str, Any]:
    """``{site: {position: [layer, text, d]}}`` of one emotion's texts; at position ``all`` a list of ``[token, d]``
    for every layer and text. Texts read at their emotion words come with their matched neutral twins."""
    from emotion_circuits.experiments import load_capture

    content: dict[str, Any] = {"model": run.model, "emotion": emotion, "texts": {}, "layers": []}
    for name in _captures(run):
        captured = load_capture(run, name)
        rows = [i for i, p in enumerate(captured.prompts) if p.emotion == emotion]
        if not rows:
            continue
        content["layers"] = list(captured.layers)
        for kind, position in captured.values:
            content.setdefault(KEYS.get(kind, kind), {})[position] = _selected(captured, kind, position, rows)
            content["texts"][position] = [captured.prompts[i].text for i in rows]
    return content


def _selected(captured: Activations, kind: str, position: str, rows: list[int]) -> object:
    values, starts = captured.values[kind, position], captured.token_starts
    if position != "all":
        return np.moveaxis(np.asarray(values[rows]), 0, 1)
    return [[np.asarray(values[starts[i] : starts[i + 1], layer]) for i in rows] for layer in range(values.shape[1])]
