"""``patch``: clean/corrupt activation patching over layer × position, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
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
    SITE,
    STEERED,
    SteeringParams,
    Vectors,
    expected_emotions,
    required_runs,
)
from emotion_circuits.experiments.extract import select_sets
from emotion_circuits.types import Figure, Positions, Prompt, Section, SiteKind, Table

if TYPE_CHECKING:
    from emotion_circuits.circuits.pairs import Pair
    from emotion_circuits.circuits.patching import Patch as GridPatch
    from emotion_circuits.circuits.patching import Patched
    from emotion_circuits.models.lm import LM

FEWEST_PAIRS = 5


def _positions(written: tuple[str, ...]) -> tuple[str, ...]:
    parsed = tuple(str(Positions.parse(p)) for p in written)
    for p in parsed:
        if Positions.parse(p).kind in ("generated", "mean-content"):
            raise UsageError(
                f"position {p!r} names no tokens of a prompt", "use at:0, emotion-word-first, last, all, …"
            )
    if not parsed:
        raise UsageError("positions is an empty list", "name at least one, for example --positions last all")
    return parsed


@experiment("patch", "Activation patching between emotional texts and neutral twins, layer × position, both ways.")
class Patch(Experiment):
    """Recovery m = (patched − corrupt) / (clean − corrupt) as a ratio of means: 1 the emotional run, 0 the neutral."""

    class Params(SteeringParams):
        """Parameters of ``patch``."""

        prompts: str = Field(
            "extended", description="Prompt set with matched scenarios; pairs of equal length are kept."
        )
        site: SiteKind = Field(
            "resid_post", description="What is patched: resid_pre, resid_post, attn_out, mlp_out, z."
        )
        layers: tuple[int, ...] = Field((), description="Layers (default: all).")
        positions: Annotated[tuple[str, ...], AfterValidator(_positions)] = Field(
            ("at:0", "emotion-word-first", "emotion-word-last", "last", "all"),
            description="Positions, by the clean text.",
        )
        split: tuple[str, ...] = Field(("fit", "dev", "test"), description="Splits whose pairs are used.")
        resamples: int = Field(2000, ge=200, description="Bootstrap resamples of scenarios.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_runs(params)

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        lm.layers(params.layers or None)
        neutral = tuple(p for p in _texts(params) if p.emotion == "neutral")[:2]
        return [CaptureStep(STEERED, neutral, (SITE,), (Positions("last"),))]

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._captured import fingerprint_prompts
        from emotion_circuits.experiments._endpoint import endpoint_inputs

        return {**endpoint_inputs(), "texts": fingerprint_prompts(_texts(params))}

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep]:
        from emotion_circuits.circuits.patching import WAYS
        from emotion_circuits.engine.batching import capture_tokens

        steps = []
        for emotion in expected_emotions(params):
            with suppress(UsageError):  # too few pairs: said by the run, which goes on with the other emotions
                texts = tuple(p.clean for p in _pairs(lm, params, emotion))
                rows = max(1, capture_tokens(lm.device) // max(map(len, lm.encode(texts))))
                # Beside the patches, the clean and the corrupt run themselves.
                conditions = len(WAYS) * (2 + len(_grid(lm, params)))
                steps.append(ScoreStep(f"patch-{emotion}", texts, conditions, at=Positions("all"), rows=rows))
        return steps

    def summarise(self, context: Context, params: Params) -> Outcome:
        vectors = Vectors(context, params)
        rows: list[dict[str, Any]] = []
        counts: dict[str, int] = {}
        skipped: dict[str, str] = {}
        for emotion in vectors.emotions:
            try:
                pairs = _pairs(context.lm, params, emotion)
                counts[emotion] = len(pairs)
                rows += _measured(vectors, params, emotion, pairs)
            except UsageError as error:
                skipped[emotion] = error.what
        if not rows:
            raise UsageError(
                "; ".join(f"{e}: {why}" for e, why in skipped.items()), "use a larger matched set (extended)"
            )
        said = [_sentence(rows, e) for e in counts if any(r["emotion"] == e for r in rows)]
        said += [f"{e}: not measured ({why})" for e, why in skipped.items()]
        columns = {"emotion": "emotion", "way": "way", "layer": "layer", "position": "position", "recovery": "m",
                   "ci": "95 % interval", "pairs": "pairs"}  # fmt: skip
        table = Table("patch", "Recovery of every cell", "Exploratory: cells are not corrected.", columns, rows)
        figures = [_figure(rows, e, way) for e in counts for way in ("denoising", "noising")]
        section = Section(
            "patch", "Where does the emotion pass through?", [s + "." for s in said], [f for f in figures if f.data],
            [table],
        )  # fmt: skip
        return Outcome({"site": params.site, "pairs": counts, "results": rows, "not_measured": skipped}, said, section)


def _texts(params: Patch.Params) -> tuple[Prompt, ...]:
    chosen = select_sets((params.prompts,), params.emotions)[params.prompts]
    return tuple(p for p in chosen if p.split in params.split or p.split is None)


def _pairs(lm: LM, params: Patch.Params, emotion: str) -> list[Pair]:
    """Emotional texts with the neutral twin of equal length in tokens."""
    from emotion_circuits.circuits.pairs import length_matched, twin_pairs

    pairs = length_matched(lm, twin_pairs(_texts(params), emotion))[: params.scenarios]
    if any(Positions.parse(p).kind == "emotion-word" for p in params.positions):
        pairs = [p for p in pairs if p.clean.spans]
    if len(pairs) < FEWEST_PAIRS:
        raise UsageError(
            f"only {len(pairs)} pairs of {emotion} have texts of equal length in the tokenizer of {lm.name}",
            "use a larger matched set, for example --prompts extended",
        )
    return pairs


def _grid(lm: LM, params: Patch.Params) -> list[GridPatch]:
    from emotion_circuits.circuits.patching import patch_grid

    return patch_grid(params.site, lm.layers(params.layers or None), [Positions.parse(p) for p in params.positions])


def _measured(vectors: Vectors, params: Patch.Params, emotion: str, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Both ways over the grid of layers and positions."""
    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.circuits.patching import WAYS, patch_pairs
    from emotion_circuits.experiments._endpoint import Endpoint as Tokens

    lm, tokens = vectors.context.lm, Tokens(vectors.context.measure, vectors.emotions).tokens
    metric = Endpoint(tokens.ids(emotion), tokens.neutral_ids(emotion))
    grid = _grid(lm, params)
    return [
        row
        for way in WAYS
        for row in _rows(patch_pairs(lm, pairs, grid, metric, way=way), emotion, params, vectors.context.seed)
    ]


def _rows(patched: Patched, emotion: str, params: Patch.Params, seed: int) -> list[dict[str, Any]]:
    found = patched.recovery(seed=seed, resamples=params.resamples)
    return [
        {"emotion": emotion, "way": patched.way, "layer": patch.layers[0], "position": str(patch.position),
         "recovery": float(found.estimate[i]), "ci": [float(found.low[i]), float(found.high[i])],
         "pairs": len(patched.clean)}
        for i, patch in enumerate(patched.patches)
    ]  # fmt: skip


def _sentence(rows: Sequence[Mapping[str, Any]], emotion: str) -> str:
    """The earliest layer at which the last token alone carries half of the emotion."""
    mine = [r for r in rows if r["emotion"] == emotion and r["way"] == "denoising" and r["position"] == "last"]
    half = next((r for r in mine if r["ci"][0] > 0.5), None)
    if half is None:
        return f"{emotion}: at no layer does the last token alone carry half of the endpoint's difference"
    return (
        f"{emotion}: from layer {half['layer']} on, the last token alone carries more than half of the endpoint's "
        f"difference (m {half['recovery']:.2f} [{half['ci'][0]:.2f}, {half['ci'][1]:.2f}], {half['pairs']} pairs)"
    )


def _figure(rows: Sequence[Mapping[str, Any]], emotion: str, way: str) -> Figure:
    data = [
        {"row": r["layer"], "column": r["position"], "value": r["recovery"]}
        for r in rows
        if r["emotion"] == emotion and r["way"] == way
    ]
    what = "emotional activations in the neutral run" if way == "denoising" else "neutral ones in the emotional run"
    return Figure(
        f"patch-{emotion}-{way}", "matrix", f"Patching {emotion}: {way}",
        f"Recovery m by layer and position, {what}: 1 is the emotional run, 0 the neutral one.",
        f"Heatmap of recovery for {emotion}, {way}.", data,
        {"scale": [-1, 1], "midpoint": 0, "x": "position", "y": "layer", "value": "m"},
    )  # fmt: skip
