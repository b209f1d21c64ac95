"""Shards as submitit jobs: its local executor for real, and what is asked of Slurm, with stand-ins for its commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import runner_worker
from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.experiments import load_profile, run_study
from emotion_circuits.models import load_lm
from emotion_circuits.runners import Manifest, collect, plan_study, states
from emotion_circuits.runners.slurm import JOBS, ShardJob, run_slurm
from emotion_circuits.store import Store

submitit = pytest.importorskip("submitit", reason="submitit is not installed (pip install 'emotion-circuits[slurm]')")

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="submitit needs POSIX"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # submitit leaves the pipes of its processes open
]
LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": True}


def plan(model: Path, folder: Path, shards: int = 2) -> Manifest:
    path = folder / "captures.toml"
    path.write_text(f'models = ["{model}"]\n[[experiment]]\nname = "extract"\nscenarios = 20\n', encoding="utf-8")
    profile = load_profile(str(path))
    return plan_study(profile, profile.models, folder / "results", shards=shards, rows=8, loading=LOADING).write()


def test_the_local_executor_runs_shards_in_jobs_of_their_own(model: Path, tmp_path: Path) -> None:
    manifest = plan(model, tmp_path)
    told: list[str] = []
    run_slurm(manifest, told.append, cluster="local", array_parallelism=1, timeout_min=5)
    assert {s.status for s in states(manifest)} == {"done"} and not collect(manifest).failures
    assert [line for line in told if "submitted to local" in line] == [
        f"1 jobs submitted to local; logs in {manifest.folder / 'slurm'}"
    ], "one at a time, and the second has nothing left to do"
    profile = load_profile(str(tmp_path / "captures.toml"))
    run_study(profile, profile.models, Store(tmp_path / "alone"), lambda m: load_lm(m, device="cpu"), rows=8)
    assert runner_worker.numbers(tmp_path / "results") == runner_worker.numbers(tmp_path / "alone")


def test_a_job_that_dies_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = plan(model, tmp_path, 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    told: list[str] = []
    run_slurm(manifest, told.append, cluster="local", timeout_min=5)
    (failure,) = collect(manifest).failures
    assert "ended without a result; its log is" in failure.error.what and "sacct" in failure.error.fix
    assert any("was lost" in line for line in told)


def test_a_preempted_job_is_submitted_again_as_it_is() -> None:
    job = ShardJob("/results/p/shards/k/manifest.json", 3)
    again = job.checkpoint()
    assert again.function is job


def test_there_is_no_slurm_here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmotionCircuitsError, match="Slurm did not take the jobs"):
        run_slurm(plan(model, tmp_path), lambda line: None)


def test_what_slurm_is_asked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One array with the options given, its job ids kept; a second call waits for them instead of submitting again."""
    manifest = plan(model, tmp_path, 3)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("srun", "sbatch"):
        (commands / name).write_text("#!/bin/sh\n[ \"$1\" = \"--version\" ] || cp \"$1\" \"$EC_TEST/submitted.sh\"\n"
                                     "echo 'Submitted batch job 4242'\n")  # fmt: skip
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EC_TEST", str(tmp_path))
    waited: list[str] = []

    def wait(job: Any) -> None:
        waited.append(str(job.job_id))

    monkeypatch.setattr(submitit.SlurmJob, "wait", wait)
    monkeypatch.setattr(submitit.SlurmJob, "exception", lambda job: None)
    monkeypatch.setattr(submitit.SlurmJob, "result", lambda job: 0)
    monkeypatch.setattr(submitit.SlurmJob, "done", lambda job, force_check=False: False)
    options: dict[str, Any] = {"partition": "gpu", "timeout_min": 90, "mem_gb": 40.0, "gpus_per_node": 1,
                               "setup": "module load cuda"}  # fmt: skip
    run_slurm(manifest, lambda line: None, **options)
    script = (tmp_path / "submitted.sh").read_text()
    for line in ("--partition=gpu", "--time=90", "--mem=40GB", "--gpus-per-node=1", "--array=0-2%3", "--signal="):
        assert line in script, line
    assert "module load cuda" in script and f"emotion-circuits-{manifest.key}" in script
    assert waited == ["4242_0", "4242_1", "4242_2"] and (manifest.folder / JOBS).exists()
    (tmp_path / "submitted.sh").unlink()
    run_slurm(manifest, lambda line: None, **options)
    assert not (tmp_path / "submitted.sh").exists(), "the jobs of the first call are still there"
    assert waited == ["4242_0", "4242_1", "4242_2"] * 2
