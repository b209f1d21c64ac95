"""Shards as submitit jobs: its local executor for real, and what is asked of Slurm, with stand-ins for its commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runner_worker
from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.experiments import load_profile, run_study
from emotion_circuits.models import load_lm
from emotion_circuits.runners import Manifest, collect, plan_study, slurm, states
from emotion_circuits.runners.backend import backend
from emotion_circuits.runners.desk import Desk
from emotion_circuits.runners.slurm import JOBS, ShardJob, run_slurm
from emotion_circuits.runners.state import forget_failure
from emotion_circuits.store import Store

submitit = pytest.importorskip("submitit", reason="submitit is not installed (pip install -e '.[slurm]')")

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="submitit needs POSIX"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # submitit leaves the pipes of its processes open
]
LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": True}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    runner_worker.registered(monkeypatch)


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


def test_why_a_job_ended_is_told(model: Path, tmp_path: Path) -> None:
    """It ran and could not use the manifest, or it raised what nobody foresaw: the end of its log, or of its trace."""
    manifest = plan(model, tmp_path, 1)
    manifest.path.write_text(manifest.path.read_text().replace('"schema":1', '"schema":99'))
    told: list[str] = []
    run_slurm(manifest, told.append, cluster="local", timeout_min=5)
    (failure,) = collect(manifest).failures
    assert "ended with code 1: " in failure.error.what and "written by another version" in failure.error.what
    assert "use one version on all machines" in failure.error.fix

    class Raised:
        """A job that submitit started and that left a trace."""

        job_id = "7_0"
        paths = submitit.core.utils.JobPaths(tmp_path, "7_0", 0)

        def exception(self) -> Exception:
            rule, trace = "-" * 22, 'Traceback\n  File "x.py"\nRuntimeError: shapes differ\n'
            return submitit.core.utils.FailedJobError(f"failed with trace:\n{rule}\n{trace}\n{rule}\nlogs are there")

    forget_failure(manifest, manifest.cells[0])
    slurm._ended(manifest, 0, Raised(), told.append)
    (failure,) = collect(manifest).failures
    assert "its job 7_0 failed: RuntimeError: shapes differ; its log is" in failure.error.what


@pytest.mark.parametrize(
    ("raised", "what", "fix"),
    [
        (submitit.core.utils.UncompletedJobError("Job not requeued because: timed-out too many times."),
         "ran out of time, and is not queued again (Job not requeued because: timed-out too many", "timeout_min"),
        (subprocess.CalledProcessError(1, ["scontrol", "requeue", "7_0"]), "could not be queued again", "scontrol"),
    ],
)  # fmt: skip
def test_a_job_that_is_not_queued_again_says_why(
    stub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, what: str, fix: str
) -> None:
    """submitit's answer to the signal raises inside of an experiment: that is no defect of it."""
    manifest = runner_worker.stub_plan(tmp_path).write()
    number = submitit.JobEnvironment._usr_sig()

    def answer(received: int, frame: Any) -> None:
        raise raised

    def preempted(*_: Any) -> Any:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Desk, "run", preempted)
    before = signal.signal(number, answer)
    try:
        assert ShardJob(str(manifest.path), 0)() == 1
        assert signal.getsignal(number) is answer
    finally:
        signal.signal(number, before)
    failure = collect(manifest).failures[0]
    assert what in failure.error.what and fix in failure.error.fix and "defect" not in str(failure.error)


def test_a_preempted_job_is_submitted_again_as_it_is() -> None:
    job = ShardJob("/results/p/shards/k/manifest.json", 3)
    again = job.checkpoint()
    assert again.function is job


def test_there_is_no_slurm_here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmotionCircuitsError, match="Slurm did not take the jobs"):
        run_slurm(plan(model, tmp_path), lambda line: None)


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands: ``sbatch`` keeps what it gets, ``squeue`` lists the file ``queue`` and fails without one."""
    commands = tmp_path / "bin"
    commands.mkdir()
    submit = '#!/bin/sh\n[ "$1" = "--version" ] || cp "$1" "$EC_TEST/submitted.sh"\necho \'Submitted batch job 4242\'\n'
    for name, text in (("srun", submit), ("sbatch", submit), ("squeue", '#!/bin/sh\nexec cat "$EC_TEST/queue"\n')):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EC_TEST", str(tmp_path))
    return tmp_path


def test_what_slurm_is_asked(model: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One array with the options given, its job ids kept; a second call waits for them instead of submitting again."""
    manifest = plan(model, stand_ins, 3)
    watched: list[list[str]] = []
    monkeypatch.setattr(slurm, "_watch", lambda manifest, jobs, tell: watched.append([j.job_id for j in jobs.values()]))
    options: dict[str, Any] = {"partition": "gpu", "timeout_min": 90, "mem_gb": 40.0, "gpus_per_node": 1,
                               "setup": "module load cuda"}  # fmt: skip
    told: list[str] = []
    run_slurm(manifest, told.append, **options)
    script = (stand_ins / "submitted.sh").read_text()
    for line in ("--partition=gpu", "--time=90", "--mem=40GB", "--gpus-per-node=1", "--array=0-2%3", "--signal="):
        assert line in script, line
    assert "module load cuda" in script and f"emotion-circuits-{manifest.key}" in script
    assert any(f"scancel --name=emotion-circuits-{manifest.key}" in line for line in told)
    jobs = ["4242_0", "4242_1", "4242_2"]
    assert watched == [jobs] and (manifest.folder / JOBS).exists()
    (stand_ins / "submitted.sh").unlink()
    (stand_ins / "queue").write_text("\n".join(jobs))
    run_slurm(manifest, told.append, **options)
    assert not (stand_ins / "submitted.sh").exists(), "the jobs of the first call are still there"
    (stand_ins / "queue").write_text("4242_1\n")
    run_slurm(manifest, told.append, **options)
    assert "--array=0-1%2" in (stand_ins / "submitted.sh").read_text(), "only those that are gone"
    assert [set(w) for w in watched[1:]] == [set(jobs), {"4242_0", "4242_1"}]


def test_a_job_that_left_a_result_does_not_count_as_running(
    model: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the queue says, or does not: its shard failed, and is submitted again."""
    manifest = plan(model, stand_ins, 2)
    watched: list[list[str]] = []
    monkeypatch.setattr(slurm, "_watch", lambda manifest, jobs, tell: watched.append([j.job_id for j in jobs.values()]))
    run_slurm(manifest, lambda line: None)
    job = submitit.SlurmJob(folder=manifest.folder / "slurm", job_id="4242_0")
    submitit.core.utils.cloudpickle_dump(("success", 1), job.paths.result_pickle)
    run_slurm(manifest, lambda line: None)
    assert sorted(watched[1]) == ["4242", "4242_1"], "squeue does not answer: the other one may still run"


def test_a_busy_queue_is_not_asked_more_often(model: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = plan(model, stand_ins, 1)
    asked, looks = list[int](), 0
    monkeypatch.setattr(slurm, "_queue", lambda manifest: asked.append(looks))
    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=lambda: float(looks)))
    job = submitit.SlurmJob(folder=stand_ins / "jobs", job_id="7_0")
    job.paths.folder.mkdir(exist_ok=True)

    def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 50:
            submitit.core.utils.cloudpickle_dump(("success", 0), job.paths.result_pickle)

    slurm._watch(manifest, {0: job}, lambda line: None, pause)
    assert asked == [20, 40]


def test_more_shards_than_an_array_may_have(model: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several arrays share the jobs at a time; what was taken before a refusal is waited for by the next call."""
    manifest = plan(model, stand_ins, 5)
    (stand_ins / "bin" / "sbatch").write_text(SBATCH_THAT_REFUSES)
    watched: list[list[str]] = []
    monkeypatch.setattr(slurm, "_watch", lambda manifest, jobs, tell: watched.append([j.job_id for j in jobs.values()]))
    options = backend("slurm", ("array_size=2", "array_parallelism=3", "timeouts=7")).options
    (stand_ins / "most").write_text("2")
    with pytest.raises(EmotionCircuitsError, match="did not take the jobs") as refused:
        run_slurm(manifest, lambda line: None, **options)
    assert "array_size" in refused.value.fix and not watched
    (stand_ins / "most").write_text("9")
    (stand_ins / "queue").write_text("1_0\n1_1\n2_0\n2_1\n")
    run_slurm(manifest, lambda line: None, **options)
    assert sorted(watched[0]) == ["1_0", "1_1", "2_0", "2_1", "4"], "the third array is the last shard"
    arrays = [(stand_ins / f"submitted-{n}.sh").read_text() for n in (1, 2, 4)]
    assert all("--array=0-1%1" in script for script in arrays[:2]) and "--array" not in arrays[2]
    (pickled,) = (manifest.folder / "slurm").glob("1_0_submitted.pkl")
    assert submitit.core.utils.DelayedSubmission.load(pickled)._timeout_countdown == 7


SBATCH_THAT_REFUSES = """#!/bin/sh
# Keeps what it gets by number, which is the id of the job too, and takes as many as the file "most" says.
[ "$1" = "--version" ] && exit 0
number=$(($(cat "$EC_TEST/number" 2> /dev/null || echo 0) + 1))
echo $number > "$EC_TEST/number"
[ $number -le "$(cat "$EC_TEST/most")" ] || { echo "sbatch: error: Job submit limit" >&2; exit 1; }
cp "$1" "$EC_TEST/submitted-$number.sh"
echo "Submitted batch job $number"
"""


def test_a_job_that_left_the_queue_without_a_result_is_told(
    model: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Slurm's accounts, which a cluster need not keep; a queue that does not answer says nothing."""
    manifest = plan(model, stand_ins, 3)
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.0)
    folder = stand_ins / "jobs"
    jobs = {n: submitit.SlurmJob(folder=folder, job_id=f"7_{n}") for n in range(3)}
    folder.mkdir(exist_ok=True)
    queue, told, looks = stand_ins / "queue", list[str](), 0

    def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            assert not told, "squeue has failed three times"
            queue.write_text("7_0\n7_1\n")
        if looks == 5:
            queue.write_text("7_0\n")
        if looks == 6:
            assert not any("shard 1" in line for line in told), "once may be an accident"
        if looks == 8:
            submitit.core.utils.cloudpickle_dump(("success", 0), jobs[0].paths.result_pickle)

    slurm._watch(manifest, jobs, told.append, pause)
    assert [line.partition(" (")[0] for line in told] == ["shard 2", "shard 1", "shard 0"]
    assert "in the queue no more" in told[0] and told[2].endswith("done")
    (failure,) = collect(manifest).failures
    assert "its job 7_" in failure.error.what and "ended without a result" in failure.error.what
