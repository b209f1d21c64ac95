"""Activation patching between two texts of equal length, normalised so that 1 is the clean and 0 the corrupt run.

m = (patched − corrupt) / (clean − corrupt), as a ratio of means over pairs with its interval: a mean of ratios would be
ruled by pairs whose texts hardly differ (Zhang & Nanda 2024; Heimersheim & Nanda 2024). *Denoising* puts clean
activations into the corrupt run (are they enough?), *noising* corrupt ones into the clean run (are they needed?).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.engine.batching import Batch, capture_tokens, length_buckets, pad
from emotion_circuits.engine.gradients import Metric
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.engine.replacement import Replacement, last_logits, replacing
from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.stats import Interval, bootstrap_interval, ratio_interval
from emotion_circuits.types import Positions, SiteKind

Way = Literal["denoising", "noising"]
WAYS: tuple[Way, ...] = get_args(Way)
EVERYWHERE = Positions("all")


@dataclass(frozen=True)
class Patch:
    """What is exchanged: one site kind at some layers and positions, for ``heads`` only where a kind has heads."""

    kind: SiteKind
    layers: tuple[int, ...]
    position: Positions = EVERYWHERE
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        layers = f"L{self.layers[0]}" if len(self.layers) == 1 else f"L{self.layers[0]}-{self.layers[-1]}"
        heads = "" if self.heads is None else "." + "+".join(map(str, self.heads))
        return f"{layers}.{self.kind}{heads}@{self.position}"


@dataclass(frozen=True)
class Patched:
    """The metric of the clean and the corrupt texts ``[pair]`` and of the patched ones ``[patch, pair]``."""

    patches: tuple[Patch, ...]
    way: Way
    clean: NDArray[np.float64]
    corrupt: NDArray[np.float64]
    patched: NDArray[np.float64]
    clusters: tuple[str, ...]

    def recovery(self, *, seed: int = 0, resamples: int = 10_000) -> Interval:
        """m of each patch with its cluster-bootstrap interval, ``[patch]``; see :func:`recovery`."""
        return recovery(self.patched, self.clean, self.corrupt, self.clusters, seed=seed, resamples=resamples)

    def change(self, *, seed: int = 0, resamples: int = 10_000) -> Interval:
        """Patched minus the run that was patched, untouched, in nats, ``[patch]``, with its interval."""
        untouched = self.corrupt if self.way == "denoising" else self.clean
        return bootstrap_interval(self.patched - untouched, self.clusters, seed=seed, resamples=resamples)


def recovery(
    patched: Float[NDArray[np.float64], "*cell pair"],
    clean: Float[NDArray[np.float64], " pair"],
    corrupt: Float[NDArray[np.float64], " pair"],
    clusters: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> Interval:
    """(mean patched − mean corrupt) / (mean clean − mean corrupt) of each cell, with its interval.

    Raises:
        UnclearDenominatorError: clean and corrupt runs do not differ clearly.
    """
    gap = np.asarray(clean) - np.asarray(corrupt)
    top = np.asarray(patched) - np.asarray(corrupt)
    return ratio_interval(top, np.broadcast_to(gap, top.shape), clusters, seed=seed, resamples=resamples)


def patch_grid(
    kind: SiteKind, layers: Sequence[int], positions: Sequence[Positions], heads: Sequence[int] | None = None
) -> list[Patch]:
    """One patch per layer × position, layers outermost."""
    chosen = None if heads is None else tuple(heads)
    return [Patch(kind, (layer,), position, chosen) for layer in layers for position in positions]


def patch_pairs(
    lm: LM, pairs: Sequence[Pair], patches: Sequence[Patch], metric: Metric, *, way: Way = "denoising"
) -> Patched:
    """Run every patch on every pair (rows of the same batches).

    Args:
        pairs: texts of equal length in tokens; ``donor`` is the corrupt text.
        patches: positions are resolved in the clean text and used in both.

    Raises:
        UsageError: texts of different length, no patches, a site that cannot be patched (patterns: use a routing
            patch), heads where the kind has none.
    """
    _check(lm, patches, way)
    clean, corrupt = lm.encode([p.clean for p in pairs]), lm.encode([p.donor for p in pairs])
    for a, b in zip(clean, corrupt, strict=True):
        if len(a) != len(b):
            raise UsageError(
                f"{a.prompt.id!r} has {len(a)} tokens and {b.prompt.id!r} {len(b)}: patching needs equal lengths",
                "keep the pairs that length_matched() returns",
            )
    taps = sorted({(p.kind, layer) for p in patches for layer in lm.layers(p.layers)})
    n = len(pairs)
    values = {"clean": np.empty(n), "corrupt": np.empty(n)}
    patched = np.empty((len(patches), n))
    for rows in length_buckets(clean, 1 << 30, capture_tokens(lm.device)):
        batches = {
            "clean": pad(lm, [clean[r] for r in rows], rows, "left"),
            "corrupt": pad(lm, [corrupt[r] for r in rows], rows, "left"),
        }
        source, base = ("clean", "corrupt") if way == "denoising" else ("corrupt", "clean")
        kept = {}
        for name, batch in batches.items():
            logits, seen = last_logits(lm, batch, taps if name == source else ())
            values[name][rows] = metric(logits).double().cpu().numpy()
            kept.update(seen)
        per_batch = max(1, capture_tokens(lm.device) // batches[base].ids.numel())
        for start in range(0, len(patches), per_batch):
            some = patches[start : start + per_batch]
            found = _run(lm, batches[base], [clean[r] for r in rows], some, kept, metric)
            patched[start : start + len(some), rows] = found
    clusters = tuple(p.cluster for p in pairs)
    return Patched(tuple(patches), way, values["clean"], values["corrupt"], patched, clusters)


def _run(
    lm: LM,
    base: Batch,
    encoded: Sequence[Encoded],
    patches: Sequence[Patch],
    source: dict[tuple[SiteKind, int], torch.Tensor],
    metric: Metric,
) -> Float[NDArray[np.float64], "patch pair"]:
    n, k, width = len(encoded), len(patches), base.ids.shape[1]
    batch = Batch(
        base.rows * k, base.ids.repeat(k, 1), base.mask.repeat(k, 1), base.positions.repeat(k, 1), base.starts * k
    )
    masks: dict[tuple[SiteKind, int], torch.Tensor] = {}
    for i, patch in enumerate(patches):
        tokens = torch.zeros(n, width, dtype=torch.bool)
        for r, e in enumerate(encoded):
            tokens[r, [base.starts[r] + c for c in prompt_indices(e, patch.position)]] = True
        shape = lm.width(patch.kind)[:1] if patch.kind in ("q", "k", "v", "z", "neuron") else ()
        for layer in lm.layers(patch.layers):
            mask = masks.setdefault((patch.kind, layer), torch.zeros(k * n, width, *shape, dtype=torch.bool))
            if not shape:
                mask[i * n : (i + 1) * n] = tokens
            else:
                for h in patch.heads if patch.heads is not None else range(shape[0]):
                    mask[i * n : (i + 1) * n, :, h] = tokens
    replacements = [
        Replacement(kind, layer, mask, source[kind, layer].repeat(k, *(1,) * (source[kind, layer].ndim - 1)))
        for (kind, layer), mask in masks.items()
    ]
    with replacing(lm, replacements):
        logits, _ = last_logits(lm, batch)
    return np.asarray(metric(logits).view(k, n).double().cpu().numpy())


def _check(lm: LM, patches: Sequence[Patch], way: str) -> None:
    if way not in WAYS:
        raise unknown_name("way of patching", way, list(WAYS))
    if not patches:
        raise UsageError("no patches to run", "name at least one site kind, layer and position")
    for p in patches:
        if p.kind in ("result", "pattern"):
            raise UsageError(f"{p.kind} is not patched directly", "patch z (a head's output), or route a pattern")
        if p.heads is None:
            continue
        size = lm.width(p.kind)[0] if p.kind in ("q", "k", "v", "z") else 0
        if not p.heads or any(not 0 <= h < size for h in p.heads):
            raise UsageError(
                f"{p} names heads {p.heads}; {lm.name} has {size} heads at {p.kind} in {lm.n_layers} layers",
                "heads belong to q, k, v and z; leave them out for whole sites",
            )
