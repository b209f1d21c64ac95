"""The three tables of the statistics command: effects, power, and the choice of k, from observation tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import cluster_totals
from emotion_circuits.stats.checks import cluster_codes
from emotion_circuits.stats.effects import paired_effect, share_positive
from emotion_circuits.stats.k_selection import select_k
from emotion_circuits.stats.multiplicity import adjust_families
from emotion_circuits.stats.observations import CELL_KEYS, K_ARM, PairedCell, UnpairedCell, paired_cells, unit_means
from emotion_circuits.stats.power import DESIGNS, detectable_difference, required_n
from emotion_circuits.stats.sign_flip import flip_totals
from emotion_circuits.stats.tables import records, typed_frame

if TYPE_CHECKING:
    import pandas as pd

TARGET_EFFECTS = (0.2, 0.3, 0.5)
"""Standardised effects for which sample sizes are planned: small, and the two usual in this field."""

NOT_TESTED = "not tested"
"""How the status of a cell without any test begins."""

EFFECT_COLUMNS = (
    *CELL_KEYS, "arm", "n", "clusters", "mean_arm", "mean_baseline", "difference", "difference_low", "difference_high",
    "g_z", "g_z_low", "g_z_high", "g_z_method", "d_av", "p_positive", "p_positive_low", "p_positive_high", "t", "df",
    "p_t", "p_permutation", "permutations", "p_max", "p_bonferroni", "p_holm", "p_bh", "p_by", "family", "family_size",
    "detectable_difference", "detectable_g_z", "status",
)  # fmt: skip

POWER_COLUMNS = (
    "question", "design", "effect", "power", "alpha", "n_required",
    *CELL_KEYS, "arm", "n", "clusters", "detectable_g_z", "detectable_difference",
)  # fmt: skip

K_COLUMNS = (
    "experiment", "model", "emotion", "layer", "position", "strength", "scorer", "split", "k", "score", "score_low",
    "score_high", "behind_best", "behind_low", "behind_high", "p_behind", "n", "clusters", "best", "selected", "rule",
)  # fmt: skip


def effect_table(
    observations: pd.DataFrame,
    *,
    alpha: float = 0.05,
    confidence: float = 0.95,
    power: float = 0.8,
    permutations: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired effect of every arm of every cell, corrected within its declared family.

    Args:
        observations: long table with the columns of an Observation, of one or more experiments.
        permutations: sign flips; raised (to at most 200,000) where a family is so large that a Bonferroni-corrected p
            could not reach ``alpha``.

    Returns:
        One row per cell and arm, :data:`EFFECT_COLUMNS`. ``p_permutation`` (cluster sign flips) is the p that is
        corrected: ``p_max`` by max-T with the same flips for all cells of the family, the others from the p-values.
        ``status`` is ``ok`` or says why something is empty: a cell without variance has no g_z and no t, a single
        unit or cluster no test at all (it is then not in the family).

    Raises :class:`~emotion_circuits.errors.UsageError` for repeated samples, NaN, units in two clusters, no baseline.
    """
    found = list(paired_cells(unit_means(observations)))
    cells = [cell for cell in found if isinstance(cell, PairedCell)]
    rows = [_effect_row(cell, confidence, power, alpha, seed) for cell in cells]
    unpaired = [_untested_row(cell) for cell in found if isinstance(cell, UnpairedCell)]
    families: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        if len(set(cell.clusters)) > 1:
            families.setdefault(cell.family, []).append(index)
    for family, members in families.items():
        _test_family([cells[i] for i in members], [rows[i] for i in members], family, alpha, permutations, seed)
    return typed_frame([*rows, *unpaired], EFFECT_COLUMNS)


def power_table(
    effects: pd.DataFrame | None = None,
    *,
    targets: Sequence[float] = TARGET_EFFECTS,
    power: float = 0.8,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Sample sizes for declared effects, and what every finished cell could have detected.

    Rows ``question = "required n"``: independent units needed (per group for independent designs) for each target and
    design. They are counted in clusters: several prompts of a scenario, or samples of a prompt, do not stand for more.
    (With a known ICC, :func:`~emotion_circuits.stats.power.required_n` gives the number of prompts.) Rows
    ``"detectable effect"``: from ``effects`` (:func:`effect_table`), the effect that the cell's noise and number of
    clusters detect with ``power``. No power of observed effects: that is p in disguise.
    """
    rows: list[dict[str, Any]] = [
        {
            "question": "required n",
            "design": design,
            "effect": target,
            "power": power,
            "alpha": alpha,
            "n_required": required_n(target, power=power, design=design, alpha=alpha),
        }
        for design in DESIGNS
        for target in targets
    ]
    if effects is not None:
        kept = [*CELL_KEYS, "arm", "n", "clusters", "detectable_g_z", "detectable_difference"]
        common = {"question": "detectable effect", "design": "paired", "power": power, "alpha": alpha}
        rows += [common | row for row in records(effects.loc[effects["detectable_difference"].notna(), kept])]
    return typed_frame(rows, POWER_COLUMNS)


def k_table(
    observations: pd.DataFrame, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Choice of k for every cell that has arms ``k=1``, ``k=2``, …: held-out scores per unit on the dev split.

    Returns one row per cell and k, :data:`K_COLUMNS`; empty when no experiment swept k. Cells on another split raise:
    on test the choice would spend the data that must judge it, on fit the score would not be held out.
    """
    swept = observations[observations["arm"].astype(str).str.fullmatch(K_ARM.pattern)]
    if swept.empty:
        return typed_frame([], K_COLUMNS)
    elsewhere = sorted({str(split) for split in swept["split"]} - {"dev"})
    if elsewhere:
        raise UsageError(
            f"k was swept on the {' and '.join(elsewhere)} split", "sweep k on dev scenarios; test the chosen k on test"
        )
    rows: list[dict[str, Any]] = []
    for key, part in unit_means(swept).groupby(list(CELL_KEYS), sort=True):
        wide = part.pivot(index="unit", columns="arm", values="value")
        if wide.isna().to_numpy().any():
            raise UsageError(f"not every k was scored on the same units ({key})", "score every unit under every k")
        arms = sorted(wide.columns, key=_dimension)
        clusters = part.drop_duplicates("unit").set_index("unit")["cluster"].loc[wide.index].to_numpy()
        chosen = select_k(
            wide[arms].to_numpy().T,
            [_dimension(arm) for arm in arms],
            clusters,
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )
        for i, k in enumerate(chosen.ks):
            rows.append(
                {
                    **dict(zip(CELL_KEYS, key, strict=True)),
                    "k": k,
                    "score": chosen.score.estimate[i],
                    "score_low": chosen.score.low[i],
                    "score_high": chosen.score.high[i],
                    "behind_best": chosen.behind.estimate[i],
                    "behind_low": chosen.behind.low[i],
                    "behind_high": chosen.behind.high[i],
                    "p_behind": chosen.p_behind[i],
                    "n": len(wide),
                    "clusters": len(set(clusters)),
                    "best": k == chosen.best,
                    "selected": k == chosen.k,
                    "rule": chosen.selection.rule,
                }
            )
    return typed_frame(rows, K_COLUMNS)


def _effect_row(cell: PairedCell, confidence: float, power: float, alpha: float, seed: int) -> dict[str, Any]:
    """Everything of a cell that does not depend on its family."""
    difference = cell.difference
    count = len(set(cell.clusters))
    row: dict[str, Any] = {
        **dict(zip(CELL_KEYS, cell.key, strict=True)),
        "arm": cell.arm,
        "n": len(difference),
        "clusters": count,
        "mean_arm": cell.treated.mean(),
        "mean_baseline": cell.baseline.mean(),
        "difference": difference.mean(),
        "family": cell.family,
        "status": "ok",
    }
    if len(difference) < 2 or count < 2:
        return row | {"status": f"{NOT_TESTED}: {len(difference)} unit(s) in {count} cluster(s)"}
    positive = share_positive(difference, cell.clusters, confidence=confidence)
    row |= {
        "p_positive": float(positive.estimate),
        "p_positive_low": float(positive.low),
        "p_positive_high": float(positive.high),
    }
    if _constant(cell):
        return row | {"status": "zero variance: every cluster gave the same difference, no g_z and no t"}
    effect = paired_effect(cell.treated, cell.baseline, clusters=cell.clusters, confidence=confidence, seed=seed)
    test = effect.test
    detectable = float(detectable_difference(test.error, count, power=power, alpha=alpha))
    return row | {
        "difference_low": float(test.mean.low),
        "difference_high": float(test.mean.high),
        "g_z": float(effect.g_z.estimate),
        "g_z_low": float(effect.g_z.low),
        "g_z_high": float(effect.g_z.high),
        "g_z_method": effect.g_z.method,
        "d_av": float(effect.d_av),
        "t": float(test.t),
        "df": test.df,
        "p_t": float(test.p),
        "detectable_difference": detectable,
        "detectable_g_z": detectable / float(difference.std(ddof=1)),
    }


def _untested_row(cell: UnpairedCell) -> dict[str, Any]:
    return {
        **dict(zip(CELL_KEYS, cell.key, strict=True)),
        "arm": cell.arm,
        "status": f"{NOT_TESTED}: {cell.reason.what}; {cell.reason.fix}",
    }


def _constant(cell: PairedCell) -> bool:
    """Whether the units, or the clusters' totals about the mean, have no variance."""
    difference = cell.difference
    codes, count = cluster_codes(cell.clusters, len(difference))
    totals = cluster_totals((difference - difference.mean())[None], codes, count)
    scale = max(float(np.abs(difference).max()), float(np.finfo(np.float64).tiny))
    return bool(np.ptp(difference) <= 1e-12 * scale or np.abs(totals).max() <= 1e-12 * scale)


def _test_family(
    cells: Sequence[PairedCell],
    rows: Sequence[dict[str, Any]],
    family: str,
    alpha: float,
    permutations: int,
    seed: int,
) -> None:
    """Adds permutation p, max-T and corrected p to the rows of one family; flips are shared by all of its cells."""
    names = sorted({str(c) for cell in cells for c in cell.clusters})
    place = {name: i for i, name in enumerate(names)}
    totals = np.zeros((len(cells), len(names)))
    present = np.zeros(totals.shape, dtype=np.bool_)
    for i, cell in enumerate(cells):
        columns = [place[str(c)] for c in cell.clusters]
        np.add.at(totals[i], columns, cell.difference)
        present[i, columns] = True
    wanted = min(max(permutations, math.ceil(2 * len(cells) / alpha)), 200_000)
    test = flip_totals(totals, present, permutations=wanted, seed=seed)
    adjusted = {
        method: adjust_families(test.p, [family] * len(cells), method=method, alpha=alpha)
        for method in ("bonferroni", "holm", "bh", "by")
    }
    for i, row in enumerate(rows):
        row |= {"p_permutation": test.p[i], "p_max": test.p_max[i], "permutations": test.permutations}
        row |= {f"p_{method}": p[i] for method, p in adjusted.items()} | {"family_size": len(cells)}


def _dimension(arm: str) -> int:
    return int(arm.partition("=")[2])
