"""``scatter``: a point per cell, such as what a layer and strength gain against what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.palette import GREY, series_colours
from emotion_circuits.report.figures.registry import Drawing, figure_kind
from emotion_circuits.report.figures.rows import (
    Row,
    distinct,
    has_values,
    missing_count,
    number_option,
    read_rows,
    text_option,
)
from emotion_circuits.report.text import format_setting
from emotion_circuits.report.words import Words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure


MOST_POINTS = 3000
"""More points than this cannot be told apart, and make a page slow: as many, evenly spaced, are drawn."""


@figure_kind("scatter")
class Scatter(Drawing):
    """Rows ``{x, value, series, label?}``; ``label`` is shown in the tooltip and the table.

    Options: ``x`` and ``y`` (axis labels), ``reference`` (a dashed horizontal line).
    """

    options = frozenset({"x", "y", "reference"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        rows = _drawn(_rows(figure))
        if not has_values(rows):
            return screen.no_data(words)
        names = distinct(rows, "series")
        x_title, y_title = text_option(figure, "x", "x"), text_option(figure, "y", words["value"])
        hover = [
            alt.Tooltip("label:N", title=words["series"]),
            alt.Tooltip("x:Q", title=x_title, format=",.3~f"),
            alt.Tooltip("value:Q", title=y_title, format=",.3~f"),
        ]
        points = alt.Chart().mark_point(filled=True, size=60, opacity=0.85).encode(
            x=alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False)),
            y=alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False)),
            color=screen.series_colour(names, legend=len(names) > 1),
            shape=screen.series_shape(names, legend=len(names) > 1),
            tooltip=hover,
        )  # fmt: skip
        layers: list[alt.Chart | alt.LayerChart] = [points]
        reference = number_option(figure, "reference")
        if reference is not None:
            layers.insert(0, screen.reference_rule(reference, vertical=False))
        return screen.finish(alt.layer(*layers, data=screen.data(rows)).properties(width="container", height=320))

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _drawn(_rows(figure))
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        names = distinct(rows, "series")
        page = paper.new_figure(figure.title, 3.2)
        axes = page.add_subplot()
        for index, name in enumerate(names):
            mine = [r for r in rows if r["series"] == name and r["value"] is not None]
            axes.scatter(
                [r["x"] for r in mine], [r["value"] for r in mine], s=18, color=series_colours(names)[name],
                marker=paper.marker(index), label=paper.printable(name),
            )  # fmt: skip
        reference = number_option(figure, "reference")
        if reference is not None:
            axes.axhline(reference, color=GREY, linestyle="--", linewidth=1)
        axes.set_xlabel(paper.printable(text_option(figure, "x", "x")))
        axes.set_ylabel(paper.wrapped(text_option(figure, "y", words["value"]), 40, most_lines=2))
        if len(names) > 1:
            paper.legend_on_top(axes)
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        said = []
        reference = number_option(figure, "reference")
        if reference is not None:
            said.append(words["key_reference"].format(name=words["reference"], value=format_setting(reference)))
        rows = _rows(figure)
        if missing := missing_count(rows):
            said.append(words["key_missing"].format(count=missing))
        if len(rows) > MOST_POINTS:
            said.append(words["key_thinned"].format(shown=f"{MOST_POINTS:,}", total=f"{len(rows):,}"))
        return said


def _rows(figure: Figure) -> list[Row]:
    rows = read_rows(figure, labels=("series",), numbers=("x", "value"), optional_labels=("label",))
    for row in rows:
        row["label"] = row["series"] if row["label"] is None else f"{row['series']}, {row['label']}"
    return [row for row in rows if row["x"] is not None]


def _drawn(rows: list[Row]) -> list[Row]:
    """Every row, or :data:`MOST_POINTS` of them, evenly spaced from the first to the last."""
    if len(rows) <= MOST_POINTS:
        return rows
    return [rows[i * (len(rows) - 1) // (MOST_POINTS - 1)] for i in range(MOST_POINTS)]
