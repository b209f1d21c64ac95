"""Small heads on frozen features, as safetensors, with a card: reading, writing and applying them.

One hidden layer: logits = W₂ · gelu(W₁ · (x - mean) / scale + b₁) + b₂, or W₂ alone without hidden layer; the score is
its logistic function, a probability per label (multi-label). A folder of heads holds ``NAME.safetensors`` per head and
one ``card.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.store import open_tensors, write_json, write_tensors
from emotion_circuits.store.files import read_json

if TYPE_CHECKING:
    from jaxtyping import Float

SHIPPED = Path(__file__).parent / "heads"
CARD = "card.json"
_BASE = {"mean", "scale", "out_weight", "out_bias"}
_HIDDEN = {"hidden_weight", "hidden_bias"}


@dataclass(frozen=True)
class Head:
    """Weights of one head; ``labels`` name its outputs and ``layers`` the encoder's layers that it reads."""

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    weights: Mapping[str, Float[np.ndarray, "..."]]

    def probabilities(self, features: Float[np.ndarray, "text feature"]) -> Float[np.ndarray, "text label"]:
        """P(label) of each text, independent of the other labels."""
        w = {name: np.asarray(value, dtype=np.float32) for name, value in self.weights.items()}
        x = (features - w["mean"]) / w["scale"]
        if "hidden_weight" in w:
            x = x @ w["hidden_weight"].T + w["hidden_bias"]
            x = 0.5 * x * (1 + special.erf(x / np.sqrt(2.0)))  # gelu
        return np.asarray(special.expit((x @ w["out_weight"].T + w["out_bias"]).astype(np.float64)))

    @property
    def width(self) -> int:
        """Number of features that it reads."""
        return len(self.weights["mean"])


def write_heads(folder: Path, heads: Mapping[str, Head], card: Mapping[str, Any]) -> None:
    """Write every head as float16 (mean and scale as float32) and the card; raises :class:`StoreError`."""
    for name, head in heads.items():
        tensors = {
            key: np.ascontiguousarray(value, dtype=np.float32 if key in ("mean", "scale") else np.float16)
            for key, value in head.weights.items()
        }
        write_tensors(folder / f"{name}.safetensors", tensors)
    described = {
        name: {"labels": list(head.labels), "layers": list(head.layers), **card[name]} for name, head in heads.items()
    }
    write_json(folder / CARD, {"schema": 1, "encoder": card["encoder"], "heads": described})


def read_heads(folder: Path) -> tuple[dict[str, Head], dict[str, Any]]:
    """Heads by name and the card of a folder that :func:`write_heads` wrote.

    Raises:
        UsageError: no such folder or card. ModelError: a file of it is missing or damaged.
    """
    if not (folder / CARD).is_file():
        raise UsageError(
            f"{folder} holds no {CARD}, so it is no folder of heads",
            "name a folder that `emotion-circuits score train` wrote",
        )
    again = "train the heads again: emotion-circuits score train --help"
    try:
        card: dict[str, Any] = read_json(folder / CARD)
        described = card["heads"]
        heads = {
            name: Head(tuple(d["labels"]), tuple(map(int, d["layers"])), _tensors(folder / f"{name}.safetensors"))
            for name, d in described.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, json.JSONDecodeError, OSError) as error:
        raise ModelError(f"the heads in {folder} are damaged or incomplete: {error}", again) from error
    for name, head in heads.items():
        present = set(head.weights)
        if present not in (_BASE, _BASE | _HIDDEN) or len(head.weights["out_bias"]) != len(head.labels):
            raise ModelError(f"{folder / name}.safetensors does not hold the head that {CARD} describes", again)
    return heads, card


def _tensors(path: Path) -> dict[str, Float[np.ndarray, "..."]]:
    return {name: np.array(value) for name, value in open_tensors(path).items()}
