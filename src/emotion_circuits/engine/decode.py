"""The decode loop: explicit masks and positions, a KV cache, and conditions as rows of one batch.

Hooks cannot infer the generation step or absolute positions from tensor shapes under a KV cache, so the loop publishes
them (:class:`~emotion_circuits.engine.edits.Clock`). Rows that reached a stop token are dropped from the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from emotion_circuits.engine.batching import length_buckets, pad
from emotion_circuits.engine.edits import Clock, Edits
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.types import Condition, Prompt

Row = tuple[Encoded, Condition]
Chooser = Callable[[Float[Tensor, "row vocabulary"], Sequence[int], int], Int[Tensor, " row"]]
"""Picks each row's next token from its last-position logits; gets the rows' numbers and the step."""

BASELINE = Condition("baseline")


@dataclass(frozen=True)
class Generation:
    """What one row wrote: ``tokens`` without the prompt and without the stop token that ended it (if any)."""

    prompt: str
    condition: str
    tokens: tuple[int, ...]
    text: str
    stopped: bool


def greedy(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
    """The most likely token."""
    return logits.argmax(-1)


def generate(
    lm: LM,
    prompts: Sequence[Prompt],
    conditions: Sequence[Condition] = (BASELINE,),
    *,
    max_new_tokens: int,
    choose: Chooser = greedy,
    max_rows: int = 128,
) -> list[Generation]:
    """Continue every prompt under every condition; rows are packed, so a condition costs no extra model call.

    Returns:
        One :class:`Generation` per (prompt, condition), prompts outermost.

    Raises:
        UsageError: no tokens asked for, a text that leaves no room for them, or a condition that cannot act.
    """
    if max_new_tokens < 1:
        raise UsageError(f"cannot generate {max_new_tokens} tokens", "ask for at least 1")
    names = [c.name for c in conditions]
    if len(set(names)) != len(names):
        raise UsageError("two conditions have the same name", "give every condition a name of its own")
    encoded = lm.encode(prompts)
    for e in encoded:
        if len(e) + max_new_tokens > lm.max_length:
            raise UsageError(
                f"prompt {e.prompt.id!r} ({len(e)} tokens) leaves no room for {max_new_tokens} more: "
                f"{lm.name} has positions for {lm.max_length}",
                "shorten the text or generate fewer tokens",
            )
    rows = [(e, c) for e in encoded for c in conditions]
    results: list[Generation | None] = [None] * len(rows)
    for bucket in length_buckets([e for e, _ in rows], max_rows, max_tokens=1 << 30):
        for number, tokens, stopped in decode(lm, [rows[i] for i in bucket], bucket, max_new_tokens, choose):
            e, c = rows[number]
            text = lm.tokenizer.decode(tokens, skip_special_tokens=True)
            results[number] = Generation(e.prompt.id, c.name, tuple(tokens), str(text), stopped)
    return [r for r in results if r is not None]


def decode(
    lm: LM, rows: Sequence[Row], numbers: Sequence[int], max_new_tokens: int, choose: Chooser = greedy
) -> Iterator[tuple[int, list[int], bool]]:
    """Decode one packed batch; yields (row number, tokens, stopped by a stop token)."""
    encoded, conditions = [e for e, _ in rows], [c for _, c in rows]
    batch = pad(lm, encoded, list(numbers), "left")
    clock = Clock()
    edits = Edits(lm, batch, encoded, conditions, clock)
    edits.require_steps(max_new_tokens)
    stops = torch.tensor(sorted(stop_ids(lm)), dtype=torch.long, device=lm.device)
    cache = DynamicCache(config=lm.model.config)
    ids, mask, positions = batch.ids, batch.mask, batch.positions
    alive = list(range(len(rows)))
    written: list[list[int]] = [[] for _ in rows]
    stopped = [False] * len(rows)
    with torch.inference_mode(), edits.hooks():
        for step in range(max_new_tokens):
            clock.step = step
            out = lm.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            tokens = choose(out.logits[:, -1], [numbers[r] for r in alive], step)
            ended = torch.isin(tokens, stops)
            for r, token, end in zip(alive, tokens.tolist(), ended.tolist(), strict=True):
                stopped[r] = end
                if not end:
                    written[r].append(token)
            going = (~ended).nonzero().flatten()
            if len(going) == 0 or step + 1 == max_new_tokens:
                break
            if len(going) < len(alive):
                cache.batch_select_indices(going)
                edits.keep(going.tolist())
                alive = [alive[i] for i in going.tolist()]
                tokens, mask, positions = tokens[going], mask[going], positions[going]
            ids = tokens.unsqueeze(1)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            positions = positions[:, -1:] + 1
    for r, number in enumerate(numbers):
        yield number, written[r], stopped[r]


def next_token_logits(lm: LM, rows: Sequence[Row]) -> Float[Tensor, "row vocabulary"]:
    """Logits at the last prompt token of packed rows, in one forward pass."""
    encoded, conditions = [e for e, _ in rows], [c for _, c in rows]
    batch = pad(lm, encoded, range(len(rows)), "left")
    edits = Edits(lm, batch, encoded, conditions, Clock())
    edits.require_steps(1)
    with torch.inference_mode(), edits.hooks():
        out = lm.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
            logits_to_keep=1,
        )  # fmt: skip
    return out.logits[:, -1]


def stop_ids(lm: LM) -> set[int]:
    """Tokens that end a text: the generation config's EOS ids, and the tokenizer's."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, list) else [configured]) | {lm.tokenizer.eos_token_id}
    return {int(i) for i in ids if i is not None}
