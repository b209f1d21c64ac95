"""``export`` as a command: what it names, refuses and leaves alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.cli import main
from emotion_circuits.errors import UsageError
from emotion_circuits.store import Store
from exported_runs import PROFILE, A, B, aligned, begun, finished
from pages import refusal


@pytest.fixture(autouse=True)
def _excepthook_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def export(store: Store, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``export(*words)``: exit code, stdout, stderr."""

    def run(*words: object, profile: str = PROFILE) -> tuple[int, str, str]:
        capsys.readouterr()
        layout = () if "--layout" in words else ("--layout", "plan")
        line = ["export", *layout, "--profile", profile, "--results", store.root, *words]
        code = main([str(w) for w in line])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_commands_for_what_is_missing_are_accepted_and_name_the_models(store: Store, export: Any) -> None:
    finished(store, "steer", {"results": []})
    code, out, err = export("--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["layout"] == "plan" and [f["path"] for f in found["files"]] == [f"patching/{A}_patching.json"]
    commands = {m["path"]: m["command"] for m in found["missing"]}
    refused = {c: why for c in commands.values() if (why := refusal(c))}
    assert not refused
    assert f"--model {A} " in commands["alignment/head_scores_{model}.json"]
    assert f"--source {A} --target " in commands["alignment/k_sweep.json"]
    assert all(c.endswith(f"--results {store.root}") for c in commands.values())


def test_what_is_printed_names_every_file_and_fits(store: Store, export: Any) -> None:
    aligned(store, (A, B))
    code, out, _ = export()
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{store.root / PROFILE / 'plan'}: 5 files"
    at = lines.index("  linear_maps/layer_{L}.pt")
    assert lines[at + 1].strip().startswith("W [target d, source d], float64 · 2 files · ")
    assert lines[at + 1].endswith("· written")
    assert all(len(line) <= 80 for line in lines[1:] if "emotion-circuits " not in line)
    assert "      emotion-circuits run k-sweep --source model-a --target model-b" in out


def test_unfinished_runs_are_named_and_the_exit_code_says_so(store: Store, export: Any) -> None:
    finished(store, "steer", {"results": []})
    failed = begun(store, "heads.screen")
    failed.fail(UsageError("no such layer", "choose another layer"))
    begun(store, "sweep")
    code, out, err = export()
    assert code == 3 and f"patching/{A}_patching.json" in out
    assert "heads.screen" in err and "failed: no such layer" in err and "→ choose another layer" in err
    assert "interrupted" in err and "resumes" in err


def test_a_damaged_summary_is_named_and_the_rest_is_written(store: Store, export: Any) -> None:
    finished(store, "steer", {"results": []})
    run = finished(store, "heads.screen", {"layers": 1, "heads_per_layer": 1, "scores": []})
    run.path("summary.json").write_text("{", encoding="utf-8")
    code, out, err = export()
    assert code == 3 and f"patching/{A}_patching.json" in out
    assert "summary.json is not valid JSON" in err and "\n  → remove the folder" in err


def test_a_failed_run_beside_a_finished_one_is_no_matter(store: Store, export: Any) -> None:
    finished(store, "steer", {"results": []})
    begun(store, "steer", params={"n": 2}).fail(UsageError("no", ""))
    assert export()[0] == 0


@pytest.mark.parametrize(
    ("words", "profile", "part"),
    [((), "no-such-profile", "unknown profile"), ((), "extended", "no finished run of profile 'extended'"),
     (("--layout", "circus"), PROFILE, "circus")],
)  # fmt: skip
def test_wrong_requests_are_refused(store: Store, export: Any, words: Any, profile: str, part: str) -> None:
    finished(store, "steer", {"results": []})
    code, out, err = export(*words, profile=profile)
    assert code == 2 and not out and part in err and "\n  → " in err


def test_folders_that_cannot_be_written_end_in_one_sentence(store: Store, export: Any, tmp_path: Path) -> None:
    finished(store, "steer", {"results": []})
    (tmp_path / "file").write_text("x")
    code, _, err = export("--output", tmp_path / "file")
    assert code == 2 and "is a file" in err and "--output" in err
    code, _, err = export("--output", tmp_path / "file" / "below")
    assert code == 1 and "a file stands where a folder is needed" in err and "Traceback" not in err
    assert "choose another --output" in err and "--results" not in err


def test_another_programs_export_json_is_left_alone(store: Store, export: Any, tmp_path: Path) -> None:
    finished(store, "steer", {"results": []})
    (tmp_path / "export.json").write_text('{"mine": 1}')
    code, _, err = export("--output", tmp_path)
    assert code == 2 and "is not the list of an export" in err
