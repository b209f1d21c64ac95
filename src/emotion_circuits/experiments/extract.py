"""``extract``: activations of whole prompt sets, captured once and read by every other experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import CaptureStep, Context, Experiment, ExperimentParams, Outcome
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import NEUTRAL, Positions, Prompt, Section, SiteKind, Table

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

TEXTS, WORDS = "texts", "words"
"""Names of the two captures: whole texts, and texts that are read at emotion words (or the same places)."""


@experiment("extract", "Capture activations of prompt sets: residual stream, attention and MLP output, all layers.")
class Extract(Experiment):
    """Texts of several sets are captured once; positions at emotion words get position-matched neutral twins."""

    class Params(ExperimentParams):
        """Parameters of ``extract``."""

        sets: tuple[str, ...] = Field(("baseline",), description="Prompt sets (names or JSONL files).")
        emotions: tuple[str, ...] = Field((), description="Only these emotions (default: all), besides neutral.")
        scenarios: int | None = Field(None, ge=4, description="Only the first N scenarios of every set.")
        sites: tuple[SiteKind, ...] = Field(("resid_post",), description="Site kinds: resid_post, attn_out, mlp_out, …")
        positions: tuple[str, ...] = Field(
            ("mean-content",), description="Positions: mean-content, last, emotion-word-first, span:4-9, …"
        )
        layers: tuple[int, ...] = Field((), description="Layers (default: all; negative ones count from the end).")

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        positions = tuple(Positions.parse(p) for p in params.positions)
        plain = tuple(p for p in positions if p.kind != "emotion-word")
        at_words = tuple(p for p in positions if p.kind == "emotion-word")
        layers = tuple(lm.layers(params.layers)) if params.layers else None
        texts = select_prompts(params.sets, params.emotions, params.scenarios)
        steps = []
        if plain:
            steps.append(CaptureStep(TEXTS, texts, params.sites, plain, layers))
        if at_words:
            steps.append(CaptureStep(WORDS, _at_words(texts), params.sites, at_words, layers))
        return steps

    def summarise(self, context: Context, params: Params) -> Outcome:
        rows: list[dict[str, Any]] = [
            {
                "capture": name,
                "site": kind,
                "position": position,
                "texts": len(a.prompts),
                "layers": len(a.layers),
                "width": "×".join(map(str, values.shape[2:])),
                "megabytes": values.nbytes / 1e6,
            }
            for name, a in context.captures.items()
            for (kind, position), values in a.values.items()
        ]
        columns = {k: k for k in ("capture", "site", "position", "texts", "layers", "width", "megabytes")}
        table = Table("captures", "Captured activations", "float32, one file per capture.", columns, rows)
        section = Section("extract", "What was captured", [_sentence(context)], tables=[table])
        return Outcome({"captures": rows}, section=section)


def select_prompts(
    sets: Sequence[str], emotions: Sequence[str] = (), scenarios: int | None = None
) -> tuple[Prompt, ...]:
    """The texts of several sets, each once, in the order of the sets.

    Raises:
        UsageError: an unknown set, an emotion that none of the sets has, a set without neutral text.
    """
    from emotion_circuits.prompts import load_prompts

    chosen: dict[str, Prompt] = {}
    for name in sets:
        prompts = load_prompts(name)
        kept = sorted({p.scenario for p in prompts if p.scenario})[:scenarios] if scenarios else None
        chosen |= {p.id: p for p in prompts if kept is None or p.scenario is None or p.scenario in kept}
    labels = list(dict.fromkeys(p.emotion for p in chosen.values()))
    for emotion in emotions:
        if emotion not in labels:
            raise unknown_name("emotion", emotion, [e for e in labels if e != NEUTRAL])
    wanted = {*emotions, NEUTRAL} if emotions else set(labels)
    return tuple(p for p in chosen.values() if p.emotion in wanted)


def _at_words(texts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    from emotion_circuits.prompts.matching import position_matched

    explicit = [p for p in texts if p.emotion == NEUTRAL or p.stratum != "implicit"]
    emotional = [p for p in explicit if p.emotion != NEUTRAL]
    missing = [p.id for p in emotional if not p.spans]
    if missing:
        raise UsageError(
            f"prompt {missing[0]!r} has no emotion word, but a position asks for one ({len(missing)} such texts)",
            "give character spans in the prompt file, or use --positions mean-content",
        )
    return (*emotional, *position_matched(explicit))


def _sentence(context: Context) -> str:
    counts = ", ".join(f"{len(a.prompts)} ({name})" for name, a in context.captures.items())
    return f"Activations of {context.lm.name} were captured for {counts} texts; prefix token and padding are left out."
