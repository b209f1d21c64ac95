"""What capturing costs: time against bare Hugging Face forwards, and memory against the number of prompts.

Run: ``python benchmarks/capture.py`` (about two minutes on 2 cores; needs the embedded SmolLM2). Exits 1 when a goal
is missed. Three ways to run 400 prompts through the base model, interleaved in one process and repeated:

- capture: last-token residuals of all layers through :func:`emotion_circuits.engine.capture`;
- bare: the same length-bucketed batches through ``model.model`` with nothing attached;
- one at a time: ``model.model`` on each prompt alone.

"Same products": the bare forward with our library of matrix products (:mod:`emotion_circuits.models.products`), which
it has not by itself; what is left of the ratio is what attaching to the model costs.

Memory is the peak of RssAnon (anonymous resident memory) of a fresh process that streams the captured rows to disk,
for 400 and for 4,000 prompts. It exists on Linux only.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ratios import Ratio, Seconds, finish, interleaved, parser, progress, ratio, summary

TIME_GOAL_BARE, TIME_GOAL_SINGLE, MEMORY_GOAL = 1.05, 0.25, 0.10
MODEL = "smollm2-135m"

SUBJECTS = ("My neighbour", "The nurse", "A colleague from work", "Our old teacher", "The bus driver", "Her brother")
VERBS = ("left", "repaired", "forgot", "carried", "returned", "sold", "painted", "found")
OBJECTS = ("the blue bicycle", "a heavy suitcase", "the kitchen window", "two library books", "my spare key")
TAILS = ("on Tuesday", "after lunch", "in the rain", "without a word", "before the meeting", "while we were away")


def sentences(n: int) -> list[str]:
    """Varied sentences of 8 to 20 words, the same on every machine."""
    rng = random.Random(0)
    texts = []
    for i in range(n):
        words = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.choice(TAILS)}".split()
        while len(words) < 8 + i % 13:
            extra = f"and {rng.choice(VERBS)} {rng.choice(OBJECTS)} {rng.choice(TAILS)}"
            words += extra.split()
        texts.append(" ".join(words[: 8 + i % 13]) + ".")
    return texts


def measure_time(prompts: int, repeats: int) -> list[Ratio]:
    """Capture against both ways, and what the processor's matrix products alone would allow."""
    import torch

    from emotion_circuits.engine import capture
    from emotion_circuits.engine.batching import CAPTURE_TOKENS, length_buckets, pad
    from emotion_circuits.engine.capture import MAX_ROWS
    from emotion_circuits.models import load_lm
    from emotion_circuits.models.product_limit import seconds_per_forward
    from emotion_circuits.models.products import fast_products
    from emotion_circuits.types import Positions, Prompt

    lm = load_lm(MODEL, device="cpu")
    rows = [Prompt(f"p{i}", text) for i, text in enumerate(sentences(prompts))]

    def ours(rows: list[Prompt]) -> None:
        capture(lm, rows, ["resid_post"], [Positions("last")])

    def bare(rows: list[Prompt]) -> None:
        encoded = lm.encode(rows)
        with torch.inference_mode():
            for bucket in length_buckets(encoded, MAX_ROWS):
                batch = pad(lm, [encoded[i] for i in bucket], bucket, "right")
                lm.decoder(
                    input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
                )

    def single(rows: list[Prompt]) -> None:
        with torch.inference_mode():
            for e in lm.encode(rows):
                lm.decoder(input_ids=torch.tensor([e.ids]), use_cache=False)

    def bare_alike(rows: list[Prompt]) -> None:
        with torch.inference_mode(), fast_products(lm.model):
            bare(rows)

    ways: dict[str, Callable[[list[Prompt]], None]] = {
        "capture": ours, "bare": bare, "bare, same products": bare_alike, "one at a time": single,
    }  # fmt: skip
    for way in ways.values():
        way(rows[:64])  # warm up
    length = round(sum(map(len, lm.encode(rows))) / len(rows))
    alone: dict[str, Callable[[], object]] = {
        name: lambda n=n: Seconds(seconds_per_forward(lm, n, head=False) / n)
        for name, n in (("products, full batch", CAPTURE_TOKENS), ("products, one text", length))
    }
    seconds = interleaved({name: lambda way=way: way(rows) for name, way in ways.items()} | alone, repeats)
    ours_over = {name: (seconds["capture"], theirs) for name, theirs in seconds.items()}
    return [
        ratio("capture / bare bucketed forward", *ours_over["bare"], TIME_GOAL_BARE, "at most"),
        ratio("capture / bare, same products", *ours_over["bare, same products"], TIME_GOAL_BARE, "at most"),
        ratio("capture / one at a time", seconds["capture"], seconds["one at a time"], TIME_GOAL_SINGLE, "at most"),
        ratio("bare / one at a time", seconds["bare"], seconds["one at a time"]),
        # Reading the weights costs a single text more where memory is slow, less where the caches are large: no
        # batching of the same weights in the same number type has a smaller ratio on this processor.
        ratio("matrix products, full batch / one text", seconds["products, full batch"], seconds["products, one text"]),
    ]


def measure_memory(prompts: int) -> float:
    """Peak RssAnon in MB of a fresh process that streams ``prompts`` rows to disk."""
    out = subprocess.run(
        [sys.executable, __file__, "--stream", str(prompts)], check=True, capture_output=True, text=True
    )
    return float(json.loads(out.stdout.splitlines()[-1])["peak_mb"])


def stream(prompts: int) -> float:
    """Capture to disk in this process and return its peak RssAnon in MB."""
    from emotion_circuits.engine.capture import plan_capture, run_capture, split_shapes
    from emotion_circuits.models import load_lm
    from emotion_circuits.store.tensors import TensorFileWriter
    from emotion_circuits.types import Positions, Prompt

    lm = load_lm(MODEL, device="cpu")
    rows = [Prompt(f"p{i}", text) for i, text in enumerate(sentences(prompts))]
    plan = plan_capture(lm, rows, ["resid_post"], [Positions("last")])
    by_prompt, _ = split_shapes(plan)
    with tempfile.TemporaryDirectory() as folder, watched(0.02) as peak:
        tensors = {name: (shape, "<f4") for name, shape in by_prompt.items()}
        with TensorFileWriter(Path(folder) / "rows.safetensors", tensors) as writer:
            for _ in run_capture(lm, plan, writer, None):
                pass
    return peak[0]


@contextmanager
def watched(seconds: float) -> Iterator[list[float]]:
    """The peak RssAnon of this process in MB, in a list of one, looked at every ``seconds``."""
    peak, done = [0.0], threading.Event()

    def poll() -> None:
        while not done.wait(seconds):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=poll)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def anonymous_mb() -> float:
    """RssAnon of this process in MB (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> int:
    options = parser(__doc__, repeats=3)
    options.add_argument("--prompts", type=int, default=400)
    options.add_argument("--stream", type=int, help="internal: stream this many prompts and print the peak as JSON")
    chosen = options.parse_args()
    if chosen.stream:
        print(json.dumps({"peak_mb": stream(chosen.stream)}))
        return 0
    found = measure_time(chosen.prompts, chosen.repeats)
    if Path("/proc/self/status").exists():
        growth = []
        for _ in range(chosen.repeats):
            few, many = measure_memory(chosen.prompts), measure_memory(10 * chosen.prompts)
            progress(f"peak RssAnon {few:.0f} MB for {chosen.prompts} prompts, {many:.0f} MB for ten times as many")
            growth.append(abs(many / few - 1))
        found.append(summary("growth of memory, 10 × prompts", growth, MEMORY_GOAL, "at most"))
    else:
        progress("RssAnon is not available on this system: memory was not measured")
    return finish(found, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
