"""Shards as Slurm job arrays, through submitit: requeued when they are pre-empted or run out of time."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.runners.backend import Tell, give_up, not_installed, tell_end, unfinished
from emotion_circuits.runners.manifest import Manifest
from emotion_circuits.store import read_json, write_json

log = logging.getLogger(__name__)

JOBS = "slurm-jobs.json"
ARRAY_SIZE, TIMEOUTS = 1000, 100
"""Slurm takes arrays of 1001 jobs unless it was set up otherwise. submitit itself queues a job again three times."""

LOOK_SECONDS, QUEUE_SECONDS = 1.0, 20.0
"""Between two looks for results, and between two looks at the queue; a shared folder may be that late."""

Pause = Callable[[float], None]


@dataclass(frozen=True)
class ShardJob:
    """What a job calls. Everything that is finished is on disk at any time, so that a checkpoint is the job itself."""

    path: str
    number: int

    def __call__(self) -> int:
        from emotion_circuits.runners.worker import work

        with _told_why():
            return work(self.path, self.number)

    def checkpoint(self) -> Any:
        """What submitit submits again after a pre-emption or a time limit: the same shard, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _told_why() -> Iterator[None]:
    """Have submitit's answer to a signal say what is to be done where the job cannot be queued again.

    It raises inside of whatever runs at that moment, where its own exceptions would count as a defect.
    """
    from submitit import JobEnvironment

    number = JobEnvironment._usr_sig()
    handler = signal.getsignal(number)
    if not callable(handler):  # nobody but submitit answers this signal
        yield
        return
    answer = cast("Callable[[int, FrameType | None], object]", handler)
    signal.signal(number, lambda received, frame: _answered(answer, received, frame))
    try:
        yield
    finally:
        signal.signal(number, handler)


def _answered(answer: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
    from submitit.core.utils import UncompletedJobError

    try:
        answer(number, frame)
    except UncompletedJobError as error:
        raise EmotionCircuitsError(
            f"the shard ran out of time, and is not queued again ({error})",
            "run the same command again: it resumes; a larger timeout_min gives each job more time, a larger timeouts "
            "queues it more often (--runner-options)",
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise EmotionCircuitsError(
            f"the shard was stopped by Slurm and could not be queued again: {error}",
            "run the same command again: it resumes; `scontrol requeue` has to work on the nodes",
        ) from error


def run_slurm(
    manifest: Manifest,
    tell: Tell,
    *,
    cluster: str = "slurm",
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    timeout_min: int = 240,
    mem_gb: float | None = None,
    cpus_per_task: int = 4,
    gpus_per_node: int = 0,
    array_parallelism: int = 64,
    array_size: int = ARRAY_SIZE,
    timeouts: int = TIMEOUTS,
    setup: str | None = None,
) -> None:
    """Submit all shards as job arrays and wait for them; jobs that an earlier call submitted are waited for instead.

    Pairs of models come in arrays behind the others. Stopping this call leaves the jobs running: the same command
    takes them up again. ``setup`` is a shell line run before each job (``module load …``).

    Args:
        cluster: ``slurm``; ``local`` and ``debug`` are submitit's own stand-ins, for trying it without Slurm.
        array_parallelism: jobs at a time, shared out where there are several arrays (one each at least).
        array_size: the most jobs of an array, below the cluster's MaxArraySize.
        timeouts: how often a shard that runs out of time is queued again.

    Raises:
        UsageError: submitit is not installed. EmotionCircuitsError: there is no Slurm here, or it refuses.
    """
    try:
        import submitit
    except ImportError as error:
        raise not_installed("submitit", "slurm") from error
    folder = manifest.folder / "slurm"
    slurm: dict[str, Any] = {
        "slurm_partition": partition, "slurm_account": account, "slurm_qos": qos, "slurm_constraint": constraint,
        "slurm_setup": None if setup is None else [setup],
    }  # fmt: skip
    general = {"timeout_min": timeout_min, "mem_gb": mem_gb, "cpus_per_task": cpus_per_task,
               "gpus_per_node": gpus_per_node or None, "name": _job_name(manifest)}  # fmt: skip
    known = _running(submitit, manifest) if cluster == "slurm" else {}
    # Slurm keeps an array within its limit itself; the stand-ins start everything at once.
    at_once = None if cluster == "slurm" else min(array_parallelism, os.cpu_count() or 1)
    for stage in _stages(manifest, at_once):
        left = set(unfinished(manifest))
        numbers = [n for n in stage if n in left and n not in known]
        arrays = [numbers[i : i + array_size] for i in range(0, len(numbers), array_size)]
        slurm["slurm_array_parallelism"] = max(1, array_parallelism // max(1, len(arrays)))
        submitted: dict[int, Any] = {}
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=timeouts)
            settings = {**general, **slurm} if cluster == "slurm" else general
            executor.update_parameters(**{k: v for k, v in settings.items() if v is not None})
            for array in arrays:
                jobs = dict(zip(array, _submit(executor, manifest, array), strict=True))
                if cluster == "slurm":  # one by one: where the next one is refused, these are not submitted twice
                    _note_jobs(manifest, jobs)
                submitted.update(jobs)
        except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
            raise EmotionCircuitsError(
                f"Slurm did not take the jobs: {' '.join(str(error).split())[:300]}",
                "check --runner-options (partition, account, timeout_min …) with `sinfo` and `sacctmgr`, array_size"
                " with `scontrol show config`",
            ) from error
        if submitted:
            tell(f"{len(submitted)} jobs submitted to {cluster}; logs in {folder}")
            if cluster == "slurm":
                tell(f"they go on where this command is stopped; `scancel --name={_job_name(manifest)}` ends them")
        awaited = {**submitted, **{n: known[n] for n in stage if n in known}}
        if cluster == "slurm":
            _watch(manifest, awaited, tell)
        else:
            for number, job in awaited.items():
                job.wait()
                _ended(manifest, number, job, tell)


def _submit(executor: Any, manifest: Manifest, numbers: Sequence[int]) -> list[Any]:
    """One array for these shards."""
    jobs: list[Any] = []
    with executor.batch(allow_implicit_submissions=True):
        jobs.extend(executor.submit(ShardJob(str(manifest.path), number)) for number in numbers)
    return jobs


def _note_jobs(manifest: Manifest, jobs: Mapping[int, Any]) -> None:
    """Add jobs to those that a later call waits for."""
    path = manifest.folder / JOBS
    write_json(path, {**(read_json(path) if path.exists() else {}), **{str(n): j.job_id for n, j in jobs.items()}})


def _stages(manifest: Manifest, at_once: int | None) -> Iterator[Sequence[int]]:
    """Shards that wait for nothing, then those that wait for them; not more than ``at_once`` in one go."""
    numbers = range(len(manifest.shards))
    for stage in ([n for n in numbers if not manifest.shards[n].after],
                  [n for n in numbers if manifest.shards[n].after]):  # fmt: skip
        if stage:
            size = at_once or len(stage)
            yield from (stage[i : i + size] for i in range(0, len(stage), size))


def _running(submitit: Any, manifest: Manifest) -> dict[int, Any]:
    """Jobs of an earlier call that are still in the queue."""
    path = manifest.folder / JOBS
    if not path.exists():
        return {}
    queue = _queue(manifest)  # where it is unknown, noted jobs count as running: nothing is submitted twice
    jobs = {int(n): submitit.SlurmJob(folder=manifest.folder / "slurm", job_id=i) for n, i in read_json(path).items()}
    return {n: job for n, job in jobs.items()
            if not job.paths.result_pickle.exists() and (queue is None or job.job_id in queue)}  # fmt: skip


def _queue(manifest: Manifest) -> set[str] | None:
    """Ids of this manifest's jobs that wait or run; None when Slurm does not answer.

    The queue and not the accounts (`sacct`), which is where submitit looks: a cluster may keep none, and a job that was
    killed would then be waited for without end.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--name={_job_name(manifest)}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("squeue does not answer, so a job that was killed would be waited for: %s", error)
        return None
    return set(found.stdout.split())


def _job_name(manifest: Manifest) -> str:
    return f"emotion-circuits-{manifest.key}"


def _watch(manifest: Manifest, jobs: Mapping[int, Any], tell: Tell, pause: Pause = time.sleep) -> None:
    """Return when every job has left a result, or has twice not been in the queue without leaving one."""
    left, missing = dict(jobs), set[int]()
    looked = time.monotonic()
    while left:
        for number, job in list(left.items()):
            if job.paths.result_pickle.exists():
                del left[number]
                _ended(manifest, number, job, tell)
        due = time.monotonic() - looked >= QUEUE_SECONDS
        if due:  # also where it does not answer: a busy controller is not asked more often for it
            looked = time.monotonic()
        if due and (queue := _queue(manifest)) is not None:
            absent = {number for number, job in left.items() if job.job_id not in queue}
            for number in sorted(absent & missing):
                _lost(manifest, number, left.pop(number), "it is in the queue no more and left no result", tell)
            missing = absent
        if left:
            pause(LOOK_SECONDS)


def _ended(manifest: Manifest, number: int, job: Any, tell: Tell) -> None:
    """Tell how a job ended that left a result, or that submitit started here."""
    failure = job.exception()
    if failure is None:
        tell_end(manifest, number, job.result(), Path(job.paths.stderr), tell)
    elif reason := _end_of_trace(str(failure)):
        _lost(manifest, number, job, reason, tell, f"failed: {reason}")
    else:
        _lost(manifest, number, job, " ".join(str(failure).split())[:300], tell)


def _end_of_trace(message: str) -> str:
    """The last line of the trace that submitit puts between two lines of dashes; empty when there is none."""
    rule = "-" * 22
    lines = message.partition(rule)[2].rpartition(rule)[0].split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _lost(
    manifest: Manifest, number: int, job: Any, reason: str, tell: Tell, how: str = "ended without a result"
) -> None:
    tell(f"shard {number} ({_models(manifest, number)}) was lost: {reason}")
    give_up(manifest, number, f"its job {job.job_id} {how}; its log is {job.paths.stderr}",
            "look at the log and `sacct`, then run the same command again: it resumes")  # fmt: skip


def _models(manifest: Manifest, number: int) -> str:
    return " → ".join(manifest.shards[number].models)
