"""``patch``: clean/corrupt activation patching over layer × position, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import CaptureStep, Context, Experiment, Outcome, ScoreStep
from emotion_circuits.experiments._endpoint import EndpointTokens
from emotion_circuits.experiments._matched import MatchedParams, matched_emotions, matched_inputs, matched_texts
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.extract import StudySet
from emotion_circuits.types import Figure, Positions, Prompt, Section, SiteKind, Table

if TYPE_CHECKING:
    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.circuits.pairs import Pair
    from emotion_circuits.circuits.patching import Patch as GridPatch
    from emotion_circuits.circuits.patching import Patched
    from emotion_circuits.models.lm import LM
    from emotion_circuits.stats import Interval

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

    version = 2

    class Params(MatchedParams):
        """Parameters of ``patch``."""

        prompts: StudySet = Field(
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

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        lm.layers(params.layers or None)  # one out of range is refused before anything runs
        return ()

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._captured import fingerprint_prompts

        return {**matched_inputs(params), "texts": fingerprint_prompts(_texts(params))}

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep]:
        from emotion_circuits.circuits.patching import WAYS
        from emotion_circuits.engine.batching import capture_tokens

        steps = []
        for emotion in matched_emotions(params):
            with suppress(UsageError):  # too few pairs: said by the run, which goes on with the other emotions
                texts = tuple(p.clean for p in _pairs(lm, params, emotion))
                rows = max(1, capture_tokens(lm.device) // max(map(len, lm.encode(texts))))
                # Beside the patches, the clean and the corrupt run themselves.
                conditions = len(WAYS) * (2 + len(_grid(lm, params)))
                steps.append(ScoreStep(f"patch-{emotion}", texts, conditions, at=Positions("all"), rows=rows))
        return steps

    def summarise(self, context: Context, params: Params) -> Outcome:
        emotions = matched_emotions(params)
        tokens = EndpointTokens(context.measure, emotions)
        rows: list[dict[str, Any]] = []
        counts: dict[str, int] = {}
        skipped: dict[str, str] = {}
        shareless: dict[str, str] = {}
        for emotion in emotions:
            try:
                pairs = _pairs(context.lm, params, emotion)
            except UsageError as error:
                skipped[emotion] = error.what
                continue
            counts[emotion] = len(pairs)
            found, why = _measured(context, params, emotion, pairs, tokens.metric(emotion))
            rows += found
            if why:
                shareless[emotion] = why
        if not rows:
            raise UsageError(
                "; ".join(f"{e}: {why}" for e, why in skipped.items()),
                "write more pairs of equal length, or use a larger matched set, for example --prompts extended",
            )
        said = [_sentence(rows, e) for e in counts if e not in shareless]
        said += [f"{e}: changes in nats only, no share recovered ({why})" for e, why in shareless.items()]
        said += [f"{e}: not measured ({why})" for e, why in skipped.items()]
        columns = {"emotion": "emotion", "way": "way", "layer": "layer", "position": "position",
                   "change": "change (nats)", "change_ci": "95 % interval", "recovery": "m", "ci": "95 % interval of m",
                   "pairs": "pairs"}  # fmt: skip
        table = Table(
            "patch", "Change and recovery of every cell",
            "Change: against the run that is patched, untouched. Exploratory: cells are not corrected.", columns, rows,
        )  # fmt: skip
        figures = [_figure(rows, e, way) for e in counts for way in ("denoising", "noising")]
        section = Section(
            "patch", "Where does the emotion pass through?", [s + "." for s in said], [f for f in figures if f.data],
            [table],
        )  # fmt: skip
        summary = {
            "site": params.site, "pairs": counts, "results": rows, "no_recovery": shareless, "not_measured": skipped,
        }  # fmt: skip
        return Outcome(summary, said, section)


def _texts(params: Patch.Params) -> tuple[Prompt, ...]:
    return tuple(p for p in matched_texts(params) if p.split in params.split or p.split is None)


def _pairs(lm: LM, params: Patch.Params, emotion: str) -> list[Pair]:
    """Emotional texts with the neutral twin of equal length in tokens."""
    from emotion_circuits.circuits.pairs import length_matched, twin_pairs

    pairs = length_matched(lm, twin_pairs(_texts(params), emotion))[: params.scenarios]
    if any(Positions.parse(p).kind == "emotion-word" for p in params.positions):
        pairs = [p for p in pairs if p.clean.spans]
    if len(pairs) < FEWEST_PAIRS:
        raise UsageError(
            f"only {len(pairs)} pairs of {emotion} have texts of equal length in the tokenizer of {lm.name}",
            "write more such pairs, or use a larger matched set, for example --prompts extended",
        )
    return pairs


def _grid(lm: LM, params: Patch.Params) -> list[GridPatch]:
    from emotion_circuits.circuits.patching import patch_grid

    return patch_grid(params.site, lm.layers(params.layers or None), [Positions.parse(p) for p in params.positions])


def _measured(
    context: Context, params: Patch.Params, emotion: str, pairs: Sequence[Pair], metric: Endpoint
) -> tuple[list[dict[str, Any]], str]:
    """Both ways over the grid of layers and positions, and why no share can be given (empty where one can).

    The denominator, the clean minus the corrupt texts' mean endpoint, is one number for all cells of an emotion: where
    it is not clearly different from 0 there is nothing to be a share of, and the changes themselves are kept.
    """
    from emotion_circuits.circuits.patching import WAYS, patch_pairs
    from emotion_circuits.stats import UnclearDenominatorError, bootstrap_interval

    lm, seed = context.lm, context.seed
    grid = _grid(lm, params)
    both = [patch_pairs(lm, pairs, grid, metric, way=way) for way in WAYS]
    why = ""
    shares: list[Interval | None]
    try:
        shares = [patched.recovery(seed=seed, resamples=params.resamples) for patched in both]
    except UnclearDenominatorError:
        gap = bootstrap_interval(
            both[0].clean - both[0].corrupt, both[0].clusters, resamples=params.resamples, seed=seed
        )
        shares = [None, None]
        unclear = (
            "emotional and neutral texts do not clearly differ on the endpoint"
            if float(gap.low) <= 0 <= float(gap.high)
            else "in some resamples of the pairs emotional and neutral texts do not differ on the endpoint"
        )
        why = f"{unclear}: {float(gap.estimate):+.2f} nats [{float(gap.low):+.2f}, {float(gap.high):+.2f}]"
    rows = [
        row for patched, share in zip(both, shares, strict=True) for row in _rows(patched, share, emotion, params, seed)
    ]
    return rows, why


def _rows(
    patched: Patched, share: Interval | None, emotion: str, params: Patch.Params, seed: int
) -> list[dict[str, Any]]:
    change = patched.change(seed=seed, resamples=params.resamples)
    return [
        {"emotion": emotion, "way": patched.way, "layer": patch.layers[0], "position": str(patch.position),
         "change": float(change.estimate[i]), "change_ci": [float(change.low[i]), float(change.high[i])],
         "recovery": None if share is None else float(share.estimate[i]),
         "ci": None if share is None else [float(share.low[i]), float(share.high[i])], "pairs": len(patched.clean)}
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
    """Recovery by layer and position, or the change in nats where there is no recovery."""
    mine = [r for r in rows if r["emotion"] == emotion and r["way"] == way]
    shared = all(r["recovery"] is not None for r in mine)
    key, short = ("recovery", "m") if shared else ("change", "nats")
    largest = 1.0 if shared else max((abs(r[key]) for r in mine), default=1.0) or 1.0
    what = "emotional activations in the neutral run" if way == "denoising" else "neutral ones in the emotional run"
    meaning = "Recovery m" if shared else "Change of the endpoint in nats"
    ends = ": 1 is the emotional run, 0 the neutral one" if shared else ""
    return Figure(
        f"patch-{emotion}-{way}", "matrix", f"Patching {emotion}: {way}",
        f"{meaning} by layer and position, {what}{ends}.", f"Heatmap of {meaning.lower()} for {emotion}, {way}.",
        [{"row": r["layer"], "column": r["position"], "value": r[key]} for r in mine],
        {"scale": [-largest, largest], "midpoint": 0, "x": "position", "y": "layer", "value": short},
    )  # fmt: skip
