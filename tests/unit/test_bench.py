"""What ``bench`` measures and advises, and the machine's own limit that it is held against."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emotion_circuits.cli import bench as command
from emotion_circuits.cli import main
from emotion_circuits.engine.memory import CPU_ROWS, RowBudget, automatic_rows, row_budget, row_bytes
from emotion_circuits.experiments import _outline, _pace, _speed
from emotion_circuits.experiments._contract import ScoreStep, TextStep
from emotion_circuits.experiments._speed import Bench, Machine, Memory, Speed, advised
from emotion_circuits.models import LM
from emotion_circuits.models.product_limit import linear_layers, seconds_per_forward, timed
from small_study import save_model

MACHINE = Machine("cpu", False, "float32", "2.13", "AVX512", 2, 2, 0.1, "onednn", "onednn", True)
ROOM = RowBudget(CPU_ROWS, 0.5, 8 << 30, 1 << 20)


@pytest.fixture(autouse=True)
def _excepthook_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


# ---- advice ------------------------------------------------------------------------------------------------------
def test_nothing_is_advised_where_nothing_is_off() -> None:
    assert not list(advised(MACHINE, ROOM))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"threads": 8}, "8 threads share 2 cores: set OMP_NUM_THREADS=2"),
        ({"threads": 1}, "1 of 2 cores compute: unset OMP_NUM_THREADS"),
        ({"load": 6.0}, "load 6.0 on 2 cores"),
        ({"gpu": True}, "--device auto"),
        ({"products": "torch"}, "unset EMOTION_CIRCUITS_PRODUCTS"),
        ({"products": "torch", "has_onednn": False}, "this PyTorch has no oneDNN"),
    ],
)
def test_what_is_off_gets_one_line(change: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (line,) = advised(replace(MACHINE, **change), ROOM)
    assert part in line and "\n" not in line


def test_a_gpu_is_no_matter_of_threads_and_load() -> None:
    on_gpu = replace(MACHINE, device="cuda:0", gpu=True, threads=64, load=90.0)
    assert not list(advised(on_gpu, ROOM))


def test_few_rows_for_want_of_memory_are_told() -> None:
    (line,) = advised(MACHINE, RowBudget(CPU_ROWS, 0.5, 8 << 20, 1 << 20))
    assert "free memory holds 4 rows" in line


@pytest.mark.parametrize(
    ("content", "cores"), [("200000 100000\n", 2), ("max 100000\n", 7), ("50000 100000\n", 0), ("?", 7)]
)
def test_the_quota_of_a_container_counts(tmp_path: Path, content: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert _speed._quota(7, tmp_path / "cpu.max") == cores
    assert _speed._quota(7, tmp_path / "absent") == 7


def test_at_least_one_core_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_speed, "_quota", lambda bound: 0)
    assert _speed.usable_cores() == 1


# ---- measures ----------------------------------------------------------------------------------------------------
def test_the_budget_says_why_there_are_so_many_rows(tiny: Callable[..., LM]) -> None:
    lm = tiny("llama")
    found = row_budget(lm, 5, 5)
    assert found.rows == min(found.cap, int(found.share * found.free // found.row)) == automatic_rows(lm, 5, 5)
    assert RowBudget(128, 0.5, 0, 10).rows == 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_limit_multiplies_every_linear_layer(tiny: Callable[..., LM], architecture: str) -> None:
    lm = tiny(architecture)
    used = []
    handles = [m.register_forward_hook(lambda module, *_: used.append(module)) for m in linear_layers(lm.model)]
    try:
        assert seconds_per_forward(lm, 3, repeats=1) > 0
    finally:
        for handle in handles:
            handle.remove()
    per_block = 4 if architecture == "gpt2" else 7
    assert len(used) == 2 * (per_block * lm.n_layers + 1), "every product and the LM head, once with each library"


def test_what_is_timed_is_timed_whole() -> None:
    assert timed(lambda: torch.zeros(1) + 1, torch.device("cpu")) > 0


def test_speed_of_a_tiny_model_is_whole(tiny: Callable[..., LM]) -> None:
    found = _speed.measure(tiny("llama"), max_rows=4)
    speed = found.speed
    assert speed.rows == 4
    assert all(v > 0 for v in vars(speed).values()) and speed.gain > 0
    assert found.memory.weights == sum(p.numel() * 4 for p in tiny("llama").model.parameters())
    assert found.memory.peak is None or found.memory.peak > found.memory.weights
    assert (found.machine.threads, found.machine.dtype, found.machine.device) == (1, "float32", "cpu")


def test_scores_are_timed_in_one_batch(tiny: Callable[..., LM]) -> None:
    lm, sizes = tiny("llama"), []
    handle = lm.blocks[-1].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    try:
        _pace.seconds_per_scored_row(lm, ScoreStep("s", (_speed.PROMPT,), 6, 1), 6)
    finally:
        handle.remove()
    assert set(sizes) == {1, 7}, "the prompt by itself; its rows beside its unedited one"


def test_a_dry_run_counts_the_unedited_rows_of_scores(tiny: Callable[..., LM]) -> None:
    lm = tiny("llama")
    encoded = lm.encode([_speed.PROMPT])
    bench: Any = SimpleNamespace(lm=lm, rows=4)
    for step, batches in (
        (ScoreStep("scored", (_speed.PROMPT,), 8, 1), 3),
        (TextStep("written", (_speed.PROMPT,), 8, 1, layer=1), 2),
        (ScoreStep("in batches of its own", (_speed.PROMPT,), 8, 1, rows=4), 2),
    ):
        most = step.rows if isinstance(step, ScoreStep) else None
        _, count, largest = _outline._packed(encoded, step, 8, 1, bench, most)
        assert (count, largest) == (batches, 4 * row_bytes(lm, len(encoded[0]), 1))


# ---- the command -------------------------------------------------------------------------------------------------
SPEED = Speed(32, 2870.0, 3100.0, 421.0, 268.4, 410.0, 18.9)
FOUND = Bench("smollm2-135m", MACHINE, SPEED, Memory(538_000_000, 1_400_000_000), ROOM, ("one thing " * 12,))


def test_the_table_fits_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    command._show(FOUND)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for part in ("2,870 tokens/s", "93% of its products' limit", "421 rows/s", "65%", "14.2 times as fast", "128",
                 "538.0 MB", "1.4 GB", "oneDNN", "2 cores"):  # fmt: skip
        assert part in out, part
    assert len(out.splitlines()) == 3 + 9 + 2, "a title, headings, nine rows that do not fold, the advice on two lines"


def test_a_slow_model_is_timed_once_after_its_warm_up(tiny: Callable[..., LM], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    assert _pace.seconds_of(lambda: calls.append(0), tiny("llama")) >= 0 and len(calls) == 1 + _pace.MEASURED
    monkeypatch.setattr(_pace, "SLOW", 0.0)
    calls.clear()
    _pace.seconds_of(lambda: calls.append(0), tiny("llama"))
    assert len(calls) == 2


def test_bench_measures_a_model_and_gives_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = save_model(tmp_path / "tiny-llama")
    capsys.readouterr()
    assert main(["bench", "--model", str(folder), "--device", "cpu", "--rows", "3", "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"].startswith("tiny-llama")
    assert found["speed"]["rows"] == 3 and found["speed"]["gain"] > 0
    assert found["speed"]["written_share"] > 0 and found["speed"]["captured_share"] > 0
    assert found["budget"]["rows"] == 128 and found["budget"]["row"] > 0 and found["budget"]["cap"] == 128
    assert found["machine"]["dtype"] == "float32" and isinstance(found["advice"], list) and found["seconds"] > 0


def test_a_model_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", "./nowhere", "--quiet"]) == 2
    assert "\n  → " in capsys.readouterr().err
