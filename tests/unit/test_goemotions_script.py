"""The script that turns GoEmotions' files into labelled texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "goemotions.py"
ROWS = (
    ("Thanks a lot", "15"), ("Go away", "2"), ("Sorry about that", "24"), ("Both", "2,15"), ("It is red", "27"),
    ("Joy", "17"),
)  # fmt: skip
LINES = "".join(f"{text}\t{labels}\tid\n" for text, labels in ROWS)


def run(tmp_path: Path, *labels: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "dev.tsv").write_text(LINES, encoding="utf-8")
    words = [sys.executable, str(SCRIPT), str(tmp_path / "dev.tsv"), str(tmp_path / "out.jsonl"), *labels]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def written(tmp_path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    return [(row["text"], row["emotion"]) for row in rows]


def test_single_labels_are_kept_under_our_names(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 0
    assert written(tmp_path) == [
        ("Thanks a lot", "gratitude"), ("Go away", "anger"), ("Sorry about that", "apology"), ("It is red", "neutral"),
    ]  # fmt: skip
    assert run(tmp_path, "joy").returncode == 0 and written(tmp_path) == [("Joy", "joy")]


def test_unknown_labels_are_refused_with_those_there_are(tmp_path: Path) -> None:
    refused = run(tmp_path, "awe")
    assert refused.returncode == 2 and "awe" in refused.stderr and "gratitude" in refused.stderr
