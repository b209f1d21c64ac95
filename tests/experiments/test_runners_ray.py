"""Shards on a real Ray cluster of several processes on this machine, one of whose nodes dies."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runner_worker
from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError
from emotion_circuits.experiments import Failure, load_profile, run_study
from emotion_circuits.models import load_lm
from emotion_circuits.runners import Manifest, collect, plan_study, shard, states
from emotion_circuits.runners import ray as ray_module
from emotion_circuits.runners.local import PROCESS_BYTES
from emotion_circuits.runners.ray import _run, run_ray
from emotion_circuits.runners.state import claims_of, forget_failure
from emotion_circuits.store import Store

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[ray]')")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of Ray itself: unclosed sockets and pipes, and its own deprecations
]
LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": True}
STORE_BYTES = 100_000_000
MOST_SECONDS = 150.0


@pytest.fixture(scope="module")
def profile_of_captures(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    path = tmp_path_factory.mktemp("profiles") / "captures.toml"
    path.write_text(f'models = ["{model}"]\n[[experiment]]\nname = "extract"\n', encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without processors for us, and two nodes of one processor: three sets of Ray's own processes."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES,
                                                         "include_dashboard": False})  # fmt: skip
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        made.shutdown()


def plan(profile: Path, results: Path, shards: int) -> Manifest:
    chosen = load_profile(str(profile))
    return plan_study(chosen, chosen.models, results, shards=shards, rows=2, loading=LOADING).write()


def alone(profile: Path, results: Path) -> None:
    chosen = load_profile(str(profile))
    assert not run_study(chosen, chosen.models, Store(results), lambda m: load_lm(m, device="cpu"), rows=2).failures


def test_a_node_dies_and_its_shard_is_finished_elsewhere(
    cluster: Any, profile_of_captures: Path, tmp_path: Path
) -> None:
    doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    manifest = plan(profile_of_captures, tmp_path / "together", 1)
    told: list[str] = []
    driver = threading.Thread(target=run_ray, args=(manifest, told.append), kwargs={"address": cluster.address})
    driver.start()
    deadline = time.monotonic() + MOST_SECONDS
    while not any(state.workers for state in states(manifest)):
        assert time.monotonic() < deadline and driver.is_alive(), told
        driver.join(0.05)
    cluster.remove_node(doomed, allow_graceful=False)
    assert {state.status for state in states(manifest)} <= {"running", "waiting"}, "it dies in the middle"
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    driver.join(MOST_SECONDS)
    assert not driver.is_alive() and not collect(manifest).failures, told
    assert {state.status for state in states(manifest)} == {"done"}
    alone(profile_of_captures, tmp_path / "alone")
    assert runner_worker.numbers(tmp_path / "together") == runner_worker.numbers(tmp_path / "alone")


def test_no_cluster_at_the_address(profile_of_captures: Path, tmp_path: Path) -> None:
    with pytest.raises(EmotionCircuitsError, match="no Ray cluster answers"):
        run_ray(plan(profile_of_captures, tmp_path, 1), lambda line: None, address="127.0.0.1:1")


class Cluster:
    """Stands in for Ray: a task is computed when it is asked for; ``broken`` ones raise as Ray does."""

    exceptions = ray.exceptions

    def __init__(self, broken: int) -> None:
        self.broken = broken

    def nodes(self) -> list[Any]:
        return []

    def remote(self, max_calls: int) -> Any:
        return lambda function: SimpleNamespace(
            options=lambda **_: SimpleNamespace(remote=lambda *args: functools.partial(function, *args))
        )

    def wait(self, left: list[Any], num_returns: int, timeout: float | None) -> Any:
        return left[:num_returns], left[num_returns:]

    def get(self, task: Any) -> Any:
        if task.args[1] == self.broken:
            raise ray.exceptions.RayTaskError("_shard", "Traceback …", KeyError("layer"), "title", 1, "127.0.0.1")
        return task()


def test_what_ends_a_task_outside_of_its_cells_is_told(profile_of_captures: Path, tmp_path: Path) -> None:
    """An error of ours with its exit code, and what nobody foresaw by its name."""
    manifest = plan(profile_of_captures, tmp_path, 1)
    manifest.path.write_text(manifest.path.read_text().replace('"schema":1', '"schema":99'))
    told: list[str] = []
    _run(Cluster(-1), manifest, [0], told.append, 1.0, 0.0, None)
    (failure,) = collect(manifest).failures
    assert "written by another version" in failure.error.what and "use one version" in failure.error.fix
    assert "its process ended with code 1: " in failure.error.what and "session_latest" in failure.error.what
    assert "ended with code 1: " in told[0] and "written by another version" in told[0]
    forget_failure(manifest, manifest.cells[0])
    _run(Cluster(0), manifest, [0], told.append, 1.0, 0.0, None)
    (failure,) = collect(manifest).failures
    assert "ended with code 1: KeyError: 'layer'" in failure.error.what and "session_latest" in failure.error.what
    assert "ended with code 1: KeyError" in told[1]


def test_a_failure_that_a_task_cannot_note_is_noted_here(
    profile_of_captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of its node is full, and nobody reads its log; a note of its own stays."""
    manifest = plan(profile_of_captures, tmp_path, 1)
    cell, error = manifest.cells[0], UsageError("no such layer", "choose another")
    told: list[str] = []
    monkeypatch.setattr(shard, "attempt", lambda model, experiment, run: Failure(model, experiment, error))
    with monkeypatch.context() as full:
        full.setattr(shard, "write_failed", lambda *_: raised(StoreError("cannot write it: the disk is full", "")))
        _run(Cluster(-1), manifest, [0], told.append, 1.0, 0.0, None)
    (failure,) = collect(manifest).failures
    assert failure.error.what.startswith(f"{cell.shown}: its process ended with code 2: no such layer; its log is on ")
    assert (failure.error.fix, failure.error.exit_code) == ("choose another", 2)
    assert told[0].endswith("ended with code 2: no such layer")
    forget_failure(manifest, cell)
    _run(Cluster(-1), manifest, [0], told.append, 1.0, 0.0, None)
    assert collect(manifest).failures[0].error.what == "no such layer" and told[1].endswith("ended with code 2")


def raised(error: Exception) -> None:
    raise error


class Noting:
    """In the place of Ray: notes what tasks ask for, and finishes them at once."""

    class exceptions:  # noqa: N801 - as Ray names it
        RayError = OSError

    def __init__(self, gpus: int, memory: float) -> None:
        self.resources = {"CPU": 4.0, "GPU": gpus}
        self.taken: list[float] = []
        self.slow = 0
        self.asked: list[dict[str, Any]] = []
        self._nodes = [
            {"Alive": True, "Resources": {"memory": memory}},
            {"Alive": False, "Resources": {"memory": 1e15}},
        ]

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def available_resources(self) -> dict[str, float]:
        """What is left of the nodes' processors beside ``taken``, from one question to the next; none is not named."""
        there = sum(node["Resources"].get("CPU", 0.0) for node in self._nodes if node["Alive"])
        taken = (self.taken.pop(0) if len(self.taken) > 1 else self.taken[0]) if self.taken else 0.0
        return {key: n for key, n in {**self.resources, "CPU": there - taken}.items() if n}

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def remote(self, *args: Any, **options: Any) -> Any:
        return (lambda function: self) if options else len(self.asked)

    def options(self, **options: Any) -> Noting:
        self.asked.append(options)
        return self

    def wait(self, left: list[int], num_returns: int, timeout: float | None) -> tuple[list[int], list[int]]:
        """Nothing ends within the first ``slow`` limits of time."""
        if timeout is not None and self.slow:
            self.slow -= 1
            return [], left
        return left[:1], left[1:]

    def get(self, handle: int) -> tuple[int, str, str]:
        return 0, "", ""


@pytest.mark.parametrize(
    ("device", "gpus", "options", "expected"),
    [
        ("auto", 2, {}, (1.0, PROCESS_BYTES)),
        ("cuda", 2, {"gpus": 0.5}, (0.5, PROCESS_BYTES)),
        ("auto", 2, {"gpus": 0.0}, (0.0, 5_000_000_000)),
        ("auto", 0, {}, (0.0, 5_000_000_000)),
        ("cpu", 2, {}, (0.0, 5_000_000_000)),
        ("cpu", 0, {"mem_gb": 12.0}, (0.0, 12_000_000_000)),
    ],
)
def test_a_task_reserves_the_gpu_and_the_memory_that_it_takes(
    profile_of_captures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    gpus: int,
    options: dict[str, float],
    expected: tuple[float, int],
) -> None:
    monkeypatch.setattr(ray_module, "memory_of", lambda manifest, number: 5_000_000_000)
    manifest = plan(profile_of_captures, tmp_path, 2)
    object.__setattr__(manifest.work, "loading", {**LOADING, "device": device})
    noting = Noting(gpus, 20e9)
    arguments = {"gpus": None, "mem_gb": None, **options}
    ray_module._run(noting, manifest, [0, 1], lambda line: None, 1.0, **arguments)
    assert [(task["num_gpus"], task["memory"]) for task in noting.asked] == [expected] * 2


@pytest.mark.parametrize(
    ("nodes", "shards", "asked", "expected"),
    [
        ([8], 1, None, 8), ([8], 3, None, 2), ([8], 20, None, 1), ([0, 4, 4], 3, None, 2), ([1, 7], 2, None, 3),
        ([], 2, None, 1), ([8], 1, 3.0, 3),
    ],
)  # fmt: skip
def test_shards_share_the_processors_of_the_nodes(
    profile_of_captures: Path, tmp_path: Path, nodes: list[int], shards: int, asked: float | None, expected: int
) -> None:
    """As many threads as processors, and no shard waits for a place that a smaller share would have given it."""
    noting = Noting(0, 20e9)
    noting._nodes = [{"Alive": True, "Resources": {"CPU": float(n)}} for n in nodes]
    manifest = plan(profile_of_captures, tmp_path, shards)
    ray_module._run(noting, manifest, list(range(shards)), lambda line: None, asked, None, None)
    assert [task["num_cpus"] for task in noting.asked] == [expected] * shards
    threads = [task["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] for task in noting.asked]
    assert threads == [str(expected)] * shards


@pytest.mark.parametrize(
    ("nodes", "taken", "shards", "expected"),
    [
        ([64], [1], 1, 63), ([64], [1], 3, 21), ([64], [60], 1, 4), ([64], [64], 1, 1), ([64], [60], 8, 1),
        ([64, 64], [1], 1, 64), ([64, 64], [64], 1, 32), ([64, 64], [1], 2, 63), ([8, 8], [2], 2, 6),
        ([64], [64, 0], 1, 64), ([64], [1, 32], 1, 32),
    ],
)  # fmt: skip
def test_what_others_hold_is_not_shared_out(
    profile_of_captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: list[int], taken: list[float],
    shards: int, expected: int,
) -> None:  # fmt: skip
    """Wherever on the nodes they hold it; and a cluster's first word of it may be a second old."""
    monkeypatch.setattr(ray_module, "LAG_SECONDS", 0.0)
    noting = Noting(0, 20e9)
    noting._nodes = [{"Alive": True, "Resources": {"CPU": float(n)}} for n in nodes]
    noting.taken = taken
    manifest = plan(profile_of_captures, tmp_path, shards)
    ray_module._run(noting, manifest, list(range(shards)), lambda line: None, None, None, None)
    assert [task["num_cpus"] for task in noting.asked] == [expected] * shards


@pytest.mark.parametrize(
    ("taken", "cpus", "gpus", "said"),
    [
        (6.0, 4.0, 0.0, "for a place of 4 processors: 2 of 8 processors are free; to take less, end this and add "
                        "--runner-options cpus=1: it resumes"),
        (8.0, 1.0, 0.0, "for a place of 1 processor: 0 of 8 processors are free"),
        (0.0, 1.0, 3.0, "for a place of 1 processor and 3 GPUs: 8 of 8 processors and 2 of 2 GPUs are free; to take "
                        "less, end this and add --runner-options gpus=1: it resumes"),
        (4.0, 4.0, 0.0, None),
    ],
)  # fmt: skip
def test_shards_that_wait_for_a_place_are_told_once(
    profile_of_captures: Path, tmp_path: Path, taken: float, cpus: float, gpus: float, said: str | None
) -> None:
    manifest, told = plan(profile_of_captures, tmp_path, 2), list[str]()
    noting = Noting(2, 20e9)
    noting._nodes, noting.resources = [{"Alive": True, "Resources": {"CPU": 8.0}}], {"CPU": 8.0, "GPU": 2.0}
    noting.taken, noting.slow = [taken], 3
    ray_module._run(noting, manifest, [0, 1], told.append, cpus, gpus, None)
    assert [line for line in told if "for a place" in line] == ([f"shards 0, 1 each wait {said}"] if said else [])
    noting.slow = 1
    with claims_of(manifest, 15.0, 180.0).take(f"{manifest.cells[0].id}-1") or contextlib.nullcontext():
        ray_module._run(noting, manifest, [0, 1], told.append, cpus, gpus, None)
    assert (f"shard 0 waits {said}" in told) == (said is not None), "somebody works on the other"


@pytest.mark.parametrize(("known", "reserved"), [(None, None), (50_000_000_000, 18_000_000_000)])
def test_what_no_node_holds_gets_a_node_for_itself(
    profile_of_captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int | None, reserved: int | None
) -> None:
    """A task that asks for more than any node has would wait for ever, and nobody would be told."""
    monkeypatch.setattr(ray_module, "memory_of", lambda manifest, number: known)
    noting, told = Noting(0, 20e9), []
    ray_module._run(noting, plan(profile_of_captures, tmp_path, 1), [0], told.append, 1.0, None, None)
    assert noting.asked[0]["memory"] == reserved
    assert any("largest node (20.0 GB)" in line for line in told) == (known is not None)
    ray_module._run(noting, plan(profile_of_captures, tmp_path, 1), [0], told.append, 1.0, None, 64.0)
    assert noting.asked[1]["memory"] == 64_000_000_000 and any("waits for a node with 64 GB" in line for line in told)
