"""What a scorer is: named columns, a card, and one number per column and text.

A scorer is one file in this folder::

    @scorer("lexicon", "Keyword rates per 100 words, and VADER sentiment.")
    class LexiconScorer(Scorer):
        columns = ("gratitude", …)
        def card(self): ...                       # data, licence, scope, calibration, revision
        def score_present(self, texts): ...       # texts that are not empty → {column: [text]}

Only the continuation is scored, never its prompt: a prompt that says "thank you" would score for the model otherwise.
(A language model may read the prompt for its context: ``fluency:`` and ``logits:`` do.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from emotion_circuits.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ENGLISH = "en"

EMOTION_LABELS: Mapping[str, str] = {
    "gratitude": "gratitude",
    "anger": "anger",
    "apology": "remorse",
    "joy": "joy",
    "sadness": "sadness",
    "fear": "fear",
    "pride": "pride",
    "love": "love",
    "disgust": "disgust",
    "neutral": "neutral",
}
"""Which GoEmotions label evaluates which of our emotions: an apology is labelled by the remorse it shows."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text to score. ``prompt`` is what it continues (never scored); ``language`` an ISO 639 code, as declared."""

    text: str
    prompt: str = ""
    language: str = ENGLISH


@dataclass(frozen=True)
class Card:
    """What is known about an evaluator, saved with everything it scored.

    ``what`` it measures, on which ``data`` it was made, ``licence`` of evaluator and data, ``scope`` (language, kind of
    text, what it is not for), how well ``calibration`` its numbers are probabilities, which ``revision`` ran, and its
    ``labels``. ``details`` are figures: thresholds, AUROC per label, …
    """

    name: str
    what: str
    data: str
    licence: str
    scope: str
    calibration: str
    revision: str
    labels: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON-ready values."""
        return {**asdict(self), "labels": list(self.labels), "details": dict(self.details)}


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Where a scorer's model runs and comes from.

    ``rows`` is the largest batch (None: the scorer's own); ``revision`` pins a hub repository; ``heads`` is a folder of
    heads that ``score train`` wrote, instead of those of the package.
    """

    device: str = "auto"
    cache: Path | None = None
    offline: bool = False
    revision: str | None = None
    rows: int | None = None
    heads: Path | None = None


class Scorer:
    """Base class of evaluators; see the module's docstring."""

    name: ClassVar[str]
    help: ClassVar[str]
    columns: tuple[str, ...]

    @classmethod
    def load(cls, target: str, options: LoadOptions) -> Self:
        """The scorer, ready to run. ``target`` is what stands behind the colon (``hub:TARGET``), else empty.

        Raises an :class:`~emotion_circuits.errors.EmotionCircuitsError` when it is not available. Never another
        evaluator in its place.
        """
        raise NotImplementedError

    @classmethod
    def members(cls) -> dict[str, str]:
        """Of a family (its name ends with a colon): the names known without asking anyone, each with its line."""
        return {}

    def card(self) -> Card:
        """What this evaluator is; printed by ``score --card`` and saved with results."""
        raise NotImplementedError

    def emotion_column(self, emotion: str) -> str | None:
        """The column that evaluates one of our emotions, or None where this scorer has none for it."""
        label = emotion_label(emotion)
        return label if label in self.columns else None

    def empty_value(self, column: str) -> float:
        """What a text without any character but white space gets in ``column``: here 0, nothing said shows nothing.

        Such texts never reach the evaluator. Their share is a damage measure of its own; :func:`empty_texts` finds
        them for an analysis without them.
        """
        return 0.0

    def score(self, texts: Sequence[Continuation]) -> dict[str, Float[np.ndarray, " text"]]:
        """One float64 array ``[text]`` per column, in the order of ``texts``; finite throughout.

        (``fluency:`` and ``logits:`` give NaN where a text is too short to have the measure.) Empty texts get
        :meth:`empty_value`. Raises :class:`ModelError` when the evaluator gives a number that is not finite.
        """
        present = [i for i, empty in enumerate(empty_texts(texts).tolist()) if not empty]
        found = self.score_present([texts[i].text for i in present]) if present else {}
        scores = {}
        for column in self.columns:
            values = np.full(len(texts), self.empty_value(column), dtype=np.float64)
            if present:
                values[present] = found[column]
            if not np.isfinite(values).all():
                first = int(np.flatnonzero(~np.isfinite(values))[0])
                raise ModelError(
                    f"scorer {self.name} gave {values[first]} for {column!r} of text {first + 1}",
                    "its weights may be damaged: fetch them again, or score without it",
                )
            scores[column] = values
        return scores

    def score_present(self, texts: Sequence[str]) -> Mapping[str, Float[np.ndarray, " text"]]:
        """Scores of texts that are not empty, one array per column."""
        raise NotImplementedError

    def notes(self, texts: Sequence[Continuation]) -> dict[str, list[bool]]:
        """Marks of single texts that a reader of the scores should see, by column (``truncated``); none here."""
        return {}


def emotion_label(emotion: str) -> str:
    """The GoEmotions label of one of our emotions (apology → remorse); any other name is its own label."""
    return EMOTION_LABELS.get(emotion, emotion)


def empty_texts(texts: Sequence[Continuation]) -> Bool[np.ndarray, " text"]:
    """True for texts with nothing but white space."""
    return np.array([not t.text.strip() for t in texts], dtype=np.bool_)
