"""``check``: do the fitted directions tell apart text that the user brings?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.errors import UsageError, unknown_name
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
from emotion_circuits.experiments.extract import ReadPosition, at_emotion_words, select_sets
from emotion_circuits.prompts.copies import clustered_by_text, folded, held_in_fit_or_dev
from emotion_circuits.types import NEUTRAL, Positions, Prompt, Section, SiteKind, Table

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

SYNONYMS = {"thanks": "gratitude"}
"""Labels of well-known corpora for emotions of ours, beside GoEmotions' (``scorers.emotion_label``)."""

SITE: SiteKind = "resid_post"


@experiment("check", "Test the fitted directions on labelled text of your own (JSONL, JSON or CSV: text, emotion).")
class Check(Experiment):
    """Layers and directions come from ``directions``; the file only tests them."""

    version = 2

    class Params(ExperimentParams):
        """Parameters of ``check``."""

        on: Path | None = Field(None, description="File with the fields text and emotion (JSONL, JSON or CSV).")
        position: ReadPosition = Field("mean-content", description="Token position at which texts are read.")
        alias: tuple[str, ...] = Field((), description="Labels of the file for our emotions: remorse=apology.")
        directions: Directions.Params = Field(default_factory=Directions.Params, description="What to fit.")
        resamples: int = Field(2000, ge=200, description="Bootstrap resamples.")

    def requires(self, params: Params) -> Sequence[Needed]:
        wanted = params.directions
        update = {
            "positions": tuple(dict.fromkeys((*wanted.positions, params.position))),
            "sites": tuple(dict.fromkeys((*wanted.sites, SITE))),
        }
        return [Needed("directions", wanted.model_copy(update=update))]

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.store import fingerprint_file

        return {"file": fingerprint_file(_file(params))}

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        position, known = Positions.parse(params.position), _emotions(params)
        texts, _ = _unseen(params)
        used = tuple(p for p in texts if p.emotion == NEUTRAL or p.emotion in known)
        if all(p.emotion == NEUTRAL for p in used):
            found = ", ".join(dict.fromkeys(p.emotion for p in texts))
            raise UsageError(
                f"{params.on} has no text of an emotion that has a direction ({', '.join(known)}); its labels: {found}",
                "label texts with the field `emotion`, or translate labels with --alias THEIRS=OURS",
            )
        if position.kind == "emotion-word":
            used = at_emotion_words(tuple(p for p in used if p.spans or p.emotion == NEUTRAL))
            if not used:
                raise UsageError(
                    f"no emotional text of {params.on} has an emotion word, but position {position} asks for one",
                    "use --position mean-content, or give character spans in the file",
                )
        # A text that stands alone is its own cluster; copies of one text are one.
        return [CaptureStep("texts", clustered_by_text(used), (SITE,), (position,))]

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.experiments.directions import load_directions
        from emotion_circuits.representations import labelled
        from emotion_circuits.representations.evidence import layer_auroc

        run = context.runs["directions"]
        directions = load_directions(run, SITE, params.position)
        chosen = {
            r["emotion"]: r["layer"]
            for r in run.read_summary()["results"]
            if r["position"] == params.position and r["site"] == SITE
        }
        data = labelled(context.captures["texts"], SITE, params.position)
        rows = []
        for emotion in directions.emotions:
            found = layer_auroc(
                directions, data, emotion, directions.row(chosen[emotion]), resamples=params.resamples,
                seed=context.seed,
            )  # fmt: skip
            if found is not None:
                rows.append({"emotion": emotion, "layer": chosen[emotion], **found})
        texts, dropped = _unseen(params)
        unknown = sorted({p.emotion for p in texts} - {*directions.emotions, NEUTRAL})
        return Outcome(
            {
                "position": params.position,
                "results": rows,
                "labels_without_direction": unknown,
                "texts_of_the_fit_left_out": dropped,
            },
            verdicts=[*(_line(r) for r in rows), *_left_out(dropped)],
            section=_section(rows, unknown, dropped, params),
        )


def _file(params: Check.Params) -> Path:
    if params.on is None:
        raise UsageError("`check` needs a file of labelled texts", "add --on FILE.jsonl (fields: text, emotion)")
    return params.on


def _read(params: Check.Params) -> tuple[Prompt, ...]:
    """The file's texts with their labels translated, and the spans of emotion words where the lexicons have some."""
    from emotion_circuits.prompts import find_emotion_words
    from emotion_circuits.prompts.importing import import_rows

    aliases = _aliases(params)
    translated = []
    for prompt in (row.prompt for row in import_rows(_file(params))):
        ours = aliases.get(prompt.emotion, prompt.emotion)
        if ours != prompt.emotion:
            spans = prompt.spans or (() if ours == NEUTRAL else find_emotion_words(prompt.text, ours))
            prompt = replace(prompt, emotion=ours, spans=spans)
        translated.append(prompt)
    return tuple(translated)


def _unseen(params: Check.Params) -> tuple[tuple[Prompt, ...], int]:
    """The file's texts that the directions have not seen, and the number of those they were fitted or chosen on."""
    texts = _read(params)
    held = held_in_fit_or_dev(_fitted(params))
    unseen = tuple(p for p in texts if folded(p.text) not in held)
    if not unseen:
        raise UsageError(
            f"every text of {params.on} is one that the directions were fitted or their layers chosen on",
            "give texts that are not in the fit and dev splits of the prompt set",
        )
    return unseen, len(texts) - len(unseen)


def _left_out(dropped: int) -> list[str]:
    what = "their directions were fitted or their layers chosen on them"
    return [f"{dropped} texts of the file were left out: {what}"] if dropped else []


def _aliases(params: Check.Params) -> dict[str, str]:
    """Labels of the file → labels of ours: well-known ones that the directions lack, then what the user says."""
    from emotion_circuits.scorers import emotion_label

    known = _emotions(params)
    names = {**SYNONYMS, **{emotion_label(ours): ours for ours in known}}
    aliases = {theirs: ours for theirs, ours in names.items() if theirs not in known and ours in known}
    for pair in params.alias:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise UsageError(f"cannot read alias {pair!r}", "write it as --alias remorse=apology")
        if ours not in (*known, NEUTRAL):
            raise unknown_name("emotion", ours, [*known, NEUTRAL])
        aliases[theirs] = ours
    return aliases


def _emotions(params: Check.Params) -> tuple[str, ...]:
    """The emotions that the fitted set has directions for."""
    return tuple(dict.fromkeys(p.emotion for p in _fitted(params) if p.emotion != NEUTRAL))


def _fitted(params: Check.Params) -> tuple[Prompt, ...]:
    """The texts of the fitted set, all splits."""
    chosen = params.directions
    return select_sets((chosen.prompts,), chosen.emotions, chosen.scenarios)[chosen.prompts]


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


def _section(rows: Sequence[Mapping[str, Any]], unknown: Sequence[str], dropped: int, params: Check.Params) -> Section:
    columns = {"emotion": "emotion", "layer": "layer", "auroc": "AUROC", "own_vs_rest": "own-vs-rest", "n": "texts"}
    name = _file(params).name
    table = Table(
        "check", f"Directions on {name}", "Layers were chosen on the dev scenarios of the fit.", columns, rows
    )
    answer = [line + "." for line in (*map(_line, rows), *_left_out(dropped))]
    if unknown:
        answer.append(f"Left out, because no direction was fitted for these labels: {', '.join(unknown)}.")
    return Section("check", f"On your own texts: {name}", answer, tables=[table])
