"""Is the memory of a sweep bounded by the rows of a batch, as predicted, and not by the size of the sweep?

Run: ``python benchmarks/memory.py`` (a few minutes on 2 cores; Linux; needs the embedded SmolLM2). Exits 1 when a goal
is missed. Memory is RssAnon (anonymous resident memory), read while a fresh process works:

- sweeps of the command line, a small one and one of ten times as many cells, at the same ``--rows``: the peak must not
  grow by more than a tenth;
- a sweep with as many rows in a batch as the row budget chooses: its peak against what the process held before each
  step and what is counted for it: the largest batch
  (:func:`emotion_circuits.engine.memory.row_bytes`), unedited rows that ride along included, or reading what was
  written once more, as ``--dry-run`` counts it;
- one batch of rows as a sweep has them, against what is counted for it: what the process takes more than before it;
- batches of other shapes (long prompts, all alike or all different; scored ones): never more than is counted;
- the other formulas of docs/scaling.md: weights, their copies laid out for oneDNN, captures of a text, operations of a
  pass.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capture import anonymous_mb, watched
from ratios import Ratio, finish, parser, progress, summary

MODEL = "smollm2-135m"
GROWTH_GOAL, PREDICTION_GOAL, BOUND_GOAL = 1.10, 0.15, 1.05
POLL_SECONDS = 0.01
FEW_ROWS = 16
SIZES = ("--scenarios", "8", "--max-new-tokens", "30", "--emotions", "gratitude", "--random", "0", "--samples", "2")
SMALL = ("--depths", "0.5", "--strengths", "-0.2", "0", "0.2")
LARGE = ("--depths", "0.4", "0.5", "--strengths", "-0.5", "-0.4", "-0.3", "-0.2", "-0.1", "0", "0.1", "0.2", "0.3",
         "0.4", "0.5")  # fmt: skip


def sweep(results: Path, rows: int, cells: tuple[str, ...], *more: str) -> list[str]:
    """The command line of one sweep."""
    return [
        sys.executable,
        "-m",
        "emotion_circuits",
        *sweep_words(results, cells),
        "--rows",
        str(rows),
        "--force",
        *more,
    ]


def sweep_words(results: Path, cells: tuple[str, ...]) -> list[str]:
    """What follows the name of the command."""
    return ["run", "sweep", "--model", MODEL, "--results", str(results), "--quiet", *SIZES, *cells]


def peak_of(line: list[str]) -> float:
    """Peak RssAnon in MB of a command."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            found = [row for row in status.read_text("ascii").splitlines() if row.startswith("RssAnon")]
        except OSError:  # it ended between the two lines
            break
        peak = max(peak, *(int(row.split()[1]) for row in found), 0)
        time.sleep(POLL_SECONDS)
    if process.wait() != 0:
        raise SystemExit(f"the sweep failed: {' '.join(line)}")
    progress(f"{peak / 1000:.0f} MB, {time.perf_counter() - start:.1f} s: {' '.join(line[2:])}")
    return peak / 1000


@dataclass(frozen=True)
class Batch:
    """Rows of one batch: ``prompts`` different texts of ``words`` words; ``new`` tokens are drawn (0: scored)."""

    rows: int
    prompts: int
    words: int
    new: int


TYPICAL = {"written": Batch(128, 4, 10, 30), "fewer rows written": Batch(32, 4, 10, 30)}
OTHERS = (
    Batch(128, 4, 10, 0), Batch(128, 1, 100, 60), Batch(64, 64, 100, 20), Batch(128, 128, 100, 0),
    Batch(16, 16, 400, 8),
)  # fmt: skip


def alone(*words: str) -> dict[str, Any]:
    """What this script tells in a fresh process."""
    told = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def share_of(batch: Batch) -> float:
    """Memory that a batch took over what the row budget counts for it, in a fresh process."""
    found = alone("--batch", *(str(n) for n in vars(batch).values()))
    progress(f"{batch}: {found['added']:.0f} MB, counted {found['counted']:.0f}")
    return float(found["added"] / found["counted"])


def run_batch(batch: Batch) -> dict[str, float]:
    """MB that a batch adds to this process at its peak, and MB that were counted for it."""
    import numpy as np

    from emotion_circuits.engine import Sampling, add, generate, kl_from_baseline, log_sum_exp_difference, score
    from emotion_circuits.engine.memory import row_bytes
    from emotion_circuits.models import load_lm
    from emotion_circuits.types import Condition, Prompt, Site

    lm = load_lm(MODEL, device="cpu")
    lm.model.generation_config.eos_token_id = lm.tokenizer.eos_token = None
    rng, site = np.random.default_rng(0), Site("resid_post", lm.n_layers // 2)
    conditions = [Condition(f"v{n}", (add(site, v, 0.5),))
                  for n, v in enumerate(rng.standard_normal((batch.rows // batch.prompts, lm.d_model)))]  # fmt: skip
    words = ("bridge", "garden", "window", "table", "letter", "winter", "river", "station")
    texts = [Prompt(str(n), " ".join(rng.choice(words, batch.words))) for n in range(batch.prompts)]
    metrics = [log_sum_exp_difference([300, 301], [302, 303]), kl_from_baseline()]

    def work(texts: list[Prompt], conditions: list[Condition]) -> None:
        if batch.new:
            generate(lm, texts, conditions, Sampling(batch.new, 1.0, 0.9), max_rows=batch.rows)
        else:
            score(lm, texts, conditions, metrics, max_rows=batch.rows + len(texts))  # with their unedited rows

    work([Prompt("warm up", "The bridge"), Prompt("warm up too", "A letter")], conditions[:1])  # lays weights out
    longest = max(map(len, lm.encode(texts)))
    rows = batch.rows + (0 if batch.new else batch.prompts)  # a score has its prompt's unedited row beside it
    before = anonymous_mb()
    with watched(POLL_SECONDS / 3) as peak:
        work(texts, conditions)
    return {"added": peak[0] - before, "counted": rows * row_bytes(lm, longest, batch.new or 1) / 2**20}


def run_sweep() -> dict[str, Any]:
    """A sweep in this process: of every step MB before it, MB counted for it, and MB at its peak."""
    from emotion_circuits.cli import main as command
    from emotion_circuits.engine import plan_chunks
    from emotion_circuits.engine.chunks import is_unedited
    from emotion_circuits.engine.memory import row_bytes
    from emotion_circuits.experiments._measure import Measure
    from emotion_circuits.experiments._outline import _LOGIT_COPIES
    from emotion_circuits.scorers.fluency import rows_at_once

    steps: list[dict[str, Any]] = []
    choose = Measure._rows

    def step_ended() -> None:
        if steps:
            steps[-1]["peak"] = peak[0]

    def noted(self: Measure, name: str, rows: Any, new_tokens: int | None, *more: Any) -> int:
        most, largest = choose(self, name, rows, new_tokens, *more), 0
        step_ended()
        for chunk in plan_chunks(self.lm, rows, most):
            texts = {rows[n].encoded.ids for n in chunk}
            own = {rows[n].encoded.ids for n in chunk if is_unedited(rows[n])}
            largest = max(largest, len(chunk) + (len(texts - own) if new_tokens is None else 0))
        counted = largest * row_bytes(self.lm, max(len(r.encoded) for r in rows), new_tokens or 1)
        if new_tokens is not None:
            read = min(rows_at_once(self.lm, new_tokens), len(rows)) * (new_tokens + 1) * self.lm.vocabulary_size
            counted = max(counted, _LOGIT_COPIES * 4 * read)
        peak[0] = before = anonymous_mb()
        steps.append({"name": name, "rows": largest, "before": before, "counted": counted / 2**20})
        return most

    Measure._rows = noted  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as folder, watched(POLL_SECONDS / 3) as peak:
        if command(sweep_words(Path(folder), LARGE)) != 0:
            raise SystemExit("the sweep failed")
        step_ended()
    return {"steps": steps}


def run_formulas() -> dict[str, Any]:
    """What was taken over what docs/scaling.md counts: weights, their laid-out copies, a captured text, a pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from emotion_circuits.engine import capture
    from emotion_circuits.models import load_lm
    from emotion_circuits.models.products import bytes_of_copies, inference
    from emotion_circuits.types import Positions, Prompt

    load_lm(MODEL, device="cpu")  # imports what loading needs
    before = resident_mb()
    lm = load_lm(MODEL, device="cpu")
    ids = torch.tensor([lm.encode([Prompt("p", "The bridge was closed. " * 20)])[0].ids])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        lm.model(ids)  # reads every weight
    loaded = resident_mb()
    parameters = sum(p.numel() for p in lm.model.parameters())
    found = {
        "weights": (loaded - before) * 2**20 / (4 * parameters),
        "operations of a pass": counter.get_total_flops() / (2 * parameters * ids.shape[1]),
    }
    if copies := bytes_of_copies(lm.model):
        with inference(lm.model):
            lm.model(ids[:, :32])
        found["laid-out copies"] = (resident_mb() - loaded) * 2**20 / copies
    read = capture(lm, [Prompt("p", "The bridge was closed.")], ["resid_post"], [Positions("all")])
    kept = read.get("resid_post", "all")
    found["captures of a text"] = kept.nbytes / (4 * lm.n_layers * lm.d_model * len(kept))
    return found


def resident_mb() -> float:
    """Memory of this process in MB, pages of the weights' file included (Linux)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure_sweep(repeats: int) -> list[Ratio]:
    """The peak of a sweep against its prediction, and what the step with the peak took against what was counted."""
    off, added = [], []
    for _ in range(repeats):
        steps = alone("--sweep")["steps"]
        for step in steps:
            progress(f"{step['name']}: {step['rows']} rows, {step['before']:.0f} MB before, {step['counted']:.0f} MB "
                     f"counted, {step['peak']:.0f} MB at the peak")  # fmt: skip
        largest = max(steps, key=lambda step: step["peak"])
        off.append(abs(largest["peak"] / max(s["before"] + s["counted"] for s in steps) - 1))
        added.append((largest["peak"] - largest["before"]) / largest["counted"])
    return [
        summary("a sweep's peak off its prediction", off, PREDICTION_GOAL, "at most"),
        summary("what the step with the peak added / counted", added),
    ]


def measure_formulas(repeats: int) -> list[Ratio]:
    """How far what was taken is off the other formulas."""
    found = [alone("--formulas") for _ in range(repeats)]
    for one in found:
        progress(", ".join(f"{what}: {share:.3f} of what is counted" for what, share in one.items()))
    return [
        summary(f"{what} off the formula", [abs(one[what] - 1) for one in found], PREDICTION_GOAL, "at most")
        for what in found[0]
    ]


def measure_growth(repeats: int) -> Ratio:
    """Peak of a sweep of ten times the cells over that of a small one."""
    growth = []
    with tempfile.TemporaryDirectory() as folder:
        small, large = (sweep(Path(folder), FEW_ROWS, cells) for cells in (SMALL, LARGE))
        peak_of(small)  # fits the directions that both of them read
        for _ in range(repeats):
            few = peak_of(small)
            growth.append(peak_of(large) / few)
    return summary("sweep's peak, ten times the cells", growth, GROWTH_GOAL, "at most")


def main() -> int:
    options = parser(__doc__, repeats=2)
    options.add_argument("--batch", nargs=4, type=int, help="internal: rows, prompts, words and new tokens of a batch")
    options.add_argument("--sweep", action="store_true", help="internal: a sweep, watched from inside")
    options.add_argument("--formulas", action="store_true", help="internal: what is taken, over what is counted")
    chosen = options.parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("RssAnon is read from /proc: run this on Linux")
    if chosen.batch:
        print(json.dumps(run_batch(Batch(*chosen.batch))))
        return 0
    if chosen.sweep or chosen.formulas:
        print(json.dumps(run_sweep() if chosen.sweep else run_formulas()))
        return 0
    rows = [measure_growth(chosen.repeats), *measure_sweep(chosen.repeats)]
    for name, batch in TYPICAL.items():
        gaps = [abs(share_of(batch) - 1) for _ in range(chosen.repeats)]
        rows.append(summary(f"a batch's memory off its prediction, {name}", gaps, PREDICTION_GOAL, "at most"))
    shares = [share_of(batch) for batch in OTHERS]
    rows.append(summary("other batches' memory / prediction, largest", [max(shares)], BOUND_GOAL, "at most"))
    rows.append(summary("other batches' memory / prediction", shares))
    rows += measure_formulas(chosen.repeats)
    return finish(rows, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
