"""Statistics of a profile's finished runs: which observations are read, which tables and figures are written.

Any experiment is picked up by its observation table alone: nothing here knows the name of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emotion_circuits.errors import EmotionCircuitsError, UsageError, unknown_name
from emotion_circuits.stats.analysis import EFFECT_COLUMNS, K_COLUMNS, NOT_TESTED, effect_table, k_table, power_table
from emotion_circuits.stats.tables import records, typed_frame
from emotion_circuits.store import Run, Store, replacing, slug, write_json, write_text
from emotion_circuits.store.runs import LATEST, OBSERVATIONS

if TYPE_CHECKING:
    import pandas as pd

Question = Literal["effect", "power", "k"]

FILE_NAMES: Mapping[Question, str] = {"effect": "effect_sizes", "power": "power_analysis", "k": "k_selection"}


@dataclass(frozen=True)
class Skipped:
    """A finished run that could not be analysed, and why."""

    run: Path
    error: EmotionCircuitsError


@dataclass(frozen=True)
class Statistics:
    """The tables by question, the runs behind them, what was skipped, and the files written."""

    tables: Mapping[Question, pd.DataFrame]
    runs: tuple[Path, ...]
    skipped: tuple[Skipped, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def untested(self) -> int:
        """Number of cells whose arms could not be compared (see the table's ``status``)."""
        effects = self.tables.get("effect")
        return 0 if effects is None else int(effects["status"].str.startswith(NOT_TESTED).sum())


def finished_runs(results: Path, profile: str, experiment: str | None = None) -> list[Run]:
    """The run that ``latest`` names in every experiment folder of a profile, if it is done and has observations."""
    return list(_latest(Store(results).find(profile, experiment=experiment)))


def profile_statistics(
    results: Path,
    profile: str,
    questions: tuple[Question, ...],
    *,
    experiment: str | None = None,
    target_power: float = 0.8,
    seed: int = 0,
    first: str = "",
) -> Statistics:
    """Analyse every finished run of a profile and write the tables and figures.

    Tables go to ``results/{profile}/stats/`` as CSV and Parquet (power also as JSON), figures of the effects to
    ``results/{profile}/plots/statistics/`` as PNG and SVG. A run whose observations cannot be used (unpaired units,
    NaN, no baseline) is skipped with its reason and the others are kept. With ``experiment`` only its runs are read
    and the files carry its name, so that they do not replace the whole profile's. ``first`` is what to type where
    nothing has finished yet.

    Raises :class:`~emotion_circuits.errors.UsageError` when there is nothing to analyse.
    """
    known: list[str] = list(FILE_NAMES)
    for question in questions:
        if question not in FILE_NAMES:
            raise unknown_name("statistics question", question, known)
    runs = finished_runs(results, profile, experiment)
    if not runs:
        what = f"experiment {experiment!r} in profile {profile!r}" if experiment else f"profile {profile!r}"
        raise UsageError(
            f"no finished run with observations of {what} in {results}",
            first or f"emotion-circuits study {profile}",
        )
    effects, ks, skipped = _analyse(runs, questions, target_power, seed)
    tables: dict[Question, pd.DataFrame] = {}
    if "effect" in questions:
        tables["effect"] = effects
    if "power" in questions:
        tables["power"] = power_table(effects, power=target_power)
    if "k" in questions:
        tables["k"] = ks
    suffix = f"-{slug(experiment)}" if experiment else ""
    home = Path(results) / slug(profile)
    written = [path for name, table in tables.items() for path in _write(table, home / "stats", name, suffix)]
    if "effect" in tables and effects["p_permutation"].notna().any():
        from emotion_circuits.stats.figures import write_figures

        written += write_figures(effects, home / "plots" / "statistics", suffix=suffix)
    return Statistics(tables, tuple(run.folder for run in runs), tuple(skipped), tuple(written))


def _latest(runs: list[Run]) -> Iterator[Run]:
    for run in runs:
        pointer = run.folder.parent / LATEST
        if not (run.done and (run.folder / OBSERVATIONS).exists() and pointer.exists()):
            continue
        if pointer.read_text(encoding="utf-8").strip() == run.key:
            yield run


def _analyse(
    runs: list[Run], questions: tuple[Question, ...], power: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, list[Skipped]]:
    """Effects and k tables of all runs; a run that raises is skipped."""
    effects: list[pd.DataFrame] = []
    ks: list[pd.DataFrame] = []
    skipped: list[Skipped] = []
    for run in runs:
        try:
            observations = run.read_observations().to_pandas()
            if "effect" in questions or "power" in questions:
                effects.append(effect_table(observations, power=power, seed=seed))
            if "k" in questions:
                ks.append(k_table(observations, seed=seed))
        except EmotionCircuitsError as error:
            skipped.append(Skipped(run.folder, error))
    return _stacked(effects, EFFECT_COLUMNS), _stacked(ks, K_COLUMNS), skipped


def _stacked(tables: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    return typed_frame([row for table in tables for row in records(table)], columns)


def _write(table: pd.DataFrame, folder: Path, question: Question, suffix: str) -> list[Path]:
    name = f"{FILE_NAMES[question]}{suffix}"
    paths = [write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))]
    with replacing(folder / f"{name}.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    paths.append(folder / f"{name}.parquet")
    if question == "power":
        rows = records(table)
        planned = [row for row in rows if row["question"] == "required n"]
        detected = [row for row in rows if row["question"] != "required n"]
        paths.append(write_json(folder / f"{name}.json", {"required_n": planned, "detectable_effects": detected}))
    return paths
