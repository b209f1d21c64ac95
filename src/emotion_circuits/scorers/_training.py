"""Training the heads of ``embedded`` on frozen features, from files that the user names; same seed, same heads.

Emotions: one hidden layer of 256 units, binary cross-entropy per label, AdamW with a one-cycle learning rate. A tenth
of the texts, drawn by a hash of the text so that copies stay together, is held out: the card's thresholds, calibration
and AUROC come from there. Politeness: logistic regression of the top against the bottom quartile of the ratings; the
card's figures come from ten-fold cross-validation, the head from all of these texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.prompts.copies import folded
from emotion_circuits.scorers._encoder import Progress, TextEncoder
from emotion_circuits.scorers._evaluation import quality_card
from emotion_circuits.scorers._heads import Head

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

LAYERS = (1, 3, 5)
"""Outputs of the first, third and fifth of six blocks; chosen on a held-out tenth of GoEmotions' train file."""
HELD_OUT = 0.1
FOLDS = 10
POLITENESS = "politeness"
FEWEST_TEXTS = 50


@dataclass(frozen=True)
class Recipe:
    """How the emotion head is trained; the defaults were chosen on the held-out tenth."""

    hidden: int = 256
    epochs: int = 10
    rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.4
    input_dropout: float = 0.2
    batch: int = 256


DEFAULT_RECIPE = Recipe()


def train_emotions(
    encoder: TextEncoder,
    texts: Sequence[str],
    labels: Sequence[frozenset[str]],
    names: Sequence[str],
    *,
    seed: int = 0,
    recipe: Recipe = DEFAULT_RECIPE,
    progress: Progress | None = None,
) -> tuple[Head, dict[str, Any]]:
    """A multi-label head for ``names`` and the figures of its card on the held-out tenth.

    Raises:
        UsageError: fewer than 50 texts, or a label without any text.
    """
    _enough(texts)
    truth = np.array([[name in own for name in names] for own in labels], dtype=np.bool_)
    if missing := [name for name, column in zip(names, truth.T, strict=True) if not column.any()]:
        raise UsageError(
            f"no text has the label {missing[0]!r} ({len(missing)} labels without texts)",
            "leave these labels out of the labels file",
        )
    held = np.array([_share(text, seed) < HELD_OUT for text in texts], dtype=np.bool_)
    features = encoder.features(texts, LAYERS, progress)
    head = Head(tuple(names), LAYERS, _fit_hidden(features[~held], truth[~held], seed, recipe))
    # Figures are those of the weights that are written: rounded to half precision.
    figures = quality_card(_rounded(head).probabilities(features[held]), truth[held], names)
    return head, {"n_train": int((~held).sum()), "seed": seed, "recipe": vars(recipe), "held_out": figures}


def train_politeness(
    encoder: TextEncoder,
    texts: Sequence[str],
    ratings: Float[np.ndarray, " text"],
    *,
    seed: int = 0,
    inverse_penalty: float = 3e-3,
    progress: Progress | None = None,
) -> tuple[Head, dict[str, Any]]:
    """A head for polite (top quartile of ``ratings``) against impolite (bottom quartile), and its cross-validation.

    Raises:
        UsageError: fewer than 50 texts, or ratings without spread.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    _enough(texts)
    low, high = np.quantile(ratings, [0.25, 0.75])
    if low >= high:
        raise UsageError("the politeness ratings have no top and bottom quartile", "check the column of ratings")
    chosen = np.flatnonzero((ratings <= low) | (ratings >= high))
    kept = [texts[i] for i in chosen.tolist()]
    polite = ratings[chosen] >= high
    features = encoder.features(kept, LAYERS, progress)

    def fitted(rows: np.ndarray) -> Head:
        mean, scale = _moments(features[rows])
        model = LogisticRegression(C=inverse_penalty, max_iter=1000)
        model.fit((features[rows] - mean) / scale, polite[rows])
        weights = {"mean": mean, "scale": scale, "out_weight": model.coef_, "out_bias": model.intercept_}
        return Head((POLITENESS,), LAYERS, weights)

    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    unseen = np.empty((len(kept), 1))
    for rows, test in folds.split(features, polite, [folded(text) for text in kept]):
        unseen[test] = _rounded(fitted(rows)).probabilities(features[test])
    figures = quality_card(unseen, polite[:, None], [POLITENESS])
    details = {"n_train": len(kept), "seed": seed, "inverse_penalty": inverse_penalty, "folds": FOLDS}
    return fitted(np.arange(len(kept))), {**details, "cross_validated": figures}


def _fit_hidden(
    features: Float[np.ndarray, "text feature"], truth: Bool[np.ndarray, "text label"], seed: int, recipe: Recipe
) -> Mapping[str, Float[np.ndarray, "..."]]:
    """Weights of the hidden-layer head after ``recipe.epochs`` passes; drawn and shuffled by ``seed`` alone."""
    import torch
    from torch import nn

    mean, scale = _moments(features)
    x = torch.from_numpy((features - mean) / scale)
    y = torch.from_numpy(truth.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden, out = nn.Linear(x.shape[1], recipe.hidden), nn.Linear(recipe.hidden, y.shape[1])
        network = nn.Sequential(
            nn.Dropout(recipe.input_dropout), hidden, nn.GELU(), nn.Dropout(recipe.dropout), out
        ).train()  # fmt: skip
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
        steps = recipe.epochs * -(-len(x) // recipe.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps)
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(x)).split(recipe.batch):
                loss = nn.functional.binary_cross_entropy_with_logits(network(x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    trained = {
        "hidden_weight": hidden.weight, "hidden_bias": hidden.bias, "out_weight": out.weight, "out_bias": out.bias,
    }  # fmt: skip
    return {"mean": mean, "scale": scale, **{name: value.detach().numpy() for name, value in trained.items()}}


def _moments(
    features: Float[np.ndarray, "text feature"],
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    return features.mean(0), features.std(0) + np.float32(1e-6)


def _rounded(head: Head) -> Head:
    weights = {k: v if k in ("mean", "scale") else np.asarray(v, dtype=np.float16) for k, v in head.weights.items()}
    return Head(head.labels, head.layers, weights)


def _share(text: str, seed: int) -> float:
    """A number in [0, 1) that copies of a text share."""
    digest = hashlib.sha256(f"{seed}:{folded(text)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _enough(texts: Sequence[str]) -> None:
    if len(texts) < FEWEST_TEXTS:
        raise UsageError(
            f"{len(texts)} texts are too few to train a head on", f"give at least {FEWEST_TEXTS}, better thousands"
        )
