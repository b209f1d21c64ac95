"""The whole way on real weights: `study smoke`, and the fitted directions on comments that nobody here wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.real_model

EMOTIONS = ("gratitude", "anger", "apology")
COMMENTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "goemotions"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, embedded: Callable[[str], Any]) -> Path:
    """One results folder for this file, so that the model reads each text once."""
    embedded("smollm2-135m")
    return tmp_path_factory.mktemp("results")


def test_study_smoke(cli: Any, results: Path) -> None:
    answer = cli("study", "smoke", "--results", results, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "smollm2-135m: all " in answer.err
    lines = answer.out.splitlines()
    assert lines[0] == "Question 1. Where is each emotion?"
    for emotion, line in zip(EMOTIONS, lines[1:4], strict=True):
        assert line.strip().startswith(f"{emotion}: layer ") and " of 30, test AUROC " in line
        assert "shuffled-label p 0.005" in line
    again = f"emotion-circuits study smoke --model smollm2-135m gemma-3-270m --results {results}"
    assert lines[4].endswith(f"– not asked: add --model gemma-3-270m: {again}")
    page = (results / "smoke" / "report" / "report.html").read_text(encoding="utf-8")
    assert all(emotion in page for emotion in EMOTIONS) and "smollm2-135m" in page


def test_the_smoke_study_comes_out_in_the_plans_layout(cli: Any, results: Path) -> None:
    found = cli("export", "--layout", "plan", "--profile", "smoke", "--results", results, "--json").json
    out = Path(found["folder"])
    vectors = torch.load(out / "emotion_vectors/smollm2-135m_vectors_mean-content.pt", weights_only=True)
    assert {e: v.shape for e, v in vectors["emotion_vectors"].items()} == dict.fromkeys(EMOTIONS, (30, 576))
    assert {f["path"].split("/")[0] for f in found["files"]} == {"activations", "emotion_vectors"}
    missing = {m["path"]: m["command"] for m in found["missing"]}
    assert "--source smollm2-135m --target gemma-3-270m --profile smoke" in missing["alignment/k_sweep.json"]


def test_directions_of_the_baseline_separate_comments(cli: Any, results: Path, tmp_path: Path) -> None:
    if not COMMENTS.is_dir():
        pytest.skip("GoEmotions comments are not beside this checkout (../shared/data/goemotions)")
    path = tmp_path / "comments.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in comments()), encoding="utf-8")
    # The directions of the profile `baseline`, without the other sets that it also reads.
    profile = tmp_path / "baseline-only.toml"
    profile.write_text(
        '[[experiment]]\nname = "directions"\nprompts = "baseline"\npermutations = 99\nresamples = 200\n'
    )
    words = ("--results", results, "--profile", profile, "--device", "cpu", "--quiet", "--json")
    found = cli("run", "check", *words, "--on", path).json
    measured = {r["emotion"]: r["auroc"] for r in found["results"]}
    assert measured["gratitude"] >= 0.88 and measured["anger"] >= 0.68 and measured["apology"] >= 0.80, measured
    assert all(r["n"] >= 30 for r in found["results"])


def comments() -> list[dict[str, str]]:
    """Fifty dev comments of each label that carry no other one."""
    names = (COMMENTS / "labels.txt").read_text(encoding="utf-8").split()
    kept: dict[str, list[str]] = {n: [] for n in ("gratitude", "anger", "remorse", "neutral")}
    with (COMMENTS / "dev.tsv").open(encoding="utf-8", newline="") as file:
        for text, labels, _ in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            name = names[int(labels)] if labels.isdigit() else ""
            if name in kept and len(kept[name]) < 50:
                kept[name].append(text)
    return [{"text": text, "emotion": name} for name, texts in kept.items() for text in texts]
