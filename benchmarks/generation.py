"""What packing costs and gains: generation under many conditions, and teacher-forced scores of many vectors.

Run: ``python benchmarks/generation.py`` (about five minutes on 2 cores; needs the embedded SmolLM2). Exits 1 when
a goal is missed. 8 prompts × 15 conditions × 20 tokens, greedy, interleaved in one process and repeated:

- packed: all 120 rows through :func:`emotion_circuits.engine.generate`;
- condition by condition: one condition at a time on a batch of the 8 prompts, with a hook (``model.generate``);
- one by one: one prompt and one condition at a time (two conditions are run, and the time scaled up);
- bare: ``model.generate`` on the same 120 rows with no hooks at all;
- matrix products: those of the same weights and the same number of rows, once per written token, and nothing else. The
  share of this limit that packing reaches is printed.

``--size large``: 50 prompts × 105 conditions × 30 tokens, the size of a default sweep with its controls; of the other
ways two conditions are run and scaled up. ``--model tiny``: random weights of four narrow blocks, where calling an
operation costs more than its arithmetic; no goals. ``--dtype bfloat16``: on a processor that multiplies it.

Scores: vectors × prompts through :func:`emotion_circuits.engine.score`, with and without skipping the blocks below the
edit.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ratios import Ratio, finish, interleaved, parser, progress, ratio

if TYPE_CHECKING:
    from emotion_circuits.models import LM
    from emotion_circuits.types import Prompt

BATCH_GOAL, SINGLE_GOAL, BARE_GOAL, LIMIT_GOAL, BFLOAT_GOAL = 5.0, 24.0, 1.3, 0.6, 8.0
MODEL = "smollm2-135m"
CONDITIONS, NEW_TOKENS = 15, 20
SAMPLED = 2
"""Conditions that the slow ways run where all of them would take too long; their time is scaled up."""
BARE_ROWS = 120
"""Rows of a bare batch, and of the matrix products."""

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


@dataclass(frozen=True)
class Work:
    """A sweep: every prompt under every condition; ``sampled`` conditions are run where a way would take too long."""

    lm: LM
    prompts: list[Prompt]
    vectors: list[Any]
    new_tokens: int
    sampled: int

    @property
    def conditions(self) -> int:
        """The vectors and the baseline."""
        return len(self.vectors) + 1

    @property
    def layer(self) -> int:
        """The block whose output is steered."""
        return self.lm.n_layers // 2


def sweep_of(size: str, model: str, dtype: str) -> Work:
    """The work of one size on one model, whose texts never end early: every way writes the same number of tokens."""
    import numpy as np

    from emotion_circuits.models import load_lm
    from emotion_circuits.prompts import load_prompts
    from emotion_circuits.types import Prompt

    lm = load_lm(MODEL, device="cpu", dtype=dtype)
    if model == "tiny":
        lm = load_lm(tiny_model(lm), lm.tokenizer, device="cpu", dtype=dtype)
    lm.model.generation_config.eos_token_id = lm.tokenizer.eos_token = None
    prompts, conditions, new_tokens = [Prompt(str(i), text) for i, text in enumerate(TEXTS)], CONDITIONS, NEW_TOKENS
    if size == "large":
        prompts, conditions, new_tokens = list(load_prompts("continuations"))[:50], 105, 30
    drawn = np.random.default_rng(0).standard_normal((conditions - 1, lm.d_model)).astype(np.float32)
    vectors = [30 * v / np.linalg.norm(v) for v in drawn]
    return Work(lm, prompts, vectors, new_tokens, conditions if size == "small" else SAMPLED)


def tiny_model(like: LM) -> Any:
    """Four blocks of 64 dimensions with random weights and the vocabulary of ``like``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=like.vocabulary_size, num_key_value_heads=2, **shape))


def measure_generation(repeats: int, work: Work, named: str, judged: bool) -> list[Ratio]:
    """Packed generation against every other way; ``judged``: held against the goals."""
    import torch
    from transformers import GenerationConfig

    from emotion_circuits.engine import BASELINE, Sampling, add, generate
    from emotion_circuits.engine.batching import pad
    from emotion_circuits.models.product_limit import seconds_per_forward
    from emotion_circuits.types import Condition, Site

    lm, encoded = work.lm, work.lm.encode(work.prompts)
    site = Site("resid_post", work.layer)
    conditions = [BASELINE, *(Condition(f"v{n}", (add(site, v, 1.0),)) for n, v in enumerate(work.vectors))]
    config = GenerationConfig(
        max_new_tokens=work.new_tokens, min_new_tokens=work.new_tokens, do_sample=False, pad_token_id=0
    )

    def theirs(rows: list[Any]) -> None:
        batch = pad(lm, rows, range(len(rows)), "left")
        lm.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)

    def run_with(vector: Any, rows: list[Any]) -> None:
        with steered(lm, work.layer, vector):
            theirs(rows)

    def packed() -> None:
        generate(lm, work.prompts, conditions, Sampling(work.new_tokens))

    def by_condition() -> None:
        for vector in work.vectors[: work.sampled - 1]:
            run_with(vector, encoded)
        theirs(encoded)

    def one_by_one() -> None:
        for vector in work.vectors[:SAMPLED]:
            for row in encoded[: len(TEXTS)]:
                run_with(vector, [row])

    bare_rows = [e for e in encoded for _ in conditions][:BARE_ROWS]

    ways: dict[str, Callable[[], None]] = {
        "packed": packed, "bare": lambda: theirs(bare_rows), "condition by condition": by_condition,
        "one by one": one_by_one,
    }  # fmt: skip
    texts = len(work.prompts) * work.conditions
    rows = {"packed": texts, "bare": len(bare_rows), "condition by condition": len(work.prompts) * work.sampled,
            "one by one": SAMPLED * len(TEXTS)}  # fmt: skip
    with torch.inference_mode():
        generate(lm, work.prompts[:8], conditions[:8], Sampling(4))  # warm up
        measured = interleaved(ways, repeats)
        limit = [work.new_tokens * seconds_per_forward(lm, BARE_ROWS) * texts / BARE_ROWS for _ in range(repeats)]
    for name, values in measured.items():
        progress(f"{name}: {rows[name] * work.new_tokens / min(values):.0f} tokens/s at best")
    seconds = {name: [s * texts / rows[name] for s in values] for name, values in measured.items()}
    ours = seconds["packed"]
    goals = (BATCH_GOAL, SINGLE_GOAL, BARE_GOAL, LIMIT_GOAL) if judged else (None,) * 4
    return [
        ratio(f"packed vs condition by condition, {named}", seconds["condition by condition"], ours, goals[0]),
        ratio(f"packed vs one by one, {named}", seconds["one by one"], ours, goals[1]),
        ratio(f"packed vs bare generate, {named}", seconds["bare"], ours, goals[2]),
        ratio(f"share of the GEMM limit, {named}", limit, ours, goals[3]),
    ]


@contextmanager
def steered(lm: LM, layer: int, vector: Any) -> Iterator[None]:
    """What a steering library does: add the vector to a block's output, from the prompt's last token on."""
    import torch

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


def measure_bfloat16(repeats: int) -> list[Ratio]:
    """Packed in bfloat16 against condition by condition in float32: what the number type and packing give together."""
    import torch
    from transformers import GenerationConfig

    from emotion_circuits.engine import BASELINE, Sampling, add, generate
    from emotion_circuits.engine.batching import pad
    from emotion_circuits.types import Condition, Site

    half, full = (sweep_of("small", MODEL, dtype) for dtype in ("bfloat16", "float32"))
    site = Site("resid_post", half.layer)
    conditions = [BASELINE, *(Condition(f"v{n}", (add(site, v, 1.0),)) for n, v in enumerate(half.vectors))]
    batch = pad(full.lm, full.lm.encode(full.prompts), range(len(full.prompts)), "left")
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)

    def by_condition() -> None:
        for vector in full.vectors:
            with steered(full.lm, full.layer, vector):
                full.lm.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)

    ways: dict[str, Callable[[], object]] = {
        "packed, bfloat16": lambda: generate(half.lm, half.prompts, conditions, Sampling(NEW_TOKENS)),
        "condition by condition, float32": by_condition,
    }  # fmt: skip
    with torch.inference_mode():
        ways["packed, bfloat16"]()  # warm up
        ours, theirs = interleaved(ways, repeats).values()
    return [ratio("packed bfloat16 vs by condition float32", theirs, ours, BFLOAT_GOAL)]


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
    options.add_argument("--size", choices=("small", "large"), default="small")
    options.add_argument("--model", choices=(MODEL, "tiny"), default=MODEL)
    options.add_argument("--vectors", type=int, default=1000, help="vectors that are scored; 0: only texts")
    options.add_argument("--prompts", type=int, default=8, help="prompts that the vectors are scored on")
    chosen = options.parse_args()
    plain = chosen.model == MODEL and chosen.size == "small"
    named = chosen.dtype if plain else f"{chosen.model if chosen.model == 'tiny' else chosen.size}, {chosen.dtype}"
    work = sweep_of(chosen.size, chosen.model, chosen.dtype)
    found = measure_generation(chosen.repeats, work, named, plain and chosen.dtype == "float32")
    if chosen.dtype == "bfloat16" and plain:
        found += measure_bfloat16(chosen.repeats)
    elif chosen.vectors and plain:
        scores = measure_scores(chosen.vectors, chosen.prompts)
        for name, value in scores.items():
            rows = chosen.vectors * chosen.prompts
            progress(f"score, {name}: {value:.1f} s for {rows} rows ({1000 * value / rows:.2f} ms each)")
        found.append(ratio("score, all blocks vs skipping", [scores["all blocks"]], [scores["skipping blocks"]]))
    return finish(found, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
