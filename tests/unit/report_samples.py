"""A realistic report and a hostile one, for the report tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emotion_circuits.types import Figure, Report, Section, Table, Verdict

HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>"
EMOTIONS = ("gratitude", "anger", "apology")


def layer_rows(names: tuple[str, ...] = EMOTIONS, layers: int = 30, seed: int = 0) -> list[dict[str, Any]]:
    """Own-vs-rest AUROC by layer: rises, plateaus, falls; intervals, null band, one chosen layer per series."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, name in enumerate(names):
        height = 0.93 - 0.06 * index
        for layer in range(layers):
            rise = 1 / (1 + math.exp(-(layer - 6 - index) / 2.2))
            value = 0.55 + (height - 0.55) * rise - 0.002 * max(0, layer - 24) ** 2 + rng.normal(0, 0.008)
            half = 0.035 + 0.01 * index
            rows.append(
                {
                    "layer": layer,
                    "series": name,
                    "value": value,
                    "low": value - half,
                    "high": min(1.0, value + half),
                    "null_low": 0.42,
                    "null_high": 0.59,
                    "chosen": layer == 14 + 3 * index,
                }
            )
    return rows


def cosine_rows(names: tuple[str, ...], seed: int = 1) -> list[dict[str, Any]]:
    """Cosines between unit vectors: symmetric, one on the diagonal."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(names), 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        {"row": a, "column": b, "value": float(vectors[i] @ vectors[j])}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]


def every_figure() -> dict[str, Figure]:
    """One realistic figure per kind, and the variants that are drawn differently."""
    rng = np.random.default_rng(2)
    eight = (*EMOTIONS, "joy", "sadness", "fear", "pride", "neutral")
    gaps = layer_rows()
    for row in gaps[10:13]:
        row["value"] = row["low"] = row["high"] = math.nan
    sets = [
        {
            "label": emotion,
            "group": group,
            "value": 0.93 - 0.06 * i - 0.02 * j,
            "low": 0.93 - 0.06 * i - 0.02 * j - 0.05,
            "high": min(1.0, 0.93 - 0.06 * i - 0.02 * j + 0.04),
            "reference": 0.52 + 0.02 * i,
        }
        for i, emotion in enumerate(EMOTIONS)
        for j, group in enumerate(("baseline", "extended", "replication"))
    ]
    sets[4] |= {"value": None, "low": None, "high": None}
    damage = [
        {
            "row": f"layer {layer}",
            "column": f"{strength:g}",
            "value": 6 * math.exp(-(((layer - 14) / 8) ** 2)) * strength / 0.4,
            "hatched": strength > 0.3 and layer > 8,
        }
        for layer in (4, 8, 12, 16, 20)
        for strength in (-0.4, -0.2, -0.1, 0, 0.1, 0.2, 0.4)
    ]
    damage[3]["value"] = None
    arms = {"baseline": 0.0, "+gratitude": 1.3, "−gratitude": -0.9, "random, covariance-matched": 0.1}
    observations = [
        {"arm": arm, "value": float(value)}
        for arm, centre in arms.items()
        for value in rng.normal(centre, 0.6 + 0.2 * abs(centre), 120)
    ]
    null = [{"value": float(value)} for value in rng.normal(0.5, 0.04, 999)]
    norms = [
        {"layer": layer, "series": series, "value": base * 1.16**layer, "low": base * 1.1**layer}
        | {"high": base * 1.22**layer}
        for series, base in (("first content token", 20.0), ("median token", 12.0), ("prefix token", 400.0))
        for layer in range(30)
    ]
    curves = {"y": "own-vs-rest AUROC", "reference": 0.5, "interval_label": "95 % cluster bootstrap"}
    return {
        figure.name: figure
        for figure in (
            _figure("own-vs-rest", "layer-curves", layer_rows(), **curves),
            _figure("with-gaps", "layer-curves", gaps, facet=True, **curves),
            _figure("atlas", "layer-curves", layer_rows(eight[:7]), **curves),
            _figure("cosines", "matrix", cosine_rows(EMOTIONS), scale=[-1, 1], midpoint=0, value="cosine"),
            _figure("cosines-atlas", "matrix", cosine_rows(eight), scale=[-1, 1], midpoint=0, value="cosine"),
            _figure("strengths", "matrix", damage, midpoint=0, x="strength (of the residual norm)", value="Δ log-odds"),
            _figure("layer-pairs", "matrix", _layer_pairs(), x="layer of model B", y="layer of model A", value="AUROC"),
            _figure("sets", "intervals", sets, x="test AUROC", interval_label="95 % cluster bootstrap"),
            _figure("heads", "bars", _heads(), x="direct effect on the log-odds"),
            _figure("norms", "lines", norms, y="L2 norm", log=True),
            _figure("arms", "violins", observations, x="change of log-odds", reference=0),
            _figure("frontier", "scatter", _frontier(), x="Δ log perplexity", y="Δ classifier score", reference=0),
            _figure("tree", "dendrogram", _joins(), x="distance"),
            _figure("null", "histogram", null, x="AUROC of shuffled labels", reference=0.71),
            _figure("circuit", "circuit", _nodes(), edges=_edges()),
        )
    }


def _nodes() -> list[dict[str, Any]]:
    """Heads and MLPs of a circuit, two of them in one layer."""
    found = [(3, "3:5", -0.4, "reads"), (3, "m3", 0.1, "aggregates"), (8, "8:1", -0.9, "writes"), (9, "m9", -0.2, "")]
    return [
        {"layer": layer, "label": label, "value": value, "role": role or "no role", "direct": -value / 2}
        for layer, label, value, role in found
    ]


def _edges() -> list[dict[str, Any]]:
    """One edge that supports the endpoint, one that works against it, one inside a layer."""
    ends = [("3:5", "8:1", -0.3), ("8:1", "m9", 0.15), ("3:5", "m3", -0.05)]
    return [{"source": a, "target": b, "value": value} for a, b, value in ends]


def study_report() -> Report:
    """What the quickstart study would write: three figures, two tables."""
    figures = every_figure()
    evidence = Table(
        "evidence",
        "Evidence per emotion on the test split",
        "Intervals: 95 % cluster bootstrap over scenarios.",
        {"emotion": "Emotion", "layer": "Layer", "auroc": "AUROC", "ci": "95 % interval", "p": "p (max over layers)"},
        [
            {"emotion": "gratitude", "layer": 14, "auroc": 0.9713, "ci": [0.94, 0.99], "p": 0.001},
            {"emotion": "anger", "layer": 17, "auroc": 0.8132, "ci": [0.75, 0.87], "p": 0.001},
            {"emotion": "apology", "layer": 20, "auroc": math.nan, "ci": None, "p": None},
        ],
    )
    texts = Table(
        "texts",
        "Texts the directions get most wrong",
        "",
        {"id": "Prompt", "text": "Text", "score": "Score"},
        [
            {"id": "home-03-anger", "text": "You promised to be here at six, and now it is nine again.", "score": -1.2},
            {"id": "rtl", "text": "شكرا جزيلا على مساعدتك 🙏", "score": 0.4},
        ],
    )
    return Report(
        title="Where SmolLM2-135M holds gratitude, anger and apology",
        profile="quickstart",
        verdicts=(
            Verdict(
                "Question 1, where?",
                ("gratitude at layer 14 (test AUROC 0.971 [0.94, 0.99], shuffled-label p = 0.001).",),
            ),
            Verdict("Question 2, shared?", reason="not asked: add --model gemma-3-270m."),
        ),
        sections=(
            Section(
                "where",
                "Where is each emotion represented?",
                (
                    "All three emotions can be read off the residual stream from layer 8 on.",
                    "The layers below were chosen on the dev split and are reported on the test split.",
                ),
                (figures["own-vs-rest"], figures["cosines"]),
                (evidence,),
                ("One model and one language; 70 scenarios.",),
            ),
            Section("norms", "How large is the residual stream?", ("It grows.",), (figures["norms"],), (texts,)),
        ),
        methods=("Directions are class-mean differences, centred within scenarios.",),
        command="emotion-circuits study quickstart --model smollm2-135m --seed 0",
        provenance={"model": "smollm2-135m", "revision": "0123abc", "created": "2026-11-23T10:00:00Z"},
    )


def hostile_report() -> Report:
    """Every text that a report can carry, filled with markup, controls, overrides and a megabyte."""
    rows = layer_rows((HOSTILE, "a\x00b\u202e‮ abc", "🙏" * 50), layers=6)
    curves = _figure(HOSTILE, "layer-curves", rows, y=HOSTILE, reference=0.5)
    cells = _figure("cells", "matrix", cosine_rows((HOSTILE, "\ud800", "x" * 1_000_000)), value=HOSTILE)
    dots = _figure("dots", "intervals", [{"label": HOSTILE, "group": HOSTILE, "value": 1.0, "low": 0.5, "high": 1.5}])
    table = Table(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        {"text": HOSTILE, "number": "n"},
        [
            {"text": HOSTILE, "number": 1},
            {"text": "A" * 1_000_000, "number": math.inf},
            {"text": "مرحبا \u202eevil\u202c \x00\x07 | `code` [link](http://example.org) \ud83d", "number": None},
        ],
    )
    section = Section(HOSTILE, HOSTILE, (HOSTILE,), (curves, cells, dots), (table,), (HOSTILE,))
    verdicts = (Verdict(HOSTILE, (HOSTILE,)), Verdict(HOSTILE, reason=HOSTILE))
    return Report(HOSTILE, HOSTILE, verdicts, (section,), (HOSTILE,), f"echo '{HOSTILE}' ``` ", {HOSTILE: HOSTILE})


def _figure(name: str, kind: str, rows: list[dict[str, Any]], **options: Any) -> Figure:
    title = HOSTILE if name == HOSTILE else f"{name.replace('-', ' ').capitalize()} of SmolLM2-135M, test split"
    caption = "Thirty layers of the residual stream, mean over content tokens."
    return Figure(name, kind, title, caption, f"A figure of kind {kind}: {title}", rows, options)


def _joins() -> list[dict[str, Any]]:
    pairs = [("anger", "fear", 1.0), ("joy", "pride", 1.4), ("anger + fear", "sadness", 2.0)]
    last = ("joy + pride", "anger + fear + sadness", 3.1)
    return [{"first": a, "second": b, "value": height} for a, b, height in (*pairs, last)]


def _heads() -> list[dict[str, Any]]:
    effects = [("L14.z.3", 0.81), ("L17.z.0", 0.44), ("L12.z.7", 0.2), ("L20.z.5", -0.33), ("L9.z.1", None)]
    return [
        {"label": head, "group": emotion, "value": None if effect is None else effect * sign}
        | {"low": None if effect is None else effect * sign - 0.08}
        | {"high": None if effect is None else effect * sign + 0.08}
        for head, effect in effects
        for emotion, sign in (("gratitude", 1.0), ("anger", -0.6))
    ]


def _frontier() -> list[dict[str, Any]]:
    """What every cell of a sweep gains and costs; a cell whose texts were too short to judge has no cost."""
    rows = [
        {"x": 2 * strength * (1 + layer / 20), "value": strength - 0.04 * index, "series": emotion}
        | {"label": f"layer {layer}, α {strength:g}"}
        for index, emotion in enumerate(EMOTIONS)
        for layer in (7, 15, 22)
        for strength in (0.1, 0.2, 0.3, 0.45)
    ]
    rows[3]["x"] = None
    return rows


def _layer_pairs() -> list[dict[str, Any]]:
    return [
        {"row": str(a), "column": str(b), "value": 0.5 + 0.4 * math.exp(-(((a / 30 - b / 18) / 0.25) ** 2))}
        for a in range(30)
        for b in range(18)
    ]
