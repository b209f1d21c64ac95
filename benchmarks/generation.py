"""What packing costs and gains: generation under many conditions, and teacher-forced scores of many vectors.

Run: ``python benchmarks/generation.py`` (about five minutes on 2 cores; needs the embedded SmolLM2). Exits 1 when a
goal is missed. 8 prompts × 15 conditions × 20 tokens, greedy, float32, interleaved in one process and repeated:

- packed: all 120 rows through :func:`emotion_circuits.engine.generate`;
- condition by condition: one condition at a time on a batch of the 8 prompts, with a hook (``model.generate``);
- one by one: one prompt and one condition at a time (two conditions are run, and the time scaled up);
- bare: ``model.generate`` on the same 120 rows with no hooks at all.

Scores: vectors × prompts through :func:`emotion_circuits.engine.score`, with and without skipping the blocks below the
edit.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BATCH_GOAL, SINGLE_GOAL, BARE_GOAL = 3.5, 15.0, 0.95
MODEL = "smollm2-135m"
CONDITIONS, NEW_TOKENS = 15, 20

TEXTS = (
    "The parcel arrived on Tuesday and",
    "My neighbour painted the fence because",
    "The bus driver waited at the corner while",
    "She opened the letter from the office and",
    "After the meeting we walked to the station and",
    "The library closes at six today, so",
    "He found two old books in the kitchen and",
    "The nurse came back after lunch and said",
)


def measure_generation(repeats: int) -> dict[str, float]:
    """Tokens per second of each way, the fastest of its repeats."""
    import numpy as np
    import torch
    from transformers import GenerationConfig

    from emotion_circuits.engine import BASELINE, Sampling, add, generate
    from emotion_circuits.engine.batching import pad
    from emotion_circuits.models import load_lm
    from emotion_circuits.types import Condition, Prompt, Site

    lm = load_lm(MODEL, device="cpu")
    lm.model.generation_config.eos_token_id = None  # every way writes the same number of tokens
    tokenizer_eos, lm.tokenizer.eos_token = lm.tokenizer.eos_token, None
    prompts = [Prompt(str(i), text) for i, text in enumerate(TEXTS)]
    layer, rng = lm.n_layers // 2, np.random.default_rng(0)
    vectors = [30 * v / np.linalg.norm(v) for v in rng.standard_normal((CONDITIONS - 1, lm.d_model))]
    steered = [Condition(f"v{n}", (add(Site("resid_post", layer), v, 1.0),)) for n, v in enumerate(vectors)]
    conditions = [BASELINE, *steered]
    encoded = lm.encode(prompts)
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)

    @contextmanager
    def hooked(vector: Any) -> Iterator[None]:
        """What a steering library does: add the vector to a block's output, from the prompt's last token on."""
        added = torch.as_tensor(vector, dtype=torch.float32)

        def hook(module: Any, args: Any, output: Any) -> Any:
            output = output.clone()
            output[:, -1] += added
            return output

        handle = lm.blocks[layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def theirs(rows: list[Any]) -> int:
        batch = pad(lm, rows, range(len(rows)), "left")
        lm.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)
        return len(rows) * NEW_TOKENS

    def packed() -> int:
        return sum(len(g.tokens) for g in generate(lm, prompts, conditions, Sampling(NEW_TOKENS)))

    def by_condition() -> int:
        return sum(run_with(v, encoded) for v in vectors) + theirs(encoded)

    def run_with(vector: Any, rows: list[Any]) -> int:
        with hooked(vector):
            return theirs(rows)

    def one_by_one() -> int:
        return sum(run_with(v, [e]) for v in vectors[:2] for e in encoded)

    def bare() -> int:
        return theirs([e for e in encoded for _ in conditions])

    ways: dict[str, Callable[[], int]] = {
        "packed": packed, "bare": bare, "condition by condition": by_condition, "one by one": one_by_one,
    }  # fmt: skip
    best = dict.fromkeys(ways, 0.0)
    with torch.inference_mode():
        packed()  # warm up
        for _ in range(repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                tokens = way()
                best[name] = max(best[name], tokens / (time.perf_counter() - start))
                print(f"  {name}: {best[name]:.0f} tokens/s", file=sys.stderr, flush=True)
    lm.tokenizer.eos_token = tokenizer_eos
    return best


def measure_scores(n_vectors: int, n_prompts: int) -> dict[str, float]:
    """Seconds for ``n_vectors`` × ``n_prompts`` scores."""
    import numpy as np

    from emotion_circuits.engine import add, kl_from_baseline, log_sum_exp_difference, score
    from emotion_circuits.models import load_lm
    from emotion_circuits.types import Condition, Prompt, Site

    lm = load_lm(MODEL, device="cpu")
    prompts = [Prompt(str(i), TEXTS[i % len(TEXTS)] + " then" * (i // len(TEXTS))) for i in range(n_prompts)]
    site, rng = Site("resid_post", lm.n_layers // 2), np.random.default_rng(0)
    conditions = [
        Condition(f"v{n}", (add(site, v, 1.0),)) for n, v in enumerate(rng.standard_normal((n_vectors, lm.d_model)))
    ]
    metrics = [log_sum_exp_difference([300, 301], [302, 303]), kl_from_baseline()]
    seconds = {}
    scoring: Any = importlib.import_module("emotion_circuits.engine.score")  # the package's `score` is the function
    original = scoring.first_layer
    for name, first in (("skipping blocks", original), ("all blocks", lambda lm, condition: 0)):
        scoring.first_layer = first
        start = time.perf_counter()
        score(lm, prompts, conditions, metrics)
        seconds[name] = time.perf_counter() - start
    scoring.first_layer = original
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vectors", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=8, help="prompts that the vectors are scored on")
    options = parser.parse_args()
    speed = measure_generation(options.repeats)
    print(
        f"8 prompts × {CONDITIONS} conditions × {NEW_TOKENS} tokens, greedy, float32, the fastest of each", flush=True
    )
    for name, value in speed.items():
        print(f"{name:38} {value:8.0f} tokens/s", flush=True)
    scores = measure_scores(options.vectors, options.prompts)
    for name, value in scores.items():
        rows = options.vectors * options.prompts
        print(f"{'score, ' + name:38} {value:8.1f} s for {rows} rows ({1000 * value / rows:.2f} ms each)")
    goals = [
        ("packed / condition by condition", speed["packed"] / speed["condition by condition"], BATCH_GOAL),
        ("packed / one by one", speed["packed"] / speed["one by one"], SINGLE_GOAL),
        ("packed / bare generate", speed["packed"] / speed["bare"], BARE_GOAL),
    ]
    for name, value, goal in goals:
        print(f"{name:38} {value:6.2f}   goal ≥ {goal:.2f}   {'ok' if value >= goal else 'MISSED'}")
    return int(any(value < goal for _, value, goal in goals))


if __name__ == "__main__":
    sys.exit(main())
