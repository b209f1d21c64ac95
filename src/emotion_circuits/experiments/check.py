"""``check``: do the fitted directions tell apart text that the user brings?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    ExperimentParams,
    Needed,
    Outcome,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.directions import Directions
from emotion_circuits.types import NEUTRAL, Positions, Prompt, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

SYNONYMS = {"remorse": "apology", "thanks": "gratitude"}
"""Labels of well-known corpora for emotions of ours (GoEmotions: Demszky et al. 2020)."""


@experiment("check", "Test the fitted directions on labelled text of your own (JSONL, JSON or CSV: text, emotion).")
class Check(Experiment):
    """Layers and directions come from ``directions``; the file only tests them."""

    class Params(ExperimentParams):
        """Parameters of ``check``."""

        on: Path | None = Field(None, description="File with the fields text and emotion (JSONL, JSON or CSV).")
        position: str = Field("mean-content", description="Token position at which texts are read.")
        alias: tuple[str, ...] = Field((), description="Labels of the file for our emotions: remorse=apology.")
        directions: Directions.Params = Field(default_factory=Directions.Params, description="What to fit.")
        resamples: int = Field(2000, ge=200, description="Bootstrap resamples.")

    def requires(self, params: Params) -> Sequence[Needed]:
        positions = params.directions.positions
        if params.position not in positions:
            positions = (*positions, params.position)
        return [Needed("directions", params.directions.model_copy(update={"positions": positions}))]

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.store import fingerprint_file

        return {"file": fingerprint_file(_file(params))}

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        position = Positions.parse(params.position)
        return [CaptureStep("texts", _read(params), ("resid_post",), (position,))]

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.experiments.directions import load_directions
        from emotion_circuits.representations import labelled
        from emotion_circuits.representations.evidence import layer_auroc

        run = context.runs["directions"]
        directions = load_directions(run, "resid_post", params.position)
        chosen = {
            r["emotion"]: r["layer"]
            for r in run.read_summary()["results"]
            if r["position"] == params.position and r["site"] == "resid_post"
        }
        data = labelled(context.captures["texts"], "resid_post", params.position)
        rows = []
        for emotion in directions.emotions:
            found = layer_auroc(
                directions, data, emotion, directions.row(chosen[emotion]), resamples=params.resamples,
                seed=context.seed,
            )  # fmt: skip
            if found is not None:
                rows.append({"emotion": emotion, "layer": chosen[emotion], **found})
        unknown = sorted(set(data.emotions) - set(directions.emotions))
        return Outcome(
            {"position": params.position, "results": rows, "labels_without_direction": unknown},
            verdicts=[_line(r) for r in rows],
            section=_section(rows, params),
        )


def _file(params: Check.Params) -> Path:
    if params.on is None:
        raise UsageError("`check` needs a file of labelled texts", "add --on FILE.jsonl (fields: text, emotion)")
    return params.on


def _read(params: Check.Params) -> tuple[Prompt, ...]:
    """The file's texts, labels translated; raises when no label is one of ours."""
    from dataclasses import replace

    from emotion_circuits.prompts.importing import import_rows

    aliases = dict(SYNONYMS)
    for pair in params.alias:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise UsageError(f"cannot read alias {pair!r}", "write it as --alias remorse=apology")
        aliases[theirs] = ours
    # A text that stands alone is its own cluster; copies of one text are one.
    prompts = tuple(
        replace(p, emotion=aliases.get(p.emotion, p.emotion), scenario=p.scenario or f"text:{p.text}")
        for p in (row.prompt for row in import_rows(_file(params)))
    )
    if not any(p.emotion != NEUTRAL for p in prompts):
        raise UsageError(f"{params.on} has no emotional text", "label texts with the field `emotion`")
    return prompts


def _line(row: Mapping[str, Any]) -> str:
    if row["auroc"] is None:
        own = _number(row["own_vs_rest"])
        return f"{row['emotion']}: no neutral text to compare with, own-vs-rest {own}, n {row['n']}"
    interval = "" if row["ci"] is None else f" [{row['ci'][0]:.2f}, {row['ci'][1]:.2f}]"
    return (
        f"{row['emotion']}: layer {row['layer']}, AUROC {row['auroc']:.2f}{interval} against neutral, "
        f"own-vs-rest {_number(row['own_vs_rest'])}, n {row['n']}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _section(rows: Sequence[Mapping[str, Any]], params: Check.Params) -> Section:
    columns = {"emotion": "emotion", "layer": "layer", "auroc": "AUROC", "own_vs_rest": "own-vs-rest", "n": "texts"}
    name = _file(params).name
    table = Table(
        "check", f"Directions on {name}", "Layers were chosen on the dev scenarios of the fit.", columns, rows
    )
    return Section("check", f"On your own texts: {name}", [_line(r) + "." for r in rows], tables=[table])
