"""Is the memory of a sweep bounded by the rows of a batch, and not by the size of the sweep?

Run: ``python benchmarks/memory.py`` (a few minutes on 2 cores; Linux; needs the embedded SmolLM2). Exits 1 when a goal
is missed. The command line runs ``sweep`` as a process of its own; its peak anonymous memory (RssAnon) is read while it
runs:

- a small sweep and one of ten times as many cells, at the same ``--rows``: the peak must not grow by more than a tenth;
- the larger one with eight times the rows: what a row takes shows in the difference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = "smollm2-135m"
GROWTH_GOAL = 1.10
POLL_SECONDS = 0.01
SIZES = ("--scenarios", "8", "--max-new-tokens", "8", "--emotions", "gratitude", "--random", "0", "--samples", "2")
SMALL = ("--depths", "0.5", "--strengths", "-0.2", "0", "0.2")
LARGE = ("--depths", "0.4", "0.5", "--strengths", "-0.5", "-0.4", "-0.3", "-0.2", "-0.1", "0", "0.1", "0.2", "0.3",
         "0.4", "0.5")  # fmt: skip


def peak_of(model: str, results: Path, rows: int, *words: str) -> tuple[float, float]:
    """Peak RssAnon in MB and seconds of one sweep, computed anew."""
    line = [sys.executable, "-m", "emotion_circuits", "run", "sweep", "--model", model, "--results", str(results),
            "--rows", str(rows), "--force", "--quiet", *SIZES, *words]  # fmt: skip
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
    return peak / 1000, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rows", type=int, default=32, help="rows of a batch; eight times as many are tried too")
    parser.add_argument("--results", type=Path, help="folder whose finished directions are read (default: a new one)")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("RssAnon is read from /proc: run this on Linux")
    plan = [("small sweep", options.rows, SMALL), ("ten times the cells", options.rows, LARGE),
            ("ten times the cells", 8 * options.rows, LARGE)]  # fmt: skip
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        results = options.results or Path(folder)
        peak_of(options.model, results, options.rows, *SMALL)  # fits the directions that all of them read
        for name, rows, words in plan:
            peak, seconds = peak_of(options.model, results, rows, *words)
            peaks.append(peak)
            print(f"{name:20} --rows {rows:<4} {peak:8.0f} MB  {seconds:6.1f} s", flush=True)
    small, large, many = peaks
    growth, met = large / small, large / small <= GROWTH_GOAL
    print(f"peak, ten times the cells / small   {growth:.2f}   goal ≤ {GROWTH_GOAL:.2f}   {'ok' if met else 'MISSED'}")
    print(f"eight times the rows take {many - large:+.0f} MB ({(many - large) / (7 * options.rows):+.2f} MB a row)")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
