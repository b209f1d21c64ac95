"""Captures of two models as paired arrays: emotional texts by layer, and the rows that the map is fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._captured import load_capture
from emotion_circuits.experiments.shared_texts import (
    AT_EMBEDDING,
    CONTRASTS,
    EMBEDDING,
    EMOTIONAL,
    NEUTRAL_TEXTS,
    SITE,
    TOKENS,
)
from emotion_circuits.representations.labelled import Labelled, labelled
from emotion_circuits.representations.sharing_arrays import EmotionArrays
from emotion_circuits.representations.word_pairs import word_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emotion_circuits.store import Run
    from emotion_circuits.types import Activations

    Floats = NDArray[np.float64]


def _only_position(capture: Activations) -> str:
    """The position that the texts of a capture were read at."""
    ((_, position),) = capture.values
    return position


@dataclass(frozen=True)
class Side:
    """One model's run of ``shared-texts``."""

    run: Run

    @cached_property
    def texts(self) -> Labelled:
        capture = load_capture(self.run, EMOTIONAL)
        return labelled(capture, SITE, _only_position(capture))

    @cached_property
    def contrasts(self) -> Labelled:
        capture = load_capture(self.run, CONTRASTS)
        return labelled(capture, SITE, _only_position(capture))

    @cached_property
    def embedded(self) -> Floats:
        """``[text, d]`` emotional texts at the embedding layer."""
        capture = load_capture(self.run, EMOTIONAL + AT_EMBEDDING)
        return np.asarray(capture.get(EMBEDDING, _only_position(capture))[:, 0], dtype=np.float64)

    @cached_property
    def neutral(self) -> Activations:
        return load_capture(self.run, NEUTRAL_TEXTS)

    @property
    def layers(self) -> tuple[int, ...]:
        return self.texts.layers

    @cached_property
    def depth(self) -> int:
        """Number of layers of the model."""
        return int(self.run.read_summary()["n_layers"])

    @cached_property
    def spans(self) -> dict[str, list[tuple[int, int]]]:
        written = self.run.read_json(f"{TOKENS}.json")
        return {key: [(int(a), int(b)) for a, b in spans] for key, spans in written.items()}

    @property
    def by_words(self) -> bool:
        return (SITE, "all") in self.neutral.values

    def neutral_rows(self, layer: int, rows: NDArray[np.intp], *, embedding: bool = False) -> Floats:
        """``[row, d]`` of the map set."""
        position = "all" if self.by_words else "mean-content"
        if embedding:
            capture = load_capture(self.run, NEUTRAL_TEXTS + AT_EMBEDDING)
            return np.asarray(capture.get(EMBEDDING, position)[rows, 0], dtype=np.float64)
        column = self.neutral.layers.index(layer)
        return np.asarray(self.neutral.get(SITE, position)[rows, column], dtype=np.float64)

    def at(self, layer: int, keep: NDArray[np.bool_], splits: NDArray[Any]) -> EmotionArrays:
        """Emotional texts of one layer, as the sharing test takes them."""
        x = np.asarray(self.texts.x[:, self.texts.layers.index(layer)], dtype=np.float64)
        return EmotionArrays(x[keep], self.texts.labels[keep], self.texts.scenarios[keep], splits[keep])


@dataclass(frozen=True)
class PairData:
    """Both sides and which rows of their neutral texts belong together."""

    source: Side
    target: Side
    untrained: Side | None = None

    @cached_property
    def pairing(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Rows of the source, rows of the target, and the text of each pair."""
        prompts = self.source.neutral.prompts
        if not self.source.by_words:
            rows = np.arange(len(prompts))
            return rows, rows, rows
        starts = (self.source.neutral.token_starts, self.target.neutral.token_starts)
        found = [
            (starts[0][n] + i, starts[1][n] + j, n)
            for n, prompt in enumerate(prompts)
            for i, j in word_pairs(prompt.text, self.source.spans[prompt.id], self.target.spans[prompt.id])
        ]
        a, b, groups = np.array(found, dtype=np.intp).reshape(-1, 3).T
        return a, b, groups

    @property
    def groups(self) -> NDArray[np.intp]:
        return self.pairing[2]

    @cached_property
    def n_texts(self) -> int:
        """Independent neutral texts of the map set."""
        return len(np.unique(self.groups))

    def map_source(self, layer: int, *, embedding: bool = False) -> Floats:
        return self.source.neutral_rows(layer, self.pairing[0], embedding=embedding)

    def map_target(self, layer: int, *, embedding: bool = False, side: Side | None = None) -> Floats:
        return (side or self.target).neutral_rows(layer, self.pairing[1], embedding=embedding)

    def depths(self) -> dict[str, list[float]]:
        """Relative depth of every layer on both sides."""
        return {
            name: [layer / max(side.depth - 1, 1) for layer in side.layers]
            for name, side in (("source", self.source), ("target", self.target))
        }

    def splits(self, tested: str) -> NDArray[np.str_]:
        """Splits in which the texts of ``tested`` are the test split; directions are fitted on ``fit`` only."""
        own = self.source.texts.splits
        return np.where(own == "fit", "fit", np.where(own == tested, "test", ""))
