"""What experiments on components run on the model, for ``--dry-run``: one row is one text with one set of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emotion_circuits.experiments._component_texts import TextParams
from emotion_circuits.experiments._contract import ScoreStep, TextStep
from emotion_circuits.experiments._heads import CircuitParams, chosen_texts, expected_emotions, split_pairs
from emotion_circuits.types import Positions

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

EVERYWHERE = Positions("prompt")
GRADIENT = 3
"""Rows that a forward and a backward pass count as."""


def component_work(
    lm: LM, params: CircuitParams, *, testing: int, choosing: int = 0, alone: int = 0
) -> list[ScoreStep | TextStep]:
    """The steps of every emotion, each text as often as it is run.

    Args:
        testing, choosing: whole passes over the pairs that components are tested and chosen on. alone: components that
            are ablated one by one on the latter, of which the blocks above are computed.
    """
    texts, middle = chosen_texts(params), lm.n_layers // 2
    above = (lm.n_layers + 1) / (2 * lm.n_layers)
    steps: list[ScoreStep | TextStep] = []
    for emotion in expected_emotions(params):
        chosen_on, tested_on = split_pairs(texts, emotion, params.limit)
        passes = {"alone": (chosen_on, alone, above), "choosing": (chosen_on, choosing, 1.0),
                  "testing": (tested_on, testing, 1.0)}  # fmt: skip
        steps += [
            ScoreStep(f"{emotion}-{name}", tuple(p.clean for p in pairs), rows, middle, EVERYWHERE, share=share)
            for name, (pairs, rows, share) in passes.items()
            if rows
        ]
        written = tuple(p.clean for p in tested_on)[: params.texts] if isinstance(params, TextParams) else ()
        if isinstance(params, TextParams) and written:
            steps.append(TextStep(f"texts-{emotion}", written, 2, params.max_tokens, params.samples, middle))
    return steps
