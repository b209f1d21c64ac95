"""What runners cost and gain: the plan and merge of 100,000 cells, and time over 1×, 4×, 16× cells, 1 and 2 workers.

Run: ``python benchmarks/scaling.py`` (about four minutes on 2 idle cores; needs the embedded SmolLM2). Exits 1 when a
goal is missed.

- plan: every ordered pair of 130 models under six experiments (101,010 cells) is planned, written, read, every cell
  noted as done, and gathered again; no model is loaded.
- merge: 100,000 rows (prompt × condition) of one step with a stub for the model, in blocks, by one worker.
- growth: vectors × prompts scored on SmolLM2, in one process without a runner, with one worker, and with two; every
  process has one thread, so that two workers have twice the processors of one. At the most cells also one worker with
  two threads: the same two processors used the other way. Loading is left out: all processes start together once every
  one has its model. CPU seconds beside wall seconds, because a machine that does something else at the same time shows
  in the latter only. What is judged is the time of the cells that come to it: a fixed part would hide in the whole that
  they take longer and longer.
- start: a command as a user types it, with one worker (``--shards 1``: planning, a second process, gathering) and
  without, in empty results folders: the seconds that the worker adds.

Every part runs in a process of its own, whose peak of memory is its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratios import Ratio, finish, interleaved, parser, progress, summary

MODEL = "smollm2-135m"
MODELS, CELLS_GOAL_SECONDS, MEMORY_GOAL_MB = 130, 60.0, 500.0
OVERHEAD_GOAL, GROWTH_GOAL, WORKERS_GOAL = 1.05, 1.1, 1.8
PROMPTS, CONDITIONS, FACTORS = 16, 32, (1, 4, 16)
PARTS = ("plan", "merge", "growth", "start")
COMMAND = ("run", "directions", "--model", MODEL, "--profile", "quickstart", "--quiet")
ROWS = 64
LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": False}


def measure_plan(models: int) -> list[Ratio]:
    """Seconds and memory of planning, writing, reading and gathering the cells of a large study."""
    from emotion_circuits.experiments._profiles import Profile
    from emotion_circuits.runners import collect, plan_study, read_manifest, states
    from emotion_circuits.runners.backend import unfinished
    from emotion_circuits.store import Store

    names = ("doctor", "directions", "sweep", "overlap", "align", "transfer", "k-sweep", "subspace-align",
             "transfer-steer")  # fmt: skip
    profile = Profile("many", "Many", "", (), tuple((name, {}) for name in names))
    with tempfile.TemporaryDirectory() as folder, _timed() as took:
        results = Path(folder)
        loading = {**LOADING, "offline": True}  # there are no such models to ask the hub for
        manifest = plan_study(profile, [f"model-{n}" for n in range(models)], results, loading=loading).write()
        manifest = read_manifest(manifest.path)
        progress(f"{len(manifest.cells)} cells in {len(manifest.shards)} shards, manifest "
                 f"{manifest.path.stat().st_size / 1e6:.1f} MB, {took.seconds():.1f} s")  # fmt: skip
        run = Store(results).run("many", "model-0", "doctor", {"stub": True})
        with run.open():
            run.finish({"verdicts": []})
        cells = manifest.folder / "cells"
        cells.mkdir()
        note = json.dumps({"run": run.folder.relative_to(results).as_posix(), "source": "stub", "seconds": 0.0})
        with took.paused():  # what the workers write
            for cell in manifest.cells:
                (cells / f"{cell.id}.done.json").write_text(note)
        assert not unfinished(manifest)
        assert all(state.status == "done" for state in states(manifest))
        progress(f"states of all cells read, {took.seconds():.1f} s")
        assert len(collect(manifest).runs) == len(manifest.cells)
    count = len(manifest.cells)
    return [
        summary(f"seconds, {count} cells planned and gathered", [took.seconds()], CELLS_GOAL_SECONDS, "at most"),
        summary(f"MB more memory, {count} cells", [took.megabytes()], MEMORY_GOAL_MB, "at most"),
    ]


def measure_merge() -> list[Ratio]:
    """Seconds and memory of 100,000 rows shared, written in parts and merged, without a model."""
    import numpy as np

    from emotion_circuits.engine import Row
    from emotion_circuits.experiments._crew import Crew
    from emotion_circuits.experiments._crew_steps import share_scores
    from emotion_circuits.models.lm import Encoded
    from emotion_circuits.store import Store
    from emotion_circuits.types import Condition, Prompt

    conditions = [Condition(f"c{n}") for n in range(50)]
    encoded = [Encoded(Prompt(f"p{n}", "x"), (0, 1), ((0, 0), (0, 1)), 1) for n in range(2000)]
    rows = [Row(e, c, 0) for e in encoded for c in conditions]
    batches = [range(i, min(i + 128, len(rows))) for i in range(0, len(rows), 128)]

    def score(chunks: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Any]]:
        for chunk in chunks:
            yield chunk, np.asarray(chunk, np.float32)[:, None] * np.array([1, -1], np.float32)

    with tempfile.TemporaryDirectory() as folder, _timed() as took:
        run = Store(Path(folder)).run("merge", "stub", "sweep", {"stub": True})
        found = share_scores(Crew(), run, "grid", rows, batches, ["a", "b"], score, lambda done: None)
    assert (found["a"] == np.arange(len(rows))).all()
    return [
        summary(f"seconds, {len(rows)} rows shared and merged", [took.seconds()], CELLS_GOAL_SECONDS, "at most"),
        summary(f"MB more memory, {len(rows)} rows", [took.megabytes()], MEMORY_GOAL_MB, "at most"),
    ]


def measure_growth(repeats: int, factors: Sequence[int]) -> list[Ratio]:
    """Time by cells and workers, relative to one process without a runner."""
    wall: dict[tuple[str, int], list[float]] = {}
    cpu: dict[tuple[str, int], list[float]] = {}
    ways = (("alone", 0, 1), ("1 worker", 1, 1), ("2 workers", 2, 1), ("1 worker, 2 threads", 1, 2))
    for repeat in range(repeats):
        for factor in factors:
            for name, workers, threads in ways if factor == factors[-1] else ways[:3]:
                seconds, busy = _run(factor, workers, threads)
                wall.setdefault((name, factor), []).append(seconds)
                cpu.setdefault((name, factor), []).append(busy)
                progress(f"{repeat + 1}/{repeats} {factor}× {name}: {seconds:.1f} s wall, {busy:.1f} s CPU")
    most, rows = factors[-1], growth_of({factor: cpu["1 worker", factor] for factor in factors})
    for what, table, goal in (("CPU", cpu, OVERHEAD_GOAL), ("wall", wall, None)):
        over = [b / a for a, b in zip(table["alone", most], table["1 worker", most], strict=True)]
        rows.append(summary(f"{what} time, 1 worker over none, {most}×", over, goal, "at most"))
    speed = [a / b for a, b in zip(wall["1 worker", most], wall["2 workers", most], strict=True)]
    twice = [b / a for a, b in zip(cpu["1 worker", most], cpu["2 workers", most], strict=True)]
    threaded = [a / b for a, b in zip(wall["1 worker, 2 threads", most], wall["2 workers", most], strict=True)]
    rows.append(summary(f"wall time, 1 worker over 2 (a thread each), {most}×", speed, WORKERS_GOAL))
    rows.append(summary(f"wall time, 1 worker of 2 threads over 2 of 1, {most}×", threaded))
    rows.append(summary(f"CPU time, 2 workers over 1, {most}×", twice, 1.1, "at most"))
    return rows


def growth_of(seconds: Mapping[int, Sequence[float]]) -> list[Ratio]:
    """How the CPU seconds of one worker grow with the cells (ascending): as a whole, and those of the added cells."""
    factors, rows = list(seconds), []
    for factor in factors[1:]:
        whole = [b / a for a, b in zip(seconds[factors[0]], seconds[factor], strict=True)]
        rows.append(summary(f"CPU time at {factor}× cells over {factors[0]}×, 1 worker", whole))
    for few, some, many in zip(factors, factors[1:], factors[2:], strict=False):
        spent = zip(seconds[few], seconds[some], seconds[many], strict=True)
        added = [(c - b) / (many - some) / ((b - a) / (some - few)) for a, b, c in spent]
        named = f"CPU time an added cell, {some}–{many}× over {few}–{some}×"
        rows.append(summary(named, added, GROWTH_GOAL, "at most"))
    return rows


def measure_start(repeats: int) -> list[Ratio]:
    """Wall time of one command with one worker and without, in turn, one thread each."""

    def command(*words: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "-m", "emotion_circuits", *COMMAND, "--results", folder, *words]
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})

    found = interleaved({"none": command, "1 worker": lambda: command("--shards", "1")}, repeats)
    added = [b - a for a, b in zip(found["none"], found["1 worker"], strict=True)]
    return [
        summary("seconds of run directions, no runner", found["none"]),
        summary("seconds that a worker process adds", added),
    ]


def _run(factor: int, workers: int, threads: int) -> tuple[float, float]:
    """Wall and CPU seconds of the grid; processes start together once all of them have their model."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        processes = [
            subprocess.Popen([sys.executable, __file__, "--worker", folder, *map(str, (factor, n, workers, threads))])
            for n in range(max(1, workers))
        ]
        while len(list(results.glob("ready-*"))) < len(processes):
            if any(p.poll() for p in processes):
                raise SystemExit("a worker ended early; its message is above")
            time.sleep(0.02)
        (results / "go").touch()
        if any(p.wait() for p in processes):
            raise SystemExit("a worker failed; its message is above")
        times = [json.loads(p.read_text()) for p in results.glob("time-*.json")]
    return max(t["end"] for t in times) - min(t["start"] for t in times), sum(t["cpu"] for t in times)


def _work(results: Path, factor: int, number: int, workers: int, threads: int) -> None:
    """One process: the grid as an experiment, alone or as a shard."""
    import pandas  # noqa: F401 - every process of a study has these, and here only workers would load them in time
    import pyarrow.parquet  # noqa: F401
    import torch

    from emotion_circuits.experiments import Experiment, ExperimentParams, Outcome, Workbench, run_experiment
    from emotion_circuits.experiments._profiles import Profile
    from emotion_circuits.experiments._registry import experiment, find_experiment
    from emotion_circuits.models import load_lm
    from emotion_circuits.runners import plan_study, run_shard
    from emotion_circuits.runners.desk import Desk
    from emotion_circuits.store import Store

    find_experiment("directions")
    torch.set_num_threads(threads)

    @experiment("grid", "Vectors × prompts.")
    class Grid(Experiment):
        class Params(ExperimentParams):
            factor: int = 1

        def summarise(self, context: Any, params: Any) -> Outcome:
            prompts, conditions = _grid(context.lm, params.factor)
            found = context.measure.score("grid", prompts, conditions, {"top": lambda logits, base: logits.amax(-1)})
            return Outcome({"mean": float(found["top"].mean())})

    lm = load_lm(MODEL, device="cpu")
    _ = lm.fingerprint, lm.tokenizer_fingerprint
    params = Grid.Params(factor=factor)
    (results / f"ready-{number}").touch()
    while not (results / "go").exists():
        time.sleep(0.01)
    start, cpu = time.time(), time.process_time()
    if workers == 0:
        run_experiment("grid", params, Workbench(Store(results), "scaling", lambda: lm, rows=ROWS))
    else:
        profile = Profile("scaling", "", "", (), (("grid", {"factor": factor}),))
        manifest = plan_study(profile, [MODEL], results, shards=workers, rows=ROWS, loading=LOADING).write()
        Desk._load = lambda self, source: lm  # type: ignore[method-assign]
        assert run_shard(manifest, number).exit_code == 0
    times = {"start": start, "end": time.time(), "cpu": time.process_time() - cpu}
    (results / f"time-{number}.json").write_text(json.dumps(times))


def _grid(lm: Any, factor: int) -> tuple[list[Any], list[Any]]:
    import numpy as np

    from emotion_circuits.engine import add
    from emotion_circuits.types import Condition, Prompt, Site

    texts = ("The parcel arrived on Tuesday and", "My neighbour painted the fence because",
             "The bus driver waited at the corner while", "She opened the letter from the office and")  # fmt: skip
    prompts = [Prompt(f"p{n}", f"{texts[n % 4]} {n}") for n in range(PROMPTS)]
    site, rng = Site("resid_post", lm.n_layers // 2), np.random.default_rng(0)
    vectors = rng.normal(size=(CONDITIONS * factor, lm.d_model))
    return prompts, [Condition(f"v{n}", (add(site, v, 0.5),)) for n, v in enumerate(vectors)]


class _Took:
    """Seconds, and peak memory above the process's peak so far; :meth:`stop` keeps both as they are."""

    def __init__(self) -> None:
        self._start, self._out, self._before = time.perf_counter(), 0.0, _peak()
        self._end: float | None = None
        self._after = 0.0

    def seconds(self) -> float:
        return (self._end or time.perf_counter()) - self._start - self._out

    def megabytes(self) -> float:
        return self._after - self._before

    def stop(self) -> None:
        self._end, self._after = time.perf_counter(), _peak()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._out += time.perf_counter() - start


@contextlib.contextmanager
def _timed() -> Iterator[_Took]:
    took = _Took()
    yield took
    took.stop()


def _peak() -> float:
    """Largest resident memory of this process so far, in MB.

    Of this program: what the system tells as ``ru_maxrss`` begins with the peak of the one that started it on Linux.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1000 if sys.platform != "darwin" else 1e6)


def _apart(part: str) -> list[Ratio]:
    """One part as this command line asks for it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        words = [sys.executable, *sys.argv, "--only", part, "--json", str(found)]  # the last of an option counts
        subprocess.run(words, stdout=subprocess.DEVNULL, check=False)  # 1: a goal was missed
        if not found.exists():
            raise SystemExit(f"{part} ended early; its message is above")
        return [Ratio(**row) for row in json.loads(found.read_text(encoding="utf-8"))["rows"]]


def main() -> int:
    """The command line."""
    if sys.argv[1:2] == ["--worker"]:
        folder, *numbers = sys.argv[2:]
        _work(Path(folder), *map(int, numbers))
        return 0
    options = parser(__doc__, repeats=2)
    options.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    options.add_argument("--factors", type=int, nargs="+", default=list(FACTORS), help="cells, as multiples of 512")
    options.add_argument("--models", type=int, default=MODELS, help="of the plan: its cells grow with their square")
    given = options.parse_args()
    measures: dict[str, Callable[[], list[Ratio]]] = {
        "plan": lambda: measure_plan(given.models),
        "merge": measure_merge,
        "growth": lambda: measure_growth(given.repeats, given.factors),
        "start": lambda: measure_start(given.repeats),
    }
    alone = len(given.only) == 1
    return finish([row for part in given.only for row in (measures[part]() if alone else _apart(part))], given.json)


if __name__ == "__main__":
    sys.exit(main())
