"""Shards as processes on this machine: as many at a time as processors, GPUs and memory allow."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from emotion_circuits.experiments._crew import Crew
from emotion_circuits.experiments._speed import usable_cores
from emotion_circuits.models.memory import UNLIMITED
from emotion_circuits.runners.backend import ATTEMPTS, Tell, give_up, tell_end, unfinished
from emotion_circuits.runners.manifest import Manifest

LOOK_SECONDS = 0.2
STOP_SECONDS = 20.0
PROCESS_BYTES = 800_000_000
"""Resident memory of a process with torch and transformers and the batches of a small model."""

Command = Callable[[Manifest, int], Sequence[str]]


def worker_command(manifest: Manifest, number: int) -> Sequence[str]:
    """What starts the process of one shard."""
    return [sys.executable, "-m", "emotion_circuits.runners.worker", str(manifest.path), str(number)]


@dataclass
class _Pool:
    """Processes that run now, by shard, in ``memory`` bytes that were free before the first of them.

    ``limit`` falls when the system ends one of them for want of memory. ``asked``: the number of threads was, and
    stands above what the environment says.
    """

    limit: int
    threads: int
    asked: bool
    gpus: int
    memory: int
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    on_gpu: dict[int, int] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)


def run_local(
    manifest: Manifest,
    tell: Tell,
    *,
    workers: int | None = None,
    threads: int | None = None,
    command: Command = worker_command,
) -> None:
    """Run all shards in processes of their own; returns when every one has ended.

    Args:
        workers: processes at a time (default: as many as processors, or GPUs, and free memory for their models allow;
            one where each spreads its model over the GPUs).
        threads: of each process (default: OMP_NUM_THREADS, else the processors shared out). command: starts a shard
            (for tests).

    Raises:
        StoreError: the shared folder has gone.
    """
    waiting = unfinished(manifest)
    if not waiting:
        return
    pool = _pool(manifest, waiting, workers, threads)
    shards = "1 shard" if len(waiting) == 1 else f"{len(waiting)} shards, {pool.limit} at a time"
    tell(f"{shards}; logs in {manifest.folder / 'logs'}")
    shared = Crew(marker=manifest.path)
    ended: set[int] = set(range(len(manifest.shards))) - set(waiting)
    with _stopping(pool):
        while waiting or pool.running:
            while (number := _next(manifest, waiting, ended, pool)) is not None:
                shared.require_folder()  # the next shard's log would make it anew, on this machine's own disk
                waiting.remove(number)
                pool.running[number] = _start(manifest, number, pool, command)
            time.sleep(LOOK_SECONDS)
            for number, code in _ended(pool):
                if _again(manifest, number, code, pool, tell):
                    waiting.insert(0, number)
                else:
                    ended.add(number)


def _next(manifest: Manifest, waiting: Sequence[int], ended: set[int], pool: _Pool) -> int | None:
    """The first shard that may start now; the first process of all is always tried."""
    if len(pool.running) >= pool.limit:
        return None
    ready = (n for n in waiting if ended.issuperset(manifest.shards[n].after))
    return next((n for n in ready if not pool.running or _fits(manifest, n, pool)), None)


def _fits(manifest: Manifest, number: int, pool: _Pool) -> bool:
    """Whether a shard may run beside those that run now; of models whose size is not known, one at a time."""
    if pool.memory >= UNLIMITED:
        return True
    needs = [_need(manifest, n, pool.gpus) for n in (number, *pool.running)]
    if needs[0] is None and None in needs[1:]:
        return False
    return sum(need or PROCESS_BYTES for need in needs) <= pool.memory


def _pool(manifest: Manifest, waiting: Sequence[int], workers: int | None, threads: int | None) -> _Pool:
    cores = usable_cores()
    gpus = _gpus(manifest)
    # A model that is spread over the GPUs wants all of them: a second one would find them full.
    limit = min(len(waiting), workers or gpus or (1 if _spread(manifest) else cores))
    memory = UNLIMITED if workers else free_memory()  # a number that was asked for is taken
    needs = [_need(manifest, n, gpus) for n in waiting]
    if not gpus and not workers and not any(needs):
        limit = 1
    smallest = min(need or PROCESS_BYTES for need in needs)
    limit = max(1, min(limit, memory // smallest))
    return _Pool(limit, threads or max(1, cores // limit), threads is not None, gpus, memory)


def _gpus(manifest: Manifest) -> int:
    """GPUs to hand out, one a process; 0 where the device is another, or one model is spread over several."""
    if manifest.work.loading.get("device") not in ("auto", "cuda") or manifest.work.loading.get("device_map"):
        return 0
    import torch

    return torch.cuda.device_count()


def _spread(manifest: Manifest) -> bool:
    """Whether each process spreads its model over all GPUs of this machine."""
    if not manifest.work.loading.get("device_map"):
        return False
    import torch

    return torch.cuda.is_available()


def _need(manifest: Manifest, number: int, gpus: int) -> int | None:
    return memory_beside_gpu(manifest, number) if gpus else memory_of(manifest, number)


def memory_beside_gpu(manifest: Manifest, number: int) -> int | None:
    """Main memory of a shard whose weights are read straight into a GPU's: the program, and an untrained twin while it
    is drawn; None where its size is unknown."""
    twin = _twin(manifest, number)
    return None if twin is None else PROCESS_BYTES + twin


def memory_of(manifest: Manifest, number: int) -> int | None:
    """Main memory that a shard's process takes: the program, and the larger of its models with what is laid out of it
    for faster products, or an untrained twin while it is drawn; None where a size is unknown."""
    import torch

    from emotion_circuits.models.packing import copies_at_most
    from emotion_circuits.models.products import multiplies_faster

    loading = manifest.work.loading
    sources = (manifest.work.sources[model] for model in manifest.shards[number].models)
    sizes = [_weights(source, loading.get("dtype") or "float32") for source in sources]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    faster = multiplies_faster(getattr(torch, loading.get("dtype") or "float32"))
    used = max(known) + (copies_at_most(max(known)) if faster else 0)
    return PROCESS_BYTES + max(used, _twin(manifest, number) or 0)


def _twin(manifest: Manifest, number: int) -> int | None:
    """Main memory that the untrained twin of a shard's target takes while it is drawn, in float32; 0 without a twin."""
    shard = manifest.shards[number]
    if manifest.drawing.isdisjoint(manifest.cells[c].experiment for c in shard.cells):
        return 0
    return _weights(manifest.work.sources[shard.models[-1]], "float32")


@functools.cache
def _weights(source: str, dtype: str) -> int | None:
    from emotion_circuits.models.preflight import weight_bytes_of_source

    return weight_bytes_of_source(source, {"dtype": dtype})


def free_memory() -> int:
    """Free memory of this machine, in bytes, within the limit of its container."""
    import torch

    from emotion_circuits.models.memory import free_bytes

    return free_bytes(torch.device("cpu"))


def _start(manifest: Manifest, number: int, pool: _Pool, command: Command) -> subprocess.Popen[bytes]:
    environment = {**os.environ}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if pool.asked or name not in environment:
            environment[name] = str(pool.threads)
    if pool.gpus > 1:
        gpu = min(range(pool.gpus), key=lambda g: list(pool.on_gpu.values()).count(g))
        pool.on_gpu[number] = gpu
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if len(visible) > gpu and visible[gpu] else str(gpu)
    with _log(manifest, number) as log:
        return subprocess.Popen(command(manifest, number), stdout=log, stderr=log, env=environment)


def _log(manifest: Manifest, number: int) -> IO[bytes]:
    from emotion_circuits.store.files import make_folder

    file = _log_file(manifest, number)
    make_folder(file.parent)
    return file.open("ab")


def _log_file(manifest: Manifest, number: int) -> Path:
    return manifest.folder / "logs" / f"shard-{number:04d}.log"


def _ended(pool: _Pool) -> Iterator[tuple[int, int]]:
    for number, process in list(pool.running.items()):
        code = process.poll()
        if code is not None:
            del pool.running[number]
            pool.on_gpu.pop(number, None)
            yield number, code


def _again(manifest: Manifest, number: int, code: int, pool: _Pool, tell: Tell) -> bool:
    """Whether a shard is to be begun again: its process was ended from outside, and not too often."""
    names = " → ".join(manifest.shards[number].models)
    if code in (0, 1, 2, 3):
        tell_end(manifest, number, code, _log_file(manifest, number), tell)
        return False
    pool.attempts[number] = pool.attempts.get(number, 0) + 1
    how = f"signal {-code}" if code < 0 else f"code {code}"
    if code == -signal.SIGKILL:  # what the system sends when memory runs out
        pool.limit = max(1, pool.limit - 1)
    if pool.attempts[number] < ATTEMPTS:
        tell(f"shard {number} ({names}) was ended by {how}: beginning it again, {pool.limit} at a time")
        return True
    tell(f"shard {number} ({names}) was ended by {how} {ATTEMPTS} times")
    give_up(
        manifest, number, f"its process was ended by {how} {ATTEMPTS} times; its log is {_log_file(manifest, number)}",
        "if memory ran out: a smaller --rows, --dtype bfloat16, --device-map auto, or --runner-options workers=1",
    )  # fmt: skip
    return False


@contextmanager
def _stopping(pool: _Pool) -> Iterator[None]:
    """Take the processes along when this one is stopped, by Ctrl-C or SIGTERM; what they finished stays."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminated) if main else None
    try:
        yield
    finally:
        for process in pool.running.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in pool.running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
