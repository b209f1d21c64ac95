"""Throughput of the evaluators of generated texts: batched against text by text.

Run: ``python benchmarks/scorers.py`` (under a minute on 2 cores; needs the embedded SmolLM2 and MiniLM). The texts are
short continuations, as a sweep writes them. Text by text is what an evaluation script does that scores as it generates.
"""

from __future__ import annotations

import sys

from ratios import Ratio, finish, interleaved, parser, progress, ratio

MODEL = "smollm2-135m"
TEXTS, SINGLE, NEW_TOKENS = 480, 48, 30
STARTS = (
    "thank you for",
    "I am sorry that",
    "how dare you say that",
    "the train left at noon and",
    "we met again when",
)


def measure(repeats: int) -> list[Ratio]:
    """Seconds of single texts (scaled up) over seconds of the batch."""
    from emotion_circuits.models import load_lm
    from emotion_circuits.scorers import LoadOptions, find_scorer
    from emotion_circuits.scorers.fluency import fluency
    from emotion_circuits.types import Prompt

    texts = [f"{STARTS[n % len(STARTS)]} {' '.join(['the old bridge'] * (1 + n % 6))} {n}." for n in range(TEXTS)]
    embedded, lexicon = (find_scorer(name, LoadOptions(device="cpu")) for name in ("embedded", "lexicon"))
    lm = load_lm(MODEL, device="cpu")
    token = lm.tokenizer(" bridge", add_special_tokens=False).input_ids[0]
    written = [(Prompt(str(n), STARTS[n % len(STARTS)]), [token + n % 7] * NEW_TOKENS) for n in range(TEXTS)]
    embedded.score(texts[:8])  # loads and warms up
    fluency(lm, written[:8])
    seconds = interleaved(
        {
            "embedded, batched": lambda: embedded.score(texts),
            "embedded, one by one": lambda: [embedded.score([t]) for t in texts[:SINGLE]],
            "lexicon": lambda: lexicon.score(texts),
            "perplexity, batched": lambda: fluency(lm, written),
            "perplexity, one by one": lambda: [fluency(lm, [one]) for one in written[:SINGLE]],
        },
        repeats,
    )
    for name, values in seconds.items():
        done = SINGLE if "one by one" in name else TEXTS
        progress(f"{name}: {done / min(values):.0f} texts/s at best")

    def scaled(name: str) -> list[float]:
        return [s * TEXTS / SINGLE for s in seconds[name]]

    return [
        ratio("embedded scorer, one by one / batched", scaled("embedded, one by one"), seconds["embedded, batched"]),
        ratio("perplexity, one by one / batched", scaled("perplexity, one by one"), seconds["perplexity, batched"]),
    ]


def main() -> int:
    chosen = parser(__doc__, repeats=3).parse_args()
    return finish(measure(chosen.repeats), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
