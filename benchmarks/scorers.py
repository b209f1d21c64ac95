"""Throughput of the evaluators of generated texts: batched against text by text.

Run: ``python benchmarks/scorers.py`` (under a minute on 2 cores; needs the embedded SmolLM2 and MiniLM). The texts are
short continuations, as a sweep writes them. Text by text is what an evaluation script does that scores as it generates.
"""

from __future__ import annotations

import sys

from ratios import Ratio, finish, interleaved, parser, progress, ratio

MODEL = "smollm2-135m"
TEXTS, NEW_TOKENS = 480, 30
STARTS = (
    "thank you for",
    "I am sorry that",
    "how dare you say that",
    "the train left at noon and",
    "we met again when",
)


def measure(repeats: int, count: int) -> list[Ratio]:
    """Seconds of single texts (every tenth, scaled up) over seconds of the batch of ``count``."""
    from emotion_circuits.models import load_lm
    from emotion_circuits.scorers import Continuation, LoadOptions, find_scorer
    from emotion_circuits.scorers.fluency import fluency
    from emotion_circuits.types import Prompt

    texts = [
        Continuation(f"{' '.join(['the old bridge'] * (1 + n % 6))} {n}.", STARTS[n % len(STARTS)])
        for n in range(count)
    ]
    single = max(count // 10, 1)
    embedded, lexicon = (find_scorer(name, LoadOptions(device="cpu")) for name in ("embedded", "lexicon"))
    lm = load_lm(MODEL, device="cpu")
    token = lm.tokenizer(" bridge", add_special_tokens=False).input_ids[0]
    written = [(Prompt(str(n), STARTS[n % len(STARTS)]), [token + n % 7] * NEW_TOKENS) for n in range(count)]
    embedded.score(texts[:8])  # loads and warms up
    fluency(lm, written[:8])
    seconds = interleaved(
        {
            "embedded, batched": lambda: embedded.score(texts),
            "embedded, one by one": lambda: [embedded.score([t]) for t in texts[:single]],
            "lexicon": lambda: lexicon.score(texts),
            "perplexity, batched": lambda: fluency(lm, written),
            "perplexity, one by one": lambda: [fluency(lm, [one]) for one in written[:single]],
        },
        repeats,
    )
    for name, values in seconds.items():
        done = single if "one by one" in name else count
        progress(f"{name}: {done / min(values):.0f} texts/s at best")

    def scaled(name: str) -> list[float]:
        return [s * count / single for s in seconds[name]]

    return [
        ratio("embedded scorer, one by one / batched", scaled("embedded, one by one"), seconds["embedded, batched"]),
        ratio("perplexity, one by one / batched", scaled("perplexity, one by one"), seconds["perplexity, batched"]),
    ]


def main() -> int:
    options = parser(__doc__, repeats=3)
    options.add_argument("--texts", type=int, default=TEXTS, help="texts of the batch")
    chosen = options.parse_args()
    return finish(measure(chosen.repeats, chosen.texts), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
