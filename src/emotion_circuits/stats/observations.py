"""From the long observation table to paired differences per cell.

Every experiment writes the same columns (:data:`~emotion_circuits.types.OBSERVATION_COLUMNS`). A cell is what
:data:`~emotion_circuits.types.CELL_COLUMNS` name, on one split, for one arm; its effect is arm minus baseline for the
same units. Samples are averaged within a unit first, because ten samples of one prompt are not ten prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.interval import FloatArray
from emotion_circuits.types import BASELINE_ARM, CELL_COLUMNS, OBSERVATION_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

CELL_KEYS = (*CELL_COLUMNS, "split")
"""What one row of a statistics table is about, beside the arm. Dev and test are never mixed."""

FAMILY_KEYS = ("experiment", "model", "scorer", "split")
"""Tests that share these are corrected together; declared here, before any p is seen."""

K_ARM = re.compile(r"k=(\d+)")
"""Arms that hold held-out scores of a subspace of dimension k (``k=8``); they have no baseline."""


@dataclass(frozen=True)
class UnpairedCell:
    """A cell without an effect: arm and baseline are not measured on the same units; ``reason`` says how."""

    key: tuple[Any, ...]
    arm: str
    reason: UsageError


@dataclass(frozen=True)
class PairedCell:
    """One cell: per unit (sorted by id) the arm's and the baseline's mean over samples, and the unit's cluster."""

    key: tuple[Any, ...]
    arm: str
    units: tuple[str, ...]
    clusters: NDArray[Any]
    treated: FloatArray
    baseline: FloatArray

    @property
    def difference(self) -> FloatArray:
        """Arm minus baseline, ``[unit]``."""
        return self.treated - self.baseline

    @property
    def family(self) -> str:
        """Name of the family of tests that this cell belongs to."""
        known = dict(zip(CELL_KEYS, self.key, strict=True))
        return " · ".join(str(known[name]) for name in FAMILY_KEYS if known[name] != "")


def unit_means(observations: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, split, arm and unit with its cluster and the mean of its samples.

    Missing cell entries become ``""``. Raises on absent columns, NaN values, a sample that stands twice, and a unit
    that belongs to two clusters.
    """
    import pandas as pd

    missing = [name for name in OBSERVATION_COLUMNS if name not in observations.columns]
    if missing:
        raise UsageError(
            f"the observation table lacks the column(s) {', '.join(missing)}", "write every column of an Observation"
        )
    keys = [*CELL_KEYS, "arm", "unit"]
    table = observations.loc[:, list(OBSERVATION_COLUMNS)].copy()
    for name in CELL_KEYS:
        table[name] = table[name].astype(object).where(table[name].notna(), "")
    # A layer column with gaps is read back as float.
    table["layer"] = [int(v) if v != "" else "" for v in table["layer"]]
    table["value"] = pd.to_numeric(table["value"]).astype(float)
    bad = ~np.isfinite(table["value"].to_numpy())
    if bad.any():
        row = table.loc[bad].iloc[0]
        raise UsageError(
            f"{int(bad.sum())} observed value(s) are NaN or infinite, first: arm {row['arm']!r}, unit {row['unit']!r}, "
            f"scorer {row['scorer']!r}",
            "find out why the scorer returned nothing; drop the whole unit in every arm if that is justified",
        )
    if table[["unit", "cluster", "arm"]].isna().to_numpy().any():
        raise UsageError("an observation names no unit, cluster or arm", "fill all three in every row")
    if table.duplicated([*keys, "sample"]).any():
        row = table.loc[table.duplicated([*keys, "sample"])].iloc[0]
        raise UsageError(
            f"unit {row['unit']!r} of arm {row['arm']!r} holds sample {row['sample']} twice: it would count as two",
            "give every sample of a unit its own number, and every text its own unit",
        )
    grouped = table.groupby(keys, sort=True, dropna=False)
    if (grouped["cluster"].nunique() > 1).any():
        raise UsageError("a unit belongs to two clusters", "give each unit one scenario")
    return grouped.agg(value=("value", "mean"), cluster=("cluster", "first")).reset_index()


def paired_cells(units: pd.DataFrame) -> Iterator[PairedCell | UnpairedCell]:
    """Every arm of every cell beside its baseline, from :func:`unit_means`.

    The baseline is the ``baseline`` arm with the same cell; where there is none, the baseline rows of the same
    experiment, model, scorer and split whose other cell columns are equal or empty (an unedited run has no layer and no
    strength). A unit that stands in one of the two only makes the cell an :class:`UnpairedCell`: dropping units is the
    experiment's decision, and one such cell must not lose the others. Raises when a cell or experiment has no baseline.
    """
    rows = units[~units["arm"].astype(str).str.fullmatch(K_ARM.pattern)]
    arms = rows[rows["arm"] != BASELINE_ARM]
    if arms.empty:
        return
    controls = {
        tuple(key): part for key, part in rows[rows["arm"] == BASELINE_ARM].groupby(list(CELL_KEYS), sort=False)
    }
    if not controls:
        names = ", ".join(sorted(set(rows["experiment"].astype(str))))
        raise UsageError(
            f"{names}: no observations of the arm {BASELINE_ARM!r}, so there is nothing to compare with",
            "record the unedited outcome of every unit as the baseline arm",
        )
    for key, part in arms.groupby([*CELL_KEYS, "arm"], sort=True):
        *cell, arm = key
        control = _control(tuple(cell), controls)
        try:
            yield _pair(tuple(cell), str(arm), part, control)
        except UsageError as error:
            yield UnpairedCell(tuple(cell), str(arm), error)


def _control(cell: tuple[Any, ...], controls: dict[tuple[Any, ...], pd.DataFrame]) -> pd.DataFrame:
    if cell in controls:
        return controls[cell]
    strict = {CELL_KEYS.index(name) for name in FAMILY_KEYS}
    fitting = [
        key
        for key in controls
        if all(a == b or (b == "" and i not in strict) for i, (a, b) in enumerate(zip(cell, key, strict=True)))
    ]
    if not fitting:
        raise UsageError(
            f"cell {_shown(cell)} has no baseline", "record the baseline arm for the cell or its experiment"
        )
    # The baseline that shares most columns is the one meant.
    return controls[max(fitting, key=lambda key: sum(a == b for a, b in zip(cell, key, strict=True)))]


def _pair(cell: tuple[Any, ...], arm: str, part: pd.DataFrame, control: pd.DataFrame) -> PairedCell:
    treated, baseline = part.set_index("unit"), control.set_index("unit")
    odd = sorted(map(str, treated.index.symmetric_difference(baseline.index)))
    if odd:
        named = ", ".join(odd[:5]) + (", …" if len(odd) > 5 else "")
        total = len(treated.index.union(baseline.index))
        raise UsageError(
            f"not paired with the baseline: {len(odd)} of {total} units stand in one arm only ({named})",
            "measure every unit in both arms, or drop it from both",
        )
    baseline = baseline.loc[treated.index]
    if (treated["cluster"] != baseline["cluster"]).any():
        raise UsageError("a unit has another cluster than in its baseline", "give each unit one scenario")
    return PairedCell(
        cell,
        arm,
        tuple(map(str, treated.index)),
        treated["cluster"].to_numpy(),
        treated["value"].to_numpy(dtype=np.float64),
        baseline["value"].to_numpy(dtype=np.float64),
    )


def _shown(cell: tuple[Any, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(CELL_KEYS, cell, strict=True) if value != "")
