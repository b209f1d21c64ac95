"""How fast this machine runs a model: a few batches of each kind of work, timed.

Estimates are made from the very functions that will run, on a step's own longest prompt, layer and positions, with a
vector of zeros-and-ones in the place of one that is not fitted yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emotion_circuits.experiments._contract import ScoreStep, TextStep

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM, Encoded
    from emotion_circuits.types import Condition, Positions

MEASURED, SLOW = 3, 5.0
"""Batches that are timed after one that warms up; one alone where that one took this many seconds."""
MOST_ROWS, MOST_TOKENS = 32, 4
"""Rows and new tokens of a timed batch: more rows are no faster each on a CPU."""


@dataclass
class Pace:
    """Measured once per kind of work, when it is first asked for."""

    lm: LM
    _seconds: dict[tuple[object, ...], float] = field(default_factory=dict, init=False, repr=False)

    def capture(self) -> float:
        """Seconds per captured token."""
        return self._once(("capture",), lambda: 1 / tokens_per_second(self.lm))

    def score(self, step: ScoreStep) -> float:
        """Seconds per scored row."""
        rows = min(step.conditions, step.rows or MOST_ROWS, MOST_ROWS)
        key = ("score", step.layer, step.at, step.behind, rows)
        return self._once(key, lambda: seconds_per_scored_row(self.lm, step, rows))

    def text(self, step: TextStep) -> float:
        """Seconds per written text; with those of reading it once more, where it is judged."""
        rows = min(step.conditions * step.samples * len(step.prompts), MOST_ROWS)
        few = min(step.max_new_tokens, MOST_TOKENS)
        key = ("write", step.layer, step.at, rows)
        written = self._once(key, lambda: seconds_per_written_token(self.lm, step, rows, few))
        if not step.judged:
            return written * step.max_new_tokens
        new = step.max_new_tokens
        return written * new + self._once(("judge", new, rows), lambda: _judge(self.lm, step, rows))

    def _once(self, key: tuple[object, ...], measure: Callable[[], float]) -> float:
        if key not in self._seconds:
            self._seconds[key] = measure()
        return self._seconds[key]


def tokens_per_second(lm: LM) -> float:
    """Tokens per second of a forward pass without LM head, measured on a few batches of this machine."""
    import torch

    from emotion_circuits.models.products import inference

    ids = torch.full((32, 16), int(lm.prefix_ids[0]) if lm.prefix_ids else 1, device=lm.device)
    mask = torch.ones_like(ids)

    def run() -> None:
        with inference(lm.model):
            lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False)

    return ids.numel() / seconds_of(run, lm)


def stand_in(lm: LM, name: str, layer: int, at: Positions) -> Condition:
    """A condition that costs what a steered one costs."""
    import numpy as np

    from emotion_circuits.types import Condition, Intervention, Site

    edit = Intervention(Site("resid_post", layer), "add", at, np.ones(lm.d_model, np.float32))
    return Condition(name, (edit,))


def with_tokens_behind(encoded: Encoded, count: int) -> Encoded:
    """A prompt with ``count`` tokens behind it, as when what was written after it is read again."""
    from dataclasses import replace

    ids, offsets = [encoded.ids[-1]] * count, [(0, 0)] * count
    return replace(encoded, ids=(*encoded.ids, *ids), offsets=(*encoded.offsets, *offsets))


def seconds_per_scored_row(lm: LM, step: ScoreStep, count: int) -> float:
    """Seconds of one of ``count`` packed rows of a step's longest prompt, each with an edit of its own."""
    from emotion_circuits.engine import Row, kl_from_baseline, score_rows

    longest = with_tokens_behind(max(lm.encode(step.prompts), key=len), step.behind)
    rows = [Row(longest, stand_in(lm, str(n), step.layer, step.at)) for n in range(count)]
    metrics = [kl_from_baseline()]
    at_once = count + 1  # the prompt's unedited row rides along
    return seconds_of(lambda: list(score_rows(lm, rows, metrics, max_rows=at_once)), lm) / count


def seconds_per_written_token(lm: LM, step: TextStep, count: int, new: int) -> float:
    """Seconds of one of ``new`` tokens of one of ``count`` packed rows, reading the prompt included."""
    from emotion_circuits.engine import Row, Sampling, generate_rows

    longest = max(lm.encode(step.prompts), key=len)
    rows = [Row(longest, stand_in(lm, str(n), step.layer, step.at)) for n in range(count)]
    written = 0

    def run() -> None:
        nonlocal written
        done = [g for part in generate_rows(lm, rows, Sampling(new), max_rows=count) for _, g in part]
        written = sum(len(g.tokens) for g in done)

    return seconds_of(run, lm) / max(written, count)


def _judge(lm: LM, step: TextStep, count: int) -> float:
    from emotion_circuits.scorers.fluency import fluency

    longest = max(step.prompts, key=lambda p: len(p.text))
    tokens = [lm.encode([longest])[0].ids[-1]] * step.max_new_tokens
    texts = [(longest, tokens)] * count
    return seconds_of(lambda: fluency(lm, texts), lm) / count


def seconds_of(run: Callable[[], object], lm: LM) -> float:
    """Seconds of one call, the mean of a few after one that warms up."""
    from emotion_circuits.models.product_limit import timed

    repeats = MEASURED if timed(run, lm.device) < SLOW else 1
    return timed(lambda: [run() for _ in range(repeats)], lm.device) / repeats
