"""QK routing patch: a text read with the attention pattern of its emotional twin.

Which tokens a head looks at is taken from the twin, what it finds there stays the text's own. The twin has as many
tokens, so that rows and columns mean the same; routed rows are renormalised over the keys they see. While text is
generated under a KV cache, the routed pattern holds for the prompt's tokens; each new token is a query the twin does
not have, and attends as the model itself decides, over keys and values that the routed prompt left behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.circuits.components import Grid, Head
from emotion_circuits.engine.batching import pad
from emotion_circuits.engine.patterns import PatternHooks
from emotion_circuits.engine.reading import Reading
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.models.products import inference
from emotion_circuits.types import Prompt


def equal_length_twin(lm: LM, prompt: Prompt, candidates: Sequence[Prompt]) -> Prompt:
    """The first candidate with as many tokens, those of the same scenario before all others.

    Raises:
        UsageError: none has.
    """
    (own,) = lm.encode([prompt])
    others = [c for c in candidates if c.id != prompt.id]
    lengths = {c.id: len(e) for c, e in zip(others, lm.encode(others), strict=True)}
    fitting = [c for c in others if lengths[c.id] == len(own)]
    if not fitting:
        near = sorted(lengths.values(), key=lambda n: (abs(n - len(own)), n))[:3]
        raise UsageError(
            f"no text has the {len(own)} tokens of {prompt.id!r} in {lm.name}, so its pattern cannot be replaced "
            f"({len(others)} were tried; nearest lengths: {', '.join(map(str, near)) or 'none'})",
            "write a twin of equal length, give more candidates, or leave this text out",
        )
    return min(fitting, key=lambda c: c.scenario is None or c.scenario != prompt.scenario)


def patterns_of(lm: LM, prompt: Prompt, layers: Sequence[int]) -> dict[int, Float[Tensor, "head query key"]]:
    """The model's own patterns on one text."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        def visitor(pattern: Tensor) -> None:
            kept[layer] = pattern[0].float()

        return visitor

    batch = pad(lm, lm.encode([prompt]), [0], "left")
    with inference(lm.model), lm.eager_attention(), PatternHooks(lm, {n: keep(n) for n in layers}):
        lm.decoder(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)
    return kept


@contextmanager
def routed(lm: LM, prompt: Prompt, twin: Prompt, heads: Sequence[Head]) -> Iterator[None]:
    """Inside the context, ``heads`` attend in ``prompt`` as they do in ``twin``; for scoring and for generation.

    Every row of a batch inside must be ``prompt`` (with any conditions): route one text at a time. Attention is eager
    inside.

    Raises:
        UsageError: the twin has another length, a head outside the grid, another text inside the context.
    """
    grid = Grid.of(lm)
    for h in heads:
        if not (0 <= h.layer < grid.layers and 0 <= h.index < grid.heads):
            raise UsageError(f"head {h} does not exist; {grid}", "choose heads inside the grid")
    own, other = lm.encode([prompt, twin])
    if len(own) != len(other):
        raise UsageError(
            f"{twin.id!r} has {len(other)} tokens and {prompt.id!r} {len(own)}: a pattern fits equal lengths only",
            "take a twin from equal_length_twin()",
        )
    of_layer: dict[int, list[int]] = defaultdict(list)
    for h in heads:
        of_layer[h.layer].append(h.index)
    patterns = patterns_of(lm, twin, sorted(of_layer))
    reading = Reading(lm)
    visitors = {layer: _router(patterns[layer], indices, own, reading) for layer, indices in of_layer.items()}
    with reading, lm.eager_attention(), PatternHooks(lm, visitors):
        yield


def _router(pattern: Tensor, heads: Sequence[int], own: Encoded, reading: Reading) -> Callable[[Tensor], Tensor | None]:
    rows, ids = pattern[list(heads)], torch.tensor(own.ids)

    def visitor(computed: Tensor) -> Tensor | None:
        seen, positions = reading.current()
        queries, keys = computed.shape[-2:]
        start = int(positions[0, 0])
        if start >= len(own):
            return None  # generated tokens: the twin has no such query
        end = start + queries
        # A prompt may be read in pieces, and a window's cache holds the latest keys only.
        other = seen is not None and not bool((seen.cpu() == ids[start:end]).all()) if end <= len(own) else True
        if other or not bool((positions == positions[0]).all()):
            raise UsageError(
                f"a batch inside the routing patch of {own.prompt.id!r} holds another text",
                "route one text at a time, in batches of this text alone",
            )
        part = rows[:, start:end, end - keys : end]
        replaced = computed.clone()
        part = part / part.sum(-1, keepdim=True).clamp_min(1e-30)
        replaced[:, list(heads)] = part.to(computed.device, computed.dtype)
        return replaced

    return visitor
