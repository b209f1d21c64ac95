"""What experiments on matched texts share (``patch``, ``swap``): they put one text's activations into its twin.

Nothing is steered and no direction is read, so they take the emotions of their own texts and need no run before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from emotion_circuits.experiments._contract import ExperimentParams
from emotion_circuits.experiments._endpoint import endpoint_inputs
from emotion_circuits.experiments.extract import EmotionNames, StudySet, emotions_of, select_sets
from emotion_circuits.types import Prompt


class MatchedParams(ExperimentParams):
    """Which texts, of which emotions."""

    prompts: StudySet = Field("baseline", description="Prompt set with matched scenarios.")
    emotions: EmotionNames = Field((), description="Only these emotions (default: all of the set).")
    scenarios: int | None = Field(None, ge=2, description="Only the first N of the scenarios that are used.")
    resamples: int = Field(2000, ge=200, description="Bootstrap resamples of scenarios.")


def matched_texts(params: MatchedParams) -> tuple[Prompt, ...]:
    """The texts of the wanted emotions and neutral, of all splits; raises for an emotion that the set does not have."""
    return select_sets((params.prompts,), params.emotions)[params.prompts]


def matched_emotions(params: MatchedParams) -> Sequence[str]:
    """The emotions that are measured."""
    return params.emotions or emotions_of(matched_texts(params))


def matched_inputs(params: MatchedParams) -> Mapping[str, Any]:
    """What the endpoint depends on; raises for an emotion without a list of words."""
    return endpoint_inputs(matched_emotions(params))
