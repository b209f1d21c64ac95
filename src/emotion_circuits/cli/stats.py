"""``emotion-circuits stats``: effects, power and the choice of k from a profile's finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: F401 -- named by the annotations of ResultOptions, which cyclopts resolves here
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from emotion_circuits.cli._console import print_json, print_table, print_text, say
from emotion_circuits.cli._options import COMMON, ResultOptions

if TYPE_CHECKING:
    from emotion_circuits.stats.results import Question, Statistics

app = App(name="stats", help="Effects, power and multiplicity from the results of a profile.")


@dataclass(frozen=True, kw_only=True)
class StatsOptions(ResultOptions):
    """What is analysed, and how."""

    profile: Annotated[str, Parameter(help="Profile whose results are read (name, TOML file or folder).")] = (
        "quickstart"
    )
    experiment: Annotated[str | None, Parameter(help="Only this experiment; its files then carry its name.")] = None
    target_power: Annotated[
        float,
        Parameter(
            help="Power that sample sizes and detectable effects are computed for.", validator=Number(gt=0.05, lt=1)
        ),
    ] = 0.8
    seed: Annotated[
        int, Parameter(help="Seed of permutations and resampling.", group=COMMON, validator=Number(gte=0))
    ] = 0


STATS_OPTIONS = StatsOptions()
Options = Annotated[StatsOptions, Parameter(name="*")]

_MOST_ROWS = 15


@app.command
def effect(*, options: Options = STATS_OPTIONS) -> int:
    """Effect sizes with intervals, permutation p and corrections within each declared family; figures of both."""
    return _run(("effect",), options)


@app.command
def power(*, options: Options = STATS_OPTIONS) -> int:
    """Units needed for declared effects, and the smallest effect that each finished cell could detect."""
    return _run(("power",), options)


@app.command
def k(*, options: Options = STATS_OPTIONS) -> int:
    """Choice of the subspace dimension k by held-out scores on dev scenarios, with intervals."""
    return _run(("k",), options)


@app.command(name="all")
def all_(*, options: Options = STATS_OPTIONS) -> int:
    """All three: effect, power and k."""
    return _run(("effect", "power", "k"), options)


def _run(questions: tuple[Question, ...], options: StatsOptions) -> int:
    """Analyse, write and print; 3 when a run or cell could not be analysed, 1 when no run could."""
    from emotion_circuits.cli._results import stored_profile
    from emotion_circuits.report.commands import first_study
    from emotion_circuits.stats.results import profile_statistics
    from emotion_circuits.stats.tables import records

    profile = stored_profile(options.profile, options.results)
    found = profile_statistics(
        options.results,
        profile,
        questions,
        experiment=options.experiment,
        target_power=options.target_power,
        seed=options.seed,
        first=first_study(options.profile, options.results),
    )
    if options.json:
        print_json(
            {
                "profile": profile,
                "runs": found.runs,
                "tables": {name: records(table) for name, table in found.tables.items()},
                "skipped": [{"run": s.run, "what": s.error.what, "fix": s.error.fix} for s in found.skipped],
                "files": found.files,
            }
        )
    else:
        _print(found, options)
    for item in found.skipped:
        say(f"skipped {item.run.as_posix()}: {item.error}")
    if len(found.skipped) == len(found.runs):
        return 1
    return 3 if found.skipped or found.untested else 0


def _print(found: Statistics, options: StatsOptions) -> None:
    """Tables on stdout, then where they were written."""
    from emotion_circuits.stats.tables import records

    for name, table in found.tables.items():
        rows = records(table)
        if name == "effect":
            _print_effects(rows)
        elif name == "power":
            _print_power(rows)
        else:
            _print_k(rows, options)
        print_text("")
    for path in found.files:
        print_text(path.as_posix())


def _print_effects(rows: list[dict[str, Any]]) -> None:
    tested = [row for row in rows if "p_permutation" in row]
    shown = sorted(tested, key=lambda row: (row["p_holm"], -abs(row.get("g_z", 0.0))))[:_MOST_ROWS]
    names, shared = _cells(shown)
    print_table(
        [row | {"cell": cell, "effect": _interval(row, "g_z")} for row, cell in zip(shown, names, strict=True)],
        {"cell": "cell", "arm": "arm", "n": "n", "effect": "g_z with 95 %", "p_permutation": "p", "p_holm": "p Holm",
         "p_bh": "p BH"},
        f"Effects, {len(shown)} of {len(tested)}, smallest p first{shared}",
    )  # fmt: skip
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] != "ok":
            reasons.setdefault(row["status"], []).append(row)
    for reason, affected in reasons.items():
        which = f"{_cells(affected[:1])[1].strip(' ()')} {affected[0]['arm']}"
        print_text(f"{len(affected)} cell(s) {reason} (first: {which})")


def _print_power(rows: list[dict[str, Any]]) -> None:
    planned = [row for row in rows if row["question"] == "required n"]
    print_table(
        planned, {"design": "design", "effect": "effect", "power": "power", "n_required": "units needed"}, "Planning"
    )
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["question"] != "required n":
            key = tuple(str(row.get(name, "")) for name in ("experiment", "model", "scorer", "split"))
            families.setdefault(key, []).append(row)
    if families:
        print_table(
            [
                {
                    "family": " ".join(filter(None, key)),
                    "cells": len(cells),
                    "clusters": _range([cell["clusters"] for cell in cells]),
                    "effect": _range([cell["detectable_g_z"] for cell in cells]),
                }
                for key, cells in families.items()
            ],
            {"family": "finished cells", "cells": "cells", "clusters": "clusters", "effect": "detectable g_z"},
            "Smallest effects that the finished cells could detect",
        )


def _print_k(rows: list[dict[str, Any]], options: StatsOptions) -> None:
    from emotion_circuits.report.commands import sweep_of_k

    if not rows:
        print_text("no experiment swept k (arms k=1, k=2, …), so there is nothing to choose from")
        print_text(f"  → {sweep_of_k(options.profile, options.results)}")
        return
    names, shared = _cells(rows)
    print_table(
        [row | {"cell": cell, "score": _interval(row, "score")} for row, cell in zip(rows, names, strict=True)],
        {"cell": "cell", "k": "k", "score": "held-out score, 95 %", "behind_best": "behind best", "p_behind": "p",
         "selected": "selected"},
        f"Choice of k{shared}",
    )  # fmt: skip


def _cells(rows: list[dict[str, Any]]) -> tuple[list[str], str]:
    """What each row is about, without what all rows share, and that shared part for the title."""
    keys = ("experiment", "model", "emotion", "layer", "position", "strength", "scorer", "split")
    values = {key: [row.get(key) for row in rows] for key in keys}
    common = {key for key in keys if len(set(values[key])) == 1}
    names = [
        " ".join(_part(key, row[key]) for key in keys if key in row and key not in common) or "all" for row in rows
    ]
    shared = " ".join(_part(key, rows[0][key]) for key in keys if rows and key in common and key in rows[0])
    return names, f" ({shared})" if shared else ""


def _part(key: str, value: object) -> str:
    return f"L{value}" if key == "layer" else str(value)


def _interval(row: dict[str, Any], name: str) -> str:
    """Estimate with its limits: ``1.44 [0.95, 1.99]``."""
    if f"{name}_low" not in row:
        return "–"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _range(values: list[float]) -> str:
    """Smallest to largest, or the one value."""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
