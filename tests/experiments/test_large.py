"""The profile for mid-size models: its plan, and its whole chain on tiny models, down to the summary."""

from __future__ import annotations

import csv
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging as transformers_logging

from emotion_circuits.experiments import load_profile
from emotion_circuits.report.comparison import COLUMNS
from tiny_models import tiny_model
from worded_tokenizer import worded_tokenizer

SMALL: dict[str, dict[str, Any]] = {
    "directions": {"scenarios": 20, "permutations": 99, "resamples": 200},
    "sweep": {"scenarios": 3, "depths": [0.0, 0.5], "strengths": [-0.4, 0.4], "samples": 1, "dev_samples": 1,
              "random": 19, "max_new_tokens": 4, "emotions": ["gratitude"]},
    "overlap": {"scenarios": 20, "map_size": 60, "depths": [0.0, 1.0]},
    "align": {"scenarios": 20, "map_size": 60, "depths": [0.0, 1.0], "permutations": 19},
    "transfer": {"scenarios": 20, "map_size": 60, "depths": [0.0, 1.0], "permutations": 99, "resamples": 100},
    "transfer-steer": {"scenarios": 20, "map_size": 60, "depths": [0.0, 1.0], "limit": 3, "strengths": [0.4],
                       "shuffles": 19, "random": 19, "steer": ["gratitude"], "max_new_tokens": 4, "samples": 1,
                       "dev_samples": 1, "resamples": 200},
}  # fmt: skip
"""What makes the profile's own experiments small; everything else is as it comes with the package."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tiny models that know the emotions' words, the second with other weights."""
    tokenizer, folders = worded_tokenizer(), []
    transformers_logging.disable_progress_bar()
    for seed, name in enumerate(("little", "large")):
        folder = tmp_path_factory.mktemp("models") / name
        tiny_model("llama", tokenizer, seed=seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(folder)
    transformers_logging.enable_progress_bar()
    return folders


def shrunk(path: Path, models: list[Path]) -> Path:
    """The shipped profile with small numbers, as a file."""
    shipped = tomllib.loads((files("emotion_circuits") / "studies" / "large.toml").read_text(encoding="utf-8"))
    lines = [f"title = {json.dumps(shipped['title'])}", f"pairs = {json.dumps(shipped['pairs'])}",
             f"models = {json.dumps([str(m) for m in models])}"]  # fmt: skip
    for table in shipped["experiment"]:
        values = {**table, **SMALL.get(table["name"], {})}
        lines += ["[[experiment]]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_plan_of_the_shipped_profile(cli: Any, tmp_path: Path) -> None:
    """Four models, and the first with each other one both ways; nothing is loaded or fetched for it."""
    found = cli("study", "large", "--dry-run", "--runner", "slurm", "--dtype", "bfloat16", "--results", tmp_path,
                "--offline", "--json").json  # fmt: skip
    shards = found["shards"]
    singles, pairs = (
        [s["models"] for s in shards if len(s["models"]) == 1],
        [s for s in shards if len(s["models"]) == 2],
    )
    assert singles == [["gpt2"], ["llama3_8b"], ["gemma3_12b"], ["qwen3_8b"]]
    assert len(pairs) == 6 and all("gpt2" in s["models"] for s in pairs)
    assert all(len(s["after"]) == 2 for s in pairs)
    assert [c["experiment"] for c in shards[0]["cells"]] == ["doctor", "directions", "sweep"]
    assert [c["experiment"] for c in pairs[0]["cells"]] == ["overlap", "align", "transfer", "transfer-steer"]
    sizes = {s["models"][0]: s["memory_bytes"] for s in shards if len(s["models"]) == 1}
    assert sizes["llama3_8b"] > 2 * 8_000_000_000 and sizes["gemma3_12b"] > sizes["llama3_8b"]
    assert not list(tmp_path.iterdir())


def test_pairs_of_a_profile(tmp_path: Path) -> None:
    assert load_profile("large").pairs_of(["s", "a", "b"]) == [("s", "a"), ("s", "b"), ("a", "s"), ("b", "s")]
    assert len(load_profile("atlas").pairs_of(["s", "a", "b"])) == 6
    path = tmp_path / "p.toml"
    path.write_text('pairs = "some"\n[[experiment]]\nname = "doctor"\n')
    with pytest.raises(Exception, match="pairs must be all or first"):
        load_profile(str(path))


def test_the_whole_chain(cli: Any, embedded: Any, models: list[Path], tmp_path: Path) -> None:
    embedded("minilm")
    profile = shrunk(tmp_path / "large.toml", models)
    answer = cli("study", profile, "--results", tmp_path / "r", "--quiet")
    assert answer.code == 0, answer.err
    folder = tmp_path / "r" / "large" / "report"
    with (folder / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    measures = {(r["experiment"], r["measure"]) for r in rows}
    assert {e for e, _ in measures} == {"directions", "sweep", "align", "transfer", "transfer-steer"}
    positions = {r["position"] for r in rows if r["experiment"] == "directions"}
    assert positions == {"mean-content", "last", "emotion-word-last"}, "vectors of tokens beside the text's mean"
    shared = [r for r in rows if r["experiment"] == "transfer" and r["emotion"] == "all"]
    assert len(shared) == 2 and {r["source"] for r in shared} == {r["model"] for r in shared}
    aligned = [r for r in rows if r["experiment"] == "align"]
    assert {r["measure"] for r in aligned} == {"overlap before map", "overlap after map"}
    assert all(r["source_depth"] == r["depth"] for r in aligned), "layers of like relative depth"
    assert all(0 <= float(r["depth"]) <= 1 for r in rows if r["depth"])
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))["report"]
    side = next(s for s in report["sections"] if s["name"] == "comparison")
    assert report["sections"][0] is side, "it stands first"
    assert len(side["tables"][0]["rows"]) == len(rows)
    assert {f["name"] for f in side["figures"]} >= {"comparison-auroc", "comparison-effect"}
    again = cli("report", "--profile", profile, "--results", tmp_path / "r", "--json", "--format", "svg").json
    assert Path(again["summary"]).read_text(encoding="utf-8").count("\n") == len(rows) + 1
