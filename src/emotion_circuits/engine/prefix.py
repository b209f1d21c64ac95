"""What rows of one prompt share is computed once: the tokens before the first edit, and the blocks below it.

A causal model's activations at a token depend on earlier tokens only, and those of a block on lower blocks only. So an
edit leaves untouched

1. every token before the first one it edits: their keys and values are computed once a prompt and copied to its rows;
2. every block below the first one it edits: its output for the prompt is stored once and handed to every row.

Both use the unmodified blocks of the model; results equal those of the whole computation up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from emotion_circuits.engine.batching import Batch
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.operations import changes_something
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.types import Condition


def distinct(encoded: Sequence[Encoded]) -> tuple[list[int], list[int]]:
    """(first row of each distinct text, which of them each row is)."""
    seen: dict[tuple[int, ...], int] = {}
    firsts: list[int] = []
    owner: list[int] = []
    for row, e in enumerate(encoded):
        if e.ids not in seen:
            seen[e.ids] = len(firsts)
            firsts.append(row)
        owner.append(seen[e.ids])
    return firsts, owner


PASS_TOKENS = 16
"""What a forward pass costs beside its tokens, in tokens: reading the weights once (SmolLM2 on a CPU: 16 to 20)."""


def shared_columns(batch: Batch, encoded: Sequence[Encoded], conditions: Sequence[Condition]) -> int:
    """Leading columns of a left-padded batch that no row edits and that are no row's last token.

    0 where computing them once a text saves less than a pass of its own costs: that of one token a row, and reading the
    weights.
    """
    places = zip(batch.starts, encoded, conditions, strict=True)
    columns = min(start + first_edited(e, c) for start, e, c in places)
    texts = len({e.ids for e in encoded})
    return columns if columns * (len(encoded) - texts) >= len(encoded) + PASS_TOKENS else 0


def first_edited(encoded: Encoded, condition: Condition) -> int:
    """Index of the first prompt token that a condition edits; at most the last one's, which every row needs."""
    edited = [
        index for i in condition.interventions if changes_something(i) for index in prompt_indices(encoded, i.positions)
    ]
    return min([*edited, len(encoded) - 1])


def first_layer(lm: LM, condition: Condition) -> int:
    """The lowest block that has to run in a condition's own row; the number of blocks where nothing is edited.

    An edit of a block's output needs the block's output only, which is the prompt's own.
    """
    (last,) = lm.layers([-1])
    sites = [i.site for i in condition.interventions if changes_something(i)]
    return min([lm.layers([s.layer])[0] + (s.kind == "resid_post") for s in sites], default=last + 1)


def prefill(lm: LM, batch: Batch, rows: Sequence[int], columns: int) -> Cache:
    """Keys and values of the first ``columns`` tokens of some rows, unedited. Call it in inference mode."""
    cache = DynamicCache(config=lm.model.config)
    lm.decoder(
        input_ids=batch.ids[rows, :columns], attention_mask=batch.mask[rows, :columns],
        position_ids=batch.positions[rows, :columns], past_key_values=cache, use_cache=True,
    )  # fmt: skip
    return cache


def copied(cache: Cache, rows: Sequence[int], *, below: int = 0) -> Cache:
    """A cache whose row r is row ``rows[r]`` of ``cache``, which stays as it is; layers ``below`` are not expanded."""
    index = torch.tensor(list(rows))  # on the CPU, where it indexes the layers of every device
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers[below:]:
        cast(DynamicLayer, layer).batch_select_indices(index)
    return new


@dataclass(frozen=True)
class Below:
    """What a block receives from the blocks below it; ``in_tuple``: blocks of this model return tuples (GPT-Neo)."""

    hidden: Float[Tensor, "row token d_model"]
    in_tuple: bool

    def rows(self, rows: Sequence[int]) -> Below:
        """These rows, in this order (rows may repeat)."""
        return Below(self.hidden[list(rows)], self.in_tuple)


def output_below(lm: LM, layer: int, inputs: Mapping[str, Any]) -> Below:
    """What block ``layer`` (≥ 1; the number of blocks: the final norm) receives; it and those above do not run.

    ``inputs`` are the decoder's. Call it in inference mode.
    """
    in_tuple: list[bool] = []
    seen: list[Tensor] = []
    first = lm.module(0, "block").register_forward_hook(lambda m, args, out: in_tuple.append(isinstance(out, tuple)))
    hooks = Hooks()
    hooks.visit(lm.module(layer - 1, "block"), "output", f"L{layer - 1}.resid_post", seen.append)

    def hand_on(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (x, None) if in_tuple[0] else x

    try:
        with hooks, _forwards(lm, dict.fromkeys(range(layer, lm.n_layers), hand_on)):
            lm.decoder(**inputs)
    finally:
        first.remove()
    return Below(seen[0], in_tuple[0])


@contextmanager
def skip_below(lm: LM, layer: int, stored: Below) -> Iterator[None]:
    """Inside the context, blocks below ``layer`` do not run: ``stored`` is what block ``layer`` receives.

    ``stored`` comes from :func:`output_below` and has exactly the rows and tokens of the forward passes inside. Only
    passes that need no keys and values of the skipped blocks may run inside: no further token can be decoded from their
    cache. The blocks' own forwards are back on leaving, also by an exception.
    """

    def hand_on(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (x, None) if stored.in_tuple else x

    def hand_over(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return hand_on(stored.hidden)

    with _forwards(lm, {n: hand_over if n == layer - 1 else hand_on for n in range(layer)}):
        yield


@contextmanager
def _forwards(lm: LM, forwards: Mapping[int, Callable[..., Any]]) -> Iterator[None]:
    """Blocks whose forward is replaced, restored on leaving."""
    replaced: list[tuple[dict[str, Any], Any]] = []
    try:
        for layer, function in forwards.items():
            own = vars(lm.module(layer, "block"))
            # accelerate keeps a forward of its own on the instance, which has to come back as it was.
            replaced.append((own, own.get("forward")))
            own["forward"] = function
        yield
    finally:
        for own, before in replaced:
            if before is None:
                own.pop("forward", None)
            else:
                own["forward"] = before
