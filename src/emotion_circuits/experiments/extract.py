"""``extract``: activations of whole prompt sets, captured once and read by every other experiment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import CaptureStep, Context, Experiment, ExperimentParams, OfStudy, Outcome
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import NEUTRAL, Positions, Prompt, Section, SiteKind, Table

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

TEXTS, WORDS = "texts", "words"
"""Names of the two captures: whole texts, and texts that are read at emotion words (or the same places)."""


def _read_positions(written: tuple[str, ...]) -> tuple[str, ...]:
    return _once(str(Positions.parse(p)) for p in _some(written, "positions", "mean-content"))


def _once(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _some(values: tuple[Any, ...], what: str, example: str) -> tuple[Any, ...]:
    if not values:
        raise UsageError(f"{what} is an empty list", f"name at least one, for example {example}")
    return values


def _emotions(written: tuple[str, ...]) -> tuple[str, ...]:
    if NEUTRAL in written:
        raise UsageError(f"{NEUTRAL!r} is no emotion: every emotion is compared with it", "leave it out of --emotions")
    return _once(written)


def one_vector_a_text(positions: tuple[str, ...]) -> tuple[str, ...]:
    """The positions, if each gives one vector a text; raises otherwise."""
    for position in positions:
        if position in ("all", "generated"):
            raise UsageError(
                f"a direction needs one vector a text, and position {position!r} gives none or many",
                "use mean-content, last or emotion-word-last",
            )
    return positions


PositionNames = Annotated[tuple[str, ...], AfterValidator(_read_positions)]
"""Names of positions as :class:`Positions` writes them, each once."""
ReadPosition = Annotated[str, AfterValidator(lambda p: one_vector_a_text((str(Positions.parse(p)),))[0])]
"""A position that gives one vector a text."""
SiteKinds = Annotated[tuple[SiteKind, ...], AfterValidator(lambda kinds: _once(_some(kinds, "sites", "resid_post")))]
EmotionNames = Annotated[tuple[str, ...], AfterValidator(_emotions)]
SetNames = Annotated[tuple[str, ...], AfterValidator(_once)]
StudySet = Annotated[str, OfStudy()]
"""A prompt set that holds the emotions a study is about; what a profile is made of is its default."""
StudySets = Annotated[tuple[str, ...], AfterValidator(_once), OfStudy()]
"""Several of them."""


@experiment("extract", "Capture activations of prompt sets: residual stream, attention and MLP output, all layers.")
class Extract(Experiment):
    """Texts of several sets are captured once; positions at emotion words get position-matched neutral twins."""

    class Params(ExperimentParams):
        """Parameters of ``extract``."""

        sets: StudySets = Field(("baseline",), description="Prompt sets (names or JSONL files).")
        emotions: EmotionNames = Field((), description="Only these emotions (default: all), besides neutral.")
        scenarios: int | None = Field(None, ge=4, description="Only the first N scenarios of every set.")
        sites: SiteKinds = Field(("resid_post",), description="Site kinds: resid_post, attn_out, mlp_out, …")
        positions: PositionNames = Field(
            ("mean-content",), description="Positions: mean-content, last, emotion-word-first, span:4-9, …"
        )
        layers: tuple[int, ...] = Field((), description="Layers (default: all; negative ones count from the end).")

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        positions = tuple(Positions.parse(p) for p in params.positions)
        plain = tuple(p for p in positions if p.kind != "emotion-word")
        at_words = tuple(p for p in positions if p.kind == "emotion-word")
        layers = tuple(sorted(set(lm.layers(params.layers)))) if params.layers else None
        sets = select_sets(params.sets, params.emotions, params.scenarios)
        steps = []
        if plain:
            steps.append(CaptureStep(TEXTS, _joined(sets.values()), params.sites, plain, layers))
        if at_words:
            # Twins are looked up inside each set: another one may hold a neutral text of the same scenario.
            words = _joined(at_emotion_words(texts) for texts in sets.values())
            if not words:
                raise UsageError(
                    f"no text of {', '.join(params.sets)} has an emotion word, but position {at_words[0]} asks for one",
                    "use --positions mean-content, or give character spans in the prompt file",
                )
            steps.append(CaptureStep(WORDS, words, params.sites, at_words, layers))
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


def emotions_of(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Every label but neutral, in order of first appearance."""
    return _once(p.emotion for p in prompts if p.emotion != NEUTRAL)


def select_sets(
    sets: Sequence[str], emotions: Sequence[str] = (), scenarios: int | None = None
) -> dict[str, tuple[Prompt, ...]]:
    """The chosen texts of every set; a text that several sets share has one id, another text with that id a new one.

    Raises:
        UsageError: an unknown set, no set, an emotion that none of the sets has.
    """
    from emotion_circuits.prompts import load_prompts

    loaded = {name: load_prompts(name) for name in _some(tuple(sets), "sets", "baseline")}
    labels = _once(p.emotion for prompts in loaded.values() for p in prompts)
    for emotion in emotions:
        if emotion not in labels:
            raise unknown_name("emotion", emotion, [e for e in labels if e != NEUTRAL])
    wanted = {*emotions, NEUTRAL} if emotions else set(labels)
    known: dict[str, Prompt] = {}
    chosen: dict[str, tuple[Prompt, ...]] = {}
    for name, prompts in loaded.items():
        kept = set(_once(p.scenario for p in prompts if p.scenario)[:scenarios])
        own = [p for p in prompts if p.emotion in wanted and (p.scenario is None or p.scenario in kept)]
        own = [p if known.get(p.id, p) == p else replace(p, id=f"{name}:{p.id}") for p in own]
        known |= {p.id: p for p in own}
        chosen[name] = tuple(own)
    return chosen


def at_emotion_words(texts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The texts of one set with emotion words, and for each the neutral text to be read at the same places.

    Implicit texts are left out: they have no such word by design.

    Raises:
        UsageError: any other emotional text without the span of its emotion word.
    """
    from emotion_circuits.prompts.matching import position_matched

    emotional = [p for p in texts if p.emotion != NEUTRAL and p.stratum != "implicit"]
    missing = [p.id for p in emotional if not p.spans]
    if missing:
        raise UsageError(
            f"prompt {missing[0]!r} has no emotion word, but a position asks for one ({len(missing)} such texts)",
            "give character spans in the prompt file, or use --positions mean-content",
        )
    return (
        (*emotional, *position_matched([*emotional, *(p for p in texts if p.emotion == NEUTRAL)])) if emotional else ()
    )


def _joined(parts: Iterable[Sequence[Prompt]]) -> tuple[Prompt, ...]:
    return tuple({p.id: p for part in parts for p in part}.values())


def _sentence(context: Context) -> str:
    counts = ", ".join(f"{len(a.prompts)} ({name})" for name, a in context.captures.items())
    return f"Activations of {context.lm.name} were captured for {counts} texts; prefix token and padding are left out."
