"""Is the memory of a sweep bounded by the rows of a batch, as predicted, and not by the size of the sweep?

Run: ``python benchmarks/memory.py`` (a few minutes on 2 cores; Linux; needs the embedded SmolLM2). Exits 1 when a goal
is missed. The command line runs ``sweep`` as a process of its own; its peak anonymous memory (RssAnon) is read while it
runs:

- a small sweep and one of ten times as many cells, at the same ``--rows``: the peak must not grow by more than a tenth;
- the larger one with eight times the rows, against the prediction: the first peak and what ``--dry-run`` says that the
  further rows take. (What libraries, evaluators and tables take is in the first peak; nobody predicts it.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ratios import finish, parser, progress, summary

MODEL = "smollm2-135m"
GROWTH_GOAL, PREDICTION_GOAL = 1.10, 0.15
POLL_SECONDS = 0.01
FEW_ROWS, MANY_ROWS = 16, 128
"""The larger is the most that the automatic budget of a CPU chooses."""
SIZES = ("--scenarios", "8", "--max-new-tokens", "30", "--emotions", "gratitude", "--random", "0", "--samples", "2")
SMALL = ("--depths", "0.5", "--strengths", "-0.2", "0", "0.2")
LARGE = ("--depths", "0.4", "0.5", "--strengths", "-0.5", "-0.4", "-0.3", "-0.2", "-0.1", "0", "0.1", "0.2", "0.3",
         "0.4", "0.5")  # fmt: skip


def sweep(results: Path, rows: int, cells: tuple[str, ...], *more: str) -> list[str]:
    """The command line of one sweep."""
    return [sys.executable, "-m", "emotion_circuits", "run", "sweep", "--model", MODEL, "--results", str(results),
            "--rows", str(rows), "--force", "--quiet", *SIZES, *cells, *more]  # fmt: skip


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


def predicted(line: list[str]) -> float:
    """MB that ``--dry-run`` says the sweep takes: weights, and the widest values of the largest batch."""
    told = subprocess.run([*line, "--dry-run", "--json"], check=True, capture_output=True, text=True).stdout
    cells: list[dict[str, Any]] = json.loads(told)["cells"]
    return max(float(c["memory_bytes"]) for c in cells if c["experiment"] == "sweep") / 1e6


def main() -> int:
    chosen = parser(__doc__, repeats=2).parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("RssAnon is read from /proc: run this on Linux")
    growth, gaps = [], []
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        small, large, many = (
            sweep(results, rows, cells) for rows, cells in ((FEW_ROWS, SMALL), (FEW_ROWS, LARGE), (MANY_ROWS, LARGE))
        )
        told = {rows: predicted(sweep(Path(folder, "empty"), rows, LARGE)) for rows in (FEW_ROWS, MANY_ROWS)}
        peak_of(small)  # fits the directions that all of them read
        for _ in range(chosen.repeats):
            few, tenfold, wide = peak_of(small), peak_of(large), peak_of(many)
            growth.append(tenfold / few)
            expected = tenfold + told[MANY_ROWS] - told[FEW_ROWS]
            progress(f"{MANY_ROWS} rows: {wide:.0f} MB, predicted {expected:.0f}")
            gaps.append(abs(wide / expected - 1))
    return finish(
        [
            summary("sweep's peak, ten times the cells", growth, GROWTH_GOAL, "at most"),
            summary("sweep's peak off its prediction", gaps, PREDICTION_GOAL, "at most"),
        ],
        chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
