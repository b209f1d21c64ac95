"""How good continuous scores are against labels: one-vs-rest AUROC, thresholds, and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.stats import auroc

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

BINS = 15


@dataclass(frozen=True)
class LabelQuality:
    """AUROC of one label's score on its ``n`` texts against all ``rest``."""

    label: str
    column: str
    auroc: float
    n: int
    rest: int


def label_quality(
    scores: Mapping[str, Float[np.ndarray, " text"]],
    labels: Sequence[frozenset[str]],
    columns: Mapping[str, str],
) -> list[LabelQuality]:
    """One-vs-rest AUROC of every label that ``columns`` maps to a column; a text may have several labels.

    Positives are all texts with the label, negatives all others; texts without a score (NaN) are neither. Labels that
    every text has, or none, are left out: AUROC needs both.
    """
    found = []
    for label, column in columns.items():
        values = np.asarray(scores[column], dtype=np.float64)
        scored = np.isfinite(values)
        values, positive = values[scored], np.array([label in own for own in labels], dtype=np.bool_)[scored]
        if positive.any() and not positive.all():
            area = float(auroc(values[positive], values[~positive]))
            found.append(LabelQuality(label, column, area, int(positive.sum()), int((~positive).sum())))
    return found


def best_threshold(scores: Float[np.ndarray, " text"], positive: Bool[np.ndarray, " text"]) -> float:
    """The score from which on a text is called positive so that F1 is largest (the middle between two scores)."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + positive.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # a threshold cannot lie between equal scores
    best = int(np.argmax(f1))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def expected_calibration_error(
    probabilities: Float[np.ndarray, " text"], positive: Bool[np.ndarray, " text"], bins: int = BINS
) -> float:
    """Σ (texts of the bin / texts) · |mean probability - share of positives|, bins of equal count (Naeini et al. 2015).

    Equal counts rather than equal widths: of a rare label almost all texts would fall into the lowest bin.
    """
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(probabilities[part].mean() - positive[part].mean()) for part in parts]
    return float(sum(gaps) / len(order))


def quality_card(
    probabilities: Float[np.ndarray, "text label"], truth: Bool[np.ndarray, "text label"], labels: Sequence[str]
) -> dict[str, Any]:
    """Per label AUROC, threshold of the best F1, base rate and n; macro AUROC; calibration error. JSON-ready.

    A label without a positive text has no figures (null).
    """
    per_label: dict[str, dict[str, Any]] = {}
    for k, label in enumerate(labels):
        scores, positive = probabilities[:, k], truth[:, k]
        both = bool(positive.any() and not positive.all())
        per_label[label] = {
            "n": int(positive.sum()),
            "base_rate": round(float(positive.mean()), 5),
            "auroc": round(float(auroc(scores[positive], scores[~positive])), 4) if both else None,
            "threshold": round(best_threshold(scores, positive), 4) if both else None,
            "ece": round(expected_calibration_error(scores, positive), 4),
        }
    areas = [row["auroc"] for row in per_label.values() if row["auroc"] is not None]
    return {
        "n": len(truth),
        "macro_auroc": round(float(np.mean(areas)), 4) if areas else None,
        "mean_ece": round(float(np.mean([row["ece"] for row in per_label.values()])), 4),
        "labels": per_label,
    }
