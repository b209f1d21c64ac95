"""``compare``: vectors from the sentence end against vectors from the emotion words, under identical conditions.

The original plan's hypothesis is that emotion-word vectors shift tone with fewer layers and smaller strength. So two
numbers are reported for every position: the smallest strength whose odd effect reaches ``effect`` nats at the best
layer, and the number of layers that reach it at ``reference_strength``; both with bootstrap intervals over prompts, and
their differences between positions with the same resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    ScoreStep,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import (
    SteeringParams,
    Strengths,
    Vectors,
    depths,
    expected_emotions,
    required_runs,
    steered_prompts,
    steering_captures,
)
from emotion_circuits.experiments.extract import ReadPosition
from emotion_circuits.experiments.sweep import DEPTHS, symmetric
from emotion_circuits.types import BASELINE_ARM, Condition, Figure, Observation, Positions, Prompt, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.models.lm import LM


@experiment("compare", "Sentence-end, emotion-word and mean vectors: how small a strength, how many layers?")
class Compare(Experiment):
    """Every vector is added at the same layers, positions and lengths; only where it was read differs."""

    version = 2

    class Params(SteeringParams):
        """Parameters of ``compare``."""

        positions: tuple[ReadPosition, ...] = Field(
            ("last", "emotion-word-last", "mean-content"), description="Where the compared vectors were fitted."
        )
        layers: tuple[int, ...] = Field((), description="Layers (default: five from a quarter to three quarters deep).")
        strengths: Annotated[Strengths, AfterValidator(symmetric)] = Field(
            (-0.45, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.45),
            description="Strengths (fractions of the residual norm), each with both signs.",
        )
        effect: float = Field(1.0, gt=0, description="Odd effect in nats that counts as effective.")
        reference_strength: float = Field(0.2, gt=0, description="Strength at which effective layers are counted.")
        resamples: int = Field(2000, ge=200, description="Bootstrap resamples of prompts.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_runs(params, *params.positions)

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        if len(set(params.positions)) < 2:
            raise UsageError(
                "there is nothing to compare", "give two positions, for example --positions last mean-content"
            )
        if params.reference_strength not in params.strengths:
            raise UsageError(
                f"the reference strength {params.reference_strength:g} is not among the strengths",
                "add it to --strengths with both signs",
            )
        lm.layers(params.layers or None)
        return steering_captures(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep]:
        layers, at = _layers(lm, params), Positions.parse(params.at)
        conditions = 2 * len(set(params.positions)) * len(layers) * len(_ups(params))
        return [
            ScoreStep(f"compare-{e}", _prompts(params), conditions, layers[len(layers) // 2], at)
            for e in expected_emotions(params)
        ]

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._endpoint import endpoint_inputs

        return endpoint_inputs(expected_emotions(params))

    def summarise(self, context: Context, params: Params) -> Outcome:
        curves = _measure(context, params)
        rows = [row for emotion in curves.emotions for row in _rows(curves, emotion, params, context.seed)]
        differences = [
            row for emotion in curves.emotions for row in _differences(curves, emotion, params, context.seed)
        ]
        said = [_sentence(r) for r in differences]
        columns = {
            "emotion": "emotion", "position": "vector from", "strength": "smallest strength",
            "strength_ci": "95 % interval", "layers": "effective layers", "layers_ci": "95 % interval",
        }  # fmt: skip
        shown = [{**r, "strength_ci": _range(r["strength_ci"]), "layers_ci": _range(r["layers_ci"])} for r in rows]
        table = Table(
            "compare", "Smallest effective strength and number of effective layers",
            f"Effective: an odd effect of at least {params.effect:g} nats on test prompts. The smallest strength is "
            f"that of the best of {len(curves.layers)} layers, chosen on these prompts and anew in every resample: too "
            f"small a figure for any one layer, equally for all vectors. Layers are counted at α "
            f"{params.reference_strength:g}. – : not reached within the grid.",
            columns, shown,
        )  # fmt: skip
        section = Section(
            "compare", "Which vectors steer with less?", [s + "." for s in said], _figures(curves), [table]
        )
        return Outcome(
            {"results": rows, "differences": differences, "effect": params.effect}, said, section,
            _observations(context, curves, params),
        )  # fmt: skip


@dataclass(frozen=True)
class _Curves:
    """``odd[emotion]`` is ``[position, layer, strength, prompt]`` on test prompts, strengths above 0 ascending."""

    emotions: tuple[str, ...]
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    strengths: tuple[float, ...]
    prompts: tuple[Prompt, ...]
    odd: Mapping[str, NDArray[np.float64]]


def _layers(lm: LM, params: Compare.Params) -> tuple[int, ...]:
    return lm.layers(params.layers or depths(lm, DEPTHS))


def _ups(params: Compare.Params) -> tuple[float, ...]:
    return tuple(s for s in params.strengths if s > 0)


def _prompts(params: Compare.Params) -> tuple[Prompt, ...]:
    return tuple(p for p in steered_prompts(params) if p.split == "test")


def _measure(context: Context, params: Compare.Params) -> _Curves:
    import numpy as np

    from emotion_circuits.experiments._endpoint import EndpointTokens

    vectors = Vectors(context, params)
    endpoint = EndpointTokens(context.measure, vectors.emotions)
    layers, ups, prompts = _layers(context.lm, params), _ups(params), _prompts(params)
    positions = tuple(dict.fromkeys(params.positions))
    odd = {}
    for emotion in vectors.emotions:
        conditions = [
            Condition(
                f"{position}-L{layer}{sign * s:+g}",
                (
                    vectors.add(
                        vectors.vector(emotion, layer, position), layer, sign * s * vectors.residual_norm[layer]
                    ),
                ),
            )
            for position in positions
            for layer in layers
            for s in ups
            for sign in (1, -1)
        ]
        found = context.measure.score(f"compare-{emotion}", prompts, conditions, {"endpoint": endpoint.metric(emotion)})
        shape = (len(prompts), len(positions), len(layers), len(ups), 2)
        values = np.moveaxis(np.asarray(found["endpoint"], dtype=np.float64).reshape(shape), 0, -2)
        odd[emotion] = (values[..., 0] - values[..., 1]) / 2
    return _Curves(vectors.emotions, positions, layers, ups, prompts, odd)


def _draws(curves: _Curves, emotion: str, resamples: int, seed: int) -> NDArray[np.float64]:
    """Mean odd effects ``[1 + resample, position, layer, strength]``: the data first, then resampled prompts."""
    import numpy as np

    from emotion_circuits.stats.bootstrap import cluster_draws

    cluster = _clusters(curves)
    counts = cluster_draws(int(cluster.max()) + 1, resamples, np.random.default_rng(seed))
    weights = np.concatenate([np.ones((1, len(cluster))), counts[:, cluster]])
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("bn,plsn->bpls", weights, curves.odd[emotion]))


def _clusters(curves: _Curves) -> NDArray[np.intp]:
    """``[prompt]``: the number of its scenario."""
    import numpy as np

    return np.unique([p.scenario or p.id for p in curves.prompts], return_inverse=True)[1].astype(np.intp)


def smallest_strength(effects: NDArray[np.float64], strengths: Sequence[float], wanted: float) -> NDArray[np.float64]:
    """``[...]`` strength at which ``effects`` ``[..., strength]`` first reach ``wanted``, linear from 0 between grid
    points; infinite where none does."""
    import numpy as np

    at = np.array([0.0, *strengths])
    values = np.concatenate([np.zeros((*effects.shape[:-1], 1)), effects], axis=-1)
    reached = values >= wanted
    first = reached.argmax(axis=-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(values, i[..., None], -1)[..., 0] for i in (before, first))
    share = np.divide(wanted - low, high - low, out=np.ones_like(low), where=high > low)
    found = at[before] + share * (at[first] - at[before])
    return np.where(reached.any(axis=-1), found, np.inf)


def _numbers(
    curves: _Curves, emotion: str, params: Compare.Params, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest strength over layers and number of effective layers, ``[1 + resample, position]`` each."""
    draws = _draws(curves, emotion, params.resamples, seed)
    strength = smallest_strength(draws, curves.strengths, params.effect).min(axis=-1)
    at = curves.strengths.index(params.reference_strength)
    return strength, (draws[..., at] >= params.effect).sum(axis=-1).astype(float)


def _rows(curves: _Curves, emotion: str, params: Compare.Params, seed: int) -> list[dict[str, Any]]:
    strength, layers = _numbers(curves, emotion, params, seed)
    clusters = int(_clusters(curves).max()) + 1
    return [
        {
            "emotion": emotion, "position": position,
            "strength": _finite(strength[0, i]), "strength_ci": limits(strength[1:, i], clusters),
            "layers": int(layers[0, i]), "layers_ci": limits(layers[1:, i], clusters),
        }
        for i, position in enumerate(curves.positions)
    ]  # fmt: skip


def _differences(curves: _Curves, emotion: str, params: Compare.Params, seed: int) -> list[dict[str, Any]]:
    """Every other position against the first (sentence end): the sign says which needs less."""
    import numpy as np

    strength, layers = _numbers(curves, emotion, params, seed)
    clusters = int(_clusters(curves).max()) + 1
    rows = []
    for i, position in enumerate(curves.positions[1:], start=1):
        reached = np.isfinite(strength[:, i]) & np.isfinite(strength[:, 0])
        gap = strength[reached, i] - strength[reached, 0]
        rows.append({
            "emotion": emotion, "position": position, "against": curves.positions[0],
            "strength": float(gap[0]) if reached[0] else None,
            "strength_ci": limits(gap[1:], clusters) if reached.mean() > 0.95 else None,
            "layers": float(layers[0, i] - layers[0, 0]), "layers_ci": limits(layers[1:, i] - layers[1:, 0], clusters),
        })  # fmt: skip
    return rows


def limits(draws: NDArray[np.float64], clusters: int) -> list[float | None] | None:
    """95 % limits from resamples of ``clusters`` scenarios: quantiles at the level that so few need.

    None for a limit beyond the grid, and where there are no draws or a single scenario.
    """
    import numpy as np
    from scipy import special

    from emotion_circuits.stats.bootstrap import expanded_quantile

    if not len(draws) or clusters < 2:
        return None
    tail = float(special.ndtr(-expanded_quantile(0.95, clusters)))
    return [_finite(v) for v in np.quantile(draws, (tail, 1 - tail), method="nearest")]


def _finite(value: float) -> float | None:
    return float(value) if value < float("inf") else None


def _sentence(row: Mapping[str, Any]) -> str:
    ci = row["strength_ci"]
    if row["strength"] is None:
        strength = "not reached by both"
    else:
        interval = "without interval: not reached in every resample" if ci is None else _range(ci)
        strength = f"{row['strength']:+.3f} {interval}"
    less = ci is not None and ci[1] is not None and ci[1] < 0
    more = ci is not None and ci[0] is not None and ci[0] > 0
    answer = "need less strength" if less else "need more strength" if more else "need no clearly different strength"
    return (
        f"{row['emotion']}: {row['position']} vectors {answer} than {row['against']} vectors "
        f"(difference {strength}; effective layers {row['layers']:+.0f} {_range(row['layers_ci'])})"
    )


def _range(ci: Sequence[float | None] | None) -> str:
    if ci is None:
        return "–"
    return "[" + ", ".join("beyond" if v is None else f"{v:.3g}" for v in ci) + "]"


def _figures(curves: _Curves) -> list[Figure]:
    """One figure an emotion, a line for every reading position."""
    return [
        Figure(
            f"compare-{emotion}", "lines", f"Effect of {emotion} vectors by where they were read",
            "Odd effect on test prompts at the layer where it is largest, vectors of equal length.",
            f"Dose curves of {emotion} for every reading position.",
            [
                {"x": s, "series": position, "value": float(values[i, :, k].mean(axis=-1).max())}
                for i, position in enumerate(curves.positions)
                for k, s in enumerate(curves.strengths)
            ],
            {"x": "strength (fraction of the residual norm)", "y": "odd effect (nats)"},
        )
        for emotion, values in curves.odd.items()
    ]  # fmt: skip


def _observations(context: Context, curves: _Curves, params: Compare.Params) -> Iterator[Observation]:
    """Odd effects as paired observations: arm ``steered`` against a baseline of 0."""
    for emotion, values in curves.odd.items():
        for i, position in enumerate(curves.positions):
            for j, layer in enumerate(curves.layers):
                for k, strength in enumerate(curves.strengths):
                    for n, prompt in enumerate(curves.prompts):
                        for arm, value in (("steered", values[i, j, k, n]), (BASELINE_ARM, 0.0)):
                            yield Observation(
                                experiment="compare", model=context.lm.name, emotion=emotion, layer=layer,
                                position=position, strength=strength, arm=arm, unit=prompt.id,
                                cluster=prompt.scenario or prompt.id, split="test", sample=0, scorer="odd-logit",
                                value=float(value),
                            )  # fmt: skip
