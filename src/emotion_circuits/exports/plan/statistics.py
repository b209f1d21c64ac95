"""The tables of ``emotion-circuits stats``, where the plan has them."""

from __future__ import annotations

from collections.abc import Iterator

from emotion_circuits.exports.contract import File, Results, plan_file

COMMAND = "emotion-circuits stats all --profile {{profile}}"


@plan_file("statistics/effect_sizes.csv", "effects, intervals, corrected p", "", COMMAND)
def effect_sizes(results: Results) -> Iterator[File]:
    yield from _table(results, "effect_sizes.csv")


@plan_file("statistics/power_analysis.csv", "needed n, detectable effects", "", COMMAND)
def power_analysis(results: Results) -> Iterator[File]:
    yield from _table(results, "power_analysis.csv")


@plan_file("statistics/power_analysis.json", "the same as JSON", "", COMMAND)
def power_summary(results: Results) -> Iterator[File]:
    yield from _table(results, "power_analysis.json")


@plan_file("statistics/k_selection.csv", "choice of k, tested", "", COMMAND)
def k_selection(results: Results) -> Iterator[File]:
    yield from _table(results, "k_selection.csv")


def _table(results: Results, name: str) -> Iterator[File]:
    path = results.folder / "stats" / name
    if path.exists():
        yield File(f"statistics/{name}", path, path.read_bytes)
