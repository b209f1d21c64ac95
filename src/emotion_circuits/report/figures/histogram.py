"""``histogram``: how often a value occurs, such as a null distribution with the observed value marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.distributions import bin_edges
from emotion_circuits.report.figures.palette import GREY, series_colours
from emotion_circuits.report.figures.registry import Drawing, figure_kind
from emotion_circuits.report.figures.rows import (
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


@figure_kind("histogram")
class Histogram(Drawing):
    """Rows ``{value, group?}``, one per observation; groups share their bins and lie over each other.

    Options: ``x`` (axis label), ``reference`` (a dashed line, such as the observed value), ``reference_label``.
    """

    options = frozenset({"x", "reference", "reference_label"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        bins = _bins(figure)
        if not bins:
            return screen.no_data(words)
        groups = distinct(bins, "series")
        x = alt.X("from:Q", title=text_option(figure, "x", words["value"]), scale=alt.Scale(zero=False))
        hover = [
            alt.Tooltip("series:N", title=words["group"]),
            alt.Tooltip("from:Q", title=words["from"], format=".3f"),
            alt.Tooltip("to:Q", title=words["to"], format=".3f"),
            alt.Tooltip("count:Q", title=words["count"]),
        ]
        colour = screen.series_colour(groups, legend=len(groups) > 1)
        bars = alt.Chart(screen.data(bins)).mark_rect(opacity=0.6, stroke="white", strokeWidth=0.4)
        y = alt.Y("count:Q", title=words["count"], stack=None)
        bars = bars.encode(x=x, x2="to:Q", y=y, y2=alt.datum(0), color=colour, tooltip=hover)
        layers: list[alt.Chart | alt.LayerChart] = [bars]
        reference = number_option(figure, "reference")
        if reference is not None:
            layers.append(screen.reference_rule(reference, vertical=True))
        return screen.finish(alt.layer(*layers).properties(width="container", height=240))

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        bins = _bins(figure)
        if not bins:
            return paper.no_data_figure(figure.title, words)
        page = paper.new_figure(figure.title, 2.4)
        axes = page.add_subplot()
        groups = distinct(bins, "series")
        for group in groups:
            mine = [row for row in bins if row["series"] == group]
            axes.bar(
                [row["from"] for row in mine],
                [row["count"] for row in mine],
                width=[row["to"] - row["from"] for row in mine],
                align="edge",
                color=series_colours(groups)[group],
                alpha=0.6,
                edgecolor="white",
                linewidth=0.4,
                label=paper.printable(group),
            )
        reference = number_option(figure, "reference")
        if reference is not None:
            axes.axvline(reference, color=GREY, linestyle="--", linewidth=1.2)
        axes.grid(False, axis="x")
        axes.set_xlabel(paper.printable(text_option(figure, "x", words["value"])))
        axes.set_ylabel(paper.printable(words["count"]))
        if len(groups) > 1:
            paper.legend_on_top(axes)
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        said = []
        reference = number_option(figure, "reference")
        if reference is not None:
            name = text_option(figure, "reference_label", words["reference"])
            said.append(words["key_reference"].format(name=name, value=format_setting(reference)))
        if missing := missing_count(_rows(figure)):
            said.append(words["key_missing"].format(count=missing))
        return said

    def table(self, figure: Figure, words: Words) -> tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]:
        columns = {"series": words["group"], "from": words["from"], "to": words["to"], "count": words["count"]}
        bins = _bins(figure)
        if not any(row["series"] for row in bins):
            del columns["series"]
        return columns, bins


def _rows(figure: Figure) -> list[dict[str, Any]]:
    return read_rows(figure, numbers=("value",), optional_labels=("group",))


def _bins(figure: Figure) -> list[dict[str, Any]]:
    """``{series, from, to, count}`` per group and bin; empty where no value is there."""
    rows = _rows(figure)
    if not has_values(rows):
        return []
    edges = bin_edges([row["value"] for row in rows if row["value"] is not None])
    bins = []
    for group in dict.fromkeys(row["group"] or "" for row in rows):
        mine = [row["value"] for row in rows if row["value"] is not None and (row["group"] or "") == group]
        counts, _ = np.histogram(mine, bins=edges)
        spans = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        bins += [{"series": group, "from": low, "to": high, "count": count} for low, high, count in spans]
    return bins
