"""What single decisions of the engine gain, and what others would: kept where they pay and are exact.

Run: ``python benchmarks/levers.py`` (about five minutes on 2 cores; needs the embedded SmolLM2). No goals.

- sampled texts: packed against bare ``generate`` on the same rows, and a nucleus against sorting the vocabulary, also
  on logits as bfloat16 rounds them (many tokens tie);
- KL divergence in place against fresh memory for every step of it, and of one unedited row against a copy per row;
- not taken: a static cache (``generate`` with one against ``generate`` without), ``torch.compile`` of a decoding step
  with a static cache (and how long compiling takes, and how many steps pay for it).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from generation import BARE_ROWS, MODEL, Work, sweep_of
from ratios import Ratio, Seconds, finish, interleaved, parser, progress, ratio, summary

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE, TOP_P = 1.0, 0.9
PROMPT_TOKENS, COMPILED_STEPS = 10, 10
"""Decoding steps that are timed with and without compiling, and the tokens in front of them."""


def measure_sampling(work: Work, repeats: int) -> list[Ratio]:
    """Sampled texts of all rows, ours against ``generate``."""
    from transformers import GenerationConfig

    from emotion_circuits.engine import BASELINE, Sampling, add, generate
    from emotion_circuits.types import Condition, Site

    site = Site("resid_post", work.layer)
    conditions = [BASELINE, *(Condition(f"v{n}", (add(site, v, 1.0),)) for n, v in enumerate(work.vectors))]
    drawn = Sampling(work.new_tokens, TEMPERATURE, TOP_P)
    config = GenerationConfig(
        max_new_tokens=work.new_tokens, min_new_tokens=work.new_tokens, do_sample=True, temperature=TEMPERATURE,
        top_p=TOP_P, top_k=0, pad_token_id=0,
    )  # fmt: skip
    generate(work.lm, work.prompts[:8], conditions[:8], Sampling(4, TEMPERATURE, TOP_P))  # warm up
    found = interleaved(
        {"packed": lambda: generate(work.lm, work.prompts, conditions, drawn), "bare": lambda: bare(work, config)},
        repeats,
    )
    return [ratio("sampled: packed vs bare generate", found["bare"], found["packed"])]


def bare(work: Work, config: Any) -> None:
    """``generate`` of transformers on as many rows, with no hooks."""
    from emotion_circuits.engine.batching import pad

    encoded = work.lm.encode(work.prompts)
    batch = pad(work.lm, [e for e in encoded for _ in range(BARE_ROWS // len(encoded))], range(BARE_ROWS), "left")
    work.lm.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)


def measure_operations(logits: Tensor, repeats: int) -> list[Ratio]:
    """Single operations on the logits of a batch ``[row, vocabulary]``."""
    import torch
    from transformers import TopPLogitsWarper

    from emotion_circuits.engine import kl_from_baseline
    from emotion_circuits.engine.sampling import nucleus

    warper, unread, kl = TopPLogitsWarper(TOP_P), torch.empty(0, dtype=torch.long), kl_from_baseline()

    first, copies, rounded = logits[:1], logits[:1].repeat(len(logits), 1), logits.bfloat16().float()

    def fresh() -> Tensor:
        new, old = logits.log_softmax(-1), first.log_softmax(-1)
        return (old.exp() * (old - new)).sum(-1)

    parts = range(0, len(logits), 16)
    ways: dict[str, Callable[[], object]] = {
        "sort": lambda: [warper(unread, logits[i : i + 16]) for i in parts],
        "nucleus": lambda: [nucleus(logits[i : i + 16], TOP_P) for i in parts],
        "sort, rounded": lambda: [warper(unread, rounded[i : i + 16]) for i in parts],
        "nucleus, rounded": lambda: [nucleus(rounded[i : i + 16], TOP_P) for i in parts],
        "fresh": fresh,
        "in place": lambda: kl(logits, first),
        "in place, copies": lambda: kl(logits, copies),
    }
    found = interleaved(ways, max(repeats, 5))
    return [
        ratio("top-p: sorting / nucleus", found["sort"], found["nucleus"]),
        ratio("top-p of bfloat16: sorting / nucleus", found["sort, rounded"], found["nucleus, rounded"]),
        ratio("KL: fresh memory / in place", found["fresh"], found["in place"]),
        ratio("KL: a copy per row / one row", found["in place, copies"], found["in place"]),
    ]


def measure_static_cache(work: Work, repeats: int) -> list[Ratio]:
    """``generate`` with a cache of fixed size, which needs no concatenation, against a growing one."""
    from transformers import GenerationConfig

    shared = {"max_new_tokens": work.new_tokens, "min_new_tokens": work.new_tokens, "do_sample": False}
    growing = GenerationConfig(**shared, pad_token_id=0)
    fixed = GenerationConfig(**shared, pad_token_id=0, cache_implementation="static")
    found = interleaved({"growing": lambda: bare(work, growing), "static": lambda: bare(work, fixed)}, repeats)
    return [ratio("growing / static cache", found["growing"], found["static"])]


def measure_compiling(work: Work, repeats: int) -> list[Ratio]:
    """One decoding step of a full batch behind a short prompt, plain and compiled, and the steps that pay for it.

    Plain and compiled multiply with PyTorch's default library, which is all that can be compiled; ours as we decode.
    Ours and plain have a growing cache; compiled a static one, without which every step compiles anew.
    """
    import torch
    from transformers import DynamicCache, StaticCache

    from emotion_circuits.models.products import inference

    model = work.lm.model
    prompt, token = torch.full((BARE_ROWS, PROMPT_TOKENS), 100), torch.full((BARE_ROWS, 1), 100)

    def seconds(forward: Callable[..., Any], cache: Any) -> float:
        forward(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        forward(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        start = time.perf_counter()
        for _ in range(COMPILED_STEPS):
            forward(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return (time.perf_counter() - start) / COMPILED_STEPS

    def plainly(forward: Callable[..., Any], cache: Any) -> float:
        with torch.inference_mode():
            return seconds(forward, cache)

    def as_we_decode() -> Seconds:
        with inference(model):
            return Seconds(seconds(model.forward, DynamicCache(config=model.config)))

    def static() -> Any:
        return StaticCache(config=model.config, max_cache_len=PROMPT_TOKENS + COMPILED_STEPS + 1)

    compiled = torch.compile(model.forward, dynamic=False)
    start = time.perf_counter()
    try:
        plainly(compiled, static())
    except RuntimeError as error:  # without a compiler of C++ there is nothing to measure
        progress(f"torch.compile cannot run here: {' '.join(str(error).split())[:300]}")
        return []
    paid = time.perf_counter() - start
    plain, fast, ours = interleaved(
        {
            "a step, plain": lambda: Seconds(plainly(model.forward, DynamicCache(config=model.config))),
            "a step, compiled": lambda: Seconds(plainly(compiled, static())),
            "a step, ours": as_we_decode,
        },
        repeats,
    ).values()
    rows = [
        ratio("a step, plain / compiled", plain, fast),
        ratio("a step, ours / compiled", ours, fast),
        summary("compiling a step for one shape, seconds", [paid]),
    ]
    gain = [a - b for a, b in zip(ours, fast, strict=True)]
    if min(gain) > 0:
        rows.append(summary("steps that pay for compiling", [paid / g for g in gain]))
    return rows


def main() -> int:
    chosen = parser(__doc__, repeats=3).parse_args()
    import torch

    from emotion_circuits.engine.decode import BASELINE, Row, next_token_logits
    from emotion_circuits.models.products import inference
    from emotion_circuits.prompts import load_prompts

    work = sweep_of("small", MODEL, "float32")
    texts = work.lm.encode(load_prompts("neutral_pool")[:BARE_ROWS])
    with torch.inference_mode():
        rows = [*measure_sampling(work, chosen.repeats), *measure_static_cache(work, chosen.repeats)]
    with inference(work.lm.model):
        logits = next_token_logits(work.lm, [Row(e, BASELINE) for e in texts]).float()
        rows += measure_operations(logits, chosen.repeats)
    rows += measure_compiling(work, chosen.repeats)
    return finish(rows, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
