"""What steering experiments ask for: which parameters change a key, and which requests are refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments import load_profile
from emotion_circuits.experiments.compare import limits
from emotion_circuits.experiments.controls import Controls
from emotion_circuits.experiments.overlap import OverlapOfSubspaces
from emotion_circuits.experiments.steer import Steer
from emotion_circuits.experiments.swap import Swap
from emotion_circuits.experiments.sweep import Sweep
from emotion_circuits.prompts import load_prompts
from emotion_circuits.stats.bootstrap import cluster_draws


def written(path: Path, *scenarios: tuple[str, ...], split: str = "test") -> str:
    """A set of texts: one scenario per tuple of labels."""
    rows = [
        {"text": f"Text {s} of {label}, number {n}.", "emotion": label, "scenario": f"s{s}", "split": split}
        for s, labels in enumerate(scenarios)
        for n, label in enumerate(labels)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_only_runs_in_sd_have_another_key() -> None:
    steer, sweep = Steer(), Sweep()
    for params in ({}, {"unit": "raw"}, {"expression": "0.4 anger - 1raw joy"}):
        assert not steer.inputs(Steer.Params.model_validate(params))
    for params in ({"unit": "sd"}, {"expression": "0.4 anger - 1sd joy"}):
        assert steer.inputs(Steer.Params.model_validate(params)) == {"sd": "neutral projections"}
    assert "sd" in sweep.inputs(Sweep.Params(unit="sd"))
    assert "sd" not in sweep.inputs(Sweep.Params())
    assert "sd" not in sweep.inputs(Sweep.Params(unit="sd", grid="plan")), "the plan's grid is raw"
    needed = {n.experiment: n.params for n in Controls().requires(Controls.Params(sweep=Sweep.Params(unit="sd")))}
    assert needed["sweep"] == Sweep.Params(unit="sd"), "its key is part of that of controls"


def test_the_plans_grid_has_the_plans_texts_unless_others_are_given() -> None:
    plan = Sweep.Params.model_validate({"grid": "plan"})
    assert (plan.max_new_tokens, plan.position) == (20, "last")
    own = Sweep.Params.model_validate({"grid": "plan", "max_new_tokens": 30, "position": "mean-content"})
    assert (own.max_new_tokens, own.position) == (30, "mean-content")
    assert Sweep.Params().position == "mean-content"
    nested = Controls.Params.model_validate({"sweep": {"grid": "plan"}}).sweep
    assert nested.position == "last"


@pytest.mark.parametrize("profile", ["quickstart", "large"])
def test_the_plans_grid_takes_no_strengths_or_position_of_a_profile(profile: str) -> None:
    typed = Sweep.Params.model_validate({"grid": "plan"}).model_dump(exclude_unset=True)
    study, plan = load_profile(profile), Sweep.Params.model_validate({"grid": "plan"})
    nested: Any = study.params("controls", {"sweep": typed})
    for found in (study.params("sweep", typed), nested.sweep):
        assert isinstance(found, Sweep.Params)
        for name in ("layers", "depths", "strengths", "position", "max_new_tokens"):
            assert getattr(found, name) == getattr(plan, name), name
    assert study.params("sweep", {"grid": "fraction"}) == study.params("sweep"), "it has that grid already"
    own: Any = study.params("sweep", {**typed, "strengths": (-3.0, 3.0), "position": "mean-content"})
    assert own.strengths == (-3, 0, 3) and own.position == "mean-content"


def test_another_grid_takes_nothing_of_a_profile_with_the_plans_and_the_same_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'title = "Own"\n[[experiment]]\nname = "sweep"\ngrid = "plan"\nstrengths = [-3, 3]\nlayers = [4]\n', "utf-8"
    )
    study = load_profile(str(path))
    same: Any = study.params("sweep", Sweep.Params.model_validate({"grid": "plan"}).model_dump(exclude_unset=True))
    assert same.strengths == (-3, 0, 3) and same.layers == (4,)
    other: Any = study.params("sweep", {"grid": "fraction"})
    assert other.strengths == Sweep.Params().strengths and not other.layers and other.position == "mean-content"


@pytest.mark.parametrize("count", [1, 5, 18])
def test_random_vectors_too_few_for_any_claim_are_refused_with_the_reason(count: int) -> None:
    with pytest.raises(UsageError, match="cannot support a claim") as caught:
        Sweep.Params(random=count)
    assert "--random 19" in caught.value.fix and "--random 0" in caught.value.fix


@pytest.mark.parametrize("count", [0, 19, 999])
def test_no_random_vectors_or_enough_are_taken(count: int) -> None:
    assert Sweep.Params(random=count).random == count


@pytest.mark.parametrize(("emotion", "count"), [("anger", 1), ("apology", 0)])
def test_a_swap_without_two_scenarios_of_an_emotion_names_it_before_any_work(
    tmp_path: Path, emotion: str, count: int
) -> None:
    """One scenario would get its own neutral text as the control's donor, and none has nothing to swap."""
    three = [("gratitude", "neutral")] * 3
    prompts = written(tmp_path / "mine.jsonl", *three, ("anger", "neutral"), ("apology",))
    lm: Any = SimpleNamespace(layers=lambda asked: ())
    assert Swap().plan(lm, Swap.Params(prompts=prompts, emotions=("gratitude",)))
    with pytest.raises(UsageError, match=f"{count} test scenarios with a text of {emotion}") as caught:
        Swap().plan(lm, Swap.Params(prompts=prompts, emotions=("gratitude", emotion)))
    assert "--emotions gratitude" in caught.value.fix


MOST = {"paired": 2**5 - 2, "single": 70 - 2, "mixed": 2**5 * 70 - 2}
"""Arrangements of the labels in the sets below, without the true one and its mirror image."""


def test_sets_that_mix_paired_and_single_scenarios_have_another_key_and_built_in_ones_do_not(tmp_path: Path) -> None:
    paired, alone = [("anger", "neutral")] * 5, [("anger",), ("neutral",)] * 4
    keys = {}
    for name, scenarios in {"paired": paired, "single": alone, "mixed": [*paired, *alone]}.items():
        texts = written(tmp_path / f"{name}.jsonl", *scenarios, split="fit")
        params = Sweep.Params(directions={"prompts": texts}, emotions=("anger",), random=MOST[name])
        assert "refused" not in Sweep().inputs(params), "as many scenarios of either label"
        keys[name] = "relabelled" in Sweep().inputs(params)
        assert "relabelled" not in Sweep().inputs(params.model_copy(update={"random": 0}))
    assert keys == {"paired": False, "single": False, "mixed": True}
    for name in ("baseline", "extended", "atlas"):
        assert load_prompts(name)
        for position in ("mean-content", "emotion-word-last"):
            params = Sweep.Params(directions={"prompts": name}, position=position)
            assert not {"relabelled", "refused"} & set(Sweep().inputs(params))
            assert not Controls().inputs(Controls.Params(sweep=params.model_copy(update={"random": 0})))
    assert not OverlapOfSubspaces().inputs(OverlapOfSubspaces.Params())


def test_labels_in_unequal_numbers_have_another_key(tmp_path: Path) -> None:
    """Runs from before refused arrangements that are no mirror image, and are not taken for new ones."""
    texts = written(tmp_path / "unequal.jsonl", *[("anger",)] * 4, *[("neutral",)] * 8, split="fit")
    params = Sweep.Params(directions={"prompts": texts}, emotions=("anger",), random=19)
    silent = params.model_copy(update={"random": 0})
    assert "refused" in Sweep().inputs(params) and "refused" not in Sweep().inputs(silent)
    assert "refused" in Controls().inputs(Controls.Params(sweep=silent)), "the key of that sweep does not say it"
    assert not Controls().inputs(Controls.Params(sweep=params))


@pytest.mark.parametrize(
    ("scenarios", "others"), [([("anger", "neutral")] * 5, 30), ([("anger",), ("neutral",)] * 4, 68)]
)
def test_more_random_vectors_than_labels_have_arrangements_are_refused_with_their_number(
    tmp_path: Path, scenarios: list[tuple[str, ...]], others: int
) -> None:
    params = Sweep.Params(
        directions={"prompts": written(tmp_path / "few.jsonl", *scenarios, split="fit")}, emotions=("anger",)
    )
    with pytest.raises(UsageError, match=f"anger is fitted on have only {others} arrangements") as caught:
        Sweep().inputs(params)
    assert f"--random {others} or less" in caught.value.fix and "more scenarios" in caught.value.fix
    assert Sweep().inputs(params.model_copy(update={"random": others}))


def test_where_no_permitted_number_of_random_vectors_is_left_the_sweep_without_them_is_named(tmp_path: Path) -> None:
    """Four pairs have 14 arrangements, and 19 random vectors is the least that supports a claim."""
    texts = written(tmp_path / "few.jsonl", *[("anger", "neutral")] * 4, split="fit")
    params = Sweep.Params(directions={"prompts": texts}, emotions=("anger",), random=19)
    with pytest.raises(UsageError, match="only 14 arrangements") as caught:
        Sweep().inputs(params)
    assert "--random 0" in caught.value.fix and "--random 14" not in caught.value.fix
    silent = params.model_copy(update={"random": 0})
    assert "refused" not in Sweep().inputs(silent)
    assert not Controls().inputs(Controls.Params(sweep=silent))
    three = written(tmp_path / "three.jsonl", *[("anger", "neutral")] * 3, split="fit")
    fewer = silent.model_copy(update={"directions": silent.directions.model_copy(update={"prompts": three})})
    with pytest.raises(UsageError, match="10 label-shuffled") as caught:
        Controls().inputs(Controls.Params(sweep=fewer))
    assert "--generated 6 or less" in caught.value.fix


def test_copies_of_a_neutral_text_at_emotion_words_move_as_one_in_the_key_too(tmp_path: Path) -> None:
    """Nine angry texts without scenario are compared with three copies of each of three neutral texts."""
    rows = [{"text": f"I hate it, number {i}.", "emotion": "anger", "spans": [[2, 6]]} for i in range(9)]
    rows += [{"text": f"We sit at table {i}.", "emotion": "neutral"} for i in range(3)]
    path = tmp_path / "loose.jsonl"
    path.write_text("\n".join(json.dumps({**row, "split": "fit"}) for row in rows), encoding="utf-8")
    params = Sweep.Params(directions={"prompts": str(path)}, emotions=("anger",), random=19)
    assert "relabelled" not in Sweep().inputs(params)
    found = Sweep().inputs(params.model_copy(update={"position": "emotion-word-last"}))
    assert found["relabelled"] == "scenarios of one label as wholes"


def test_limits_of_few_scenarios_are_wider_than_plain_quantiles() -> None:
    """The mean of five scenarios: a percentile interval covers some .83, and the package's own level about .95."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        values = rng.normal(size=5)
        drawn = cluster_draws(5, 400, rng) @ values / 5
        low, high = limits(drawn, 5) or (None, None)
        assert low is not None and high is not None
        hits.append(low <= 0 <= high)
    assert np.mean(hits) >= 0.9
    assert limits(np.array([1.0, np.inf]), 2) == [1.0, None] and limits(np.empty(0), 5) is None
