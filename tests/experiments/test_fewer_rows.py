"""Memory ran out: the same command with fewer rows computes the interrupted step anew, alone and with a runner."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaModel

import runner_worker
from emotion_circuits import models as models_package
from emotion_circuits.experiments import _crew_steps as crew_steps
from emotion_circuits.experiments import run_study
from emotion_circuits.experiments._batches import BATCHES_OF_CAPTURE, note_halved, same_batches
from emotion_circuits.experiments._crew import Crew, clear_finished, crew_folder
from emotion_circuits.runners import plan_study, run_shard
from emotion_circuits.store import Claims, Run, Store, tensors

LOADING = {"dtype": "float32", "device": "cpu", "device_map": None, "cache": None, "offline": True}
MODEL = ("one",)
MANY, FEW = 8, 2
STEPS = ("texts", "scores", "texts-of-best")
FEWER = {"texts": FEW, "scores": FEW - 1, "texts-of-best": FEW}
"""Rows of a batch where few are asked for: beside a scored one there has to be room for its prompt's unedited row."""
FIRST = {"texts": 1, "scores": 4, "texts-of-best": 16}
"""A pass of the model at which a step has not been interrupted yet."""

Attempt = Callable[[Path, "int | None"], "str | None"]


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    runner_worker.registered(monkeypatch)
    monkeypatch.setattr(models_package, "load_lm", lambda source, **options: runner_worker.tiny(source))
    monkeypatch.setattr(tensors, "FLUSH_BYTES", 0)
    for name in ("SCORED_ROWS", "WRITTEN_ROWS", "CAPTURED_ROWS"):
        monkeypatch.setattr(crew_steps, name, 1)


def alone(results: Path, rows: int | None) -> str | None:
    """The study in this process; what it failed with."""
    study = run_study(runner_worker.PROFILE, MODEL, Store(results), runner_worker.tiny, rows=rows)
    return str(study.failures[0].error) if study.failures else None


def with_a_runner(results: Path, rows: int | None, crew: Crew | None = None) -> str | None:
    """The only shard of the study, as a worker runs it."""
    manifest = plan_study(runner_worker.PROFILE, MODEL, results, shards=1, rows=rows, loading=LOADING).write()
    if run_shard(manifest, 0, crew=crew or Crew(stale=0.2, look_again=0.05)).exit_code == 0:
        return None
    return str(json.loads((results / "stub-study" / "one" / "failed.json").read_text())["message"])


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Rows of every pass of the model, in ``sizes``; from the ``full``-th one on memory has run out."""
    seen: dict[str, Any] = {"sizes": [], "full": None}
    forward = LlamaModel.forward

    def small(self: Any, input_ids: Any = None, **inputs: Any) -> Any:
        if seen["full"] is not None and len(seen["sizes"]) >= seen["full"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        seen["sizes"].append(len(input_ids))
        return forward(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(LlamaModel, "forward", small)
    yield seen


def interrupted(attempt: Attempt, results: Path, passes: dict[str, Any], step: str) -> Run:
    """An attempt with many rows for which memory runs out in the middle of ``step``."""
    for full in range(FIRST[step], 200):
        passes.update(sizes=[], full=full)
        folder = results / f"try{full}"
        told = attempt(folder, MANY)
        assert told is not None and "memory ran out" in told
        (run,) = Store(folder).find(experiment=runner_worker.STUB)
        begun = [s for s in STEPS if run.path(f"{s}-batches.json").exists()]
        if begun[-1:] == [step] and kept(run, step):
            passes.update(sizes=[], full=None)
            return run
    raise AssertionError(f"{step} was never interrupted")


def kept(run: Run, step: str) -> bool:
    """Whether something of an unfinished step is on the disk."""
    rows = run.path(f"{step}.safetensors.rows")
    parts = [p for p in (crew_folder(run) / step / "parts").glob("[!.]*") if p.is_file()]
    texts = [line for line in run.read_jsonl("generations.jsonl") if line["step"] == step]
    return bool(parts or texts or (rows.exists() and rows.stat().st_size))


def results_of(run: Run) -> Path:
    return run.folder.parents[3]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("attempt", [alone, with_a_runner])
def test_fewer_rows_begin_the_interrupted_step_anew(
    attempt: Attempt, step: str, tmp_path: Path, passes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = interrupted(attempt, tmp_path, passes, step)
    with caplog.at_level("WARNING"):
        assert attempt(results_of(run), FEW) is None
    assert max(passes["sizes"]) <= FEW, "unedited rows that ride along are rows of a batch"
    assert [r.getMessage() for r in caplog.records if f"starts anew with {FEWER[step]}" in r.getMessage()] == [
        f"{step} starts anew with {FEWER[step]} rows a batch: it was begun with {MANY}"
    ]
    rows = {s: run.read_json(f"{s}-batches.json")["rows"] for s in STEPS}
    before = STEPS.index(step)
    assert rows == {s: MANY if n < before else FEWER[s] for n, s in enumerate(STEPS)}, "finished steps are kept"
    lines = run.read_jsonl("generations.jsonl")
    assert len({(t["prompt"], t["condition"], t["sample"]) for t in lines}) == len(lines) > 0
    if step == STEPS[0]:
        assert alone(tmp_path / "undisturbed", FEW) is None
        assert runner_worker.numbers(results_of(run)) == runner_worker.numbers(tmp_path / "undisturbed")


@pytest.mark.parametrize("rows", [MANY, None, 2 * MANY])
@pytest.mark.parametrize("attempt", [alone, with_a_runner])
def test_what_asks_for_no_fewer_rows_goes_on(
    attempt: Attempt, rows: int | None, tmp_path: Path, passes: dict[str, Any]
) -> None:
    run = interrupted(attempt, tmp_path, passes, "scores")
    done = run.path("texts.safetensors").read_bytes()
    assert attempt(results_of(run), rows) is None
    assert run.read_json("scores-batches.json")["rows"] == MANY and run.path("texts.safetensors").read_bytes() == done
    assert alone(tmp_path / "undisturbed", MANY) is None
    expected, found = (runner_worker.numbers(folder) for folder in (tmp_path / "undisturbed", results_of(run)))
    same = list(expected) if rows == MANY else [name for name in expected if name.endswith("/scores.safetensors")]
    assert same
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}


def test_texts_of_another_device_are_written_anew(tmp_path: Path, passes: dict[str, Any]) -> None:
    run = interrupted(alone, tmp_path, passes, "texts-of-best")
    record, kept = run.path("texts-of-best-batches.json"), run.read_jsonl("generations.jsonl")
    assert kept
    record.write_text(json.dumps({**json.loads(record.read_text()), "device": "another"}))
    elsewhere = [{**line, "text": "of the other device"} for line in kept]
    other = [{**kept[0], "step": "another step"}]
    run.path("generations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*elsewhere, *other]))
    assert alone(results_of(run), MANY) is None
    lines = run.read_jsonl("generations.jsonl")
    assert [line for line in lines if line["step"] == "another step"] == other
    assert not [line for line in lines if line["text"] == "of the other device"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "NVIDIA H100"}, "(device: NVIDIA H100 there, cpu here)"),
        ({"attention": "eager"}, "(attention: eager there, sdpa here)"),
        ({"products": None}, "(products: not recorded there, "),
    ],
)
def test_a_worker_that_would_mix_numbers_is_told_what_differs(
    change: dict[str, Any], told: str, tmp_path: Path, passes: dict[str, Any]
) -> None:
    run = interrupted(with_a_runner, tmp_path, passes, "scores")
    record = run.path("scores-batches.json")
    content = {**json.loads(record.read_text()), **change}
    record.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    message = with_a_runner(results_of(run), MANY)
    assert message is not None and told in message and message.count(" here") == 1
    assert alone(results_of(run), MANY) is None, "a process by itself begins the step anew, as the advice says"
    assert run.read_json("scores-batches.json")["device"] == "cpu"


def test_blocks_that_another_worker_holds_are_left_to_it(tmp_path: Path, passes: dict[str, Any]) -> None:
    run = interrupted(with_a_runner, tmp_path, passes, "scores")
    claim = Claims(crew_folder(run) / "scores" / "claims", heartbeat=0.05).take("another-block")
    assert claim is not None
    with claim:
        assert with_a_runner(results_of(run), FEW) is None
    assert run.read_json("scores-batches.json")["rows"] == MANY


class Waiting:
    """In the place of a pause: what ``others`` do meanwhile, when the first one that waits waits for the first time.

    Until then they hold a block of ``step``.
    """

    def __init__(self, run: Run, step: str, others: Callable[[], None]) -> None:
        self.claims, self.others, self.waits = Claims(crew_folder(run) / step / "claims"), others, 0
        self.claim = self.claims.take("another-block")

    def __call__(self, seconds: float) -> None:
        self.waits += 1
        if self.waits > 1:
            time.sleep(seconds)
            return
        assert self.claim is not None
        self.claim.release()
        self.others()


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_others_finish_meanwhile_is_kept(step: str, tmp_path: Path, passes: dict[str, Any]) -> None:
    """They release their last block before they write the step down: who wants fewer rows finds it finished."""
    run = interrupted(with_a_runner, tmp_path, passes, step)
    finished: dict[str, bytes] = {}

    def finish() -> None:
        assert with_a_runner(results_of(run), None) is None
        finished.update(runner_worker.numbers(results_of(run)))

    waiting = Waiting(run, step, finish)
    assert with_a_runner(results_of(run), FEW, Crew(stale=5, heartbeat=5, look_again=0.05, pause=waiting)) is None
    assert waiting.waits and finished and run.read_json(f"{step}-batches.json")["rows"] == MANY
    assert runner_worker.numbers(results_of(run)) == finished


@pytest.mark.parametrize("step", STEPS)
def test_workers_of_one_command_begin_a_step_anew_together(step: str, tmp_path: Path, passes: dict[str, Any]) -> None:
    """One that has read in how many rows it was begun sees that another one begins it anew, and joins it."""
    run = interrupted(with_a_runner, tmp_path, passes, step)
    held: list[Any] = []

    def begin_anew() -> None:
        passes.update(sizes=[], full=FIRST["texts"])
        told = with_a_runner(results_of(run), FEW)
        assert told is not None and "memory ran out" in told
        passes.update(sizes=[], full=None)
        held.append(waiting.claims.take("a-new-block"))

    waiting = Waiting(run, step, begin_anew)
    assert with_a_runner(results_of(run), FEW, Crew(stale=1, heartbeat=1, look_again=0.05, pause=waiting)) is None
    assert waiting.waits and held[0] is not None and run.read_json(f"{step}-batches.json")["rows"] == FEWER[step]


def test_parts_that_a_kill_left_half_removed_go_when_the_study_is_finished(
    tmp_path: Path, passes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(with_a_runner, tmp_path, passes, "scores")
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert with_a_runner(results_of(run), FEW) is None
    assert list(results_of(run).rglob(".*.discarded"))
    clear_finished(results_of(run) / run.profile)
    assert not list(results_of(run).rglob(".*.discarded")) and not list(results_of(run).rglob(".*.crew"))


def test_what_was_halved_is_copied_by_no_other_run(tmp_path: Path) -> None:
    assert alone(tmp_path, MANY) is None
    (run,) = Store(tmp_path).find(experiment=runner_worker.STUB)
    lm = runner_worker.tiny("one")
    assert same_batches(lm, run, "texts", MANY, BATCHES_OF_CAPTURE)
    note_halved(run, "texts")
    assert not same_batches(lm, run, "texts", MANY, BATCHES_OF_CAPTURE)


def test_a_capture_that_memory_does_not_hold_goes_on_with_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LlamaModel.forward

    def small(self: Any, input_ids: Any = None, **inputs: Any) -> Any:
        if len(input_ids) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return forward(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(LlamaModel, "forward", small)
    for number, attempt in enumerate((alone, with_a_runner)):
        assert attempt(tmp_path / str(number), MANY) is None
        (run,) = Store(tmp_path / str(number)).find(experiment=runner_worker.STUB)
        assert run.path("texts-halved.json").exists()
