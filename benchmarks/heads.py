"""What exact ablation of every head costs, against one forward batch per head.

Run: ``python benchmarks/heads.py`` (several minutes on 2 cores; needs the embedded SmolLM2; ``--every 5`` takes a fifth
of the layers, evenly spread, in about a minute). Exits 1 when the goal is missed. Two ways to get the endpoint of 32
prompts with each head ablated:

- ours: ``ablate_sets`` of :mod:`emotion_circuits.circuits.ablation`, resampling from twins at every token, rows packed,
  blocks below the ablated head not computed again; the donors' and the clean runs are part of its time;
- batches: (layers × heads) forward batches of the 32 prompts with last-position logits and nothing attached. Batches
  are alike, so some are timed and their mean is multiplied.

Both are interleaved and repeated; the least disturbed time of each counts.
"""

from __future__ import annotations

import argparse
import sys
import time

GOAL = 0.65
MODEL = "smollm2-135m"
PROMPTS = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="ablate the heads of every n-th layer only")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batches", type=int, default=6, help="forward batches that are timed per repeat")
    options = parser.parse_args()

    import torch

    from emotion_circuits.circuits.ablation import ablate_sets
    from emotion_circuits.circuits.components import Head
    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.circuits.pairs import twin_pairs
    from emotion_circuits.engine.batching import pad
    from emotion_circuits.models import load_lm
    from emotion_circuits.prompts import load_prompts

    lm = load_lm(MODEL, device="cpu")
    pairs = twin_pairs(load_prompts("extended"), "gratitude")[:PROMPTS]
    words = [
        lm.tokenizer(w, add_special_tokens=False).input_ids[0] for w in (" thank", " grateful", " table", " paper")
    ]
    endpoint = Endpoint(tuple(words[:2]), tuple(words[2:]))
    layers = range(options.every // 2, lm.n_layers, options.every)
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

    forward_batch()  # warm up
    ours, single = [], []
    for _ in range(options.repeats):
        start = time.perf_counter()
        for _ in range(options.batches):
            forward_batch()
        single.append((time.perf_counter() - start) / options.batches)
        start = time.perf_counter()
        ablate_sets(lm, pairs, sets, endpoint)
        ours.append(time.perf_counter() - start)
        print(f"batch {single[-1]:.3f} s, ablation of {len(sets)} heads {ours[-1]:.1f} s", flush=True)
    naive = min(single) * len(sets)
    ratio = min(ours) / naive
    tokens = sum(map(len, encoded))
    print(f"{len(pairs)} prompts, {tokens} tokens; {len(sets)} heads in {len(layers)} layers")
    print(f"exact ablation {min(ours):8.1f} s   forward batches {naive:8.1f} s")
    print(f"ratio {ratio:.3f}   goal ≤ {GOAL:.2f}   {'ok' if ratio <= GOAL else 'MISSED'}")
    return int(ratio > GOAL)


if __name__ == "__main__":
    sys.exit(main())
