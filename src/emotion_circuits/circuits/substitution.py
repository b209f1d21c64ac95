"""Forward passes in which chosen components carry another text's activations, many component sets at once.

Rows of a batch are (set, text) pairs: every row has its own mask over heads, MLPs and neurons, and its own text's
substitutes. Sets are run in the order of their lowest layer; below it nothing differs from the text's clean run, so
those blocks are not computed again (prefix reuse).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from emotion_circuits.circuits.components import MLP, Component, Head
from emotion_circuits.circuits.pairs import Pair, align
from emotion_circuits.engine.batching import Batch, capture_tokens, length_buckets, pad
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.gradients import Metric
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.engine.prefix import Below, output_below, skip_below
from emotion_circuits.engine.replacement import Replacement, last_logits, replacing
from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.models.products import inference
from emotion_circuits.types import Positions, SiteKind

Mode = Literal["resample", "mean", "zero"]
"""resample: the donor's activation at the aligned token; mean: the mean over the donors' content tokens; zero."""
MODES: tuple[Mode, ...] = get_args(Mode)

Tap = tuple[SiteKind, int]
ALL = Positions("all")


def tap_of(component: Component) -> Tap:
    """Where a component's output is found: a head's z, an MLP's mlp_out, a neuron's activation."""
    kind: SiteKind = "z" if isinstance(component, Head) else "mlp_out" if isinstance(component, MLP) else "neuron"
    return kind, component.layer


@dataclass(frozen=True)
class Texts:
    """Some texts of like length, with their substitutes.

    ``numbers`` are the texts' places among all pairs; ``batch`` is left-padded; ``edited`` ``[text, token]`` marks the
    tokens at which components are replaced; ``substitutes[tap]`` broadcasts to ``[text, token, *width]``; ``residuals``
    holds the clean input ``[text, token, d_model]`` of the blocks at which computing can start; ``clean`` ``[text]`` is
    the metric without any replacement.
    """

    numbers: tuple[int, ...]
    encoded: tuple[Encoded, ...]
    batch: Batch
    edited: Bool[Tensor, "text token"]
    substitutes: Mapping[Tap, Tensor]
    residuals: Mapping[int, Below]
    clean: Float[Tensor, " text"]


def texts_of(
    lm: LM,
    pairs: Sequence[Pair],
    taps: Sequence[Tap],
    metric: Metric,
    *,
    mode: Mode = "resample",
    positions: Positions = ALL,
    starts: Sequence[int] = (),
) -> Iterator[Texts]:
    """The pairs in groups of like length, each with its clean run and the substitutes at ``taps``.

    Args:
        positions: at which tokens of the clean texts components are replaced. starts: layers whose clean input is kept.
    """
    if mode not in MODES:
        raise unknown_name("ablation mode", mode, list(MODES))
    if not pairs:
        raise UsageError("no pairs of texts to ablate on", "give at least one text with a donor")
    clean, donors = lm.encode([p.clean for p in pairs]), lm.encode([p.donor for p in pairs])
    means = _means(lm, pairs, taps) if mode == "mean" else {}
    for rows in length_buckets(clean, 1 << 30, capture_tokens(lm.device)):
        encoded = [clean[r] for r in rows]
        batch = pad(lm, encoded, rows, "left")
        edited = torch.zeros(batch.ids.shape, dtype=torch.bool, device=lm.device)
        for r, e in enumerate(encoded):
            edited[r, [batch.starts[r] + i for i in prompt_indices(e, positions)]] = True
        logits, kept = last_logits(lm, batch, [("resid_pre", layer) for layer in starts if layer > 0])
        match mode:
            case "resample":
                substitutes = _aligned(lm, encoded, [donors[r] for r in rows], batch, taps)
            case "mean":
                substitutes = {tap: means[tap] for tap in taps}
            case "zero":
                substitutes = {tap: torch.zeros(lm.width(tap[0]), device=lm.device) for tap in taps}
        residuals = _handed_over(lm, batch, kept)
        yield Texts(tuple(rows), tuple(encoded), batch, edited, substitutes, residuals, metric(logits))


def _handed_over(lm: LM, batch: Batch, kept: Mapping[Tap, Tensor]) -> dict[int, Below]:
    """Clean block inputs in the form in which :func:`~emotion_circuits.engine.prefix.skip_below` hands them over."""
    if not kept:
        return {}
    with inference(lm.model):
        inputs = {"input_ids": batch.ids[:1], "attention_mask": batch.mask[:1], "position_ids": batch.positions[:1]}
        in_tuple = output_below(lm, 1, {**inputs, "use_cache": False}).in_tuple
    return {layer: Below(x, in_tuple) for (_, layer), x in kept.items()}


def _means(lm: LM, pairs: Sequence[Pair], taps: Sequence[Tap]) -> dict[Tap, Tensor]:
    """Mean activation over all content tokens of the donors, per tap."""
    donors = list({p.donor.id: p.donor for p in pairs}.values())
    where = Positions("mean-content")
    kinds: list[SiteKind] = sorted({kind for kind, _ in taps})
    layers = sorted({layer for _, layer in taps})
    a = capture(lm, donors, kinds, [where], layers=layers)
    counts = np.array([len(e.content) for e in lm.encode(donors)], dtype=np.float64)
    means = {}
    for kind, layer in taps:
        per_text = a.get(kind, where)[:, layers.index(layer)]
        mean = np.tensordot(counts / counts.sum(), per_text, 1)
        means[kind, layer] = torch.as_tensor(mean, dtype=torch.float32, device=lm.device)
    return means


def _aligned(
    lm: LM, encoded: Sequence[Encoded], donors: Sequence[Encoded], batch: Batch, taps: Sequence[Tap]
) -> dict[Tap, Tensor]:
    """The donors' activations moved to the columns of the tokens they stand in for."""
    donor_batch = pad(lm, donors, range(len(donors)), "left")
    columns = torch.zeros(batch.ids.shape, dtype=torch.long)
    for r, (e, d) in enumerate(zip(encoded, donors, strict=True)):
        matched = torch.tensor(align(e, d)) + donor_batch.starts[r]
        columns[r, batch.starts[r] : batch.starts[r] + len(e)] = matched
    _, kept = last_logits(lm, donor_batch, taps)
    rows = torch.arange(len(donors), device=lm.device).unsqueeze(1)
    return {tap: x[rows.to(x.device), columns.to(x.device)] for tap, x in kept.items()}


def run_sets(
    lm: LM, texts: Texts, sets: Sequence[Sequence[Component]], metric: Metric
) -> Float[NDArray[np.float64], "set text"]:
    """The metric of every text with each set's components replaced (an empty set is the clean run)."""
    found = np.empty((len(sets), len(texts.numbers)))
    lowest = [min((c.layer for c in s), default=0) for s in sets]
    for layer in sorted(set(lowest)):
        members = [i for i, low in enumerate(lowest) if low == layer]
        per_batch = max(1, capture_tokens(lm.device) // texts.batch.ids.numel())
        for start in range(0, len(members), per_batch):
            some = members[start : start + per_batch]
            found[some] = _run_packed(lm, texts, [sets[i] for i in some], metric, layer)
    return found


def _run_packed(
    lm: LM, texts: Texts, sets: Sequence[Sequence[Component]], metric: Metric, layer: int
) -> NDArray[np.float64]:
    """Rows are sets × texts (sets outermost), in one forward pass that starts at ``layer`` where that is possible."""
    n, k = len(texts.numbers), len(sets)
    b = texts.batch
    batch = Batch(
        b.rows * k, b.ids.repeat(k, 1), b.mask.repeat(k, 1), b.positions.repeat(k, 1), b.starts * k
    )  # fmt: skip
    with ExitStack() as stack:
        if layer in texts.residuals:
            stack.enter_context(skip_below(lm, layer, texts.residuals[layer].rows([*range(n)] * k)))
        stack.enter_context(replacing(lm, _replacements(lm, texts, sets)))
        logits, _ = last_logits(lm, batch)
    return metric(logits).view(k, n).double().cpu().numpy()


def _replacements(lm: LM, texts: Texts, sets: Sequence[Sequence[Component]]) -> list[Replacement]:
    by_tap: dict[Tap, list[tuple[int, Component]]] = {}
    for i, components in enumerate(sets):
        for c in components:
            by_tap.setdefault(tap_of(c), []).append((i, c))
    n, k = len(texts.numbers), len(sets)
    replacements = []
    for (kind, layer), members in by_tap.items():
        chosen = torch.zeros(k, *_index_shape(lm, kind), dtype=torch.bool)
        for i, c in members:
            chosen[(i, c.index) if not isinstance(c, MLP) else (i,)] = True
        rows = chosen.to(lm.device).repeat_interleave(n, 0)
        edited = texts.edited.repeat(k, 1)
        mask = edited.view(*edited.shape, *(1,) * (rows.ndim - 1)) & rows.unsqueeze(1)
        values = texts.substitutes[kind, layer]
        if values.ndim > len(lm.width(kind)):
            values = values.repeat(k, *(1,) * (values.ndim - 1))
        replacements.append(Replacement(kind, layer, mask, values))
    return replacements


def _index_shape(lm: LM, kind: SiteKind) -> tuple[int, ...]:
    return (lm.n_heads,) if kind == "z" else (lm.d_mlp,) if kind == "neuron" else ()
