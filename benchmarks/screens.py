"""What approximate screens save: attribution of every head and every neuron against ablating them one by one.

Run: ``python benchmarks/screens.py`` (about two minutes on 2 cores; needs the embedded SmolLM2). The exact screen of
all heads has a benchmark of its own (``heads.py``); here some heads and some neurons, evenly spread over the layers,
are ablated exactly and their time is scaled up to all of them. Attribution is checked by exact ablation before anybody
may use it; that check (50 strongest and 50 random heads) is part of "gated".
"""

from __future__ import annotations

import sys

from ratios import Ratio, finish, interleaved, parser, progress, ratio

MODEL = "smollm2-135m"
PROMPTS, SAMPLED = 16, 30


def measure(repeats: int) -> list[Ratio]:
    """Exact over approximate seconds, for heads and for neurons."""
    from emotion_circuits.circuits.ablation import ablate_sets
    from emotion_circuits.circuits.attribution import attribute, gated_attribution
    from emotion_circuits.circuits.components import Head, Neuron
    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.circuits.pairs import twin_pairs
    from emotion_circuits.models import load_lm
    from emotion_circuits.prompts import load_prompts

    lm = load_lm(MODEL, device="cpu")
    pairs = twin_pairs(load_prompts("extended"), "gratitude")[:PROMPTS]
    words = [
        lm.tokenizer(w, add_special_tokens=False).input_ids[0] for w in (" thank", " grateful", " table", " paper")
    ]
    endpoint = Endpoint(tuple(words[:2]), tuple(words[2:]))
    layers = [layer % lm.n_layers for layer in range(SAMPLED)]
    heads = [(Head(layer, n % lm.n_heads),) for n, layer in enumerate(layers)]
    neurons = [(Neuron(layer, (n * 97) % lm.d_mlp),) for n, layer in enumerate(layers)]
    attribute(lm, pairs[:2], endpoint)  # warm up
    seconds = interleaved(
        {
            f"{SAMPLED} heads exactly": lambda: ablate_sets(lm, pairs, heads, endpoint),
            f"{SAMPLED} neurons exactly": lambda: ablate_sets(lm, pairs, neurons, endpoint),
            "all heads, attribution": lambda: attribute(lm, pairs, endpoint),
            "all heads, gated": lambda: gated_attribution(lm, pairs, endpoint),
            "all neurons, attribution": lambda: attribute(lm, pairs, endpoint, kind="neuron"),
        },
        repeats,
    )
    head, neuron, estimated, gated, saliency = seconds.values()
    every_head = [s * lm.n_layers * lm.n_heads / SAMPLED for s in head]
    every_neuron = [s * lm.n_layers * lm.d_mlp / SAMPLED for s in neuron]
    progress(f"{len(pairs)} prompts, {lm.n_layers * lm.n_heads} heads, {lm.n_layers * lm.d_mlp} neurons")
    return [
        ratio("exact head screen / attribution", every_head, estimated),
        ratio("exact head screen / gated attribution", every_head, gated),
        ratio("exact neuron screen / attribution", every_neuron, saliency),
    ]


def main() -> int:
    chosen = parser(__doc__, repeats=2).parse_args()
    return finish(measure(chosen.repeats), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
