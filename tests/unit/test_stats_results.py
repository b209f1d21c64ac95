"""From finished run folders to tables and figures, through the command function."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from emotion_circuits.cli import main
from emotion_circuits.errors import UsageError
from emotion_circuits.stats.analysis import effect_table, k_table, power_table
from emotion_circuits.stats.effects import paired_effect
from emotion_circuits.store import Store
from emotion_circuits.types import BASELINE_ARM, OBSERVATION_COLUMNS


def row(arm: str, unit: int, value: float, **changes: object) -> dict[str, object]:
    filled = {
        "experiment": "steering", "model": "tiny", "emotion": "gratitude", "layer": 3, "position": "all",
        "strength": 0.3, "arm": arm, "unit": f"u{unit:02d}", "cluster": f"scene{unit:02d}", "split": "test",
        "sample": 0, "scorer": "logits", "value": float(value),
    }  # fmt: skip
    return filled | changes


def steering(
    units: int = 24, effect: float = 1.0, seed: int = 0, layers: tuple[int, ...] = (3,), samples: int = 2
) -> Iterator[dict[str, object]]:
    """Baseline without layer and strength; per layer an arm with an effect and a random one without."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=units)
    for unit in range(units):
        for sample in range(samples):
            noise = 0.3 * rng.normal()
            yield row(BASELINE_ARM, unit, base[unit] + noise, sample=sample, layer=None, strength=None, position=None)
        for layer in layers:
            for sample in range(samples):
                yield row("+v", unit, base[unit] + effect + 0.5 * rng.normal(), sample=sample, layer=layer)
                yield row("random", unit, base[unit] + 0.5 * rng.normal(), sample=sample, layer=layer)


def frame(rows: Iterator[dict[str, object]] | list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(OBSERVATION_COLUMNS))


def finished(
    results: Path, experiment: str, rows: list[dict[str, object]], profile: str = "quickstart", **inputs: object
) -> Path:
    run = Store(results).run(profile, "tiny", experiment, {"rows": len(rows), **inputs})
    with run.open():
        run.write_observations(rows)
        run.finish({})
    return run.folder


def k_sweep() -> list[dict[str, object]]:
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 0.1, size=30)
    truth = {1: 0.55, 2: 0.75, 4: 0.76, 8: 0.74}
    return [
        row(
            f"k={k}", unit, value + shared[unit] + 0.03 * rng.normal(), split="dev", scorer="own-vs-rest", strength=None
        )
        for k, value in truth.items()
        for unit in range(30)
    ]


def test_effects_average_samples_and_pair_units_with_the_unedited_baseline() -> None:
    observations = frame(steering())
    table = effect_table(observations, permutations=999).set_index("arm")
    means = observations.groupby(["arm", "unit"])["value"].mean()
    by_hand = paired_effect(means["+v"].to_numpy(), means["baseline"].to_numpy())
    assert list(table.index) == ["+v", "random"]
    assert table.loc["+v", "n"] == 24
    assert table.loc["+v", "layer"] == 3
    assert table.loc["+v", "g_z"] == pytest.approx(float(by_hand.g_z.estimate))
    assert table.loc["+v", "p_t"] == pytest.approx(float(by_hand.test.p))
    assert table.loc["+v", "p_permutation"] == pytest.approx(1 / (1 + table.loc["+v", "permutations"]))
    assert table.loc["random", "p_holm"] > 0.05
    assert table.loc["+v", "p_positive"] == 1
    assert (table["family"] == "steering · tiny · logits · test").all()
    assert (table["family_size"] == 2).all()


def test_correction_is_within_families_only() -> None:
    rows = list(steering(layers=(1, 2, 3)))
    rows += [r | {"scorer": "classifier"} for r in steering(seed=5)]
    table = effect_table(frame(rows), permutations=999)
    sizes = table.groupby("scorer")["family_size"].first()
    assert sizes["logits"] == 6
    assert sizes["classifier"] == 2
    logits = table[table["scorer"] == "logits"]
    np.testing.assert_allclose(logits["p_bonferroni"], np.minimum(6 * logits["p_permutation"], 1))
    assert (table["p_max"] >= table["p_permutation"]).all()


def test_dev_and_test_are_separate_cells_and_families() -> None:
    rows = list(steering()) + [r | {"split": "dev"} for r in steering(seed=1)]
    table = effect_table(frame(rows), permutations=999)
    assert len(table) == 4
    assert set(table["family_size"]) == {2}


def test_a_cell_without_variance_keeps_its_p_and_says_what_is_empty() -> None:
    rows = [row(BASELINE_ARM, u, u) for u in range(12)]
    rows += [row("shifted", u, u + 1) for u in range(12)] + [row("same", u, u) for u in range(12)]
    table = effect_table(frame(rows), permutations=9999).set_index("arm")
    assert np.isnan(table.loc["shifted", "g_z"])
    assert "zero variance" in table.loc["shifted", "status"]
    assert table.loc["shifted", "p_permutation"] == pytest.approx(2 / 2**12)
    assert table.loc["same", "p_permutation"] == 1


def test_a_single_cluster_is_not_tested_and_not_in_the_family() -> None:
    rows = [r | {"cluster": "one"} for r in steering(units=6)]
    table = effect_table(frame(rows))
    assert table["p_permutation"].isna().all()
    assert table["status"].str.contains("1 cluster").all()


def without_unit(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [r for r in rows if not (r["arm"] == "+v" and r["unit"] == "u05")]


def other_cluster(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [r | {"cluster": "x"} if r["arm"] == "+v" and r["unit"] == "u05" else r for r in rows]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: [*rows, rows[0]], "twice"),
        (lambda rows: [rows[0] | {"value": float("nan")}, *rows[1:]], "NaN"),
        (lambda rows: [r for r in rows if r["arm"] != BASELINE_ARM], "baseline"),
        (lambda rows: [r | {"model": "other"} if r["arm"] == BASELINE_ARM else r for r in rows], "no baseline"),
        (lambda rows: [rows[0] | {"cluster": "x"}, *rows[1:]], "two clusters"),
    ],
)
def test_misuse_of_the_table_raises_with_an_explanation(spoil, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        effect_table(frame(spoil(list(steering()))))


@pytest.mark.parametrize(("spoil", "message"), [(without_unit, "not paired"), (other_cluster, "another cluster")])
def test_an_unpaired_cell_gets_a_reason_instead_of_numbers_and_loses_no_other(spoil, message: str) -> None:
    table = effect_table(frame(spoil(list(steering()))), permutations=999).set_index("arm")
    assert message in table.loc["+v", "status"]
    assert table.loc["+v"].drop(["status", *[c for c in table.columns if c in row("", 0, 0)]]).isna().all()
    assert table.loc["random", "status"] == "ok"
    assert table.loc["random", "family_size"] == 1


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UsageError, match="cluster"):
        effect_table(frame(steering()).drop(columns="cluster"))


def test_power_table_plans_declared_effects_and_never_uses_the_observed_one() -> None:
    small = power_table(effect_table(frame(steering(effect=0.2)), permutations=999))
    large = power_table(effect_table(frame(steering(effect=5.0)), permutations=999))
    planned = small[small["question"] == "required n"].set_index(["design", "effect"])["n_required"]
    assert planned["paired", 0.3] == 90
    assert planned["independent", 0.5] == 64
    # The same noise with another effect can detect the same.
    np.testing.assert_allclose(small["detectable_g_z"].dropna(), large["detectable_g_z"].dropna())


def test_k_is_the_smallest_within_one_standard_error_of_the_best() -> None:
    table = k_table(frame(k_sweep())).set_index("k")
    assert list(table.index) == [1, 2, 4, 8]
    assert table["selected"].sum() == 1
    assert table.loc[[2, 4], "selected"].any()
    assert table.loc[1, "p_behind"] < 0.01
    assert table.loc[1, "behind_low"] > 0


def test_k_swept_on_test_is_refused() -> None:
    with pytest.raises(UsageError, match="test split"):
        k_table(frame([r | {"split": "test"} for r in k_sweep()]))


def test_k_swept_on_the_texts_that_fitted_the_subspace_is_refused() -> None:
    with pytest.raises(UsageError, match="fit split"):
        k_table(frame([r | {"split": "fit"} for r in k_sweep()]))


def test_command_reads_every_latest_run_and_writes_every_file(tmp_path: Path, capsys) -> None:
    finished(tmp_path, "steering", list(steering(layers=(1, 2))), old=True)
    finished(tmp_path, "steering", list(steering(layers=(1, 2, 3), seed=9)))
    finished(tmp_path, "shared-subspace", k_sweep())
    assert main(["stats", "all", "--results", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["runs"]) == 2
    assert len(printed["tables"]["effect"]) == 6
    home = tmp_path / "quickstart"
    effects = pd.read_csv(home / "stats" / "effect_sizes.csv")
    twin = pq.read_table(home / "stats" / "effect_sizes.parquet").to_pandas()
    np.testing.assert_allclose(effects["g_z"], twin["g_z"].astype(float))
    assert list(effects["layer"]) == [1, 1, 2, 2, 3, 3]
    assert pd.read_csv(home / "stats" / "k_selection.csv")["selected"].sum() == 1
    power = json.loads((home / "stats" / "power_analysis.json").read_text())
    assert len(power["required_n"]) == 6
    assert len(power["detectable_effects"]) == 6
    for name in ("p_histogram", "effect_vs_p"):
        assert (home / "plots" / "statistics" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in (home / "plots" / "statistics" / f"{name}.svg").read_bytes()


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    finished(tmp_path, "steering", list(steering()))
    file = tmp_path / "quickstart" / "stats" / "effect_sizes.csv"
    assert main(["stats", "effect", "--results", str(tmp_path)]) == 0
    first = file.read_bytes()
    assert main(["stats", "effect", "--results", str(tmp_path)]) == 0
    assert file.read_bytes() == first


def test_one_bad_run_does_not_lose_the_others(tmp_path: Path, capsys) -> None:
    finished(tmp_path, "steering", list(steering()))
    finished(tmp_path, "broken", [r for r in steering() if r["arm"] != BASELINE_ARM])
    assert main(["stats", "effect", "--results", str(tmp_path)]) == 3
    shown = capsys.readouterr()
    assert "no observations of the arm 'baseline'" in shown.err
    assert "steering" in shown.out
    assert len(pd.read_csv(tmp_path / "quickstart" / "stats" / "effect_sizes.csv")) == 2


def test_an_unpaired_cell_is_partly_done_and_explained(tmp_path: Path, capsys) -> None:
    finished(tmp_path, "steering", without_unit(list(steering())))
    assert main(["stats", "effect", "--results", str(tmp_path)]) == 3
    assert "1 cell(s) not tested: not paired with the baseline: 1 of 24 units" in capsys.readouterr().out


def test_only_unusable_runs_fail(tmp_path: Path) -> None:
    finished(tmp_path, "broken", [r for r in steering() if r["arm"] != BASELINE_ARM])
    assert main(["stats", "effect", "--results", str(tmp_path)]) == 1


def test_one_experiment_alone_does_not_replace_the_profile_tables(tmp_path: Path) -> None:
    finished(tmp_path, "steering", list(steering()))
    finished(tmp_path, "ablation", [r | {"experiment": "ablation"} for r in steering(layers=(4, 5))])
    assert main(["stats", "effect", "--results", str(tmp_path)]) == 0
    assert main(["stats", "effect", "--experiment", "ablation", "--results", str(tmp_path)]) == 0
    stats = tmp_path / "quickstart" / "stats"
    assert len(pd.read_csv(stats / "effect_sizes.csv")) == 6
    assert set(pd.read_csv(stats / "effect_sizes-ablation.csv")["experiment"]) == {"ablation"}


def test_target_power_changes_the_plan(tmp_path: Path) -> None:
    finished(tmp_path, "steering", list(steering()))
    assert main(["stats", "power", "--target-power", "0.9", "--results", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "quickstart" / "stats" / "power_analysis.csv")
    wanted = table[(table["design"] == "paired") & (table["effect"] == 0.3)]["n_required"]
    assert wanted.item() == 119


def test_k_without_a_sweep_says_so(tmp_path: Path, capsys) -> None:
    finished(tmp_path, "steering", list(steering()))
    assert main(["stats", "k", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no experiment swept k" in said and f"--profile quickstart --results {tmp_path}" in " ".join(said.split())


def test_nothing_finished_is_wrong_use_and_names_the_next_step(tmp_path: Path, capsys) -> None:
    assert main(["stats", "all", "--results", str(tmp_path)]) == 2
    assert "emotion-circuits study quickstart" in capsys.readouterr().err


def test_a_profile_file_finds_the_results_of_its_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my study.toml").write_text('[[experiment]]\nname = "directions"\n', encoding="utf-8")
    finished(Path("kept"), "steering", list(steering()), profile="my study")
    assert main(["stats", "effect", "--profile", "./my study.toml", "--results", "kept", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profile"] == "my-study"
    assert Path("kept/my-study/stats/effect_sizes.csv").is_file()
    Path("my study.toml").unlink()
    assert main(["stats", "effect", "--profile", "my-study", "--results", "kept"]) == 0
    capsys.readouterr()
    for words, parts in {
        ("my-stdy",): ("unknown profile 'my-stdy'; known: my-study", "did you mean my-study"),
        ("smoke",): ("there are results of my-study", "→ emotion-circuits study smoke --results kept"),
        ("my-study", "--experiment", "sweep"): ("'sweep'", "→ emotion-circuits study my-study --results kept"),
    }.items():
        assert main(["stats", "effect", "--results", "kept", "--profile", *words]) == 2
        error = capsys.readouterr().err
        assert all(part in error for part in parts), error
