"""Both READMEs' commands, in order, as a newcomer types them: with a small model in the place of the named ones."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pages import commands
from small_study import save_worded

# Minutes even on a tiny model (as is a study of two), or, on one with random weights, refused for want of an effect:
# shown, not run.
SHOWN = ("run sweep", "run transfer", "run circuit.report")
MODEL_VERBS = ("study", "bench")
NAMES = {"smollm2-135m": "./my-model", "gemma-3-270m": "./other"}


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page says one has: a model, labelled comments, a table of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(tmp_path / "data"))
    for folder in NAMES.values():
        save_worded(Path(folder))
    said = {"gratitude": "Thank you so much for box {}", "anger": "I am furious about box {}",
            "apology": "I am so sorry about box {}", "neutral": "Box {} stands by the door"}  # fmt: skip
    comments = [{"text": text.format(n), "emotion": emotion} for n in range(12) for emotion, text in said.items()]
    Path("comments.jsonl").write_text("\n".join(map(json.dumps, comments)), encoding="utf-8")
    with Path("mine.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(said[e].format(n), e, f"s{n}") for n in range(20) for e in ("gratitude", "neutral")]
        csv.writer(file).writerows([("text", "emotion", "scenario"), *rows])
    return tmp_path


def test_every_command_of_the_readme_runs_in_order(cli: Callable[..., Any], newcomer: Path) -> None:
    ran = []
    for line in dict.fromkeys(commands("README.md")):
        words = [NAMES.get(word, word) for word in shlex.split(line)[1:]]
        takes_model = " ".join(words[:2]) in ("run check", "run steer", "vectors export") or words[0] in MODEL_VERBS
        if takes_model and "--model" not in words:  # the default model, or the profile's
            words += ["--model", NAMES["smollm2-135m"]]
        if words[0] == "explore" or words == ["doctor"]:
            continue  # a server, and a look at this machine's own cache: they have tests of their own
        if (" ".join(words[:2]) in SHOWN or {*NAMES.values()} < {*words}) and "--dry-run" not in words:
            words.append("--dry-run")
        answer = cli(*words)
        assert answer.code == 0, (line, answer.err[-2000:])
        ran.append(line)
    assert len(ran) == len({*commands("README.md")}) - 2, "all but doctor and explore"
    assert Path("results/quickstart/plots/directions/layer-auroc.png").exists(), "the first figure that the page names"
    assert Path("results/quickstart/report/report.html").exists() and Path("gratitude.gguf").exists()
