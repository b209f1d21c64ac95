"""``transfer-steer`` through the command line on tiny random models: what it keeps, refuses and resumes.

A random model holds no emotions; that the numbers mean what they say is tested on planted effects
(``tests/unit/test_pairs_steering.py``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_circuits.experiments._pairs import steer_report
from emotion_circuits.store.tensors import open_tensors

SMALL = (
    "--scenarios", 20, "--map-size", 60, "--depths", 0, 1, "--limit", 3, "--strengths", 0.2, 0.4, "--shuffles", 19,
    "--random", 19, "--steer", "gratitude", "anger", "--max-new-tokens", 5, "--samples", 2, "--control-samples", 1,
    "--resamples", 200, "--quiet",
)  # fmt: skip
VERDICTS = {
    "transfers", "transfers in part", "not distinguishable from controls", "no effect shown", "moves the other way",
    "not identified", "text broken", "inconclusive",
}  # fmt: skip
CONTROLS = {"native", "mapped", "shuffled_maps", "untrained_map", "covariance"}


def line(source: Path, target: Path, results: Path) -> list[object]:
    return ["run", "transfer-steer", "--source", source, "--target", target, "--results", results, *SMALL]


def folder_of(results: Path) -> Path:
    (done,) = results.glob("*/*--*/transfer-steer/*/done.json")
    return done.parent


@pytest.fixture(autouse=True)
def _evaluators(embedded: Any) -> None:
    embedded("minilm")


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory, embedded: Any, model: Path, worded: Path) -> Path:
    """Results of one run; tests must not change this folder."""
    from emotion_circuits.cli import main

    embedded("minilm")
    results = tmp_path_factory.mktemp("steered")
    assert main([str(w) for w in line(model, worded, results)]) == 0
    return results


def test_the_json_is_whole_and_finished_work_is_reused(cli: Any, model: Path, worded: Path, steered: Path) -> None:
    before = (folder_of(steered) / "done.json").stat().st_mtime_ns
    found = cli(*line(model, worded, steered), "--json").json
    assert (folder_of(steered) / "done.json").stat().st_mtime_ns == before
    assert [r["emotion"] for r in found["per_emotion"]] == ["gratitude", "anger"]
    assert found["layer_pair"]["chosen_on"] == "dev" and found["prompts"] == {"dev": 3, "test": 3}
    for row in found["per_emotion"]:
        assert row["verdict"] in VERDICTS and row["reason"]
        assert set(row["arms"]) == {"native", "mapped", "untrained_map", "word_embeddings", "twin"}
        assert set(row["families"]) == {"shuffled_maps", "covariance"}
        assert {f["members"] for f in row["families"].values()} == {19}
        assert set(row["above"]) == {"untrained_map", "twin", "word_embeddings"}
        assert row["p"]["max"] == max(row["p"]["shuffled_maps"], row["p"]["covariance"]) >= 1 / 20
        assert row["p_bh"] >= row["p"]["max"] and row["alpha"] in (0.2, 0.4)
        assert set(row["texts"]) == {"baseline", *CONTROLS}
        for arm in CONTROLS:
            assert {"median_ppl_ratio", "rep4", "distinct2_ratio", "empty", "ok"} <= set(row["texts"][arm]["damage"])
        low, high = row["arms"]["mapped"]["ci"]
        assert low <= row["arms"]["mapped"]["effect"] <= high
    effect = np.array(found["matrix"]["effect"])
    assert [effect[i, i] for i in range(2)] == [
        pytest.approx(r["arms"]["mapped"]["effect"]) for r in found["per_emotion"]
    ]


def test_all_vectors_of_an_emotion_have_one_length(steered: Path) -> None:
    """The length comes from the dose alone; the run keeps the vectors and every control's effect."""
    folder = folder_of(steered)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for row in summary["per_emotion"]:
        assert row["length"] == pytest.approx(row["alpha"] * summary["residual_norm"])
    vectors = open_tensors(folder / "vectors.safetensors")
    assert {name.split("/")[0] for name in vectors} == {"native", "mapped", "untrained_map", "word_embeddings"}
    effects = open_tensors(folder / "control_effects.safetensors")
    assert set(effects) == {f"{f}/{e}" for f in ("shuffled_maps", "covariance") for e in ("gratitude", "anger")}
    assert all(len(np.asarray(values)) == 19 for values in effects.values())


def test_the_section_shows_every_arm_and_the_texts(steered: Path) -> None:
    section = json.loads((folder_of(steered) / "section.json").read_text(encoding="utf-8"))
    arms, *_ = section["figures"]
    assert {row["group"] for row in arms["data"]} == {
        "native", "mapped", "shuffled maps (band)", "random, covariance-matched (band)", "map into the untrained twin",
        "word embeddings, mapped", "in the untrained twin",
    }  # fmt: skip
    tables = {t["name"]: t["rows"] for t in section["tables"]}
    assert len(tables["transfer-steer"]) == 2
    assert len(tables["transfer-steer-damage"]) == 2 * 5
    assert len(tables["transfer-steer-texts-anger"]) == 3
    assert any("chosen on dev" in sentence for sentence in section["answer"])


def test_observations_hold_every_arm(steered: Path) -> None:
    import pandas as pd

    observed = pd.read_parquet(folder_of(steered) / "observations.parquet")
    logit = observed[observed["scorer"] == "logit"]
    assert set(logit["arm"]) == {"baseline"} | {
        f"{s}{a}" for s in "+-" for a in ("native", "mapped", "map into the untrained twin", "word embeddings")
    }
    assert len(logit) == 2 * 3 * (1 + 2 * 4)
    assert np.isfinite(observed["value"]).all()


def test_without_a_twin_its_arms_are_absent_and_given_layers_are_not_chosen(
    cli: Any, model: Path, worded: Path, tmp_path: Path
) -> None:
    words = [*line(model, worded, tmp_path), "--floors", "embedding", "--layers", 0, "--target-layers", 1, "--json"]
    found = cli(*words).json
    pair = found["layer_pair"]
    assert (pair["source"], pair["target"], pair["chosen_on"]) == (0, 1, "given")
    section = json.loads((folder_of(tmp_path) / "section.json").read_text(encoding="utf-8"))
    assert section["answer"][0].startswith("Layers 0 → 1 were given, each emotion's strength")
    for row in found["per_emotion"]:
        assert set(row["arms"]) == {"native", "mapped", "word_embeddings"} and set(row["above"]) == {"word_embeddings"}
    assert not list(tmp_path.glob("*/*untrained*"))


KILLED = """
import os, signal, sys
import emotion_circuits.experiments._measure as measure
from emotion_circuits.cli import main

step, *words = sys.argv[1:]
score, generate = measure.Measure.score, measure.Measure.generate

def at(original):
    def called(self, name, *args):
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, name, *args)
    return called

measure.Measure.score, measure.Measure.generate = at(score), at(generate)
main(words)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("step", ["test-texts", "untrained-twin"])
def test_a_killed_run_goes_on_and_finds_the_same(
    cli: Any, model: Path, worded: Path, steered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    words = [*map(str, line(model, worded, tmp_path))]
    code = [sys.executable, "-c", KILLED, step, *words]
    done = subprocess.run(code, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(tmp_path.glob("*/*--*/transfer-steer/*/done.json"))
    (dev,) = tmp_path.glob("*/*--*/transfer-steer/*/dev.safetensors")
    written = dev.stat().st_mtime_ns

    def never(*args: object) -> None:
        raise AssertionError("the layers were searched again")

    monkeypatch.setattr(steer_report, "search_layers", never)
    assert cli(*words).code == 0
    assert dev.stat().st_mtime_ns == written
    once, twice = (json.loads((folder_of(r) / "summary.json").read_text()) for r in (steered, tmp_path))
    assert once == twice


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--steer", "hunger"), ("hunger",)),
        (("--steer", "gratitud"), ("gratitude",)),
        (("--strengths", 0, 0.2), ("above 0",)),
        (("--strengths", -0.2), ("above 0",)),
        (("--strengths", "nan"), ("nan",)),
        (("--shuffles", 18), ("--shuffles", "19")),
        (("--random", 5), ("--random", "19")),
        (("--at", "mean-content"), ("cannot be steered",)),
        (("--at", "generated"), ("next token", "onward")),
        (("--prompts", "nothing-like-this"), ("nothing-like-this",)),
        (("--map-size", 49), ("49 neutral texts", "--map-size")),
        (("--emotions", "joy"), ("1 emotion(s)",)),
        (("--limit", 1), ("--limit",)),
        (("--top-p", 0), ("--top-p",)),
    ],
)
def test_wrong_requests_are_refused_before_a_model_is_loaded(
    cli: Any, words: tuple[object, ...], parts: tuple[str, ...]
) -> None:
    cli("run", "transfer-steer", "--source", "x", "--target", "y", "--offline", *words).refused(2, *parts)


def test_texts_of_ones_own_give_the_vectors(cli: Any, model: Path, worded: Path, tmp_path: Path) -> None:
    """Emotions that have no words of their own in the lexicons are left out by name."""
    path = tmp_path / "own.jsonl"
    rows = [
        {"text": f"A line number {i} about {e}.", "emotion": e} for e in ("joy", "fear", "boredom") for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = [w for w in line(model, worded, tmp_path / "r") if w not in ("--steer", "gratitude", "anger")]
    found = cli(*words, "--on", path, "--json").json
    assert {r["emotion"] for r in found["per_emotion"]} == {"joy", "fear"}
    assert [one["emotion"] for one in found["left_out"]] == ["boredom"] and found["left_out"][0]["reason"]


def test_an_untrained_target_is_steered_and_has_a_twin_of_its_own(
    cli: Any, model: Path, worded: Path, tmp_path: Path
) -> None:
    found = cli(*line(model, worded, tmp_path), "--target-untrained", "--json").json
    assert all("twin" in r["arms"] for r in found["per_emotion"])
    assert not {r["verdict"] for r in found["per_emotion"]} & {"transfers", "transfers in part"}
    assert list(tmp_path.glob("*/*--*untrained-1/transfer-steer/*/done.json"))


def test_a_model_is_not_compared_with_itself(cli: Any, model: Path, tmp_path: Path) -> None:
    words = ("run", "transfer-steer", "--source", model, "--target", model, "--results", tmp_path)
    cli(*words).refused(2, "needs two models")


def test_a_target_whose_tokenizer_has_no_words_of_the_emotion_is_refused(
    cli: Any, model: Path, worded: Path, tmp_path: Path
) -> None:
    cli(*line(worded, model, tmp_path)).refused(2, "gratitude")


def test_dry_run_counts_what_is_measured(cli: Any, model: Path, worded: Path, steered: Path, tmp_path: Path) -> None:
    cells = cli(*line(model, worded, tmp_path), "--dry-run", "--json").json["cells"]
    assert [c["experiment"] for c in cells] == ["shared-texts"] * 3 + ["transfer-steer"]
    own = cells[-1]
    files = [np.asarray(next(iter(open_tensors(path).values()))) for path in folder_of(steered).glob("*.safetensors")
             if path.stem.startswith(("dev", "test", "untrained"))]  # fmt: skip
    written = (folder_of(steered) / "generations.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(map(len, files)) <= own["scored"] and len(written) <= own["written"]
    doses = {r["alpha"] for r in json.loads((folder_of(steered) / "summary.json").read_text())["per_emotion"]}
    if len(doses) == 2:
        assert sum(map(len, files)) == own["scored"] and len(written) == own["written"]
