"""``shared-texts``: what a comparison of two models reads of each: emotional texts, and neutral texts for the map.

One run per model serves every pair that the model is part of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import CaptureStep, Context, Experiment, ExperimentParams, Outcome
from emotion_circuits.experiments._enough import MINIMUM_TEXTS
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.extract import (
    EmotionNames,
    ReadPosition,
    SetNames,
    StudySets,
    select_sets,
)
from emotion_circuits.types import NEUTRAL, Positions, Prompt, SiteKind, Split

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run

SITE: SiteKind = "resid_post"
EMBEDDING: SiteKind = "resid_pre"
EMOTIONAL, NEUTRAL_TEXTS, CONTRASTS = "emotional", "neutral", "contrasts"
AT_EMBEDDING = "-embedding"
"""Suffix of the captures of the embedding layer (input of block 0)."""
TOKENS = "tokens"
"""File with the character spans of every neutral text's tokens, by prompt id: words are paired across tokenizers."""

DEPTHS = (0.2, 0.35, 0.5, 0.65, 0.75, 0.85)
MEAN, EVERY = Positions("mean-content"), Positions("all")
MOST_OWN_NEUTRAL = 300


class SharedTextsParams(ExperimentParams):
    """Which texts, and at which layers."""

    texts: StudySets = Field(("atlas", "implicit"), description="Emotional texts (sets or files), all splits.")
    on: Path | None = Field(None, description="Labelled texts of your own instead (JSONL, JSON or CSV: text, emotion).")
    emotions: EmotionNames = Field((), description="Only these emotions (default: all).")
    position: ReadPosition = Field(
        "mean-content",
        description="Where emotional texts are read: mean-content, last, emotion-word-last (texts with an emotion word "
        "only), … The map is fitted on every word of neutral text.",
    )
    scenarios: int | None = Field(None, ge=10, description="Only the first N scenarios of every set.")
    per_emotion: int = Field(400, ge=20, description="At most N texts per emotion of --on.")
    map_texts: SetNames = Field(
        ("neutral_pool", "extended"), description="Neutral texts the map is fitted on (of labelled sets: fit split)."
    )
    map_size: int | None = Field(None, ge=1, description="Only the first N neutral texts.")
    pairs: Literal["words", "sentences"] = Field(
        "words", description="Rows of the map: last tokens of the same word, or mean over each text."
    )
    depths: tuple[float, ...] = Field(DEPTHS, description="Relative depths of the layers: 0 first, 1 last.")
    layers: tuple[int, ...] = Field((), description="Layers instead of depths.")


@experiment("shared-texts", "Capture what comparisons of models read: emotional texts, and neutral ones for the map.")
class SharedTexts(Experiment):
    """Emotional texts at one position; every token (or the mean) of neutral texts; both at the embedding layer too."""

    Params = SharedTextsParams

    def plan(self, lm: LM, params: SharedTextsParams) -> Sequence[CaptureStep]:
        layers = layer_grid(lm.n_layers, params)
        emotional, neutral = emotional_texts(params), map_texts(params)
        position, read = EVERY if params.pairs == "words" else MEAN, Positions.parse(params.position)
        # Static embeddings of a last token are those of a full stop: a floor of words needs words.
        static = read if _at_words(params) else MEAN
        # Texts of another contrast have no emotion word, and are of other lengths.
        beside = read if read.kind == "last" else MEAN
        steps = [
            CaptureStep(EMOTIONAL, emotional, (SITE,), (read,), layers),
            CaptureStep(EMOTIONAL + AT_EMBEDDING, emotional, (EMBEDDING,), (static,), (0,)),
            CaptureStep(NEUTRAL_TEXTS, neutral, (SITE,), (position,), layers),
            CaptureStep(NEUTRAL_TEXTS + AT_EMBEDDING, neutral, (EMBEDDING,), (position,), (0,)),
        ]
        return [*steps, CaptureStep(CONTRASTS, contrast_texts(), (SITE,), (beside,), layers)]

    def summarise(self, context: Context, params: SharedTextsParams) -> Outcome:
        neutral = map_texts(params)
        spans = {e.prompt.id: [e.offsets[i] for i in e.content] for e in context.lm.encode(neutral)}
        layers = list(layer_grid(context.lm.n_layers, params))
        counts = {name: len(a.prompts) for name, a in context.captures.items()}
        return Outcome({"layers": layers, "texts": counts, "n_layers": context.lm.n_layers}, documents={TOKENS: spans})


def position_of(run: Run) -> str:
    """Where a finished comparison of two models read emotional texts."""
    return str(run.read_params().get("position", MEAN))


def layer_grid(n_layers: int, params: SharedTextsParams) -> tuple[int, ...]:
    """Layers to look at: never the last two of a model that has more than three."""
    if params.layers:
        for layer in params.layers:
            if not -n_layers <= layer < n_layers:
                raise UsageError(
                    f"layer {layer} does not exist in a model of {n_layers} layers",
                    f"choose layers from 0 to {n_layers - 1}",
                )
        return tuple(sorted({layer % n_layers for layer in params.layers}))
    for depth in params.depths:
        if not 0 <= depth <= 1:
            raise UsageError(f"relative depth {depth} is not between 0 and 1", "0 is the first layer, 1 the last")
    last = n_layers - 3 if n_layers > 3 else n_layers - 1
    return tuple(sorted({min(round(d * (n_layers - 1)), last) for d in params.depths}))


def emotional_texts(params: SharedTextsParams) -> tuple[Prompt, ...]:
    """Labelled emotional texts with splits; a text without scenario is a cluster of its own.

    At emotion words: those that hold a word of their emotion.
    """
    texts = _every_text(params)
    if params.on is not None:
        texts = _first_of_each(texts, params.per_emotion)
    found = {p.emotion for p in texts}
    if len(found) < 2:
        others = f"put others beside it: --texts {' '.join(dict.fromkeys((*params.texts, 'atlas')))}"
        if params.on is not None or params.emotions:
            others = "name more with --emotions" if params.emotions else "add others to the file"
        raise UsageError(
            f"{_named(params)} has texts of {len(found)} emotion(s)",
            "own-vs-rest transfer compares at least two, and at least six for a claim about which one is shared; "
            + others,
        )
    return tuple(texts)


def require_splits(params: SharedTextsParams, *splits: Split) -> tuple[Prompt, ...]:
    """The emotional texts; refuses, before anything is captured, too few of an emotion in a split that is read.

    Directions are fitted on fit, verdicts rest on test, and layers are chosen on dev (``sharing_arrays.check_texts``).

    Raises:
        UsageError: as said, or for what ``emotional_texts`` refuses.
    """
    texts = emotional_texts(params)
    counts = Counter((p.emotion, p.split) for p in texts)
    emotions = list(dict.fromkeys(p.emotion for p in texts))
    for emotion in emotions:
        for split in splits:
            if (n := counts[emotion, split]) < MINIMUM_TEXTS:
                leave = ", or leave it out with --emotions" if len(emotions) > 2 else ""
                raise UsageError(
                    f"{n} texts of {emotion!r} of {_named(params)} can be read in the {split} split; a comparison of "
                    f"two models needs {MINIMUM_TEXTS}",
                    _more_texts(params, emotion, split) + leave,
                )
    return texts


def _more_texts(params: SharedTextsParams, emotion: str, split: Split) -> str:
    """What to type for more texts: an option that cut them, or where they can be read."""
    own = [p for p in _every_text(params) if p.emotion == emotion] if params.on is not None else []
    if sum(p.split == split for p in own) >= MINIMUM_TEXTS:
        return f"give --per-emotion {len(own)}"
    if params.on is None and params.scenarios is not None:
        return f"ask for more than {params.scenarios} scenarios (--scenarios)"
    if _at_words(params):
        return "give more texts of it with a word of it, or read another position (--position mean-content)"
    return "give more texts of it"


def _every_text(params: SharedTextsParams) -> list[Prompt]:
    """Every emotional text that can be read, whatever the number that is asked for."""
    if params.on is not None:
        texts = [p for p in _own(params.on) if p.emotion != NEUTRAL and p.emotion in (params.emotions or (p.emotion,))]
    else:
        sets = select_sets(params.texts, params.emotions, params.scenarios)
        texts = list({p.id: p for part in sets.values() for p in part if p.emotion != NEUTRAL}.values())
    return _with_words(texts, _named(params)) if _at_words(params) else texts


def _first_of_each(texts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first ``count`` texts of each emotion, in their order."""
    seen: Counter[str] = Counter()
    kept = []
    for prompt in texts:
        seen[prompt.emotion] += 1
        if seen[prompt.emotion] <= count:
            kept.append(prompt)
    return kept


def _with_words(texts: Sequence[Prompt], what: str) -> list[Prompt]:
    """The texts with a word of their emotion; raises where an emotion has none."""
    kept = [p for p in texts if p.spans]
    have = {p.emotion for p in kept}
    if lost := [e for e in dict.fromkeys(p.emotion for p in texts) if e not in have]:
        leave = "leave these out with --emotions, " if len(have) > 1 else ""
        raise UsageError(
            f"{what} has no text of {', '.join(lost)} with a word of its emotion marked, to be read at",
            f"read another position (--position mean-content), {leave}or give their words with "
            "`emotion-circuits prompts build --words`",
        )
    return kept


def _at_words(params: SharedTextsParams) -> bool:
    return Positions.parse(params.position).kind == "emotion-word"


def _named(params: SharedTextsParams) -> str:
    """The texts, as they were asked for."""
    return str(params.on or ", ".join(params.texts))


def map_texts(params: SharedTextsParams) -> tuple[Prompt, ...]:
    """Neutral texts, each once; neutral texts of a user's own fit split are added."""
    from emotion_circuits.prompts import load_prompts
    from emotion_circuits.prompts.copies import folded

    texts: list[Prompt] = []
    for name in params.map_texts:
        found = load_prompts(name)
        labelled = any(p.emotion != NEUTRAL for p in found)
        texts += [p for p in found if p.emotion == NEUTRAL and (not labelled or p.split == "fit")]
    if params.on is not None:
        own = [p for p in _own(params.on) if p.emotion == NEUTRAL and p.split == "fit"]
        texts += own[:MOST_OWN_NEUTRAL]
    distinct = list({folded(p.text): p for p in texts}.values())[: params.map_size]
    if not distinct:
        raise UsageError(
            f"{', '.join(params.map_texts)} has no neutral text of a fit split to fit a map on",
            "use --map-texts neutral_pool extended",
        )
    return tuple({p.id: p for p in distinct}.values())


def require_neutral(texts: int) -> None:
    """Refuse to fit a map on so few neutral texts (``transfer`` answers "not identified" instead)."""
    from emotion_circuits.representations.sharing import MINIMUM_PAIRS

    if texts < MINIMUM_PAIRS:
        raise UsageError(
            f"{texts} neutral texts; at least {MINIMUM_PAIRS} are needed to fit a map",
            "give more with --map-texts or --map-size",
        )


def contrast_texts() -> tuple[Prompt, ...]:
    """Pairs that have nothing to do with emotion: past and present tense, formal and casual style."""
    from emotion_circuits.prompts import load_prompts

    return load_prompts("contrasts")


def own_inputs(params: SharedTextsParams) -> Mapping[str, Any]:
    """The content of a user's file."""
    from emotion_circuits.store import fingerprint_file

    return {} if params.on is None else {"file": fingerprint_file(params.on)}


def _own(file: Path) -> list[Prompt]:
    """The user's file: splits it lacks are given by scenario, or by text where it has none; copies stay together."""
    from dataclasses import replace

    from emotion_circuits.prompts.copies import clustered_by_text, folded
    from emotion_circuits.prompts.importing import import_rows
    from emotion_circuits.prompts.splits import assign_splits

    rows = clustered_by_text([row.prompt for row in import_rows(file)])
    clusters = [p.scenario or folded(p.text) for p in rows]
    if all(p.split for p in rows):
        return [replace(p, scenario=c) for p, c in zip(rows, clusters, strict=True)]
    splits = assign_splits(clusters)
    return [replace(p, scenario=c, split=splits[c]) for p, c in zip(rows, clusters, strict=True)]
