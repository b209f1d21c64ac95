"""Workers that are killed, resumed, reordered and started by any backend leave the tables of one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import runner_worker
from emotion_circuits import engine
from emotion_circuits import models as models_package
from emotion_circuits.errors import StoreError
from emotion_circuits.experiments._crew import Crew
from emotion_circuits.runners import collect, plan_study, read_manifest, run_shard, states

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and the fork server")

LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": True}
BACKENDS = st.sampled_from(["local", "slurm", "ray"])
KILLS = st.none() | st.integers(1, 40)
SHARDS = 3


@pytest.fixture(scope="module", autouse=True)
def _served() -> Iterator[None]:
    """Workers are forked from a server that has imported everything and has no threads."""
    with pytest.MonkeyPatch.context() as patch:
        runner_worker.registered(patch)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(runner_worker.__file__).parent), *sys.path]))
        patch.setenv("OMP_NUM_THREADS", "1")
        context().set_forkserver_preload(["runner_worker"])
        yield


def context() -> multiprocessing.context.ForkServerContext:
    return multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process finds without a runner."""
    results = tmp_path_factory.mktemp("alone")
    process = context().Process(target=runner_worker.alone, args=(str(results),))
    process.start()
    process.join()
    assert process.exitcode == 0
    return dict(runner_worker.numbers(results))


def plan(results: Path) -> Path:
    manifest = plan_study(
        runner_worker.PROFILE, runner_worker.MODELS, results, shards=SHARDS, rows=runner_worker.ROWS, loading=LOADING
    )
    return manifest.write().path


def start(path: Path, number: int, backend: str = "local", kill_at: int | None = None) -> BaseProcess:
    process = context().Process(target=runner_worker.shard, args=(str(path), number, backend, kill_at))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 60) -> int:
    process.join(seconds)
    assert process.exitcode in (0, 1, 3, -signal.SIGKILL), "it hangs"
    return process.exitcode


def parts_written(results: Path) -> list[str]:
    file = results / runner_worker.COMPUTED
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["part"] for line in lines]


def finish(path: Path) -> None:
    """Every shard once more, undisturbed."""
    for number in range(SHARDS):
        assert ended(start(path, number)) == 0
    assert {state.status for state in states(read_manifest(path))} == {"done"}


def test_killed_in_the_middle_of_a_shard_and_resumed(reference: dict[str, bytes], tmp_path: Path) -> None:
    path = plan(tmp_path)
    assert ended(start(path, 0, kill_at=6)) == -signal.SIGKILL
    before = parts_written(tmp_path)
    assert before, "something was finished before the kill"
    statuses = {state.cell.models[0]: state.status for state in states(read_manifest(path))}
    assert statuses == {"one": "waiting", "two": "waiting"}, "the claim of a process that is gone counts for nothing"
    finish(path)
    written = parts_written(tmp_path)
    assert len(written) == len(set(written)), "what was finished is not computed again"
    assert runner_worker.numbers(tmp_path) == reference
    assert [r.read_summary()["verdicts"] for r in collect(read_manifest(path)).runs]


def test_two_workers_at_once_share_the_rows_of_a_model(reference: dict[str, bytes], tmp_path: Path) -> None:
    path = plan(tmp_path)
    first, helper = [n for n, shard in enumerate(read_manifest(path).shards) if shard.models == ("one",)]
    processes = [start(path, first), start(path, helper), start(path, helper)]
    assert [ended(p) for p in processes] == [0, 0, 0]
    finish(path)
    written = parts_written(tmp_path)
    assert len(written) == len(set(written))
    assert runner_worker.numbers(tmp_path) == reference


def test_a_process_without_a_runner_finishes_what_workers_began(reference: dict[str, bytes], tmp_path: Path) -> None:
    path = plan(tmp_path)
    assert ended(start(path, 0, kill_at=10)) == -signal.SIGKILL
    process = context().Process(target=runner_worker.alone, args=(str(tmp_path),))
    process.start()
    assert ended(process) == 0
    assert runner_worker.numbers(tmp_path) == reference


@pytest.mark.parametrize("kind", ["scores", "texts"])
def test_a_folder_that_goes_in_the_middle_of_a_step_is_not_made_anew(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is moved away while a block is computed: the worker ends with that reason, and leaves nothing where it was."""
    results, away = tmp_path / "share", tmp_path / "away"
    manifest = read_manifest(plan(results))
    monkeypatch.setattr(models_package, "load_lm", lambda source, **options: runner_worker.tiny(source))
    name = "score_rows" if kind == "scores" else "generate_rows"
    compute = getattr(engine, name)

    def unmounting(*args: Any, **options: Any) -> Any:
        if results.exists():
            results.rename(away)
        return compute(*args, **options)

    monkeypatch.setattr(engine, name, unmounting)
    crew = Crew(stale=0.3, look_again=0.1)
    with pytest.raises(StoreError, match="has gone"):
        run_shard(manifest, 0, crew=crew)
    assert away.exists() and not results.exists()
    away.rename(results)
    monkeypatch.setattr(engine, name, compute)
    # The claim of this process, which still lives, could not be given back.
    assert run_shard(manifest, 0, crew=crew).exit_code == 0, "it resumes"


def test_a_folder_that_goes_during_the_analysis_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last step and the first file of the answer, where nothing is shared with anybody."""
    results, away = tmp_path / "share", tmp_path / "away"
    manifest = read_manifest(plan(results))
    monkeypatch.setattr(models_package, "load_lm", lambda source, **options: runner_worker.tiny(source))
    analysed = runner_worker.Stub.summarise

    def unmounting(*args: Any) -> Any:
        outcome = analysed(*args)
        results.rename(away)
        return outcome

    monkeypatch.setattr(runner_worker.Stub, "summarise", unmounting)
    crew = Crew(stale=0.3, look_again=0.1)
    with pytest.raises(StoreError, match="has gone"):
        run_shard(manifest, 0, crew=crew)
    assert not results.exists() and not list(away.glob("*/*/*/*/done.json"))
    away.rename(results)
    monkeypatch.setattr(runner_worker.Stub, "summarise", analysed)
    assert run_shard(manifest, 0, crew=crew).exit_code == 0, "it resumes"


def test_a_driver_that_is_killed_leaves_workers_that_the_next_call_joins(
    reference: dict[str, bytes], tmp_path: Path
) -> None:
    """SIGKILL, as when memory runs out, sent by one of its workers in the middle of a shard."""
    path = runner_worker.stub_plan(tmp_path, 2).write().path
    driver = context().Process(target=runner_worker.drive, args=(str(path), 6))
    driver.start()
    assert ended(driver, 240) == -signal.SIGKILL, "its workers import everything: slow where the machine is busy"
    assert any(state.workers for state in states(read_manifest(path))), "its workers live on"
    again = context().Process(target=runner_worker.drive, args=(str(path), None))
    again.start()
    assert ended(again, 240) == 0
    assert {state.status for state in states(read_manifest(path))} == {"done"}
    written = parts_written(tmp_path)
    assert len(written) == len(set(written)), "what the workers finished is not computed again"
    assert runner_worker.numbers(tmp_path) == reference


class Workers(RuleBasedStateMachine):
    """Any order of starts, kills and backends on one results folder."""

    reference: dict[str, bytes]

    @initialize()
    def _plan(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.results = Path(self.folder.name)
        self.path = plan(self.results)

    @rule(number=st.integers(0, SHARDS - 1), backend=BACKENDS, kill_at=KILLS)
    def one_worker(self, number: int, backend: str, kill_at: int | None) -> None:
        ended(start(self.path, number, backend, kill_at))

    @rule(
        number=st.integers(0, SHARDS - 1),
        other=st.integers(0, SHARDS - 1),
        backend=BACKENDS,
        kills=st.tuples(KILLS, KILLS),
    )
    def two_workers(self, number: int, other: int, backend: str, kills: tuple[int | None, int | None]) -> None:
        pair = [start(self.path, number, backend, kills[0]), start(self.path, other, "local", kills[1])]
        for process in pair:
            ended(process)

    def teardown(self) -> None:
        if hasattr(self, "path"):
            finish(self.path)
            written = parts_written(self.results)
            assert len(written) == len(set(written)), "a finished part was computed again"
            assert runner_worker.numbers(self.results) == self.reference
            self.folder.cleanup()


def test_any_history_ends_in_the_same_tables(reference: dict[str, bytes]) -> None:
    Workers.reference = reference
    run_state_machine_as_test(
        Workers,
        settings=settings(
            max_examples=12,
            stateful_step_count=5,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
