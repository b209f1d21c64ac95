"""Commands that a report prints are accepted as printed and find the runs of its study, whatever it was called with."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.experiments import experiments
from emotion_circuits.experiments._contract import PairExperiment
from emotion_circuits.store import Store
from small_study import PROFILE


@pytest.fixture
def command(cli: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a command as it is printed, in the current folder."""

    def typed(line: str, *more: str) -> Any:
        words = shlex.split(line)
        assert words[0] == "emotion-circuits"
        return cli(*words[1:], *more)

    return typed


@pytest.fixture
def asked_oddly(
    cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A study of a relative profile and model with blanks and quotes in their paths, a seed and a results folder."""
    shutil.copytree(model, tmp_path / "it's a model")
    (tmp_path / "my study.toml").write_text(PROFILE.format(model="unused"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = ("study", "./my study.toml", "--model", "./it's a model", "--results", "my results", "--seed", "3")
    assert cli(*words).code == 0
    return stored()


def stored() -> dict[str, Any]:
    """The content of the report that was written last."""
    found: dict[str, Any] = json.loads(Path("my results/my-study/report/report.json").read_text(encoding="utf-8"))
    return dict(found["report"])


def printed(report: dict[str, Any]) -> list[str]:
    """Every command of the verdicts and of the checklist."""
    reasons = [v["reason"] for v in report["verdicts"] if "emotion-circuits" in v["reason"]]
    (items,) = [t for s in report["sections"] for t in s["tables"] if t["name"] == "checklist"]
    rows = [row["command"] for row in items["rows"] if row["command"]]
    return [*(reason[reason.index("emotion-circuits") :] for reason in reasons), *rows]


def test_open_points_are_accepted_as_printed_and_build_on_what_is_done(
    command: Callable[..., Any], asked_oddly: dict[str, Any]
) -> None:
    """``--dry-run`` loads the profile and the model that the command names, and knows what is done."""
    (done,) = Store(Path("my results")).find(experiment="directions")
    reused = set()
    for line in dict.fromkeys(printed(asked_oddly)):
        if isinstance(experiments()[shlex.split(line)[2]], PairExperiment) or " FILE" in line:
            continue  # the embedded model that stands for the second is no part of the tests
        if " real-world " in line:
            continue  # its default is the plan's layer 6, and the tiny model has three
        cells = command(line, "--dry-run", "--json").json["cells"]
        assert cells[-1]["experiment"] == shlex.split(line)[2] and cells[-1]["state"] == "to do"
        reused |= {line.split()[2] for c in cells if c["key"] == done.key and c["state"] == "done"}
    assert "sweep" in reused


def test_the_study_again_finds_its_runs(command: Callable[..., Any], asked_oddly: dict[str, Any]) -> None:
    answer = command(asked_oddly["command"])
    assert answer.code == 0 and len(Store(Path("my results")).find(experiment="directions")) == 1
    # From disk alone the report names the same study: the model where it lies.
    assert command("emotion-circuits report --profile './my study.toml' --results 'my results'").code == 0
    again = stored()["command"]
    words = shlex.split(again)
    assert words[4] == str(Path("it's a model").resolve()) and words[-2:] == ["--seed", "3"]
    assert command(again).code == 0 and len(Store(Path("my results")).find(experiment="directions")) == 1
