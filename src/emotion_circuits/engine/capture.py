"""``capture``: activations of many prompts at chosen sites and positions, streamed to wherever they should go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emotion_circuits.engine.batching import capture_tokens, length_buckets, pad
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.memory import run_chunks
from emotion_circuits.engine.patterns import PatternHooks
from emotion_circuits.engine.reduction import Reduction, reduction
from emotion_circuits.engine.taps import post_norm_rms, post_norm_weight, tap
from emotion_circuits.errors import ModelError, UsageError, unknown_name
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.models.products import inference
from emotion_circuits.models.weights import output_heads
from emotion_circuits.types import SITE_KINDS, Activations, Positions, Prompt, SiteKind

MAX_ROWS = 96
"""Rows per capture batch; between 32 and 96 the cost per prompt is flat."""

Shapes = Mapping[str, tuple[int, ...]]


class Sink(Protocol):
    """Where captured rows go; the store's ``TensorFileWriter`` is one, :class:`MemorySink` another."""

    def missing_rows(self) -> Sequence[int] | NDArray[np.intp]: ...
    def write_rows(self, name: str, rows: Any, values: NDArray[np.float32]) -> None: ...
    def finish_rows(self, rows: Any) -> None: ...


class MemorySink:
    """Keeps captured rows in arrays of the given shapes."""

    def __init__(self, shapes: Shapes) -> None:
        self.arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def missing_rows(self) -> NDArray[np.intp]:
        return np.arange(next(iter(self.arrays.values())).shape[0])

    def write_rows(self, name: str, rows: Any, values: NDArray[np.float32]) -> None:
        self.arrays[name][rows] = values

    def finish_rows(self, rows: Any) -> None:
        pass


@dataclass(frozen=True)
class CapturePlan:
    """What will be captured, before any forward pass: enough to allocate, estimate and resume.

    ``shapes[kind@position]`` starts with one row per prompt; ``all`` positions have one row per content token instead,
    prompt after prompt, with ``token_starts[p]`` the first row of prompt p (and one last entry: the number of rows).
    """

    encoded: tuple[Encoded, ...]
    kinds: tuple[SiteKind, ...]
    positions: tuple[Positions, ...]
    layers: tuple[int, ...]
    shapes: Shapes
    token_starts: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the captured values, float32."""
        return sum(4 * int(np.prod(s)) for s in self.shapes.values())


def plan_capture(
    lm: LM,
    prompts: Sequence[Prompt],
    kinds: Sequence[SiteKind],
    positions: Sequence[Positions],
    layers: Sequence[int] | None = None,
) -> CapturePlan:
    """Tokenise and check everything that a capture needs; raises before any forward pass."""
    for kind in kinds:
        if kind not in SITE_KINDS:
            raise unknown_name("site kind", kind, list(SITE_KINDS))
        if kind not in ("result", "pattern"):
            tap(lm, kind, 0)
    if not prompts or not kinds or not positions:
        raise UsageError("nothing to capture: prompts, sites and positions must not be empty")
    if any(p.kind == "generated" for p in positions):
        raise UsageError(
            "`generated` positions exist only during generation", "capture `last`, `all` or `mean-content`"
        )
    # In the order of the forward pass, which is the order in which values arrive.
    chosen = tuple(sorted(set(lm.layers(layers))))
    encoded = tuple(lm.encode(prompts))
    starts = np.concatenate([[0], np.cumsum([len(e.content) for e in encoded])])
    longest = max(len(e) for e in encoded)
    shapes = {}
    for kind in kinds:
        # A pattern row is padded with zeros to the longest text: keys behind a text's end get no attention anyway.
        width = (lm.n_heads, longest) if kind == "pattern" else lm.width(kind)
        for position in positions:
            rows = int(starts[-1]) if position.kind == "all" else len(encoded)
            shapes[f"{kind}@{position}"] = (rows, len(chosen), *width)
    return CapturePlan(encoded, tuple(kinds), tuple(positions), chosen, shapes, tuple(int(s) for s in starts))


def capture(
    lm: LM,
    prompts: Sequence[Prompt],
    kinds: Sequence[SiteKind],
    positions: Sequence[Positions],
    *,
    layers: Sequence[int] | None = None,
    max_rows: int = MAX_ROWS,
) -> Activations:
    """Activations of ``prompts`` in memory; see :func:`run_capture` for streaming to disk.

    Args:
        kinds: site kinds (``resid_post``, ``attn_out``, ``z``, …). positions: which tokens; several tokens are
            averaged, except ``all``. layers: default all. max_rows: prompts per forward pass.

    Returns:
        :class:`Activations` with ``[prompt, layer, …]`` float32 per (kind, position); ``[content token, layer, …]`` for
        ``all``, where prompt p has the rows from ``token_starts[p]`` to ``token_starts[p + 1]``.

    Raises:
        UsageError: unknown site, layer or position, a text without the emotion word that a position asks for, a text
            that is too long. ModelError: NaN or infinity, naming layer and prompt.
    """
    plan = plan_capture(lm, prompts, kinds, positions, layers)
    by_prompt, by_token = (MemorySink(s) if s else None for s in split_shapes(plan))
    for _ in run_capture(lm, plan, by_prompt, by_token, max_rows=max_rows):
        pass
    arrays = {name: a for sink in (by_prompt, by_token) if sink for name, a in sink.arrays.items()}
    return activations(lm.name, plan, arrays)


def activations(model: str, plan: CapturePlan, arrays: Mapping[str, NDArray[Any]]) -> Activations:
    """Captured arrays (in memory or mapped from a file) as :class:`Activations`."""
    values: dict[tuple[str, str], NDArray[Any]] = {
        (kind, str(position)): arrays[f"{kind}@{position}"] for kind in plan.kinds for position in plan.positions
    }
    return Activations(tuple(e.prompt for e in plan.encoded), plan.layers, values, model, plan.token_starts)


def split_shapes(plan: CapturePlan) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """The plan's shapes with one row per prompt, and those with one row per token (``all``)."""
    by_token = {n: s for n, s in plan.shapes.items() if n.endswith("@all")}
    return {n: s for n, s in plan.shapes.items() if n not in by_token}, by_token


def run_capture(
    lm: LM, plan: CapturePlan, by_prompt: Sink | None, by_token: Sink | None, *, max_rows: int = MAX_ROWS,
    halved: Callable[[], None] | None = None,
) -> Iterator[int]:  # fmt: skip
    """Capture what the sinks still miss, yielding the number of prompts finished after each batch.

    The LM head is skipped, and so are the layers behind the last one that is read. Batches are bucketed by length, so
    rows arrive out of order. A sink that was interrupted gets its missing rows in the batches of an uninterrupted
    capture, so that resuming gives the same bytes on the same device with the same ``max_rows`` (rounding depends on
    both; the caller keeps them the same). Where memory runs out, half as many prompts run at a time from then on, and
    ``halved`` is called.
    """
    missing = unfinished_prompts(plan, by_prompt, by_token)
    left = [rows for rows in capture_batches(lm, plan, max_rows) if not missing.isdisjoint(rows)]

    def run(rows: Sequence[int]) -> None:
        tokens = np.concatenate([np.arange(*plan.token_starts[r : r + 2]) for r in rows])
        for name, values in _forward(lm, plan, rows).items():
            if name.endswith("@all"):
                assert by_token is not None
                by_token.write_rows(name, tokens, values)
            else:
                assert by_prompt is not None
                by_prompt.write_rows(name, rows, values)
        if by_token is not None:
            by_token.finish_rows(tokens)
        if by_prompt is not None:
            by_prompt.finish_rows(rows)

    for rows, _ in run_chunks(left, run, halved):
        yield len(rows)


def capture_batches(lm: LM, plan: CapturePlan, max_rows: int) -> list[list[int]]:
    """The prompts of each forward pass of an uninterrupted capture, the largest batch first (it shows the peak memory).

    A batch holds texts of one emotion only, so that the last bits of a text's activations, which depend on its batch,
    do not depend on which other emotions are captured with it.
    """
    batches = [
        [rows[i] for i in bucket]
        for rows in emotion_groups([e.prompt for e in plan.encoded]).values()
        for bucket in length_buckets([plan.encoded[r] for r in rows], max_rows, capture_tokens(lm.device))
    ]
    return sorted(batches, key=lambda batch: -len(batch) * len(plan.encoded[batch[0]]))


def emotion_groups(prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """Numbers of the prompts of each emotion; a neutral text read at an emotion's words belongs to that emotion."""
    groups: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(prompt.matched or prompt.emotion, []).append(number)
    return groups


def unfinished_prompts(plan: CapturePlan, by_prompt: Sink | None, by_token: Sink | None) -> set[int]:
    """Prompts that at least one sink still misses (the two flush at different times)."""
    missing = set() if by_prompt is None else {int(r) for r in by_prompt.missing_rows()}
    if by_token is not None:
        owner = np.searchsorted(plan.token_starts, by_token.missing_rows(), side="right") - 1
        missing |= {int(p) for p in owner}
    return missing


def _forward(lm: LM, plan: CapturePlan, rows: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """One batch: ``{kind@position: [row or token, layer, …]}``."""
    encoded = [plan.encoded[r] for r in rows]
    batch = pad(lm, encoded, rows, "right")
    width = batch.ids.shape[1]
    reductions = {str(p): reduction(encoded, p, width) for p in plan.positions}
    kept: dict[str, list[Tensor]] = {name: [] for name in plan.shapes}

    def keep(kind: str, x: Tensor) -> None:
        for position, reduce in reductions.items():
            kept[f"{kind}@{position}"].append(reduce.apply(x))

    hooks = Hooks()
    pattern_visitors: dict[int, Callable[[Tensor], None]] = {}
    for layer in plan.layers:
        for kind in plan.kinds:
            if kind == "pattern":
                pattern_visitors[layer] = _keep_pattern(kept, reductions, plan)
            elif kind == "result":
                _visit_results(lm, layer, hooks, reductions, kept)
            else:
                t = tap(lm, kind, layer)
                hooks.visit(t.module, t.side, f"L{layer}.{kind}", _viewing(t.view, keep, kind))
    behind = plan.layers[-1] + 1
    if behind < lm.n_layers:
        hooks.visit(lm.module(behind, "block"), "input", f"L{behind}, behind the last one read", _stop)
    # No context is left open between two batches: the consumer of `run_capture` runs there.
    with inference(lm.model), ExitStack() as stack:
        stack.enter_context(hooks)
        if pattern_visitors:
            stack.enter_context(lm.eager_attention())
            stack.enter_context(PatternHooks(lm, pattern_visitors))
        with suppress(_AllReadError):
            lm.decoder(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)
    return {name: _finite(lm, plan, rows, name, layers) for name, layers in kept.items()}


class _AllReadError(Exception):
    """Ends a pass behind the last layer that is read: nothing that comes after it can change what was read."""


def _stop(_: Tensor) -> None:
    raise _AllReadError


def _viewing(
    view: Callable[[Tensor], Tensor], keep: Callable[[str, Tensor], None], kind: str
) -> Callable[[Tensor], None]:
    def visitor(x: Tensor) -> None:
        keep(kind, view(x))

    return visitor


def _visit_results(
    lm: LM, layer: int, hooks: Hooks, reductions: Mapping[str, Reduction], kept: dict[str, list[Tensor]]
) -> None:
    """Head results at the kept positions only: z is reduced first (it is linear), then multiplied by W_O."""
    seen: dict[str, Tensor] = {}
    t = tap(lm, "z", layer)

    def store_z(x: Tensor) -> None:
        seen["z"] = t.view(x)

    def project(attention_output: Tensor) -> None:
        z, (w_o, _) = seen.pop("z").float(), output_heads(lm, layer)
        scale = None
        if lm.family.post_attention_norm:
            z = z * post_norm_rms(lm, layer, attention_output).unsqueeze(-1)
            scale = post_norm_weight(lm, layer).to(z.device)
        for position, reduce in reductions.items():
            results = torch.einsum("bhd,hdm->bhm", reduce.apply(z), w_o.to(z.device))
            kept[f"result@{position}"].append(results if scale is None else results * scale)

    hooks.visit(t.module, t.side, f"L{layer}.z", store_z)
    hooks.visit(lm.module(layer, "attention"), "output", f"L{layer}.result", project)


def _keep_pattern(
    kept: dict[str, list[Tensor]], reductions: Mapping[str, Reduction], plan: CapturePlan
) -> Callable[[Tensor], None]:
    def visitor(pattern: Tensor) -> None:
        by_query = pattern.transpose(1, 2)  # [row, query, head, key]
        longest = plan.shapes[f"pattern@{plan.positions[0]}"][-1]
        for position, reduce in reductions.items():
            rows = reduce.apply(by_query)
            kept[f"pattern@{position}"].append(torch.nn.functional.pad(rows, (0, longest - rows.shape[-1])))

    return visitor


def _finite(lm: LM, plan: CapturePlan, rows: Sequence[int], name: str, layers: list[Tensor]) -> NDArray[np.float32]:
    """Stack the layers on the CPU; raises at the first NaN or infinity, naming layer and prompt."""
    values = torch.stack([x.cpu() for x in layers], dim=1)
    if not torch.isfinite(values).all():
        bad = (~torch.isfinite(values.flatten(2))).any(-1)  # [row, layer]
        layer = int(bad.any(0).nonzero()[0])
        owners = rows
        if name.endswith("@all"):
            owners = [r for r in rows for _ in plan.encoded[r].content]
        culprit = plan.encoded[owners[int(bad[:, layer].nonzero()[0])]].prompt.id
        raise ModelError(
            f"{lm.name} produced NaN or infinity in {name.split('@')[0]} of layer {plan.layers[layer]} "
            f"on prompt {culprit!r}",
            f"load it with --dtype float32 (it runs in {lm.dtype_name} now)"
            if lm.dtype is not torch.float32
            else "float32 does not overflow here: its weights are damaged, fetch or copy them again",
        )
    return values.numpy()
