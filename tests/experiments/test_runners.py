"""Studies in several processes: from the command line, with killed workers, two runners at once, and bad input."""

from __future__ import annotations

import copy
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import runner_worker
from emotion_circuits import models as models_package
from emotion_circuits.cli._watch import watch_shards
from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError
from emotion_circuits.experiments import _speed, load_profile
from emotion_circuits.experiments._crew import Crew
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.models.preflight import ITEM_BYTES
from emotion_circuits.runners import collect, local, plan_study, read_manifest, run_shard, states
from emotion_circuits.runners.backend import ATTEMPTS, backend, run_manifest, unfinished
from emotion_circuits.runners.desk import Desk
from emotion_circuits.runners.local import run_local
from emotion_circuits.runners.state import drivers_of, write_failed
from emotion_circuits.runners.worker import work
from emotion_circuits.store import Store
from fakehub import Repository, serve
from runner_worker import finished_run, stub_plan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

WORKER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import runner_worker
runner_worker.install()
path, number, marker = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if marker and not os.path.exists(marker):
    open(marker, "w").close()
    runner_worker._watch_writes(runner_worker.Path(path).parents[3], 12)
from emotion_circuits.runners.worker import main
sys.exit(main([path, str(number)]))
"""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    runner_worker.registered(monkeypatch)


def command(marker: Path | str = "") -> Any:
    """Starts a real process of the stub study; the first of all kills itself in the middle of its shard."""
    code = WORKER.format(tests=str(Path(runner_worker.__file__).parent))
    return lambda manifest, number: [sys.executable, "-c", code, str(manifest.path), str(number), str(marker)]


def test_two_shards_give_the_numbers_of_one_process(cli: Any, profile: Path, finished: Path, tmp_path: Path) -> None:
    shown = cli("study", profile, "--results", tmp_path, "--shards", 2, "--dry-run")
    assert shown.code == 0 and "1 cell in 2 shards" in shown.out and "2 of 2" in shown.out
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"
    answer = cli("study", profile, "--results", tmp_path, "--runner", "local", "--shards", 2)
    assert answer.code == 0, answer.err
    assert "Question 1. Where is each emotion?" in answer.out and "report: " in answer.out
    assert runner_worker.numbers(tmp_path) == runner_worker.numbers(finished)
    assert not list(tmp_path.rglob(".*.crew")), "parts are cleared away"
    watched = cli("ls", "--watch", "--results", tmp_path)
    assert watched.code == 0 and "1 cell, 1 done" in watched.out
    again = cli(
        "run", "directions", "--profile", profile, "--model", _model(profile), "--results", tmp_path, "--shards", 1
    )
    assert again.code == 0 and "results: " in again.out


def _model(profile: Path) -> str:
    return load_profile(str(profile)).models[0]


def test_a_worker_that_is_killed_is_begun_again(stub: None, tmp_path: Path) -> None:
    manifest = stub_plan(tmp_path, 2).write()
    told: list[str] = []
    run_local(manifest, told.append, workers=2, command=command(tmp_path / "first-died"))
    assert any("was ended by signal 9: beginning it again" in line for line in told), told
    study = collect(manifest)
    assert not study.failures and len(study.runs) == 2
    lines = (tmp_path / runner_worker.COMPUTED).read_text().splitlines()
    assert len(set(lines)) == len(lines), "what it had finished is not computed again"
    assert not unfinished(manifest)
    run_local(manifest, told.append, command=lambda *_: pytest.fail("nothing is left to do"))


def test_two_runners_on_one_folder(stub: None, tmp_path: Path) -> None:
    """Another number of shards is another plan: both leave the same runs."""
    plans = [stub_plan(tmp_path, shards).write() for shards in (2, 3)]
    assert plans[0].path != plans[1].path
    both = [subprocess.Popen(command()(m, n)) for m in plans for n in (0, 1)]
    assert [p.wait(120) for p in both] == [0, 0, 0, 0]
    runs = [{(r.model, r.key) for r in collect(m).runs} for m in plans]
    assert runs[0] == runs[1] and len(runs[0]) == 2
    assert len(list(tmp_path.glob("*/*/stub/*/done.json"))) == 2


def test_a_worker_that_always_dies_is_given_up(stub: None, tmp_path: Path) -> None:
    manifest = stub_plan(tmp_path).write()
    told: list[str] = []
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    run_local(manifest, told.append, command=lambda *_: [sys.executable, "-c", code])
    study = collect(manifest)
    assert len(study.failures) == 2 and not study.runs
    error = study.failures[0].error
    assert f"signal {signal.SIGKILL.value} {ATTEMPTS} times" in error.what and "--dtype bfloat16" in error.fix
    assert error.exit_code == 1


def test_exit_codes(cli: Any, profile: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 where one model of two failed, what it said being told; wrong use is 2 before anything starts."""
    words = ("study", profile, "--offline", "--results", tmp_path)
    cli(*words, "--runner", "local", "--force").refused(2, "--force")
    cli(*words, "--runner-options", "workres=2").refused(2, "workres")
    cli(*words, "--runner-options", "workers=0").refused(2, "workers")
    cli(*words, "--runner", "slurm", "--runner-options", "timeout_min=soon").refused(2, "timeout_min")
    cli("ls", "--watch", "--model", "x", "--results", tmp_path).refused(2, "--watch")
    assert cli(*words, "--runner", "moon").code == 2 and cli(*words, "--shards", 0).code == 2
    both = cli(*words, "--model", "no-such-model", _model(profile), "--runner", "local")
    assert both.code == 3 and "failed: directions on no-such-model: " in both.err
    watched = cli("ls", "--watch", "--results", tmp_path)
    assert watched.code == 3 and "failed   directions on no-such-model" in watched.out
    record = json.loads((tmp_path / "small" / "no-such-model" / "failed.json").read_text())
    assert "no-such-model" in record["message"]
    alone = cli(*words, "--model", "no-such-model", "--runner", "local")
    assert alone.code == 1 and alone.out == ""
    assert cli("ls", "--watch", "--results", tmp_path / "nothing").code == 0


def test_what_is_watched(stub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Waited for while the command that started it lives; lines of 80 columns; 1 and 3 for what nobody finishes."""
    manifest = stub_plan(tmp_path).write()
    looks: list[str] = []

    def pause(seconds: float) -> None:
        looks.append(capsys.readouterr().out)
        if len(looks) == 2:
            driver.__exit__(None, None, None)

    driver = drivers_of(manifest).take("driver")
    assert driver is not None
    driver.__enter__()
    assert watch_shards(tmp_path, None, 0.1, as_json=False, pause=pause) == 1
    assert len(looks) == 2 and "2 waiting" in looks[0] and "nobody works on it" not in looks[0]
    assert "nobody works on it: the same command resumes" in capsys.readouterr().out
    assert run_shard(manifest, 0, run_cell=lambda cell: (finished_run(manifest, cell), "stub")).exit_code == 0
    assert watch_shards(tmp_path, None, 0.1, as_json=False) == 3
    write_failed(manifest, manifest.cells[1], EmotionCircuitsError("memory ran out " * 12, "use a smaller batch " * 9))
    assert watch_shards(tmp_path, None, 0.1, as_json=False) == 3
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and any(line.startswith("  failed   stub on two after 0 s") for line in lines)
    assert [line for line in lines if line.startswith("           →")], lines


def test_the_plan_that_runs_is_watched(stub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the one that was written last; with nobody at work, the one that a command asked for last."""
    older, newer = stub_plan(tmp_path, 2).write(), stub_plan(tmp_path, 3).write()
    past = time.time() - 60
    os.utime(older.path, (past, past))
    driver = drivers_of(older).take("driver")
    assert driver is not None
    with driver:
        watch_shards(tmp_path, None, 0.1, as_json=True)
    (shown,) = json.loads(capsys.readouterr().out)["studies"]
    assert shown["manifest"] == str(older.path)
    watch_shards(tmp_path, None, 0.1, as_json=True)
    assert json.loads(capsys.readouterr().out)["studies"][0]["manifest"] == str(newer.path)
    for number in (0, 1):
        run_shard(older, number, run_cell=lambda cell: (finished_run(older, cell), "stub"))
    run_manifest(older, backend("local"), lambda line: None)
    assert watch_shards(tmp_path, None, 0.1, as_json=True) == 0
    (shown,) = json.loads(capsys.readouterr().out)["studies"]
    assert shown["manifest"] == str(older.path)


def test_a_finished_plan_that_is_asked_for_again_is_the_latest_answer(stub: None, tmp_path: Path) -> None:
    manifest = stub_plan(tmp_path).write()
    for number in (0, 1):
        run_shard(manifest, number, run_cell=lambda cell: (finished_run(manifest, cell), "stub"))
    runs = collect(manifest).runs
    other = Store(tmp_path).run(manifest.work.profile, "one", runner_worker.STUB, {"another": "request"})
    with other.open():
        other.finish({"verdicts": []})
    assert (other.folder.parent / "latest").read_text() == f"{other.key}\n"
    run_manifest(manifest, backend("local"), lambda line: None)
    assert [(r.folder.parent / "latest").read_text() for r in runs] == [f"{r.key}\n" for r in runs]


def test_what_is_said_of_a_model_reaches_the_command(
    stub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nothing is left to do: the answer rests on that model."""
    odd = copy.copy(runner_worker.tiny("one"))
    odd.notices = ("model type 'odd' is not known: treated as llama-like",)
    monkeypatch.setattr(models_package, "load_lm", lambda source, **options: odd if source == "one" else None)
    manifest = stub_plan(tmp_path).write()
    run_shard(manifest, 0)
    told: list[str] = []
    monkeypatch.setattr(local, "run_local", lambda manifest, tell: None)
    run_manifest(manifest, backend("local"), told.append)
    assert told == ["one: model type 'odd' is not known: treated as llama-like"]
    odd.notices = ()
    Desk(manifest, Crew(marker=manifest.path))._load("one")
    told.clear()
    run_manifest(manifest, backend("local"), told.append)
    assert not told, "as it was loaded the last time"


def test_workers_tell_why_a_model_cannot_be_had(
    cli: Any, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason and its exit code reach whoever started the workers."""
    words = ("study", profile, "--results", tmp_path / "results", "--runner", "local")
    device = cli(*words, "--device", "cuda")
    assert device.code == 2 and "device 'cuda' is not available" in device.err and "--device auto" in device.err
    gated = Repository({"config.json": b"{}", "model.safetensors": b"weights"}, access="gated")
    with serve({"meta-llama/Meta-Llama-3.1-8B": gated}) as hub:
        for name, value in {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": tmp_path / "hub",
            "HF_TOKEN_PATH": tmp_path / "no",
        }.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        answer = cli(*words, "--model", "llama3_8b")
    assert answer.code == 1 and "is gated" in answer.err and "HF_TOKEN=" in answer.err


def test_threads_of_a_worker(stub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for stands above the environment, which stands above the share of what the container allows."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(_speed, "_quota", lambda bound: 4)
    manifest = stub_plan(tmp_path).write()
    code = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['OMP_NUM_THREADS'])"
    seen = tmp_path / "seen"
    for environment, asked, expected in ((None, None, None), ("3", None, "3"), ("3", 2, "2")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if environment is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", environment)
        run_local(
            manifest, lambda line: None, workers=1, threads=asked, command=lambda *_: [sys.executable, "-c", code, seen]
        )
        assert seen.read_text() == (expected or "4")


@pytest.mark.parametrize(
    ("device_map", "gpus", "workers", "at_a_time"),
    [("auto", 2, None, 1), ("auto", 2, 3, 3), ("auto", 0, None, 4), (None, 2, None, 2), (None, 0, None, 4)],
)
def test_models_that_are_spread_over_the_gpus_run_one_at_a_time(
    stub: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device_map: str | None,
    gpus: int,
    workers: int | None,
    at_a_time: int,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(local, "usable_cores", lambda: 4)
    monkeypatch.setattr(local, "memory_of", lambda manifest, number: 1)
    monkeypatch.setattr(local, "free_memory", lambda: 100 * local.PROCESS_BYTES)
    loading = {**runner_worker.LOADING, "device": "auto", "device_map": device_map}
    manifest = plan_study(runner_worker.PROFILE, runner_worker.MODELS, tmp_path, shards=4, loading=loading)
    assert local._pool(manifest, range(4), workers, None).limit == at_a_time


def test_models_of_unknown_size_run_one_at_a_time(
    cli: Any, stub: None, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells the size of a model that was never fetched; those that are known run beside one of these."""
    words = ("study", profile, "--dry-run", "--shards", 1, "--results", tmp_path, "--offline")
    shown = cli(*words, "--model", "org/never-fetched")
    assert shown.code == 0 and "unknown" in shown.out and "MB" not in shown.out
    listed = cli(*words, "--model", "org/x", "--json")
    assert listed.json["shards"][0]["memory_bytes"] is None
    monkeypatch.setattr(local, "usable_cores", lambda: 4)
    monkeypatch.setattr(local, "free_memory", lambda: 100 * local.PROCESS_BYTES)
    manifest = stub_plan(tmp_path, 4)
    assert local.memory_of(manifest, 0) is None
    assert (
        local._pool(manifest, range(4), None, None).limit == 1 and local._pool(manifest, range(4), 3, None).limit == 3
    )
    sizes = {0: None, 1: None, 2: 2 * local.PROCESS_BYTES, 3: 99 * local.PROCESS_BYTES}
    monkeypatch.setattr(local, "memory_of", lambda manifest, number: sizes[number])
    pool = local._pool(manifest, range(4), None, None)
    assert pool.limit == 4 and local._next(manifest, [0, 1, 2, 3], set(), pool) == 0
    for running, following in (([0], 2), ([0, 2], None), ([2], 0)):
        pool.running = dict.fromkeys(running, None)  # type: ignore[arg-type]
        waiting = [n for n in range(4) if n not in running]
        assert local._next(manifest, waiting, set(), pool) == following


def test_processes_of_gpus_take_main_memory_too(stub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr(local, "free_memory", lambda: 3 * local.PROCESS_BYTES)
    loading = {**runner_worker.LOADING, "device": "auto"}
    manifest = plan_study(runner_worker.PROFILE, runner_worker.MODELS, tmp_path, shards=8, loading=loading)
    assert local._pool(manifest, range(8), None, None).limit == 3
    assert local._pool(manifest, range(8), 8, None).limit == 8


def test_an_untrained_twin_takes_main_memory_while_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, also where the models are bfloat16, or on a GPU."""
    monkeypatch.setattr(local, "_weights", lambda source, dtype: 1000 * ITEM_BYTES[dtype])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("emotion_circuits.models.products.multiplies_faster", lambda dtype: False)
    memories = {}
    for floors in ("all", "embedding"):
        profile = Profile("pairs", "", "", (), (("directions", {}), ("transfer", {"floors": floors}), ("align", {})))
        loading = {**runner_worker.LOADING, "device": "auto", "dtype": "bfloat16"}
        manifest = plan_study(profile, ["one", "two"], tmp_path, loading=loading)
        single, pair = 0, next(n for n, shard in enumerate(manifest.shards) if len(shard.models) == 2)
        memories[floors] = [
            need(manifest, n) for need in (local.memory_of, local.memory_beside_gpu) for n in (single, pair)
        ]
        monkeypatch.setattr(local, "free_memory", lambda: 2 * local.PROCESS_BYTES + 1000)
        pool = local._pool(manifest, [pair], None, None)
        pool.running = {single: None}  # type: ignore[dict-item]
        assert local._fits(manifest, pair, pool) == (floors == "embedding")
    base = local.PROCESS_BYTES
    assert memories["all"] == [base + 2000, base + 4000, base, base + 4000]
    assert memories["embedding"] == [base + 2000, base + 2000, base, base]


def test_a_driver_that_is_told_to_end_takes_its_workers_along(stub: None, tmp_path: Path) -> None:
    """SIGTERM, as a scheduler or a container sends it; nobody goes on computing unseen."""
    manifest = stub_plan(tmp_path).write()
    worker = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(120)"
    driver = f"""
import sys
sys.path.insert(0, {str(Path(runner_worker.__file__).parent)!r})
import runner_worker
runner_worker.install()
from pathlib import Path
from emotion_circuits.runners import read_manifest
from emotion_circuits.runners.local import run_local
run_local(read_manifest(Path({str(manifest.path)!r})), print, workers=1,
          command=lambda *_: [sys.executable, "-c", {worker!r}, {str(tmp_path / "pid")!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", driver])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_shared_folder_is_lost(stub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "share"
    manifest = stub_plan(results).write()

    def unmount(cell: Any) -> Any:
        results.rename(tmp_path / "elsewhere")
        raise OSError(116, "Stale file handle")

    with pytest.raises(StoreError, match="has gone"):
        run_shard(manifest, 0, run_cell=unmount)
    assert not results.exists(), "it is not made anew on this machine's own disk"
    assert work(str(manifest.path), 0) == 1
    (tmp_path / "elsewhere").rename(results)
    code = f"import os; os.rename({str(results)!r}, {str(tmp_path / 'elsewhere')!r})"
    started = functools.partial(run_local, command=lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(local, "run_local", started)
    with pytest.raises(StoreError, match="has gone"):
        run_manifest(manifest, backend("local"), lambda line: None)
    assert not results.exists()
    (tmp_path / "elsewhere").rename(results)
    assert {state.status for state in states(manifest)} <= {"waiting", "running"}, "it can go on"


def test_manifests_that_cannot_be_used(stub: None, tmp_path: Path) -> None:
    manifest = stub_plan(tmp_path)
    with pytest.raises(UsageError, match="no shard 9"):
        manifest.cells_of(9)
    manifest.write()
    manifest.write()
    text = manifest.path.read_text()
    manifest.path.write_text(text.replace('"seed":0', '"seed":1'))
    with pytest.raises(StoreError, match="not the manifest of this study"):
        manifest.write()
    manifest.path.write_text(text.replace('"schema":1', '"schema":99'))
    with pytest.raises(StoreError, match="another version"):
        read_manifest(manifest.path)
    manifest.path.write_text("{")
    assert work(str(manifest.path), 0) == 1


def test_the_plan_does_not_depend_on_host_or_folder(stub: None, tmp_path: Path) -> None:
    one, other, wide = stub_plan(tmp_path / "a"), stub_plan(tmp_path / "b"), stub_plan(tmp_path / "a", 7)
    assert [c.id for c in one.cells] == [c.id for c in other.cells] == [c.id for c in wide.cells]
    assert [(s.models, s.seat, s.seats) for s in wide.shards] == [
        (("one",), 0, 4), (("two",), 0, 3), (("one",), 1, 4), (("two",), 1, 3), (("one",), 2, 4), (("two",), 2, 3),
        (("one",), 3, 4),
    ]  # fmt: skip
    assert read_manifest(wide.write().path) == wide


def test_backends_refuse_what_they_do_not_know() -> None:
    assert backend("local", ("workers=2",)).options == {"workers": 2}
    with pytest.raises(UsageError, match="address"):
        backend("ray", ("adress=auto",))
