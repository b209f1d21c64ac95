"""``readout``: which emotion every token of your own text holds, at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import CaptureStep, Context, Experiment, Needed, Outcome
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import SITE
from emotion_circuits.experiments.extract import EmotionNames
from emotion_circuits.experiments.readout_scale import SCALE, ReadingParams, ReadoutScale, directions_needed
from emotion_circuits.types import Positions, Prompt, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.representations.readout import Reader, Readout
    from emotion_circuits.store import Run

TEXTS = "tokens"


@experiment("readout", "Read the emotions of every token of your own text, at every layer.")
class ReadTokens(Experiment):
    """Scores of single tokens in standard deviations of neutral tokens; see ``representations.readout``."""

    class Params(ReadingParams):
        """Parameters of ``readout``."""

        text: tuple[str, ...] = Field(("Thank you so much for the lovely dinner!",), description="Texts to read.")
        emotions: EmotionNames = Field((), description="Only these emotions (default: all that have a direction).")
        layer: int | None = Field(None, description="Layer of the table that is shown (default: half-way).")

    def requires(self, params: Params) -> Sequence[Needed]:
        reading = ReadoutScale.Params(position=params.position, method=params.method, directions=params.directions)
        return [directions_needed(params), Needed("readout.scale", reading)]

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        if params.layer is not None:
            lm.layers([params.layer])
        if not params.text or not all(t.strip() for t in params.text):
            raise UsageError("there is no text to read", 'give --text "Thank you so much!"')
        prompts = tuple(Prompt(f"text-{i}", t) for i, t in enumerate(params.text))
        return [CaptureStep(TEXTS, prompts, (SITE,), (Positions("all"),))]

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.representations.readout import readout_of

        reader = load_reader(context.runs["directions"], context.runs["readout.scale"], params)
        shown = _shown(params, reader.directions.emotions)
        layer = _layer(context.lm, params, reader.directions.layers)
        captured = context.captures[TEXTS]
        found = [readout_of(context.lm, captured, i, reader) for i in range(len(params.text))]
        rows = [row for i, one in enumerate(found) for row in _rows(i, one, layer, shown)]
        columns = {"token": "token", **{e: e for e in shown}}
        title = f"Tokens at layer {layer}"
        caption = "Standard deviations of neutral tokens; 0 is their mean."
        section = Section("readout", "Your text, token by token", [], tables=[Table("tokens", title, caption, columns,
                                                                                   rows)])  # fmt: skip
        documents = [
            {
                "text": one.text, "tokens": one.pieces, "spans": one.spans, "layers": one.layers,
                "emotions": shown,
                "values": one.values[:, :, [one.emotions.index(e) for e in shown]],
            }
            for one in found
        ]  # fmt: skip
        summary = {"layer": layer, "method": params.method, "emotions": shown, "results": rows}
        return Outcome(summary, [_said(params, rows, shown)], section, documents={"readout": documents})


def load_reader(directions: Run, scale: Run, params: ReadingParams) -> Reader:
    """The reader of finished ``directions`` and ``readout.scale`` runs."""
    import numpy as np

    from emotion_circuits.experiments.directions import load_directions
    from emotion_circuits.representations.readout import Reader, TokenScale
    from emotion_circuits.store import open_tensors

    arrays = open_tensors(scale.path(f"{SCALE}.safetensors"))
    mean, sd = (np.array(arrays[name], dtype=np.float64) for name in ("mean", "sd"))
    tokens = int(scale.read_summary()["tokens"])
    return Reader(load_directions(directions, SITE, params.position), TokenScale(mean, sd, tokens), params.method)


def _shown(params: ReadTokens.Params, known: Sequence[str]) -> tuple[str, ...]:
    for emotion in params.emotions:
        if emotion not in known:
            raise unknown_name("emotion", emotion, list(known))
    return params.emotions or tuple(known)


def _layer(lm: LM, params: ReadTokens.Params, known: Sequence[int]) -> int:
    wanted = round((lm.n_layers - 1) / 2) if params.layer is None else lm.layers([params.layer])[0]
    if wanted not in known:
        raise UsageError(f"layer {wanted} has no directions", f"choose one of {', '.join(map(str, known))}")
    return wanted


def _rows(text: int, found: Readout, layer: int, shown: Sequence[str]) -> list[dict[str, Any]]:
    """One row a token: its text, its characters and every emotion's value at one layer."""
    at = found.values[:, found.layers.index(layer)]
    return [
        {
            "text": text, "token": found.pieces[i], "start": start, "end": end,
            **{e: float(at[i, found.emotions.index(e)]) for e in shown},
        }
        for i, (start, end) in enumerate(found.spans)
    ]  # fmt: skip


def _said(params: ReadTokens.Params, rows: Sequence[dict[str, Any]], shown: Sequence[str]) -> str:
    """The strongest token of each emotion."""
    parts = []
    for emotion in shown:
        best = max(rows, key=lambda row: row[emotion])
        parts.append(f"{emotion} {best[emotion]:+.1f} at {str(best['token']).strip()!r}")
    return "strongest: " + ", ".join(parts)
