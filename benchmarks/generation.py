"""What packing costs and gains: generation under many conditions, and teacher-forced scores of many vectors.

Run: ``python benchmarks/generation.py`` (about five minutes on 2 cores; needs the embedded SmolLM2). Exits 1 when
a goal is missed. 8 prompts × 15 conditions × 20 tokens, greedy, interleaved in one process and repeated:

- packed: all 120 rows through :func:`emotion_circuits.engine.generate`;
- condition by condition: one condition at a time on a batch of the 8 prompts, with a hook (``model.generate``);
- one by one: one prompt and one condition at a time (two conditions are run, and the time scaled up);
- bare: ``model.generate`` on the same 120 rows with no hooks at all;
- matrix products: those of the same weights and the same number of rows, once per written token, and nothing else. The
  share of this limit that packing reaches is printed.

"Same products": the other ways with our library of matrix products (:mod:`emotion_circuits.models.products`), which
they have not by themselves; what is left of a ratio then comes from packing alone. The texts of both are compared.

``--size large``: 50 prompts × 105 conditions × 30 tokens, the size of a default sweep with its controls; of the other
ways two conditions are run and scaled up; the goals are the same. ``--model tiny``: random weights of four narrow
blocks, where calling an operation costs more than its arithmetic; no goals. ``--dtype bfloat16``: on a processor that
multiplies it.

Scores: vectors × prompts through :func:`emotion_circuits.engine.score`, with and without skipping the blocks below the
edit.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ratios import Ratio, Seconds, finish, interleaved, parser, progress, ratio, summary

if TYPE_CHECKING:
    from emotion_circuits.models import LM
    from emotion_circuits.models.lm import Encoded
    from emotion_circuits.types import Condition, Prompt

BFLOAT_GOAL = 8.0
SWEEP_GOALS = {"condition by condition": 5.0, "one by one": 24.0, "bare": 1.3, "matrix products": 0.6}
GOALS = {
    "float32": SWEEP_GOALS, "large, float32": SWEEP_GOALS, "bfloat16": {"condition by condition": BFLOAT_GOAL},
}  # fmt: skip
"""What packing is held to against each way, by the work; for the products: the share of their limit."""
MODEL = "smollm2-135m"
CONDITIONS, NEW_TOKENS = 15, 20
SAMPLED = 2
"""Conditions that the slow ways run where all of them would take too long; their time is scaled up."""
BARE_ROWS = 120
"""Rows of a bare batch, and of the matrix products."""
SAME = ", same products"

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

    def packed_conditions(self) -> list[Condition]:
        """The baseline, and one condition a vector."""
        from emotion_circuits.engine import BASELINE, add
        from emotion_circuits.types import Condition, Site

        site = Site("resid_post", self.layer)
        return [BASELINE, *(Condition(f"v{n}", (add(site, v, 1.0),)) for n, v in enumerate(self.vectors))]


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


def measure_generation(repeats: int, work: Work, named: str) -> list[Ratio]:
    """Packed generation against every other way, held against the goals of the work ``named`` so."""
    import torch

    from emotion_circuits.engine import Sampling, generate
    from emotion_circuits.models.product_limit import seconds_per_forward
    from emotion_circuits.models.products import fast_products, product_library

    lm, encoded, conditions = work.lm, work.lm.encode(work.prompts), work.packed_conditions()

    def packed() -> None:
        generate(lm, work.prompts, conditions, Sampling(work.new_tokens))

    def one_by_one() -> None:
        for vector in work.vectors[:SAMPLED]:
            for row in encoded[: len(TEXTS)]:
                with steered(lm, work.layer, vector):
                    write(work, [row])

    def same(way: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with fast_products(lm.model):
                way()

        return run

    # Prompts in turn, so that few of them have the lengths of all.
    bare_rows = [encoded[n % len(encoded)] for n in range(min(BARE_ROWS, len(encoded) * work.conditions))]
    texts = len(work.prompts) * work.conditions
    bare, apart = lambda: write(work, bare_rows), lambda: by_condition(work)
    ways: dict[str, Callable[[], object]] = {
        "packed": packed, "bare": bare, "condition by condition": apart, "one by one": one_by_one,
        "matrix products": lambda: Seconds(work.new_tokens * seconds_per_forward(lm, BARE_ROWS)),
    }  # fmt: skip
    rows = {"packed": texts, "bare": len(bare_rows), "condition by condition": len(work.prompts) * work.sampled,
            "one by one": SAMPLED * len(TEXTS), "matrix products": BARE_ROWS}  # fmt: skip
    if named == "float32" and product_library() != "torch":
        for name in ("bare", "condition by condition"):
            ways[f"{name}{SAME}"], rows[f"{name}{SAME}"] = same(ways[name]), rows[name]
    with torch.inference_mode():
        generate(lm, work.prompts[:8], conditions[:8], Sampling(4))  # warm up
        write(work, encoded[:8])
        measured = interleaved(ways, repeats)
        equal = texts_equal(work)
    for name, values in measured.items():
        progress(f"{name}: {rows[name] * work.new_tokens / min(values):.0f} tokens/s at best")
    seconds = {name: [s * texts / rows[name] for s in values] for name, values in measured.items()}
    ours = seconds.pop("packed")
    limit = seconds.pop("matrix products")
    goals = GOALS.get(named, {})
    found = [
        ratio(f"packed vs {name.replace('bare', 'bare generate')}, {named}", theirs, ours, goals.get(name))
        for name, theirs in seconds.items()
    ]
    found.append(ratio(f"share of the GEMM limit, {named}", limit, ours, goals.get("matrix products")))
    found.append(summary(f"texts equal to condition by condition, {named}", [equal]))
    return found


def write(work: Work, rows: Sequence[Encoded]) -> Any:
    """``generate`` of transformers on rows: ids ``[row, token]``, of the new tokens alone."""
    from transformers import GenerationConfig

    from emotion_circuits.engine.batching import pad

    batch = pad(work.lm, rows, range(len(rows)), "left")
    config = GenerationConfig(
        max_new_tokens=work.new_tokens, min_new_tokens=work.new_tokens, do_sample=False, pad_token_id=0
    )
    found = work.lm.model.generate(batch.ids, attention_mask=batch.mask, generation_config=config)
    return found[:, batch.ids.shape[1] :]


def by_condition(work: Work) -> list[list[int]]:
    """One condition after the other on a batch of all prompts, the unedited one last: the tokens of every text."""
    encoded, found = work.lm.encode(work.prompts), []
    for vector in work.vectors[: work.sampled - 1]:
        with steered(work.lm, work.layer, vector):
            found += write(work, encoded).tolist()
    return found + write(work, encoded).tolist()


def texts_equal(work: Work) -> float:
    """Share of texts that packing writes token for token as condition by condition does, with the same products.

    Greedy choices between two tokens whose logits are equal up to rounding are what differs.
    """
    from emotion_circuits.engine import Sampling, generate
    from emotion_circuits.models.products import fast_products

    with fast_products(work.lm.model):
        theirs = by_condition(work)
    baseline, *edited = work.packed_conditions()
    ours = generate(work.lm, work.prompts, [*edited[: work.sampled - 1], baseline], Sampling(work.new_tokens))
    written = {(g.condition, g.prompt): list(g.tokens) for g in ours}
    names = [(c.name, p.id) for c in [*edited[: work.sampled - 1], baseline] for p in work.prompts]
    return sum(written[name] == one for name, one in zip(names, theirs, strict=True)) / len(names)


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

    from emotion_circuits.engine import Sampling, generate

    half, full = (sweep_of("small", MODEL, dtype) for dtype in ("bfloat16", "float32"))
    conditions = half.packed_conditions()
    ways: dict[str, Callable[[], object]] = {
        "packed, bfloat16": lambda: generate(half.lm, half.prompts, conditions, Sampling(NEW_TOKENS)),
        "condition by condition, float32": lambda: by_condition(full),
    }  # fmt: skip
    with torch.inference_mode():
        generate(half.lm, half.prompts, conditions, Sampling(4))  # warm up
        write(full, full.lm.encode(full.prompts))
        ours, theirs = interleaved(ways, repeats).values()
    return [ratio("packed bfloat16 vs by condition float32", theirs, ours, BFLOAT_GOAL)]


def measure_scores(n_vectors: int, n_prompts: int, repeats: int) -> Ratio:
    """``n_vectors`` × ``n_prompts`` scores: all blocks for every row over only those above the edit."""
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
    scoring: Any = importlib.import_module("emotion_circuits.engine.score")  # the package's `score` is the function
    original = scoring.first_layer

    def scored(first: Any) -> Callable[[], None]:
        def run() -> None:
            scoring.first_layer = first
            try:
                score(lm, prompts, conditions, metrics)
            finally:
                scoring.first_layer = original

        return run

    score(lm, prompts, conditions[: len(conditions) // 10], metrics)  # warm up
    ways: dict[str, Callable[[], object]] = {
        "score, skipping blocks": scored(original), "score, all blocks": scored(lambda lm, condition: 0),
    }  # fmt: skip
    skipping, all_blocks = interleaved(ways, repeats).values()
    progress(f"{1000 * min(skipping) / (n_vectors * n_prompts):.2f} ms a score")
    return ratio("score, all blocks vs skipping", all_blocks, skipping)


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
    found = measure_generation(chosen.repeats, work, named)
    if chosen.dtype == "bfloat16" and plain:
        found += measure_bfloat16(chosen.repeats)
    elif chosen.vectors and plain:
        found.append(measure_scores(chosen.vectors, chosen.prompts, min(chosen.repeats, 2)))
    return finish(found, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
