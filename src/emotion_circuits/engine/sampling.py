"""How the next token is chosen: greedily, or drawn so that no draw depends on the batch it is made in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from emotion_circuits.errors import UsageError

Chooser = Callable[[Float[Tensor, "row vocabulary"], Sequence[int], int], Int[Tensor, " row"]]
"""Picks each row's next token from its last-position logits; gets the rows' numbers and the step."""

_ROWS_AT_ONCE, _ROWS_ON_ACCELERATOR = 16, 64
"""Rows whose probabilities are held in float64 at once: 200 MB for 64 rows of 128,000 tokens."""

CANDIDATES = 1024
"""Likeliest tokens that are sorted to find a nucleus; a flatter distribution's row is sorted whole."""
MARGIN = 1e-5
"""How near to top-p a cumulative probability may come before rounding could decide what the nucleus holds."""


@dataclass(frozen=True)
class Sampling:
    """How texts are written: ``samples`` of each row, ``max_new_tokens`` long at most.

    ``temperature`` 0 is greedy. ``top_p`` keeps the smallest set of tokens whose probability reaches it (Holtzman et
    al. 2020, nucleus sampling).

    Raises:
        UsageError: a number out of range, or several samples of greedy text (they would all be the same).
    """

    max_new_tokens: int = 20
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"cannot generate {self.max_new_tokens} tokens", "ask for at least 1")
        if self.samples < 1:
            raise UsageError(f"cannot draw {self.samples} samples", "ask for at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature {self.temperature} is not 0 or more", "0 is greedy, 1 the model's own")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p} is not above 0 and at most 1", "1 keeps every token")
        if self.samples > 1 and self.greedy:
            raise UsageError(
                f"{self.samples} samples at temperature 0 are the same text {self.samples} times",
                "ask for 1 sample, or for a temperature above 0",
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def greedy(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
    """The most likely token."""
    return logits.argmax(-1)


def uniforms(seed: int, prompt: str, condition: str, sample: int, steps: int) -> NDArray[np.float64]:
    """One number in [0, 1) per step, which depends on the arguments and on nothing else.

    A counter-based generator (Philox; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by a
    hash of them; a longer row of draws begins with the shorter one.
    """
    name = json.dumps([seed, prompt, condition, sample]).encode()
    key = np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(steps)


def chooser(sampling: Sampling, draws: Float[np.ndarray, "row step"] | None = None) -> Chooser:
    """The chooser of a sampling; ``draws`` holds the :func:`uniforms` of every row (greedy needs none)."""
    if sampling.greedy:
        return greedy
    assert draws is not None
    temperature = TemperatureLogitsWarper(sampling.temperature)
    numbers = torch.from_numpy(draws)

    def choose(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
        chosen = []
        wanted = numbers[list(rows), step]
        if logits.device.type != "mps":
            wanted = wanted.to(logits.device)  # one copy a step
        size = _ROWS_AT_ONCE if logits.device.type == "cpu" else _ROWS_ON_ACCELERATOR
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            scores = temperature(_UNREAD, logits[part].float())
            chosen.append(draw(nucleus(scores, sampling.top_p), wanted[part]))
        return torch.cat(chosen).to(logits.device)

    return choose


def nucleus(scores: Float[Tensor, "row vocabulary"], top_p: float) -> Float[Tensor, "row vocabulary"]:
    """Scores with -inf outside the smallest set of tokens whose probability reaches ``top_p``.

    What ``TopPLogitsWarper`` of transformers gives, without sorting the vocabulary, which costs as much as a step of a
    small model: the likeliest tokens hold the nucleus of most rows (SmolLM2 at .9: half have under 80 tokens, 99 of 100
    under 610). The warper itself decides rows where they do not, and those where rounding could. Of tokens that tie at
    the edge, as they often do in bfloat16, those of the lowest ids are kept; the warper's choice is arbitrary.
    """
    if top_p >= 1:
        return scores
    top = scores.topk(min(CANDIDATES, scores.shape[-1]), dim=-1).values
    shares = (top - scores.logsumexp(-1, keepdim=True)).exp()
    reached = shares.cumsum(-1)
    size = (reached < top_p).sum(-1, keepdim=True) + 1  # the token that takes the sum to top_p belongs to it
    inside, outside = (top.gather(-1, (size - n).clamp_max(top.shape[-1] - 1)) for n in (1, 0))
    sure = (size < top.shape[-1]) & ((reached - top_p).abs().amin(-1, keepdim=True) > MARGIN)
    kept = scores.masked_fill(scores < inside, -math.inf)
    unsure, tied = (~sure).nonzero()[:, 0], (sure & (inside == outside)).nonzero()[:, 0]
    if len(unsure):
        kept[unsure] = TopPLogitsWarper(top_p)(_UNREAD, scores[unsure])
    if len(tied):
        some, edge = scores[tied], inside[tied]
        at_edge, room = some == edge, size[tied] - (some > edge).sum(-1, keepdim=True)
        kept[tied] = kept[tied].masked_fill(at_edge & (at_edge.cumsum(-1) > room), -math.inf)
    return kept


def draw(scores: Float[Tensor, "row vocabulary"], numbers: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Inverse of the cumulative distribution over tokens in order of their ids, in float64."""
    wide = scores.cpu() if scores.device.type == "mps" else scores  # MPS has no float64
    cumulative = wide.double().softmax(-1).cumsum(-1)
    target = numbers.to(cumulative) * cumulative[:, -1]
    # `right`: the first token that takes the sum past the target, so that a token of probability 0 is never drawn.
    found = torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)
    return found.clamp_max(scores.shape[-1] - 1)


_UNREAD = cast(torch.LongTensor, torch.empty(0, dtype=torch.long))
"""Earlier tokens, which these warpers ignore."""
