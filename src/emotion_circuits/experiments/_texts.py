"""Generated texts and what evaluators say about them, as arrays over prompts, conditions and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from emotion_circuits.types import Condition, Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.engine import Generation, Sampling
    from emotion_circuits.experiments._measure import Measure
    from emotion_circuits.scorers.fluency import Damage

FLUENCY = ("log_perplexity", "rep4", "distinct2", "words", "empty")
EVALUATORS = ("embedded", "lexicon")
SCORED_AT_ONCE = 512
"""Texts between two reports of progress; enough that texts of like length find one another."""
ADVERBS = {
    "gratitude": "gratefully", "anger": "angrily", "apology": "apologetically", "joy": "joyfully",
    "sadness": "sadly", "fear": "fearfully", "pride": "proudly",
}  # fmt: skip


@dataclass(frozen=True)
class ScoredTexts:
    """Texts of one step. ``values[scorer]`` is ``[prompt, condition, sample]``; NaN where a text is too short to score.

    Scorers are ``embedded:{emotion}``, ``lexicon:{emotion}``, ``vader``, ``other_language`` (1: not English) and those
    of ``FLUENCY``.
    """

    prompts: tuple[Prompt, ...]
    conditions: tuple[str, ...]
    generations: tuple[Generation, ...]
    values: Mapping[str, NDArray[np.float64]]

    def of(self, scorer: str, condition: str) -> NDArray[np.float64]:
        """``[prompt, sample]`` of one condition."""
        return self.values[scorer][:, self.conditions.index(condition)]

    def texts(self, condition: str, sample: int = 0) -> list[str]:
        """One text per prompt."""
        samples = len(self.generations) // (len(self.prompts) * len(self.conditions))
        c = self.conditions.index(condition)
        return [
            self.generations[(p * len(self.conditions) + c) * samples + sample].text for p in range(len(self.prompts))
        ]


def write_texts(
    measure: Measure, step: str, prompts: Sequence[Prompt], conditions: Sequence[Condition], sampling: Sampling,
    emotions: Sequence[str], *, plain: Sequence[Prompt] | None = None,
) -> ScoredTexts:  # fmt: skip
    """Continue every prompt under every condition, then score the continuations.

    ``plain`` are the prompts without a request in front: perplexity is that of the continuation after these.
    """
    generations = measure.generate(step, prompts, conditions, sampling)
    return judge_texts(measure, step, prompts, [c.name for c in conditions], generations, emotions, plain=plain)


def judge_texts(
    measure: Measure, step: str, prompts: Sequence[Prompt], conditions: Sequence[str],
    generations: Sequence[Generation], emotions: Sequence[str], *, plain: Sequence[Prompt] | None = None,
) -> ScoredTexts:  # fmt: skip
    """What every evaluator says of texts that are written: prompts outermost, then conditions, then samples.

    Raises:
        ValueError: texts in another order, or of other prompts or conditions.
    """
    samples = len(generations) // max(len(prompts) * len(conditions), 1)
    wanted = [(p.id, c, s) for p in prompts for c in conditions for s in range(samples)]
    if [(g.prompt, g.condition, g.sample) for g in generations] != wanted:
        raise ValueError(f"the texts of {step} are not those of its prompts and conditions, in their order")
    shape = (len(prompts), len(conditions), samples)
    parts, name = measure.run.parts, f"{step}-scores"
    if not parts.has(name):
        parts.write(name, _scored(measure, name, generations, plain or prompts, emotions, shape))
    import numpy as np

    values = {k: np.array(v, dtype=np.float64).reshape(shape) for k, v in parts.arrays(name).items()}
    return ScoredTexts(tuple(prompts), tuple(conditions), tuple(generations), values)


def _scored(
    measure: Measure, name: str, generations: Sequence[Generation], prompts: Sequence[Prompt],
    emotions: Sequence[str], shape: tuple[int, int, int],
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """Every evaluator's value of every text, ``[text]`` each; the evaluators see the continuation only."""
    import numpy as np

    per_prompt = shape[1] * shape[2]
    owners = [prompts[i // per_prompt] for i in range(len(generations))]
    blocks = []
    with measure.progress(f"{measure.run.experiment} {measure.lm.name}: {name}", len(generations)) as advance:
        for start in range(0, len(generations), SCORED_AT_ONCE):
            some = slice(start, start + SCORED_AT_ONCE)
            blocks.append(_values(measure, generations[some], owners[some], emotions))
            advance(len(owners[some]), name)
    return {column: np.concatenate([block[column] for block in blocks]) for column in blocks[0]}


def _values(
    measure: Measure, generations: Sequence[Generation], owners: Sequence[Prompt], emotions: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """:func:`_scored` of some texts, each with the prompt it continues."""
    import numpy as np

    from emotion_circuits.scorers import Continuation, language_flags
    from emotion_circuits.scorers.fluency import fluency

    texts = [Continuation(g.text, p.text, p.language) for g, p in zip(generations, owners, strict=True)]
    values: dict[str, Any] = {}
    for name in EVALUATORS:
        evaluator = measure.scorer(name)
        found = evaluator.score(texts)
        measure.run.write_json(f"card-{name}.json", evaluator.card().to_dict())
        for emotion in emotions:
            column = evaluator.emotion_column(emotion)
            if column is not None:
                values[f"{name}:{emotion}"] = found[column]
        if name == "lexicon":
            values["vader"] = found["vader_compound"]
    # Another language is flagged, never taken for a text without emotion.
    values["other_language"] = [bool(flag) for flag in language_flags(texts)]
    quality = fluency(
        measure.lm, [(p, g.tokens) for p, g in zip(owners, generations, strict=True)], [g.text for g in generations]
    )
    values |= {column: quality[column] for column in FLUENCY}
    return {column: np.asarray(found, dtype=np.float64) for column, found in values.items()}


def damage_of(texts: ScoredTexts, baseline: str, arm: str) -> Damage:
    """The joint damage gate of one condition against another, over all its texts."""
    from emotion_circuits.scorers.fluency import damage_gate

    return damage_gate(_damage_columns(texts, baseline), _damage_columns(texts, arm))


def pass_rate_of(texts: ScoredTexts, baseline: str, arm: str, seed: int) -> float:
    """How often the damage gate passes when the prompts are drawn again."""
    import numpy as np

    from emotion_circuits.scorers.fluency import damage_pass_rate

    units = np.repeat(np.arange(len(texts.prompts)), texts.of("empty", arm).shape[1])
    return damage_pass_rate(_damage_columns(texts, baseline), _damage_columns(texts, arm), units, seed=seed)


def _damage_columns(texts: ScoredTexts, condition: str) -> dict[str, NDArray[np.float64]]:
    """``[text]`` of each measure that the gate reads, samples of a prompt side by side."""
    return {s: texts.of(s, condition).ravel() for s in ("log_perplexity", "rep4", "distinct2", "empty")}


def prompted(prompts: Sequence[Prompt], emotion: str) -> tuple[Prompt, ...]:
    """The same prompts with a request for the emotion in front: what steering has to be compared with."""
    request = f"Reply {ADVERBS[emotion]}:" if emotion in ADVERBS else f"Reply with {emotion}:"
    return tuple(replace(p, id=f"{p.id}-asked-{emotion}", text=f"{request} {p.text}", spans=()) for p in prompts)
