"""What exact ablation of every head costs, against one forward batch per head.

Run: ``python benchmarks/heads.py`` (several minutes on 2 cores; needs the embedded SmolLM2; ``--every 5`` takes a fifth
of the layers, evenly spread, in about a minute). Exits 1 when the goal is missed. Two ways to get the endpoint of 32
prompts with each head ablated, timed in turn and repeated:

- ours: ``ablate_sets`` of :mod:`emotion_circuits.circuits.ablation`, resampling from twins at every token, rows packed,
  blocks below the ablated head not computed again; the donors' and the clean runs are part of its time;
- batches: (layers × heads) forward batches of the 32 prompts with last-position logits and nothing attached. Batches
  are alike, so some are timed and their mean is multiplied. Once more with our library of matrix products ("same
  products"), which they have not by themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from ratios import Ratio, finish, interleaved, parser, progress, ratio

GOAL = 0.55
MODEL = "smollm2-135m"
PROMPTS = 32


def measure_heads(repeats: int, every: int, batches: int) -> list[Ratio]:
    """Exact ablation of the heads of every ``every``-th layer over as many forward batches."""
    import torch

    from emotion_circuits.circuits.ablation import ablate_sets
    from emotion_circuits.circuits.components import Head
    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.circuits.pairs import twin_pairs
    from emotion_circuits.engine.batching import pad
    from emotion_circuits.models import load_lm
    from emotion_circuits.models.products import inference
    from emotion_circuits.prompts import load_prompts

    lm = load_lm(MODEL, device="cpu")
    pairs = twin_pairs(load_prompts("extended"), "gratitude")[:PROMPTS]
    words = [
        lm.tokenizer(w, add_special_tokens=False).input_ids[0] for w in (" thank", " grateful", " table", " paper")
    ]
    endpoint = Endpoint(tuple(words[:2]), tuple(words[2:]))
    layers = range(every // 2, lm.n_layers, every)
    sets = [(Head(layer, h),) for layer in layers for h in range(lm.n_heads)]
    encoded = lm.encode([p.clean for p in pairs])
    batch = pad(lm, encoded, range(len(encoded)), "left")

    def forward_batch() -> None:
        with torch.inference_mode():
            logits = lm.model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
            endpoint(logits)

    def several() -> None:
        for _ in range(batches):
            forward_batch()

    def several_alike() -> None:
        with inference(lm.model):
            several()

    forward_batch()  # warm up
    ways: dict[str, Callable[[], object]] = {
        f"{batches} forward batches": several, f"{batches} forward batches, same products": several_alike,
        f"{len(sets)} heads": lambda: ablate_sets(lm, pairs, sets, endpoint),
    }  # fmt: skip
    single, alike, ours = interleaved(ways, repeats).values()
    progress(f"{len(pairs)} prompts, {sum(map(len, encoded))} tokens; {len(sets)} heads in {len(layers)} layers")
    return [
        ratio(f"exact head screen / {name}", ours, [s / batches * len(sets) for s in seconds], GOAL, "at most")
        for name, seconds in (("forward batches", single), ("batches, same products", alike))
    ]


def main() -> int:
    options = parser(__doc__, repeats=2)
    options.add_argument("--every", type=int, default=1, help="ablate the heads of every n-th layer only")
    options.add_argument("--batches", type=int, default=6, help="forward batches that are timed per repeat")
    chosen = options.parse_args()
    return finish(measure_heads(chosen.repeats, chosen.every, chosen.batches), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
