"""``emotion-circuits stats``: effects, power and the choice of k from a profile's finished runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from emotion_circuits.cli._console import print_json, print_table, print_text, say
from emotion_circuits.cli._options import COMMON, RESULT_OPTIONS, ResultOptions

if TYPE_CHECKING:
    from emotion_circuits.stats.results import Question, Statistics

app = App(name="stats", help="Effects, power and multiplicity from the results of a profile.")

Profile = Annotated[str, Parameter(help="Profile whose results are read.")]
Experiment = Annotated[str | None, Parameter(help="Only this experiment; its files then carry its name.")]
TargetPower = Annotated[
    float,
    Parameter(help="Power that sample sizes and detectable effects are computed for.", validator=Number(gt=0.05, lt=1)),
]
Seed = Annotated[int, Parameter(help="Seed of permutations and resampling.", group=COMMON, validator=Number(gte=0))]
Options = Annotated[ResultOptions, Parameter(name="*")]

_MOST_ROWS = 20


@app.command
def effect(
    *,
    profile: Profile = "quickstart",
    experiment: Experiment = None,
    target_power: TargetPower = 0.8,
    seed: Seed = 0,
    options: Options = RESULT_OPTIONS,
) -> int:
    """Effect sizes with intervals, permutation p and corrections within each declared family; figures of both."""
    return _run(("effect",), profile, experiment, target_power, seed, options)


@app.command
def power(
    *,
    profile: Profile = "quickstart",
    experiment: Experiment = None,
    target_power: TargetPower = 0.8,
    seed: Seed = 0,
    options: Options = RESULT_OPTIONS,
) -> int:
    """Units needed for declared effects, and the smallest effect that each finished cell could detect."""
    return _run(("power",), profile, experiment, target_power, seed, options)


@app.command
def k(
    *,
    profile: Profile = "quickstart",
    experiment: Experiment = None,
    target_power: TargetPower = 0.8,
    seed: Seed = 0,
    options: Options = RESULT_OPTIONS,
) -> int:
    """Choice of the subspace dimension k by held-out scores on dev scenarios, with intervals."""
    return _run(("k",), profile, experiment, target_power, seed, options)


@app.command(name="all")
def all_(
    *,
    profile: Profile = "quickstart",
    experiment: Experiment = None,
    target_power: TargetPower = 0.8,
    seed: Seed = 0,
    options: Options = RESULT_OPTIONS,
) -> int:
    """All three: effect, power and k."""
    return _run(("effect", "power", "k"), profile, experiment, target_power, seed, options)


def _run(
    questions: tuple[Question, ...],
    profile: str,
    experiment: str | None,
    target_power: float,
    seed: int,
    options: ResultOptions,
) -> int:
    """Analyse, write and print; 3 when a run had to be skipped, 1 when every one was."""
    from emotion_circuits.stats.results import profile_statistics, records

    found = profile_statistics(
        options.results, profile, questions, experiment=experiment, target_power=target_power, seed=seed
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
        _print(found)
    for item in found.skipped:
        say(f"skipped {item.run.as_posix()}: {item.error}")
    if not found.skipped:
        return 0
    return 1 if len(found.skipped) == len(found.runs) else 3


def _print(found: Statistics) -> None:
    """Tables on stdout, then where they were written."""
    from emotion_circuits.stats.results import records

    for name, table in found.tables.items():
        rows = records(table)
        if name == "effect":
            _print_effects(rows)
        elif name == "power":
            _print_power(rows)
        else:
            _print_k(rows)
    for path in found.files:
        print_text(path.as_posix())


def _print_effects(rows: list[dict[str, Any]]) -> None:
    shown = sorted(rows, key=lambda row: (row.get("p_holm", 2.0), -abs(row.get("g_z", 0.0))))[:_MOST_ROWS]
    families = len({row["family"] for row in rows})
    print_table(
        [row | {"cell": _cell(row), "interval": _interval(row, "g_z")} for row in shown],
        {"cell": "cell", "arm": "arm", "n": "n", "difference": "difference", "g_z": "g_z", "interval": "95 %",
         "p_permutation": "p", "p_holm": "p Holm", "p_bh": "p BH"},
        f"{len(rows)} effects in {families} families, {len(shown)} with the smallest p",
    )  # fmt: skip
    for row in rows:
        if row["status"] != "ok":
            print_text(f"{_cell(row)}, {row['arm']}: {row['status']}")


def _print_power(rows: list[dict[str, Any]]) -> None:
    planned = [row for row in rows if row["question"] == "required n"]
    print_table(planned, {"design": "design", "effect": "effect", "power": "power", "n_required": "units needed"})
    finished = sorted(
        (row for row in rows if row["question"] != "required n"), key=lambda row: -float(row["detectable_g_z"])
    )
    if finished:
        print_table(
            [row | {"cell": _cell(row)} for row in finished[:_MOST_ROWS]],
            {"cell": "cell", "arm": "arm", "n": "n", "clusters": "clusters", "detectable_g_z": "detectable g_z",
             "detectable_difference": "in raw units"},
            f"smallest detectable effects of {len(finished)} finished cells, least sensitive first",
        )  # fmt: skip


def _print_k(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print_text("no experiment swept k (arms k=1, k=2, …), so there is nothing to choose from")
        return
    print_table(
        [row | {"cell": _cell(row), "interval": _interval(row, "score")} for row in rows],
        {"cell": "cell", "k": "k", "score": "held-out score", "interval": "95 %", "behind_best": "behind best",
         "p_behind": "p", "selected": "selected"},
    )  # fmt: skip


def _cell(row: dict[str, Any]) -> str:
    """What a row is about, in one line."""
    parts = [str(row[name]) for name in ("experiment", "model", "emotion") if name in row]
    parts += [f"L{row['layer']}"] if "layer" in row else []
    parts += [str(row[name]) for name in ("position", "strength", "scorer", "split") if name in row]
    return " ".join(parts)


def _interval(row: dict[str, Any], name: str) -> str:
    if f"{name}_low" not in row:
        return "–"
    return f"{row[f'{name}_low']:.3g} to {row[f'{name}_high']:.3g}"
