"""The numbers of ``heads.screen`` for one emotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.attention import attention_to_words
from emotion_circuits.circuits.attribution import Gate, attribute, checked_cells, judge
from emotion_circuits.circuits.components import Head
from emotion_circuits.circuits.contributions import direct_contributions
from emotion_circuits.circuits.ov import listed, source_tokens_in_prompts
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._heads import Bench, Mode, Subject

Array = NDArray[np.float64]

SOURCES = 5
"""Source tokens that are named for each of the top heads."""


@dataclass(frozen=True)
class Screened:
    """Rows of every head, the strongest supporters with the tokens they read, and the gates."""

    subject: Subject
    rows: tuple[dict[str, Any], ...]
    top: tuple[Head, ...]
    sources: Mapping[tuple[int, int], str]
    gate: Gate
    direct_error: float
    attention_note: str
    arrays: Mapping[str, Array]


def screen(bench: Bench, subject: Subject, modes: Sequence[Mode], top: int, exact: int = 0) -> Screened:
    """Score every head on the subject's fit and dev pairs.

    ``exact`` above 0: only that many heads with the strongest estimated support, and as many others, are ablated.
    """
    lm, emotion, resamples = bench.context.lm, subject.emotion, bench.params.resamples
    estimates = bench.saved(f"{emotion}-attribution", lambda: {
        "estimates": attribute(lm, subject.choosing, subject.metric, mode=modes[0]).estimates
    })["estimates"]  # fmt: skip
    estimate = estimates.mean(-1)
    heads = exact_heads(estimate, exact, bench.context.seed)
    ablated = {m: bench.saved(f"{emotion}-ablation-{m}", partial(_ablated, bench, subject, heads, m)) for m in modes}
    clean, changes = ablated[modes[0]]["clean"], ablated[modes[0]]["changes"]
    direct = bench.saved(f"{emotion}-direct", lambda: _direct(bench, subject))
    attention, note = _attention(bench, subject)
    mean = changes.mean(-1)
    # A shortlist is all that was checked; of every head, the strongest estimates and random others are enough.
    cells = np.nonzero(np.isfinite(mean)) if exact else tuple(checked_cells(estimate, seed=bench.context.seed).T)
    low, high, p_bh = _tested(changes, [p.cluster for p in subject.choosing], emotion, resamples, bench.context.seed)
    words = int(attention["samples"]) if attention else 0
    rows = tuple(
        {
            "emotion": emotion, "layer": layer, "head": head,
            "delta_attn": _cell(attention, "delta", layer, head),
            "emotion_mean_attn": _cell(attention, "emotion", layer, head),
            "neutral_mean_attn": _cell(attention, "neutral", layer, head),
            "samples_emotion": words, "samples_neutral": words,
            "direct": float(direct["heads"][:, layer, head].mean()), "attribution": float(estimate[layer, head]),
            **_exact_columns(mean[layer, head], low[layer, head], high[layer, head], p_bh[layer, head]),
        }
        for layer in range(lm.n_layers)
        for head in range(lm.n_heads)
    )  # fmt: skip
    # Of a shortlist only some support the endpoint; NaN, not measured, comes last.
    supporters = max(1, min(top, len(heads) // 2, int((mean < 0).sum())))
    order = np.argsort(mean, axis=None, kind="stable")[:supporters]
    best = tuple(Head(int(i) // lm.n_heads, int(i) % lm.n_heads) for i in order)
    arrays = {"changes": changes, "clean": clean, "attribution": estimates, "direct": direct["heads"],
              **{f"changes-{m}": ablated[m]["changes"] for m in modes[1:]}}  # fmt: skip
    sources = _sources(bench, subject, best)
    return Screened(
        subject, rows, best, sources, judge(estimate[cells], mean[cells]), float(direct["error"]), note, arrays
    )


def _sources(bench: Bench, subject: Subject, heads: Sequence[Head]) -> dict[tuple[int, int], str]:
    """Tokens of the emotional texts from which each head writes most along the direction into the last token."""
    lm, texts = bench.context.lm, [p.clean for p in subject.choosing]
    found = source_tokens_in_prompts(lm, texts, heads, subject.reading.vector, k=SOURCES)
    return {(head.layer, head.index): listed(lm, tokens) for head, tokens in found.items()}


def exact_heads(estimate: Array, exact: int, seed: int) -> tuple[Head, ...]:
    """Heads that are ablated, from estimates ``[layer, head]``: all, or (``exact`` above 0) the ``exact`` ones with the
    strongest estimated support, which is negative, and as many random others."""
    order = np.argsort(estimate, axis=None, kind="stable")
    if exact:
        rest = np.random.default_rng(seed).permutation(order[exact:])[:exact]
        order = np.concatenate([order[:exact], rest])
    return tuple(sorted(Head(int(i) // estimate.shape[1], int(i) % estimate.shape[1]) for i in order))


def _ablated(bench: Bench, subject: Subject, heads: Sequence[Head], mode: Mode) -> dict[str, Array]:
    """``changes`` ``[layer, head, pair]``; NaN where a head was not ablated."""
    lm = bench.context.lm
    found = ablate_sets(lm, subject.choosing, [(h,) for h in heads], subject.metric, mode=mode)
    changes = np.full((lm.n_layers, lm.n_heads, len(subject.choosing)), np.nan)
    for head, change in zip(heads, found.changes, strict=True):
        changes[head.layer, head.index] = change
    return {"clean": found.clean, "changes": changes}


def _exact_columns(change: float, low: float, high: float, p: float) -> dict[str, Any]:
    """What exact ablation found; nothing where it was not run."""
    if not np.isfinite(change):
        return {"ablation": None, "ci": None, "p_bh": None}
    return {"ablation": float(change), "ci": [float(low), float(high)], "p_bh": float(p)}


def _direct(bench: Bench, subject: Subject) -> dict[str, Any]:
    """Contributions to the direction in the emotional text minus those in its twin, per pair."""
    lm, position = bench.context.lm, bench.position
    (own,) = direct_contributions(lm, [p.clean for p in subject.choosing], [subject.reading], position)
    (twin,) = direct_contributions(lm, [p.donor for p in subject.choosing], [subject.reading], position)
    return {"heads": own.heads - twin.heads, "mlps": own.mlps - twin.mlps, "error": max(own.error(), twin.error())}


def _attention(bench: Bench, subject: Subject) -> tuple[dict[str, Array], str]:
    """Attention figures, or nothing and why."""
    pairs = [p for p in subject.choosing if p.clean.spans]
    if not pairs:
        return {}, f"{subject.emotion}: the texts have no emotion words, so attention to them is not measured"

    def compute() -> dict[str, Any]:
        found = attention_to_words(bench.context.lm, pairs)
        return {"emotion": found.emotion_mean_attn, "neutral": found.neutral_mean_attn, "delta": found.delta_attn,
                "samples": found.samples_emotion, "unmatched": found.unmatched}  # fmt: skip

    try:
        found = bench.saved(f"{subject.emotion}-attention", compute)
    except UsageError as error:
        return {}, f"{subject.emotion}: attention to emotion words is not measured: {error.what}"
    left = int(found["unmatched"])
    return found, f"{subject.emotion}: {left} emotion words had no matched neutral word" if left else ""


def _cell(attention: Mapping[str, Array], key: str, layer: int, head: int) -> float | None:
    return float(attention[key][layer, head]) if attention else None


def _tested(
    changes: Array, clusters: Sequence[str], emotion: str, resamples: int, seed: int
) -> tuple[Array, Array, Array]:
    """Bootstrap limits over scenarios and BH-adjusted p (cluster t) over all heads, ``[layer, head]`` each.

    Heads that were not ablated count as p = 1: the family is every head, however few were measured.
    """
    from emotion_circuits.stats import adjust, bootstrap_interval, cluster_t

    low, high, p = np.full(changes.shape[:-1], np.nan), np.full(changes.shape[:-1], np.nan), np.ones(changes.shape[:-1])
    measured = np.isfinite(changes).all(-1)
    interval = bootstrap_interval(changes[measured], clusters, resamples=resamples, seed=seed)
    low[measured], high[measured] = interval.low, interval.high
    varies = measured & (np.ptp(changes, axis=-1) > 0)
    p[varies] = cluster_t(changes[varies], clusters).p
    adjusted = adjust(p.ravel(), family=f"heads, ablation, {emotion}", method="bh").p.reshape(p.shape)
    return low, high, adjusted
