"""What packing costs and gains: generation under many conditions, and teacher-forced scores of many vectors.

Run: ``python benchmarks/generation.py`` (about five minutes on 2 cores; needs the embedded SmolLM2). Exits 1 when
a goal is missed. 8 prompts × 15 conditions × 20 tokens, greedy, float32, interleaved in one process and repeated:

- packed: all 120 rows through :func:`emotion_circuits.engine.generate`;
- condition by condition: one condition at a time on a batch of the 8 prompts, with a hook (``model.generate``);
- one by one: one prompt and one condition at a time (two conditions are run, and the time scaled up);
- bare: ``model.generate`` on the same 120 rows with no hooks at all;
- matrix products: those of the same weights and the same number of rows, once per written token, and nothing else. The
  share of this limit that packing reaches is printed.

Scores: vectors × prompts through :func:`emotion_circuits.engine.score`, with and without skipping the blocks below the
edit.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ratios import Ratio, finish, interleaved, parser, progress, ratio

BATCH_GOAL, SINGLE_GOAL, BARE_GOAL, LIMIT_GOAL = 5.0, 24.0, 1.3, 0.6
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


def measure_generation(repeats: int, dtype: str) -> list[Ratio]:
    """Packed generation against every other way."""
    import numpy as np
    import torch
    from transformers import GenerationConfig

    from emotion_circuits.engine import BASELINE, Sampling, add, generate
    from emotion_circuits.engine.batching import pad
    from emotion_circuits.models import load_lm
    from emotion_circuits.models.product_limit import seconds_per_forward
    from emotion_circuits.types import Condition, Prompt, Site

    lm = load_lm(MODEL, device="cpu", dtype=dtype)
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
        added = torch.as_tensor(vector, dtype=lm.dtype)

        def hook(module: Any, args: Any, output: Any) -> Any:
            output = output.clone()
            output[:, -1] += added
            return output

        handle = lm.blocks[layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def theirs(rows: list[Any]) -> None:
        batch = pad(lm, rows, range(len(rows)), "left")
        lm.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)

    def run_with(vector: Any, rows: list[Any]) -> None:
        with hooked(vector):
            theirs(rows)

    def packed() -> None:
        generate(lm, prompts, conditions, Sampling(NEW_TOKENS))

    def by_condition() -> None:
        for vector in vectors:
            run_with(vector, encoded)
        theirs(encoded)

    def two_conditions_one_by_one() -> None:
        for vector in vectors[:2]:
            for row in encoded:
                run_with(vector, [row])

    def bare() -> None:
        theirs([e for e in encoded for _ in conditions])

    ways: dict[str, Callable[[], None]] = {
        "packed": packed, "bare": bare, "condition by condition": by_condition,
        "one by one, two conditions": two_conditions_one_by_one,
    }  # fmt: skip
    with torch.inference_mode():
        packed()  # warm up
        seconds = interleaved(ways, repeats)
        limit = [NEW_TOKENS * seconds_per_forward(lm, len(prompts) * CONDITIONS) for _ in range(repeats)]
    lm.tokenizer.eos_token = tokenizer_eos
    tokens = len(prompts) * CONDITIONS * NEW_TOKENS
    for name, values in seconds.items():
        share = 2 / CONDITIONS if name.startswith("one by one") else 1.0
        progress(f"{name}: {share * tokens / min(values):.0f} tokens/s at best")
    ours, single = seconds["packed"], [s * CONDITIONS / 2 for s in seconds["one by one, two conditions"]]
    return [
        ratio(f"packed vs condition by condition, {dtype}", seconds["condition by condition"], ours, BATCH_GOAL),
        ratio(f"packed vs one by one, {dtype}", single, ours, SINGLE_GOAL),
        ratio(f"packed vs bare generate, {dtype}", seconds["bare"], ours, BARE_GOAL),
        ratio(f"share of the GEMM limit, {dtype}", limit, ours, LIMIT_GOAL),
    ]


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
    options = parser(__doc__, repeats=3)
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--vectors", type=int, default=1000)
    options.add_argument("--prompts", type=int, default=8, help="prompts that the vectors are scored on")
    chosen = options.parse_args()
    found = measure_generation(chosen.repeats, chosen.dtype)
    scores = measure_scores(chosen.vectors, chosen.prompts)
    for name, value in scores.items():
        rows = chosen.vectors * chosen.prompts
        progress(f"score, {name}: {value:.1f} s for {rows} rows ({1000 * value / rows:.2f} ms each)")
    found.append(ratio("score, all blocks vs skipping", [scores["all blocks"]], [scores["skipping blocks"]]))
    return finish(found, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
