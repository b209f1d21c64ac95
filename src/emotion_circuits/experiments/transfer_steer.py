"""``transfer-steer``: does the source's emotion vector, pushed through a map, steer the target as its own does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import (
    Outcome,
    PairContext,
    PairExperiment,
    PairNeeded,
    ScoreStep,
    TextStep,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import EditPosition, SteeringParams, Strengths, steered_prompts
from emotion_circuits.experiments.extract import EmotionNames
from emotion_circuits.experiments.shared_texts import (
    emotional_texts,
    layer_grid,
    map_texts,
    own_inputs,
    require_neutral,
    require_splits,
)
from emotion_circuits.experiments.transfer import PairParams, both_sides, texts_of
from emotion_circuits.prompts.splits import SPLITS
from emotion_circuits.types import Positions, Prompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from emotion_circuits.engine import Sampling
    from emotion_circuits.models.lm import LM

STRENGTHS = (0.1, 0.2, 0.3)
FEWEST_CONTROLS = 19
"""With fewer members no rank p can reach .05."""


def _positive(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(v <= 0 for v in values):
        raise UsageError("--strengths are lengths and must be above 0", "every one is added both ways: 0.1 0.2 0.3")
    return tuple(sorted(values))


class TransferSteerParams(PairParams):
    """Parameters of ``transfer-steer``."""

    steer: EmotionNames = Field((), description="Steer with these emotions only (vectors stay centred over all).")
    prompts: str = Field("continuations", description="Prompts to continue (set name or file).")
    limit: int | None = Field(None, ge=2, description="Only the first N prompts of every split.")
    strengths: Annotated[Strengths, AfterValidator(_positive)] = Field(
        STRENGTHS, description="Fractions of the target's residual norm; one per emotion is chosen on dev."
    )
    at: EditPosition = Field("onward", description="Positions that are edited: onward, prompt, all or last.")
    shuffles: int = Field(199, ge=FEWEST_CONTROLS, description="Maps of shuffled pairs.")
    random: int = Field(199, ge=FEWEST_CONTROLS, description="Covariance-matched random vectors.")
    floors: Literal["all", "embedding"] = Field(
        "all", description="all: with an untrained twin of the target; embedding: no twin is built."
    )
    max_new_tokens: int = Field(30, ge=1, description="Tokens to write after each prompt.")
    samples: int = Field(5, ge=1, description="Sampled texts per test prompt of the native and the mapped vector.")
    control_samples: int = Field(2, ge=1, description="Sampled texts per test prompt of every control.")
    dev_samples: int = Field(1, ge=1, description="Sampled texts per dev prompt and strength.")
    temperature: float = Field(1.0, gt=0, description="Temperature of sampled texts.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus of sampled texts.")
    resamples: int = Field(2000, ge=200, description="Bootstrap resamples for the share of the native effect.")

    def steered(self) -> tuple[Prompt, ...]:
        """The prompts that are continued, dev before test."""
        return steered_prompts(SteeringParams(prompts=self.prompts, scenarios=self.limit))

    def sampling(self, samples: int, seed: int) -> Sampling:
        from emotion_circuits.engine import Sampling

        return Sampling(self.max_new_tokens, self.temperature, self.top_p, samples, seed)


def _with_words(params: TransferSteerParams) -> list[str]:
    """The emotions to be steered that have a list of words."""
    from emotion_circuits.prompts.lexicon import emotions_with_words

    wanted = params.steer or {p.emotion for p in emotional_texts(params)}
    return [emotion for emotion in emotions_with_words() if emotion in wanted]


@experiment("transfer-steer", "Steer the target with the source's mapped vectors, against its own and controls.")
class TransferSteer(PairExperiment):
    """Layer pair and strength are chosen on dev; a verdict per emotion on test prompts (``_pairs/steer_verdict``)."""

    distinct = True
    version = 3
    Params = TransferSteerParams

    def check(self, params: TransferSteerParams) -> None:
        from emotion_circuits.experiments._endpoint import require_words

        known = sorted({p.emotion for p in require_splits(params, *SPLITS)})
        require_neutral(len(map_texts(params)))
        params.steered()
        if Positions.parse(params.at).kind == "generated":
            raise UsageError(
                "the effect is measured at the next token, where nothing is generated yet",
                "use --at onward, prompt, all or last",
            )
        for emotion in params.steer:
            if emotion not in known:
                raise unknown_name("emotion", emotion, known)
        # Of all emotions those without words are left out; one that is asked for, or all of them, cannot be measured.
        require_words(params.steer or ([] if _with_words(params) else known))

    def inputs(self, params: TransferSteerParams) -> Mapping[str, Any]:
        from emotion_circuits.experiments._captured import fingerprint_prompts
        from emotion_circuits.experiments._endpoint import endpoint_inputs

        return {
            **own_inputs(params),
            **endpoint_inputs(_with_words(params)),
            "steered": fingerprint_prompts(params.steered()),
        }

    def requires_of_pair(self, params: TransferSteerParams) -> Sequence[PairNeeded]:
        return both_sides(params, untrained=params.floors == "all")

    def workload_of_pair(
        self, target: Callable[[], LM], params: TransferSteerParams
    ) -> Sequence[ScoreStep | TextStep] | None:
        """At most: random vectors are scored once per strength that an emotion ends up with."""
        lm = target()
        grid = layer_grid(lm.n_layers, texts_of(params, "target"))
        layer, at = grid[len(grid) // 2], Positions.parse(params.at)
        emotions = params.steer or tuple(sorted({p.emotion for p in emotional_texts(params)}))
        count, doses, twins = len(emotions), len(params.strengths), int(params.floors == "all")
        at_doses = min(count, doses)
        dev, test = (tuple(p for p in params.steered() if p.split == split) for split in ("dev", "test"))

        def scored(name: str, prompts: tuple[Prompt, ...], conditions: int) -> ScoreStep:
            return ScoreStep(name, prompts, conditions, layer, at)

        def written(name: str, prompts: tuple[Prompt, ...], conditions: int, samples: int) -> TextStep:
            return TextStep(name, prompts, conditions, params.max_new_tokens, samples, layer, at)

        return [
            scored("dev", dev, 2 * count * doses),
            written("dev-texts", dev, 1 + 2 * count * doses, params.dev_samples),
            scored("test-arms", test, 1 + 2 * count * (3 + twins)),
            *[scored(f"test-shuffled-{e}", test, 2 * params.shuffles) for e in emotions],
            *[scored(f"test-covariance-{n}", test, 2 * params.random) for n in range(at_doses)],
            written("test-texts", test, 1 + 2 * count, params.samples),
            written("test-control-texts", test, 1 + count * (1 + twins) + at_doses, params.control_samples),
            *[scored("untrained-twin", test, 2 * count)] * twins,
        ]

    def summarise_pair(self, context: PairContext, params: TransferSteerParams) -> Outcome:
        from emotion_circuits.experiments._pairs.steer_report import steer_outcome

        return steer_outcome(context, params)
