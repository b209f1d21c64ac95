"""An emotion that is added to finished work: only its own texts go through the model, and the numbers are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_circuits.experiments._outline import outline_run
from emotion_circuits.experiments._runner import Workbench, run_experiment
from emotion_circuits.models import LM, load_lm
from emotion_circuits.store import Run, Store, open_tensors
from tiny_models import tiny_lm

SMALL = {"scenarios": 20, "permutations": 99, "resamples": 200}
TWO = {**SMALL, "emotions": ("gratitude", "anger")}
THREE = {**SMALL, "emotions": ("gratitude", "anger", "apology")}
TEXTS = 20


@pytest.fixture
def lm(tiny: Callable[..., LM]) -> LM:
    return tiny("llama")


@pytest.fixture
def captured(lm: LM) -> Iterator[list[int]]:
    """Texts of every forward pass, in order."""
    rows: list[int] = []

    def count(module: Any, args: Any, given: dict[str, Any]) -> None:
        rows.append(len(given["input_ids"]))

    handle = lm.decoder.register_forward_pre_hook(count, with_kwargs=True)
    yield rows
    handle.remove()


def bench(lm: LM, results: Path, profile: str = "mine", **options: Any) -> Workbench:
    return Workbench(Store(results), profile, lambda: lm, **options)


def extract_of(run: Run) -> Run:
    key = run.inputs["required"]["extract"]
    return next(r for r in Store(run.folder.parents[3]).find(experiment="extract") if r.key == key)


def same_values(one: Run, other: Run) -> None:
    files = sorted(path.name for path in one.folder.glob("*.safetensors"))
    assert files and files == sorted(path.name for path in other.folder.glob("*.safetensors"))
    for file in files:
        found, expected = open_tensors(one.path(file)), open_tensors(other.path(file))
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert np.array_equal(values, expected[name]), (file, name)


def test_only_the_texts_of_the_added_emotion_are_captured(lm: LM, captured: list[int], tmp_path: Path) -> None:
    run_experiment("directions", TWO, bench(lm, tmp_path / "amended"))
    assert sum(captured) == 3 * TEXTS, "two emotions and neutral"
    captured.clear()
    amended = run_experiment("directions", THREE, bench(lm, tmp_path / "amended"))
    assert sum(captured) == TEXTS, "the third emotion"
    captured.clear()
    scratch = run_experiment("directions", THREE, bench(lm, tmp_path / "scratch"))
    assert sum(captured) == 4 * TEXTS

    same_values(extract_of(amended), extract_of(scratch))
    same_values(amended, scratch)
    assert amended.read_summary() == scratch.read_summary()
    assert amended.read_observations().equals(scratch.read_observations())
    assert json.loads((amended.folder / "section.json").read_text()) == json.loads(
        (scratch.folder / "section.json").read_text()
    )


def test_numbers_against_the_other_emotions_are_those_of_the_new_set(lm: LM, tmp_path: Path) -> None:
    two = run_experiment("directions", TWO, bench(lm, tmp_path)).read_summary()["results"][0]
    three = run_experiment("directions", THREE, bench(lm, tmp_path)).read_summary()["results"][0]
    assert two["emotion"] == three["emotion"] == "gratitude"
    assert two["own_vs_rest"] != three["own_vs_rest"], "another rest"


def test_where_copied_texts_come_from_is_recorded(lm: LM, tmp_path: Path) -> None:
    first = extract_of(run_experiment("directions", TWO, bench(lm, tmp_path)))
    second = extract_of(run_experiment("directions", THREE, bench(lm, tmp_path, profile="other")))
    assert first.read_json("texts.json")["copied_from"] == {}
    assert second.read_json("texts.json")["copied_from"] == {first.folder.relative_to(tmp_path).as_posix(): 3 * TEXTS}


def test_every_token_and_emotion_words_are_taken_over_too(lm: LM, captured: list[int], tmp_path: Path) -> None:
    params = {"scenarios": 20, "sites": ("resid_post", "attn_out"),
              "positions": ("mean-content", "all", "emotion-word-last")}  # fmt: skip
    run_experiment("extract", {**params, "emotions": ("gratitude", "anger")}, bench(lm, tmp_path / "amended"))
    captured.clear()
    # Fewer layers than were captured: they are picked from what is there.
    three = {**params, "emotions": ("apology", "anger"), "layers": (0, 2)}
    amended = run_experiment("extract", three, bench(lm, tmp_path / "amended"))
    texts = sum(captured)
    captured.clear()
    scratch = run_experiment("extract", three, bench(lm, tmp_path / "scratch"))
    apologies = [p for p in scratch.read_json("words.json")["prompts"] if "apology" in (p["emotion"], p["matched"])]
    assert texts == TEXTS + len(apologies) < sum(captured)
    same_values(amended, scratch)


@pytest.mark.parametrize("change", [{"rows": 3}, {"force": True}])
def test_other_batches_and_force_compute_everything(
    lm: LM, captured: list[int], tmp_path: Path, change: dict[str, Any]
) -> None:
    run_experiment("extract", {"scenarios": 20, "emotions": ("anger",)}, bench(lm, tmp_path))
    captured.clear()
    run_experiment("extract", {"scenarios": 20, "emotions": ("anger", "apology")}, bench(lm, tmp_path, **change))
    assert sum(captured) == 3 * TEXTS


def test_texts_that_changed_are_captured_again(lm: LM, captured: list[int], tmp_path: Path) -> None:
    run_experiment("extract", {"scenarios": 20}, bench(lm, tmp_path))
    captured.clear()
    run_experiment("extract", {"scenarios": 19}, bench(lm, tmp_path))
    assert sum(captured) == 4 * 19, "other batches: the last bits are others"


@pytest.mark.parametrize("change", ["weights", "prefix", "half precision", "attention"])
def test_another_model_under_the_same_name_computes_everything(
    tiny: Callable[..., LM], tmp_path: Path, change: str
) -> None:
    lm = tiny("llama")
    run_experiment("extract", {"scenarios": 20, "emotions": ("anger",)}, bench(lm, tmp_path))
    if change == "attention":
        other = tiny("llama", attention="eager")
        assert other.fingerprint == lm.fingerprint, "no other model, but other rounding"
    elif change == "prefix":
        other = load_lm(lm.model, lm.tokenizer, prefix_token="a")
    else:
        other = tiny_lm("llama", lm.tokenizer, seed=int(change == "weights"))
        other.model.to(torch.bfloat16 if change == "half precision" else torch.float32)
    run = run_experiment("extract", {"scenarios": 20, "emotions": ("anger", "apology")}, bench(other, tmp_path))
    assert other.name == lm.name and run.read_json("texts.json")["copied_from"] == {}


@pytest.mark.parametrize("package", ["torch", "tokenizers"])
@pytest.mark.parametrize("attempt", ["first", "resumed"])
def test_values_of_another_version_of_a_package_are_not_taken(
    lm: LM, tmp_path: Path, package: str, attempt: str
) -> None:
    first = run_experiment("extract", {"scenarios": 20, "emotions": ("anger",)}, bench(lm, tmp_path))
    spec = first.read_json("spec.json")
    if attempt == "first":
        spec["versions"][package] = "0.1"
    else:
        spec["resumed"] = [{**spec, "versions": {**spec["versions"], package: "0.1"}}]
    first.write_json("spec.json", spec)
    run = run_experiment("extract", {"scenarios": 20, "emotions": ("anger", "apology")}, bench(lm, tmp_path))
    assert run.read_json("texts.json")["copied_from"] == {}


def test_a_text_that_is_read_elsewhere_is_read_again(lm: LM, tmp_path: Path) -> None:
    """The same texts in the same order, one with its emotion word marked in another place."""

    def write(name: str, span: tuple[int, int]) -> str:
        rows = [{"id": f"{e}-{i}", "text": f"{o} {i} {end}", "emotion": e, "scenario": str(i),
                 "spans": [] if e == "neutral" else [span]}
                for i in range(4) for e, o, end in (("anger", "I hate the", "which I detest."), ("neutral", "A", "is."))
                ]  # fmt: skip
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    runs = [
        run_experiment("extract", {"sets": (path,), "positions": ("emotion-word-last",)}, bench(lm, tmp_path / "r"))
        for path in (write("a.jsonl", (2, 6)), write("b.jsonl", (21, 27)), write("c.jsonl", (2, 6)))
    ]
    assert [sum(run.read_json("words.json")["copied_from"].values()) for run in runs] == [0, 0, 8]
    a, b, c = (open_tensors(run.path("words.safetensors"))["resid_post@emotion-word-last"] for run in runs)
    assert np.array_equal(a, c) and not np.array_equal(a, b)


def test_a_damaged_earlier_run_does_not_stop_a_capture(lm: LM, captured: list[int], tmp_path: Path) -> None:
    first = run_experiment("extract", {"scenarios": 20, "emotions": ("anger",)}, bench(lm, tmp_path))
    file = first.path("texts.safetensors")
    file.write_bytes(file.read_bytes()[:500])
    captured.clear()
    run_experiment("extract", {"scenarios": 20, "emotions": ("anger", "apology")}, bench(lm, tmp_path))
    assert sum(captured) == 3 * TEXTS


def test_the_estimate_counts_the_added_texts_only(lm: LM, captured: list[int], tmp_path: Path) -> None:
    run_experiment("extract", {"scenarios": 20, "emotions": ("anger",)}, bench(lm, tmp_path))
    two = {"scenarios": 20, "emotions": ("anger", "apology")}
    (cell,) = outline_run("extract", two, bench(lm, tmp_path))
    captured.clear()
    run_experiment("extract", two, bench(lm, tmp_path))
    assert (cell.work.texts, cell.work.forwards) == (sum(captured), len(captured))
