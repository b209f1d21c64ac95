"""What every token of a text holds of every emotion: directions read token by token, in units of neutral tokens.

A direction is fitted on whole texts and scored as ``(x − mean) · v / sd²`` (:mod:`.directions`). On single tokens that
score has another mean and spread at every layer, so it is calibrated on the tokens of neutral texts: 0 is their mean, 1
their standard deviation. ``centred`` directions (the default) tell *which* emotion, ``neutral`` ones how emotional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.engine import capture
from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.representations.directions import DirectionSet, Method
from emotion_circuits.types import Activations, Positions, Prompt, SiteKind

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

SITE: SiteKind = "resid_post"
_ALL = Positions("all")
_TEXTS_AT_ONCE = 32
"""Texts whose tokens are held at once while the scale is computed."""


@dataclass(frozen=True)
class TokenScale:
    """Mean and standard deviation of raw scores over the tokens of neutral texts, ``[layer, emotion]``."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    tokens: int


@dataclass(frozen=True)
class Readout:
    """One text, token by token. ``values`` is ``[token, layer, emotion]`` in standard deviations of neutral tokens.

    ``pieces`` are the tokens as the tokenizer writes them, ``spans`` their character ranges in the text.
    """

    text: str
    pieces: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]
    emotions: tuple[str, ...]
    values: Float[np.ndarray[Any, Any], "token layer emotion"]


@dataclass(frozen=True)
class Reader:
    """Directions and a scale, ready to read residual streams of all their layers."""

    directions: DirectionSet
    scale: TokenScale
    method: Method = "centred"

    def read(
        self, x: Float[np.ndarray[Any, Any], "token layer d"]
    ) -> Float[np.ndarray[Any, Any], "token layer emotion"]:
        """Calibrated scores of residual streams."""
        return np.asarray((self._raw(x) - self.scale.mean) / self.scale.sd)

    def _raw(self, x: NDArray[Any]) -> NDArray[np.float64]:
        return raw_scores(self._probes, self.directions, x)

    @cached_property
    def _probes(self) -> NDArray[np.float64]:
        return _probes(self.directions, self.method)


def readout(
    lm: LM,
    text: str | Prompt,
    directions: DirectionSet,
    scale: TokenScale | None = None,
    *,
    method: Method = "centred",
) -> Readout:
    """Read every content token of a text at every layer of ``directions``, for every emotion.

    Args:
        directions: of this model, at resid_post. scale: see :func:`token_scale`; computed here (seconds on a small
            model) when it is not given, so keep it where several texts are read.

    Raises:
        UsageError: an empty or too long text, directions of another width.
    """
    reader = Reader(directions, scale or token_scale(lm, directions, neutral_texts(), method=method), method)
    prompt = Prompt("text", text) if isinstance(text, str) else text
    return readout_of(lm, capture(lm, [prompt], [SITE], [_ALL], layers=directions.layers), 0, reader)


def readout_of(lm: LM, captured: Activations, text: int, reader: Reader) -> Readout:
    """The readout of one text of a capture at position ``all``."""
    prompt, directions = captured.prompts[text], reader.directions
    (encoded,) = lm.encode([prompt])
    rows = slice(captured.token_starts[text], captured.token_starts[text + 1])
    columns = [captured.layers.index(layer) for layer in directions.layers]
    x = np.asarray(captured.get(SITE, _ALL)[rows])[:, columns]
    return Readout(
        prompt.text,
        tuple(str(lm.tokenizer.decode([encoded.ids[i]])) for i in encoded.content),
        tuple(encoded.offsets[i] for i in encoded.content),
        directions.layers,
        directions.emotions,
        reader.read(_checked(lm, directions, x)),
    )


def token_scale(
    lm: LM,
    directions: DirectionSet,
    texts: Sequence[Prompt],
    *,
    method: Method = "centred",
    advance: Callable[[int, str], None] | None = None,
) -> TokenScale:
    """Mean and spread of the scores over the content tokens of ``texts`` (neutral ones), layer by layer.

    Args:
        advance: told how many texts more were read, and may end the work by raising.

    Raises:
        UsageError: fewer than 2 tokens, directions of another width.
    """
    probes = _probes(directions, method)
    parts = [raw_scores(probes, directions, x) for x in _tokens(lm, directions, texts, advance)]
    scores = np.concatenate(parts) if parts else np.zeros((0, len(directions.layers), len(directions.emotions)))
    if len(scores) < 2:
        raise UsageError(f"{len(scores)} neutral tokens have no spread", "give at least a few neutral texts")
    return TokenScale(scores.mean(axis=0), np.maximum(scores.std(axis=0, ddof=1), 1e-30), len(scores))


def neutral_texts() -> tuple[Prompt, ...]:
    """The texts that token scores are calibrated on: the fit half of the neutral pool."""
    from emotion_circuits.prompts import load_prompts

    return tuple(p for p in load_prompts("neutral_pool") if p.split == "fit")


def raw_scores(
    probes: Float[np.ndarray[Any, Any], "layer d emotion"], directions: DirectionSet, x: NDArray[Any]
) -> Float[np.ndarray[Any, Any], "token layer emotion"]:
    """``(x − mean) · v / sd²`` of tokens ``[token, layer, d]``."""
    centred = np.asarray(x, dtype=np.float64) - directions.neutral_mean
    return np.asarray(np.einsum("tld,lde->tle", centred, probes, optimize=True))


def promoted_tokens(
    lm: LM, directions: DirectionSet, emotion: str, layer: int, count: int = 10
) -> dict[str, list[dict[str, Any]]]:
    """Which next tokens a direction makes likelier and unlikelier, read through the model's own final norm and head.

    The logit lens (nostalgebraist 2020) of the mean difference to neutral text, ``head(norm(mean + v)) −
    head(norm(mean))`` with the norm's scale frozen at the neutral mean, as in direct logit attribution (Elhage et al.
    2021): otherwise the vector's length rescales the mean too, and what the mean speaks against is listed as promoted.
    The change's mean over the vocabulary, which a softmax does not see, is removed. Layers far from the last one are
    read poorly: later blocks would have changed the direction.

    Returns:
        ``{"up": [{"token", "id", "logit"}], "down": […]}``, the strongest first.
    """
    row = directions.row(layer)
    if emotion not in directions.emotions:
        raise unknown_name("emotion", emotion, list(directions.emotions))
    mean, vector = directions.neutral_mean[row], directions.vectors["neutral"][emotion][row]
    # As long as the mean, so that the norm divides by what it divides the mean by; and scaled back behind it.
    share = _spread(lm, vector) / max(_spread(lm, mean), 1e-30)
    both = torch.as_tensor(np.stack([0 * vector, vector / max(share, 1e-30)]), dtype=lm.dtype, device=lm.device)
    with torch.inference_mode():
        nothing, normed = lm.final_norm(both).float()
        head = lm.model.get_output_embeddings()
        zero, change = head(torch.stack([0 * normed, share * (normed - nothing)]).to(lm.dtype)).float()
    change = change - zero
    change = change - change.mean()
    return {
        side: [
            {"token": lm.tokenizer.decode([i]), "id": i, "logit": float(change[i])}
            for i in (change if side == "up" else -change).topk(min(count, len(change))).indices.tolist()
        ]
        for side in ("up", "down")
    }


def _spread(lm: LM, x: NDArray[np.float64]) -> float:
    """What the final norm divides a vector by: its root mean square, around its mean where the norm centres."""
    return float(np.sqrt(np.mean(np.square(x - x.mean() if lm.family.norm == "layer" else x))))


def _tokens(
    lm: LM, directions: DirectionSet, texts: Sequence[Prompt], advance: Callable[[int, str], None] | None
) -> Iterator[NDArray[Any]]:
    """``[token, layer, d]`` of a few texts at a time: all tokens of a pool would not fit into memory."""
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[start : start + _TEXTS_AT_ONCE]
        found = capture(lm, part, [SITE], [_ALL], layers=directions.layers)
        yield _checked(lm, directions, np.asarray(found.get(SITE, _ALL)))
        if advance is not None:
            advance(len(part), "")


def _probes(directions: DirectionSet, method: Method) -> Float[np.ndarray[Any, Any], "layer d emotion"]:
    return np.stack([directions.probe(method, e) for e in directions.emotions], axis=-1)


def _checked(lm: LM, directions: DirectionSet, x: NDArray[Any]) -> NDArray[Any]:
    if x.shape[-1] != directions.neutral_mean.shape[-1]:
        raise UsageError(
            f"these directions are {directions.neutral_mean.shape[-1]} wide; the residual stream of {lm.name} is "
            f"{lm.d_model}",
            "read a text with directions of the same model",
        )
    return x
