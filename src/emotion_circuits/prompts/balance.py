"""Can a label be told from length and punctuation alone? A classifier is fitted that sees nothing else.

If it can, a direction for that label may be a direction for long sentences or for commas. The finding is the AUROC of
label against rest, cross-validated with whole scenarios held out, of the better of two classifiers: logistic
regression, and a forest of shallow trees for what is not linear.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from emotion_circuits.prompts.schema import end_mark
from emotion_circuits.prompts.statistics import words
from emotion_circuits.types import Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEATURES = (
    "characters", "words", "commas", "apostrophes", "hyphens", "other marks", "sentence ends inside",
    "ends with .", "ends with !", "ends with ?", "ends with …",
)  # fmt: skip
MINIMUM_TEXTS = 10
"""Fewer texts of a label (or of the rest) than this and no classifier is fitted."""
_FOLDS = 5


def surface_features(text: str) -> tuple[float, ...]:
    """Length and punctuation of a text, in the order of :data:`FEATURES`; nothing about its words."""
    end = end_mark(text)
    return (
        len(text),
        len(words(text)),
        text.count(","),
        len(re.findall("['’]", text)),
        len(re.findall("[-–—]", text)),
        len(re.findall(r"[;:\"“”()/…]", text)),
        len(re.findall(r"[.!?](?=\s+\S)", text)),
        *(float(end == mark) for mark in ".!?…"),
    )


def surface_auroc(prompts: Sequence[Prompt]) -> dict[str, float]:
    """AUROC of each label against the rest from :func:`surface_features` alone, held out by scenario.

    Labels with too few texts, or without others to compare with, are left out. Deterministic.
    """
    # The set as a tuple is the cache's key: a set's report and its validation ask for the same numbers.
    return dict(_surface_auroc(tuple(prompts)))


@lru_cache(maxsize=16)
def _surface_auroc(prompts: tuple[Prompt, ...]) -> dict[str, float]:
    import numpy as np

    labels = list(dict.fromkeys(prompt.emotion for prompt in prompts))
    names = np.array([prompt.emotion for prompt in prompts])
    clusters = np.array([prompt.scenario or prompt.text for prompt in prompts])
    features = np.array([surface_features(prompt.text) for prompt in prompts], dtype=np.float64)
    found = {}
    for label in labels:
        target = names == label
        enough = min(int(target.sum()), int((~target).sum())) >= MINIMUM_TEXTS
        if enough and len(set(clusters)) >= _FOLDS:
            found[label] = _held_out_auroc(features, target, clusters)
    return found


def _held_out_auroc(features: NDArray[np.float64], target: NDArray[np.bool_], clusters: NDArray[Any]) -> float:
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifiers = (
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced")),
        ExtraTreesClassifier(100, max_depth=4, class_weight="balanced", random_state=0),
    )
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=0)
    scores = (
        cross_val_predict(classifier, features, target, groups=clusters, cv=folds, method="predict_proba")[:, 1]
        for classifier in classifiers
    )
    return max(float(roc_auc_score(target, score)) for score in scores)
