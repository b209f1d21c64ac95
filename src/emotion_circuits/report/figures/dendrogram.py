"""``dendrogram``: which groups join first when the nearest are joined again and again (average linkage, …)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import altair as alt

from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.palette import SERIES_COLOURS
from emotion_circuits.report.figures.registry import Drawing, figure_kind
from emotion_circuits.report.figures.rows import Row, missing_count, read_rows, text_option
from emotion_circuits.report.words import Words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure

LEAF_PIXELS = 26
JOIN = " + "


@dataclass(frozen=True)
class _Tree:
    """``leaves`` from top to bottom; ``segments`` ``(x, y, x2, y2)`` with y in leaves and x the height of a join."""

    leaves: tuple[str, ...]
    segments: tuple[tuple[float, float, float, float], ...]


@figure_kind("dendrogram")
class Dendrogram(Drawing):
    """Rows ``{first, second, value}``: two clusters that join at height ``value``, lowest first.

    A cluster of several is named by those that joined: ``"anger + fear"``. Option: ``x`` (axis label).
    """

    options = frozenset({"x"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        tree = _tree(_rows(figure))
        if not tree.segments:
            return screen.no_data(words)
        lines = [dict(zip(("x", "y", "x2", "y2"), s, strict=True)) for s in tree.segments]
        last = len(tree.leaves) - 1
        names = alt.Axis(
            values=list(range(last + 1)), labelExpr=f"{json.dumps(tree.leaves)}[datum.value]", title=None, grid=False,
            ticks=False, domain=False, labelLimit=220,
        )  # fmt: skip
        rules = alt.Chart(screen.data(lines)).mark_rule(color=SERIES_COLOURS[0], strokeWidth=2)
        chart = rules.encode(
            x=alt.X("x:Q", title=text_option(figure, "x", words["value"]), scale=alt.Scale(zero=True)),
            x2="x2:Q",
            y=alt.Y("y:Q", axis=names, scale=alt.Scale(domain=[last + 0.5, -0.5], nice=False)),
            y2="y2:Q",
            tooltip=[alt.Tooltip("x2:Q", title=words["value"], format=".3f")],
        )
        return screen.finish(chart.properties(width="container", height=LEAF_PIXELS * (last + 1) + 20))

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        tree = _tree(_rows(figure))
        if not tree.segments:
            return paper.no_data_figure(figure.title, words)
        page = paper.new_figure(figure.title, 0.8 + 0.26 * len(tree.leaves))
        axes = page.add_subplot()
        for x, y, x2, y2 in tree.segments:
            axes.plot([x, x2], [y, y2], color=SERIES_COLOURS[0])
        axes.grid(False, axis="y")
        axes.set_yticks(range(len(tree.leaves)), labels=[paper.tick(name) for name in tree.leaves])
        axes.set_ylim(len(tree.leaves) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(paper.printable(text_option(figure, "x", words["value"])))
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        missing = missing_count(_rows(figure))
        return [words["key_missing"].format(count=missing)] if missing else []


def _rows(figure: Figure) -> list[Row]:
    return read_rows(figure, labels=("first", "second"), numbers=("value",))


def _tree(rows: list[Row]) -> _Tree:
    """Leaves in an order in which no lines cross; joins without a height, and what stands on them, are left out."""
    joined = {JOIN.join((r["first"], r["second"])): r for r in rows if r["value"] is not None}
    within = {name for r in joined.values() for name in (r["first"], r["second"])}
    leaves: list[str] = []
    segments: list[tuple[float, float, float, float]] = []

    def place(name: str) -> tuple[float, float]:
        """Height and vertical place of a cluster, after everything inside it."""
        if name not in joined:
            leaves.append(name)
            return 0.0, float(len(leaves) - 1)
        row = joined[name]
        (low, upper), (high, lower) = place(row["first"]), place(row["second"])
        top = float(row["value"])
        segments.extend([(low, upper, top, upper), (high, lower, top, lower), (top, upper, top, lower)])
        return top, (upper + lower) / 2

    for name in joined:
        if name not in within:
            place(name)
    return _Tree(tuple(leaves), tuple(segments))
