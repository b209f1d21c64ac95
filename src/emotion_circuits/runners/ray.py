"""Shards as tasks of a Ray cluster: one that exists, by address, or one on this machine."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.runners.backend import ATTEMPTS, Tell, give_up, not_installed, tell_code, unfinished
from emotion_circuits.runners.local import memory_beside_gpu, memory_of
from emotion_circuits.runners.manifest import Manifest, read_manifest
from emotion_circuits.runners.state import shards_at_work

ANSWER_SECONDS = 10.0
LOGS = "its log is on its node, below /tmp/ray/session_latest/logs"
LAG_SECONDS = 1.5
"""How long a cluster may tell of free processors that are taken, or the reverse."""
PATIENCE_SECONDS = 30.0
"""After this long the user is told which shards have no place: a process that has one works on a cell by then."""
MOST_OF_A_NODE = 0.9
"""What a shard reserves that no node holds: nothing runs beside it, and a node that is a little smaller will do."""


def run_ray(
    manifest: Manifest,
    tell: Tell,
    *,
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    mem_gb: float | None = None,
    store_gb: float = 0.2,
) -> None:
    """Run all shards as Ray tasks; a task whose node died is begun again elsewhere. Returns when all have ended.

    Every node has to see the results folder under the same path, and the package in the same version.

    Args:
        address: of a cluster (``auto``: the one this machine belongs to; ``host:port``; ``ray://host:port``); without
            one, a cluster is started here and stopped afterwards. cpus: that a shard takes, and as many threads
            (default: the nodes' free processors shared out). gpus: likewise (default: one, where the cluster has any
            and the device asked for is ``auto`` or ``cuda``). mem_gb: main memory of a shard (default: what its model
            takes, where that is known). store_gb: shared memory of a cluster that is started here; results go through
            the folder, so that little is needed.

    Raises:
        UsageError: Ray is not installed. EmotionCircuitsError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a research tool does not report its use
    try:
        import ray
    except ImportError as error:
        raise not_installed("ray", "ray") from error
    waiting = unfinished(manifest)
    if not waiting:
        return
    cluster: Any = ray
    owned = not cluster.is_initialized()
    if owned:
        _connect(cluster, address, int(store_gb * 1e9))
    try:
        tell(f"{len(waiting)} shards on a Ray cluster of {cluster.cluster_resources().get('CPU', 0):g} processors")
        _run(cluster, manifest, waiting, tell, cpus, gpus, mem_gb)
    finally:
        if owned:
            cluster.shutdown()


def _connect(ray: Any, address: str | None, store: int) -> None:
    here = {"include_dashboard": False, "object_store_memory": store} if address is None else {}
    try:
        if address is not None:
            _require_answer(address)
        ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **here)
    except (OSError, RuntimeError, ValueError) as error:
        raise EmotionCircuitsError(
            f"no Ray cluster answers at {address or 'this machine'}: {str(error).splitlines()[0]}",
            "start one (`ray start --head`), or leave out address= to start one here",
        ) from error


def _require_answer(address: str) -> None:
    """Raise :class:`OSError` when nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


def _run(
    ray: Any, manifest: Manifest, waiting: list[int], tell: Tell, cpus: float | None, gpus: float | None,
    mem_gb: float | None,
) -> None:  # fmt: skip
    if cpus is None:
        cpus = _cpus(ray, len(waiting))
    if gpus is None:
        gpus = _gpus(ray, manifest)
    environment = {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(cpus)))}}
    # One shard a process: the next one begins with free memory.
    task = ray.remote(max_calls=1)(_shard)
    handles: dict[int, Any] = {}
    for number in waiting:  # shards stand behind those that they come after
        memory = _memory(ray, manifest, number, tell, gpus, mem_gb)
        wanted = task.options(
            num_cpus=cpus, num_gpus=gpus, memory=memory, max_retries=ATTEMPTS, runtime_env=environment
        )
        after = [handles[n] for n in manifest.shards[number].after if n in handles]
        handles[number] = wanted.remote(str(manifest.path), number, *after)
    numbers = {handle: number for number, handle in handles.items()}
    left = list(numbers)
    patience: float | None = PATIENCE_SECONDS
    unseen = set(waiting)
    while left:
        ended, left = ray.wait(left, num_returns=1, timeout=patience)
        if not ended:
            still = {numbers[handle] for handle in left}
            unseen = unseen & still - shards_at_work(manifest)
            placeless = [n for n in sorted(unseen) if still.isdisjoint(manifest.shards[n].after)]
            if placeless and _tell_waiting(ray, placeless, tell, cpus, gpus):
                patience = None  # once is enough
            continue
        number = numbers[ended[0]]
        names = " → ".join(manifest.shards[number].models)
        try:
            code, what, fix = ray.get(ended[0])
            tell_code(manifest, number, code, what, fix, LOGS, tell)
        except ray.exceptions.RayTaskError as error:  # a defect, or a node without the package
            what = " ".join(f"{type(error.cause).__name__}: {error.cause}".split())[:300]
            tell_code(manifest, number, 1, what, "", LOGS, tell)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            tell(f"shard {number} ({names}) was lost: {reason}")
            give_up(manifest, number, f"Ray lost its task {ATTEMPTS + 1} times ({reason})",
                    "look at `ray status`, then run the same command again: it resumes")  # fmt: skip


def _cpus(ray: Any, shards: int) -> float:
    """Processors of a shard where nobody said how many: the most with which all shards find a place at once.

    Others may hold some of them, and which node's is not told: wherever they are, there has to be a place.
    """
    nodes = _processors(ray)
    taken = sum(nodes) - _free_processors(ray, sum(nodes))
    enough = (n for n in range(max(nodes, default=1), 1, -1) if _places(nodes, taken, n) >= shards)
    return float(next(enough, 1))


def _processors(ray: Any) -> list[int]:
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def _free_processors(ray: Any, there: int) -> int:
    """How many of the cluster's processors nobody has reserved, by its second word where the first says some are."""
    free = int(ray.available_resources().get("CPU", 0))
    if free < there:
        time.sleep(LAG_SECONDS)
        free = int(ray.available_resources().get("CPU", 0))
    return min(free, there)


def _places(nodes: Sequence[int], taken: int, size: int) -> int:
    """Shards of ``size`` processors that find a place, however the ``taken`` processors lie on the nodes."""
    # A node loses its first place with one processor more than its places leave over, and another with each `size`.
    costs = sorted(cost for n in nodes for cost in [n % size + 1, *[size] * (n // size - 1)][: n // size])
    for lost, cost in enumerate(costs):
        taken -= cost
        if taken < 0:
            return len(costs) - lost
    return 0


def _tell_waiting(ray: Any, shards: Sequence[int], tell: Tell, cpus: float, gpus: float) -> bool:
    """Tell of shards that nobody works on, and of what would give them a place; False where the cluster has one."""
    free: Mapping[str, float] = ray.available_resources()
    if not _is_short(free, cpus, gpus, _processors(ray)):
        return False
    there = ray.cluster_resources()
    wanted = [(key, what, n) for key, what, n in (("CPU", "processor", cpus), ("GPU", "GPU", gpus)) if n]
    place = " and ".join(f"{amount:g} {what}{'s' * (amount != 1)}" for _, what, amount in wanted)
    has = " and ".join(f"{free.get(key, 0):g} of {there.get(key, 0):g} {what}s" for key, what, _ in wanted)
    less = " ".join(["cpus=1"] * (cpus > 1) + ["gpus=1"] * (gpus > 1))
    fix = f"; to take less, end this and add --runner-options {less}: it resumes" if less else ""
    which = f"shards {', '.join(map(str, shards))} each wait" if len(shards) > 1 else f"shard {shards[0]} waits"
    tell(f"{which} for a place of {place}: {has} are free{fix}")
    return True


def _is_short(free: Mapping[str, float], cpus: float, gpus: float, nodes: Sequence[int]) -> bool:
    """Whether a shard may find no place: too little is free, or it may lie in pieces on several nodes."""
    taken = max(0, sum(nodes) - int(free.get("CPU", 0)))
    return free.get("GPU", 0) < gpus or _places(nodes, taken, math.ceil(cpus)) < 1


def _gpus(ray: Any, manifest: Manifest) -> float:
    """GPUs of a shard where nobody said how many: Ray shows a task no more of them than it reserves."""
    device = str(manifest.work.loading.get("device")).partition(":")[0]
    return 1.0 if device in ("auto", "cuda") and ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def _memory(ray: Any, manifest: Manifest, number: int, tell: Tell, gpus: float, mem_gb: float | None) -> int | None:
    """Main memory that is reserved for a shard, in bytes; None where its model's size is not known."""
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    names = " → ".join(manifest.shards[number].models)
    if mem_gb is not None:
        if mem_gb * 1e9 > largest:
            tell(f"shard {number} ({names}) waits for a node with {mem_gb:g} GB: the largest has {largest / 1e9:.1f}")
        return int(mem_gb * 1e9)
    needed = memory_beside_gpu(manifest, number) if gpus else memory_of(manifest, number)
    if needed is None or not largest:  # a cluster that tells nothing of its nodes reserves nothing
        return None
    if needed <= largest:
        return needed
    tell(f"shard {number} ({names}) may take {needed / 1e9:.1f} GB: it gets the largest node ({largest / 1e9:.1f} GB)")
    return int(MOST_OF_A_NODE * largest)


def _shard(path: str, number: int, *after: object) -> tuple[int, str, str]:
    """One shard in a worker of the cluster: its exit code, why it failed and what to do; ``after`` only makes Ray wait.

    An error is returned for the command that waits: raised, it would end the shards that only come after this one.
    """
    from emotion_circuits.runners.shard import run_shard

    try:
        report = run_shard(read_manifest(Path(path)), number)
    except EmotionCircuitsError as error:
        return error.exit_code, error.what, error.fix
    # Nobody reads a worker's log from here: it may have failed to note this, on a full disk, say.
    failure = report.failure
    return (report.exit_code, failure.error.what, failure.error.fix) if failure else (0, "", "")
