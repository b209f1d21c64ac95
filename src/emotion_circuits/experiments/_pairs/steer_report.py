"""What ``transfer-steer`` says: a verdict per emotion, bars of every arm, and the texts side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._cell import BASE
from emotion_circuits.experiments._contract import Outcome
from emotion_circuits.experiments._pairs.data import PairData
from emotion_circuits.experiments._pairs.steer_measure import (
    SteerResults,
    measurable,
    steer_target,
    steer_twin,
)
from emotion_circuits.experiments._pairs.steer_numbers import (
    ARM_KEYS,
    FAMILY_KEYS,
    TEXT_KEYS,
    emotion_rows,
    steer_observations,
    steering_matrix,
)
from emotion_circuits.experiments._pairs.steer_vectors import MAPPED, NATIVE, SHUFFLED, ArmVectors, arm_vectors
from emotion_circuits.experiments._pairs.transfer_numbers import search_layers
from emotion_circuits.experiments._pairs.transfer_report import pair_data
from emotion_circuits.experiments.shared_texts import require_neutral
from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments._contract import PairContext
    from emotion_circuits.experiments.transfer_steer import TransferSteerParams

Row = Mapping[str, Any]

LAYERS = "layers.json"
"""The layer pair that dev texts chose, so that a resumed run need not search again."""
TEXTS_SHOWN = 6
SIDE_BY_SIDE = (NATIVE, MAPPED, SHUFFLED)
ARMS = {
    "native": "native", "mapped": "mapped", "untrained_map": "map into the untrained twin",
    "word_embeddings": "word embeddings, mapped", "twin": "in the untrained twin",
}  # fmt: skip
FAMILIES = {"shuffled_maps": "shuffled maps", "covariance": "random, covariance-matched"}
"""How arms and families are called in figures and tables, by their keys in the JSON."""

LIMITS = (
    "The endpoint is the next token: the emotion's words against neutral words of like frequency. A vector that "
    "carries nothing but those words moves it too; the arm of word embeddings (static word meaning, mapped) shows how "
    "far that goes and is part of no verdict.",
    "'Not distinguishable from controls' and 'no effect shown' say that this test shows nothing, not that nothing is "
    "shared.",
    "A linear map fitted on neutral text carries what its components hold (κ); the mapped vector is compared at the "
    "dose that suits the native one.",
    "The map into the untrained twin fits well (words alone make activations differ), but its coordinates mean nothing "
    "to the trained target; in the twin itself the same vector is at home, which is the floor of the whole chain.",
    "Verdicts are per emotion at p ≤ .05 without correction; p (BH) over the emotions is in the table.",
)
"""Printed under the section."""


def steer_outcome(context: PairContext, params: TransferSteerParams) -> Outcome:
    """Everything ``transfer-steer`` reports."""
    data = pair_data(context)
    require_neutral(data.n_texts)
    pair = _layer_pair(context, data)
    chosen = (pair["source"], pair["target"])
    arms = arm_vectors(data, chosen, shuffles=params.shuffles, random=params.random, seed=context.seed)
    found, left_out = _measured(context, params, arms, chosen[1])
    rows = emotion_rows(found, arms, resamples=params.resamples, seed=context.seed)
    names = (context.source.name, context.target.name)
    summary = {
        "layer_pair": pair, "map": arms.about, "residual_norm": found.place.norm,
        "strengths": list(params.strengths), "prompts": {"dev": _count(params, "dev"), "test": len(found.prompts)},
        "per_emotion": rows, "left_out": left_out,
        "matrix": {"emotions": list(found.emotions), "effect": steering_matrix(found)},
    }  # fmt: skip
    tensors = {
        f"{FAMILY_KEYS[family]}/{emotion}": effects
        for family, by_emotion in found.families.items()
        for emotion, effects in by_emotion.items()
    }
    vectors = {f"{ARM_KEYS[arm]}/{e}": v[arms.of(e)] for arm, v in arms.single.items() for e in found.emotions}
    return Outcome(
        summary, [verdict_line(names, r, pair) for r in rows], _section(names, summary, found),
        steer_observations(found, arms, names[1], "transfer-steer", params.position),
        tensors={"control_effects": tensors, "vectors": vectors},
    )  # fmt: skip


def _count(params: TransferSteerParams, split: str) -> int:
    return sum(p.split == split for p in params.steered())


def _layer_pair(context: PairContext, data: PairData) -> dict[str, Any]:
    """The pair with the best representation-level transfer on dev texts, as ``transfer`` chooses it; found once."""
    if context.run.path(LAYERS).exists():
        found: dict[str, Any] = context.run.read_json(LAYERS)
        return found
    cells = len(data.source.layers) * len(data.target.layers)
    with context.progress(f"transfer-steer {context.source.name} → {context.target.name}", cells) as advance:
        grid = search_layers(data, context.seed, advance)
    found = {"source": grid.chosen[0], "target": grid.chosen[1], "chosen_on": "dev" if cells > 1 else "given",
             "grid": {"source": list(grid.layers[0]), "target": list(grid.layers[1])}}  # fmt: skip
    context.run.write_json(LAYERS, found)
    return found


def _measured(
    context: PairContext, params: TransferSteerParams, arms: ArmVectors, layer: int
) -> tuple[SteerResults, list[dict[str, str]]]:
    """The target first, then its untrained twin: one model in memory at a time."""
    in_target = context.measure("target")
    emotions, left_out = measurable(in_target, params.steer or arms.emotions, asked=bool(params.steer))
    found, metrics = steer_target(in_target, arms, layer, emotions, params, context.seed)
    del in_target
    if arms.twin is None:
        return found, left_out
    twin = steer_twin(context.measure("untrained"), arms, found, metrics, params.steered())
    return replace(found, twin=twin), left_out


def verdict_line(names: tuple[str, str], row: Row, pair: Mapping[str, Any]) -> str:
    """One emotion's answer, the reason for it, and the figures that decide it."""
    mapped, native = row["arms"]["mapped"], row["arms"]["native"]
    share = "" if row["share"] is None else f", {row['share']:.2f} {_range(row['share_ci'], '.2f')} of native"
    return (
        f"{names[0]} → {names[1]}, {row['emotion']}: {row['verdict']} ({row['reason']}; mapped {_with_range(mapped)}, "
        f"native {_with_range(native)} nats{share}; rank p {row['p']['max']:.2g}; layers {pair['source']} → "
        f"{pair['target']}, α {row['alpha']:g})"
    )


def _section(names: tuple[str, str], summary: Mapping[str, Any], found: SteerResults) -> Section:
    rows, pair = summary["per_emotion"], summary["layer_pair"]
    how = "given" if pair["chosen_on"] == "given" else "chosen on dev texts (transfer of representations)"
    answer = [
        f"Layers {pair['source']} → {pair['target']} were {how}, each emotion's strength was chosen on "
        f"{summary['prompts']['dev']} dev prompts by what the target's own vector does; what follows was measured on "
        f"{summary['prompts']['test']} other prompts. Effects are half the difference between adding and "
        "subtracting the vector; all vectors of an emotion have the same length.",
        *[verdict_line(names, r, pair) + "." for r in rows],
        *[f"{one['emotion']} is left out: {one['reason']}." for one in summary["left_out"]],
    ]
    for r in rows:
        if not r["passed_on_dev"]:
            answer.append(
                f"No strength of {r['emotion']} left both texts reliably sound on dev with the native vector working; "
                "the one whose texts passed most often was tested."
            )
    figures = [_arms(names, rows), _matrix(names, summary["matrix"]), _written(found, names, rows)]
    tables = [_verdicts(rows), _controls(rows), _damage(found, rows), *[_texts(found, r) for r in rows]]
    heading = f"Does the mapped vector steer: {names[0]} → {names[1]}"
    return Section("transfer-steer", heading, answer, [f for f in figures if f.data], tables, LIMITS)


def _arms(names: tuple[str, str], rows: Sequence[Row]) -> Figure:
    """Every arm of every emotion: cluster-t intervals, and for families the band of 95 % of the members."""
    data = []
    for r in rows:
        arms = [(label, r["arms"][key]["effect"], r["arms"][key]["ci"]) for key, label in ARMS.items()
                if key in r["arms"]]  # fmt: skip
        bands = [(f"{label} (band)", r["families"][key]["mean"], r["families"][key]["range"])
                 for key, label in FAMILIES.items()]  # fmt: skip
        data += [_point(r["emotion"], *one) for one in (*arms[:2], *bands, *arms[2:])]
    return Figure(
        "transfer-steer-arms", "intervals", f"Steering {names[1]} with vectors of {names[0]}",
        "Odd effect on the emotion's own endpoint on test prompts, all vectors of one length. Lines: 95 % cluster t "
        "over prompts; for shuffled maps and random vectors the band that holds 95 % of them.",
        "Dots with intervals of every arm's effect by emotion.", data,
        {"x": "odd effect (nats)", "reference": 0, "interval_label": "95 % interval, or 95 % of the band's vectors"},
    )  # fmt: skip


def _point(label: str, group: str, value: float | None, limits: Sequence[float] | None) -> dict[str, Any]:
    ends = {} if limits is None else {"low": limits[0], "high": limits[1]}
    return {"label": label, "group": group, "value": value, **ends}


def _matrix(names: tuple[str, str], matrix: Mapping[str, Any]) -> Figure:
    emotions, effect = matrix["emotions"], matrix["effect"]
    data = [
        {"row": a, "column": b, "value": effect[i][j]} for i, a in enumerate(emotions) for j, b in enumerate(emotions)
    ]
    bound = max((abs(d["value"]) for d in data), default=1.0) or 1.0
    return Figure(
        "transfer-steer-matrix", "matrix", "Whose words does a mapped vector raise?",
        f"Odd effect of the mapped vector of an emotion (row) on every emotion's endpoint in {names[1]} (column).",
        "Matrix of mapped vectors by endpoint.", data if len(emotions) > 1 else [],
        {"scale": [-bound, bound], "midpoint": 0, "x": "endpoint", "y": "mapped vector", "value": "nats"},
    )  # fmt: skip


def _written(found: SteerResults, names: tuple[str, str], rows: Sequence[Row]) -> Figure:
    """The classifier's shift of the written texts by arm."""
    data = [
        _point(r["emotion"], arm, r["texts"][TEXT_KEYS[arm]]["shift"], r["texts"][TEXT_KEYS[arm]]["shift_ci"])
        for r in rows
        for arm in found.written
        if r["texts"][TEXT_KEYS[arm]]["shift"] is not None
    ]
    return Figure(
        "transfer-steer-texts", "intervals", f"What {names[1]} writes",
        "Change of the classifier's score of sampled texts against the unsteered model, with 95 % cluster-t intervals "
        "over prompts; of the shuffled maps and of the random vectors the first that was drawn.",
        "Dots with intervals of classifier shifts by emotion and arm.", data,
        {"x": "Δ classifier score", "reference": 0, "interval_label": "95 % cluster t"},
    )  # fmt: skip


def _verdicts(rows: Sequence[Row]) -> Table:
    columns = {
        "emotion": "emotion", "verdict": "verdict", "reason": "because", "alpha": "α", "mapped": "mapped (nats)",
        "native": "native (nats)", "share": "share", "p_shuffled": "p shuffled maps", "p_covariance": "p random",
        "p_bh": "p (BH)", "raises_most": "raises most", "shift": "classifier", "sound": "sound", "cosine": "cosine",
        "kappa": "κ",
    }  # fmt: skip
    shown = [
        {
            "emotion": r["emotion"], "verdict": r["verdict"], "reason": r["reason"], "alpha": r["alpha"],
            "mapped": _with_range(r["arms"]["mapped"]), "native": _with_range(r["arms"]["native"]),
            "share": "–" if r["share"] is None else f"{r['share']:.2f} {_range(r['share_ci'], '.2f')}",
            "p_shuffled": r["p"]["shuffled_maps"], "p_covariance": r["p"]["covariance"], "p_bh": r["p_bh"],
            "raises_most": r["raises_most"],
            "shift": _signed(r["texts"]["mapped"]["shift"]), "sound": r["texts"]["mapped"]["damage"]["ok"],
            "cosine": r["cosine"], "kappa": r["kappa"],
        }
        for r in rows
    ]  # fmt: skip
    return Table("transfer-steer", "Verdicts", "The same rule for every emotion; test prompts only.", columns, shown)


def _controls(rows: Sequence[Row]) -> Table:
    columns = {"emotion": "emotion", "control": "control", "effect": "effect (nats)", "above": "mapped − control"}
    shown = []
    for r in rows:
        for key, family in r["families"].items():
            shown.append({"emotion": r["emotion"], "control": f"{FAMILIES[key]} ({family['members']})",
                          "effect": f"{family['mean']:+.2f} {_range(family['range'])}", "above": "–"})  # fmt: skip
        for key, difference in r["above"].items():
            shown.append({
                "emotion": r["emotion"], "control": ARMS[key], "effect": _with_range(r["arms"][key]),
                "above": f"{_signed(difference['difference'])} {_range(difference['ci'])}",
            })  # fmt: skip
        shown += [
            {"emotion": r["emotion"], "control": f"mapped vector on {half.replace('_', ' ')}",
             "effect": _signed(value), "above": "–"}
            for half, value in r["words"].items()
        ]  # fmt: skip
    return Table("transfer-steer-controls", "Controls and floors", "All of the mapped vector's length.", columns, shown)


def _damage(found: SteerResults, rows: Sequence[Row]) -> Table:
    columns = {
        "emotion": "emotion", "arm": "arm", "median_ppl_ratio": "perplexity ratio", "rep4": "rep-4",
        "rep4_baseline": "rep-4, baseline", "distinct2_ratio": "distinct-2 ratio", "empty": "empty", "ok": "sound",
    }  # fmt: skip
    shown = [
        {"emotion": r["emotion"], "arm": arm, **{c: r["texts"][TEXT_KEYS[arm]]["damage"][c] for c in
         ("median_ppl_ratio", "rep4", "rep4_baseline", "distinct2_ratio", "empty", "ok")}}
        for r in rows
        for arm in found.written
    ]  # fmt: skip
    return Table(
        "transfer-steer-damage", "Damage",
        "Sampled texts on test prompts; of the shuffled maps and of the random vectors the first that was drawn.",
        columns, shown,
    )  # fmt: skip


def _texts(found: SteerResults, row: Row) -> Table:
    emotion = row["emotion"]
    arms = {arm: found.texts_of(arm).texts(found.written_as(arm, emotion)) for arm in SIDE_BY_SIDE}
    base = found.texts.texts(BASE)
    shown = [
        {"prompt": p.text, BASE: base[i], **{arm: arms[arm][i] for arm in SIDE_BY_SIDE}}
        for i, p in enumerate(found.prompts[:TEXTS_SHOWN])
    ]
    columns = {"prompt": "prompt", BASE: "unsteered", NATIVE: "native", MAPPED: "mapped", SHUFFLED: "a shuffled map"}
    return Table(
        f"transfer-steer-texts-{emotion}", f"Texts side by side: {emotion}",
        f"First sample of the first {len(shown)} test prompts at α {row['alpha']:g}; not selected.", columns, shown,
    )  # fmt: skip


def _with_range(arm: Mapping[str, Any]) -> str:
    return f"{_signed(arm['effect'])} {_range(arm['ci'])}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _range(ci: Sequence[float] | None, style: str = "+.2f") -> str:
    return "–" if ci is None else f"[{ci[0]:{style}}, {ci[1]:{style}}]"
