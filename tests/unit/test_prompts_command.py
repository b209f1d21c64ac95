"""The verb ``prompts``: tables, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emotion_circuits.cli import main


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(tmp_path / "data"))


def test_list_names_every_set_with_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "list", "--json"]) == 0
    texts = {row["name"]: row["texts"] for row in json.loads(capsys.readouterr().out)["sets"]}
    assert texts["extended"] == 400 and texts["real_world"] == 35 and len(texts) == 9


def test_a_damaged_set_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "prompts"
    folder.mkdir(parents=True)
    (folder / "torn.jsonl").write_text('{"text": ')
    assert main(["prompts", "list"]) == 0
    assert "unreadable" in capsys.readouterr().out


def test_show_fits_80_columns_and_gives_the_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "show", "atlas"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "320 texts, 40 scenarios, paired" in out
    assert main(["prompts", "show", "atlas", "--json", "--texts", "2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["statistics"]["label_splits"]["joy"] == {"fit": 20, "dev": 8, "test": 12}
    assert shown["statistics"]["lengths"]["joy"]["words_min"] >= 8
    assert len(shown["examples"]) == 2


def test_validate_passes_a_sound_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "validate", "neutral_pool"]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_validate_exits_1_and_lists_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"text": "Thanks, Dave.", "emotion": "gratitude", "stratum": "implicit"}\n'
        '{"text": "Thanks, Dave.", "emotion": "gratitude", "stratum": "loud"}\n'
        '{"text": "The door is blue.", "emotion": "neutral"}\n'
    )
    assert main(["prompts", "validate", str(path)]) == 1
    out, err = capsys.readouterr()
    assert f"{path}:1: field text: the text is implicit" in " ".join(out.split())
    assert f"{path}:2: field stratum: 'loud'" in out
    assert err.startswith("error: ")
    assert main(["prompts", "validate", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["valid"] and {problem["line"] for problem in found["problems"]} >= {1, 2}


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", "absent.jsonl"],
        ["show", "no-such-set"],
        ["build", "--from", "absent.csv", "--name", "x"],
        ["build", "--name", "x"],
    ],
)
def test_wrong_use_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ")


def test_validate_of_an_unreadable_file_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"text": "Caf\xe9", "emotion": "anger"}\n')
    assert main(["prompts", "validate", str(path)]) == 2
    assert "latin.jsonl:1" in capsys.readouterr().err


def test_build_says_where_it_saved_and_that_it_is_unpaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for emotion, text in (("gratitude", "Thanks for lift {}."), ("neutral", "Lift {} goes to the attic.")):
        texts = [text.format(number) for number in ["one", "two", "three", "four", "five", "six"]]
        (tmp_path / f"{emotion}.json").write_text(json.dumps({"prompts": texts}))
    files = [str(tmp_path / "gratitude.json"), str(tmp_path / "neutral.json")]
    assert main(["prompts", "build", "--from", *files, "--name", "lifts"]) == 0
    out = capsys.readouterr().out
    assert "12 texts saved to" in " ".join(out.split()) and "unpaired" in out
    assert main(["prompts", "show", "lifts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["statistics"]["labels"] == {"gratitude": 6, "neutral": 6}
    assert main(["prompts", "build", "--from", *files, "--name", "lifts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paired"] is False
