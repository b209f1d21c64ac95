"""The evaluator that needs no hub: MiniLM from its wheel, and small heads for 28 emotions and politeness.

Scores are probabilities per label, independent of each other (a text may show several). What the heads were trained on,
and how good they are on texts they did not see, stands in ``heads/card.json``; ``score train`` makes such a folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emotion_circuits.errors import ModelError
from emotion_circuits.scorers._contract import Card, Continuation, LoadOptions, Scorer
from emotion_circuits.scorers._heads import SHIPPED, Head, read_heads
from emotion_circuits.scorers._registry import scorer

if TYPE_CHECKING:
    from jaxtyping import Float

    from emotion_circuits.scorers._encoder import TextEncoder

_EMPTY_POLITENESS = 0.5


@scorer("embedded", "28 GoEmotions labels and politeness from MiniLM and small heads; English, needs no hub.")
class EmbeddedScorer(Scorer):
    """One column per label: P(label) in [0, 1].

    An empty text has 0 for every emotion and .5, neither polite nor impolite, for politeness.
    """

    def __init__(self, encoder: TextEncoder, heads: Mapping[str, Head], card: Mapping[str, Any]) -> None:
        self.columns = tuple(label for head in heads.values() for label in head.labels)
        self._encoder, self._heads, self._card = encoder, heads, card

    @classmethod
    def load(cls, target: str, options: LoadOptions) -> Self:
        """Heads of the package (or ``options.heads``) on the encoder from the cache or its wheel."""
        from emotion_circuits.scorers._encoder import MiniLM

        heads, card = read_heads(options.heads or SHIPPED)
        return cls(
            MiniLM(cache=options.cache, offline=options.offline, device=options.device, rows=options.rows), heads, card
        )

    def empty_value(self, column: str) -> float:
        return _EMPTY_POLITENESS if column == "politeness" else 0.0

    def score_present(self, texts: Sequence[str]) -> dict[str, Float[np.ndarray, " text"]]:
        layers = sorted({layer for head in self._heads.values() for layer in head.layers})
        features = self._encoder.features(texts, layers)
        width = features.shape[1] // len(layers)
        by_layer = {layer: features[:, i * width : (i + 1) * width] for i, layer in enumerate(layers)}
        scores: dict[str, Float[np.ndarray, " text"]] = {}
        for name, head in self._heads.items():
            read = np.concatenate([by_layer[layer] for layer in head.layers], axis=1)
            if read.shape[1] != head.width:
                raise ModelError(
                    f"head {name!r} reads {head.width} features, the encoder gives {read.shape[1]}",
                    "train the heads again on this encoder: emotion-circuits score train --help",
                )
            scores |= dict(zip(head.labels, head.probabilities(read).T, strict=True))
        return scores

    def notes(self, texts: Sequence[Continuation]) -> dict[str, list[bool]]:
        """``truncated``: longer than the 256 tokens that the encoder reads."""
        return {"truncated": self._encoder.truncated([t.text for t in texts])}

    @property
    def thresholds(self) -> dict[str, float]:
        """From which probability on a text is called positive: best F1 on held-out texts, per label."""
        found: dict[str, float] = {}
        for described in self._card["heads"].values():
            figures = described.get("held_out") or described["cross_validated"]
            found |= {k: row["threshold"] for k, row in figures["labels"].items() if row["threshold"] is not None}
        return found

    def card(self) -> Card:
        described = self._card["heads"]
        quality = [
            f"{name}: expected calibration error {figures['mean_ece']:.3f} (mean over labels), macro AUROC "
            f"{figures['macro_auroc']:.3f}, on {figures['n']} texts not trained on"
            for name, d in described.items()
            if (figures := d.get("held_out") or d["cross_validated"])
        ]
        return Card(
            name="embedded",
            what="probability that a reader labels the text with the emotion, or calls it polite; one per label",
            data="; ".join(f"{name}: {d['data']}" for name, d in described.items()),
            licence="; ".join(
                ["encoder all-MiniLM-L6-v2: Apache-2.0", *(f"{name}: {d['licence']}" for name, d in described.items())]
            ),
            scope="English; short comments (emotions) and requests (politeness). Labels are what a few readers saw and "
            "noisy; rare labels (grief, pride, relief) rest on few texts. Scores other kinds of text, but was not "
            "checked on them.",
            calibration="; ".join(quality),
            revision=f"encoder {self._encoder.revision}; heads trained on {self._card['encoder']}",
            labels=self.columns,
            details={"heads": {k: {x: y for x, y in d.items() if x != "labels"} for k, d in described.items()}},
        )
