"""What capturing costs: time against bare Hugging Face forwards, and memory against the number of prompts.

Run: ``python benchmarks/capture.py`` (about two minutes on 2 cores; needs the embedded SmolLM2). Exits 1 when a goal
is missed. Three ways to run 400 prompts through the base model, interleaved in one process and repeated:

- capture: last-token residuals of all layers through :func:`emotion_circuits.engine.capture`;
- bare: the same length-bucketed batches through ``model.model`` with nothing attached;
- one at a time: ``model.model`` on each prompt alone.

Memory is the peak of RssAnon (anonymous resident memory) of a fresh process that streams the captured rows to disk,
for 400 and for 4,000 prompts. It exists on Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

TIME_GOAL_BARE, TIME_GOAL_SINGLE, MEMORY_GOAL = 1.10, 0.25, 0.10
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


def measure_time(prompts: int, repeats: int) -> dict[str, float]:
    """Seconds of each way: the least disturbed of its repeats, which are interleaved with those of the others."""
    import torch

    from emotion_circuits.engine import capture
    from emotion_circuits.engine.batching import length_buckets, pad
    from emotion_circuits.engine.capture import MAX_ROWS
    from emotion_circuits.models import load_lm
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

    ways: dict[str, Callable[[list[Prompt]], None]] = {"capture": ours, "bare": bare, "one at a time": single}
    for way in ways.values():
        way(rows[:64])  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way(rows)
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


def matmul_floor(repeats: int = 3) -> float:
    """Time per token of the model's matrix products alone, in full batches over one text at a time.

    No way to run the same weights in the same number type can have a smaller ratio on this processor: reading the
    weights costs a single text more where memory is slow, and less where the caches are large.
    """
    import torch

    from emotion_circuits.engine.batching import CAPTURE_TOKENS
    from emotion_circuits.models import load_lm
    from emotion_circuits.types import Prompt

    lm = load_lm(MODEL, device="cpu")
    weights = [m.weight for m in lm.decoder.modules() if isinstance(m, torch.nn.Linear)]
    length = round(sum(map(len, lm.encode([Prompt(str(i), t) for i, t in enumerate(sentences(100))]))) / 100)

    def per_token(tokens: int) -> float:
        inputs = {w.shape[1]: torch.randn(tokens, w.shape[1]) for w in weights}
        best = float("inf")
        for _ in range(repeats + 1):
            start = time.perf_counter()
            for w in weights:
                torch.nn.functional.linear(inputs[w.shape[1]], w)
            best = min(best, time.perf_counter() - start)
        return best / tokens

    with torch.inference_mode():
        return per_token(CAPTURE_TOKENS) / per_token(length)


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
    peak, done = [0.0], threading.Event()

    def poll() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=poll)
    with tempfile.TemporaryDirectory() as folder:
        watcher.start()
        tensors = {name: (shape, "<f4") for name, shape in by_prompt.items()}
        with TensorFileWriter(Path(folder) / "rows.safetensors", tensors) as writer:
            for _ in run_capture(lm, plan, writer, None):
                pass
        done.set()
        watcher.join()
    return peak[0]


def anonymous_mb() -> float:
    """RssAnon of this process in MB (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stream", type=int, help="internal: stream this many prompts and print the peak as JSON")
    options = parser.parse_args()
    if options.stream:
        print(json.dumps({"peak_mb": stream(options.stream)}))
        return 0
    seconds = measure_time(options.prompts, options.repeats)
    rows = [
        ("capture / bare bucketed forward", seconds["capture"] / seconds["bare"], TIME_GOAL_BARE),
        ("capture / one prompt at a time", seconds["capture"] / seconds["one at a time"], TIME_GOAL_SINGLE),
    ]
    print(f"{options.repeats} interleaved repeats, the fastest of each", flush=True)
    for name, value in seconds.items():
        print(
            f"{name:34} {value:8.2f} s for {options.prompts} prompts ({1000 * value / options.prompts:.1f} ms each)",
            flush=True,
        )
    floor = seconds["bare"] / seconds["one at a time"]
    print(f"bare / one at a time is {floor:.3f} here; its matrix products alone are {matmul_floor():.3f}", flush=True)
    if Path("/proc/self/status").exists():
        few, many = measure_memory(options.prompts), measure_memory(10 * options.prompts)
        print(f"{'peak RssAnon':34} {few:8.0f} MB for {options.prompts} prompts, {many:.0f} MB for ten times as many")
        rows.append(("growth of peak RssAnon, 10 × prompts", abs(many / few - 1), MEMORY_GOAL))
    else:
        print("RssAnon is not available on this system: memory was not measured")
    for name, value, goal in rows:
        print(f"{name:38} {value:6.3f}   goal ≤ {goal:.2f}   {'ok' if value <= goal else 'MISSED'}")
    return int(any(value > goal for _, value, goal in rows))


if __name__ == "__main__":
    sys.exit(main())
