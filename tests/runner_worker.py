"""A small experiment on tiny models for the tests of runners, and workers of it that kill themselves at a chosen write.

Imported once by the server that the workers are forked from, so that each takes milliseconds and is a process that a
signal can end.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

import emotion_circuits.models as models_package
from emotion_circuits.experiments import CaptureStep, Context, Experiment, ExperimentParams, Outcome
from emotion_circuits.experiments import _crew_steps as steps
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._registry import _REGISTERED
from emotion_circuits.models import LM, load_lm
from emotion_circuits.runners import Cell, Manifest, plan_study
from emotion_circuits.store import PartSet, Run, Store, append_jsonl
from emotion_circuits.types import Condition, Intervention, Observation, Positions, Prompt, Site
from tiny_models import byte_level_tokenizer, tiny_model

STUB = "stub"
MODELS = ("one", "two")
PROFILE = Profile("stub-study", "Stub", "", MODELS, ((STUB, {"prompts": 12}),))
ROWS = 4
LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": True}
BLOCK = 8
COMPUTED = "computed.jsonl"
"""In the results folder: every part that was written, a line each."""


class Stub(Experiment):
    """Captures, scores under vectors from the capture, and texts under the condition that scored highest."""

    class Params(ExperimentParams):
        """Parameters of ``stub``."""

        prompts: int = Field(12, ge=2, description="Texts.")

    name, help = STUB, "Exercises capture, score and generate."

    def _prompts(self, params: Params) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(f"p{n}", f"The {'very ' * (n % 5)}old bus left station {n}.") for n in range(params.prompts)
        )

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        return (CaptureStep("texts", self._prompts(params), ("resid_post",), (Positions("last"),)),)

    def summarise(self, context: Context, params: Params) -> Outcome:
        import numpy as np

        from emotion_circuits.engine import Sampling

        prompts = self._prompts(params)
        read = np.asarray(context.captures["texts"].get("resid_post", "last"))[:, 1]
        vectors = [read[0] - read[1], read[2] - read[3], read.mean(0)]
        edits = [Condition(f"v{n}", (Intervention(Site("resid_post", 1), "add", vector=v, strength=0.5),))
                 for n, v in enumerate(vectors)]  # fmt: skip
        conditions = [Condition("baseline"), *edits]
        scored = context.measure.score("scores", prompts, conditions, {"mass": _token_mass})["mass"]
        best = int(scored.mean(0).argmax())
        sampling = Sampling(max_new_tokens=3, samples=2, temperature=1.0, seed=context.seed)
        texts = context.measure.generate("texts-of-best", prompts, [conditions[0], conditions[best]], sampling)
        rows = [
            Observation(STUB, context.lm.name, "none", 1, "all", 0.5, conditions[c].name, p.id, p.id, "test", 0, "mass",
                        float(scored[i, c]))
            for i, p in enumerate(prompts) for c in range(len(conditions))
        ]  # fmt: skip
        return Outcome({"best": best, "texts": [[t.prompt, t.condition, t.sample, t.text] for t in texts]},
                       (f"best condition {best}",), observations=rows)  # fmt: skip


def _token_mass(logits: Any, rows: Any) -> Any:
    return logits.float().log_softmax(-1)[:, :50].logsumexp(-1)


@functools.cache
def tiny(source: str) -> LM:
    """The tiny model of a name."""
    tokenizer = byte_level_tokenizer()
    model = tiny_model("llama", tokenizer, seed=MODELS.index(source))
    model.config._name_or_path = source
    return load_lm(model, tokenizer)


def registered(patch: Any) -> None:
    """Make the experiment known for the time of a test."""
    patch.setitem(_REGISTERED, STUB, Stub())


def stub_plan(results: Path, shards: int | None = None) -> Manifest:
    """The plan of the stub study, not written."""
    return plan_study(PROFILE, MODELS, results, shards=shards, rows=ROWS, loading=LOADING)


def finished_run(manifest: Manifest, cell: Cell) -> Run:
    """A finished run of a cell, computed by nobody."""
    run = Store(manifest.results).run(manifest.work.profile, cell.models[0], cell.experiment, {"stub": True})
    with run.open():
        run.finish({"verdicts": []})
    return run


def install() -> None:
    """In a worker: tiny models by name, small blocks."""
    _REGISTERED[STUB] = Stub()
    models_package.load_lm = lambda source, **options: tiny(source)  # type: ignore[assignment]
    steps.SCORED_ROWS = steps.WRITTEN_ROWS = steps.CAPTURED_ROWS = BLOCK


def alone(results: str) -> None:
    """The study in one process, without a runner."""
    from emotion_circuits.experiments import run_study

    install()
    study = run_study(PROFILE, MODELS, Store(Path(results)), tiny, rows=ROWS)
    assert not study.failures, study.failures


def shard(path: str, number: int, backend: str, kill_at: int | None) -> None:
    """One shard as a backend calls it; the process ends by SIGKILL at its ``kill_at``-th write (before or after it)."""
    install()
    _watch_writes(Path(path).parents[3], kill_at)
    raise SystemExit(entry(backend)(path, number))


def drive(path: str, kill_at: int | None) -> None:
    """All shards in processes of their own; that of shard 0 ends this one by SIGKILL at its ``kill_at``-th write."""
    from emotion_circuits.runners import read_manifest
    from emotion_circuits.runners.local import run_local

    install()
    code = "import sys, runner_worker; runner_worker.driven(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
    at = {0: str(kill_at or 0)}
    run_local(
        read_manifest(Path(path)), print, workers=2,
        command=lambda manifest, number: [sys.executable, "-c", code, path, str(number), at.get(number, "0")],
    )  # fmt: skip


def driven(path: str, number: int, kill_at: int) -> None:
    """A shard in a process that :func:`drive` started."""
    install()
    _watch_writes(Path(path).parents[3], kill_at, os.getppid())
    raise SystemExit(entry("local")(path, number))


def entry(backend: str) -> Any:
    """What a backend calls in the process that it starts."""
    from emotion_circuits.runners import ray, slurm, worker

    def by_slurm(path: str, number: int) -> int:
        return slurm.ShardJob(path, number)()

    def by_ray(path: str, number: int) -> int:
        return ray._shard(path, number)[0]

    return {"local": worker.work, "slurm": by_slurm, "ray": by_ray}[backend]


def _watch_writes(results: Path, kill_at: int | None, victim: int | None = None) -> None:
    """Count what is written to the disk, and note every part that was written whole.

    At one of them a process is killed: this one, or the ``victim``.
    """
    victim = victim or os.getpid()
    count = 0

    def counted(write: Any, note: Any = None) -> Any:
        def writing(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(victim, signal.SIGKILL)
            found = write(*args, **options)
            if note is not None:
                append_jsonl(results / COMPUTED, [{"part": note(args)}])
            count += 1
            if count == kill_at:
                os.kill(victim, signal.SIGKILL)
            return found

        return writing

    steps.write_table = counted(steps.write_table, lambda args: str(args[0]))
    PartSet.write = counted(PartSet.write, lambda args: f"{args[0].folder}/{args[1]}")  # type: ignore[method-assign]
    for name in ("append_jsonl", "write_json", "write_observations", "finish"):
        setattr(Run, name, counted(getattr(Run, name)))


def numbers(results: Path) -> Mapping[str, bytes]:
    """The bytes of everything that holds a number, by model, experiment and file."""
    names = ("summary.json", "observations.parquet", "generations.jsonl", "section.json")
    files = [p for p in results.glob("*/*/*/*/*") if p.name in names or p.suffix == ".safetensors"]
    found = {f"{p.parts[-4]}/{p.parts[-3]}/{p.name}": p.read_bytes() for p in files if p.parts[-2][0] != "."}
    # Lines of texts are appended block by block: their order says nothing.
    return {k: b"".join(sorted(v.splitlines())) if k.endswith("generations.jsonl") else v for k, v in found.items()}
