"""``bars``: horizontal bars from zero, grouped, with an optional interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.palette import GREY, series_colours
from emotion_circuits.report.figures.registry import Drawing, figure_kind
from emotion_circuits.report.figures.rows import (
    Row,
    distinct,
    gaps_as_nan,
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

BAR_PIXELS = 20
"""Height of one bar's lane on the screen."""


@figure_kind("bars")
class Bars(Drawing):
    """Rows ``{label, value, group?, low?, high?}``.

    Options: ``x`` (axis label), ``reference`` (a dashed line), ``interval_label``.
    """

    options = frozenset({"x", "reference", "interval_label"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        rows = _rows(figure)
        if not has_values(rows):
            return screen.no_data(words)
        labels, groups = distinct(rows, "label"), distinct(rows, "series")
        y = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(ticks=False), scale=alt.Scale(paddingInner=0.25))
        offset = alt.YOffset("series:N", sort=groups, scale=alt.Scale(paddingInner=0.12))
        x = alt.X("value:Q", title=text_option(figure, "x", words["value"]))
        hover = [
            alt.Tooltip("label:N", title=words["label"]),
            alt.Tooltip("series:N", title=words["group"]),
            alt.Tooltip("value:Q", title=text_option(figure, "x", words["value"]), format=".3f"),
            alt.Tooltip("low:Q", title=words["low"], format=".3f"),
            alt.Tooltip("high:Q", title=words["high"], format=".3f"),
        ]
        base = alt.Chart().encode(y=y, yOffset=offset)
        colour = screen.series_colour(groups, legend=len(groups) > 1)
        layers: list[alt.Chart | alt.LayerChart] = [base.mark_bar().encode(x=x, color=colour, tooltip=hover)]
        if has_values(rows, "low"):  # an axis of nothing but missing values is a warning on the console
            layers.append(base.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q"), x2="high:Q"))
        if missing_count(rows):
            absent = base.transform_filter("!isValid(datum.value)").mark_text(align="left", dx=6, color=GREY)
            layers.append(absent.encode(x=alt.datum(0), text=alt.value(words["missing"])))
        shared = number_option(figure, "reference")
        if shared is not None:
            layers.append(screen.reference_rule(shared, vertical=True))
        height = max(60, len(labels) * (max(len(groups), 1) * BAR_PIXELS + 6))
        return screen.finish(alt.layer(*layers, data=screen.data(rows)).properties(width="container", height=height))

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _rows(figure)
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        labels, groups = distinct(rows, "label"), distinct(rows, "series")
        thick = 0.72 / max(len(groups), 1)
        page = paper.new_figure(figure.title, 0.8 + (0.2 if len(groups) > 1 else 0.28) * len(labels) * len(groups))
        axes = page.add_subplot()
        for index, group in enumerate(groups):
            mine = [row for row in rows if row["series"] == group]
            heights = [labels.index(row["label"]) + thick * (index - (len(groups) - 1) / 2) for row in mine]
            values = gaps_as_nan(row["value"] for row in mine)
            colour = series_colours(groups)[group]
            axes.barh(heights, values, height=0.9 * thick, color=colour, label=paper.printable(group))
            lows, highs = (gaps_as_nan(row[key] for row in mine) for key in ("low", "high"))
            axes.hlines(heights, lows, highs, color="#222222", linewidth=1)
            for row, height in zip(mine, heights, strict=True):
                if row["value"] is None:
                    axes.text(0, height, " " + paper.printable(words["missing"]), va="center", fontsize=7.5, color=GREY)
        shared = number_option(figure, "reference")
        if shared is not None:
            axes.axvline(shared, color=GREY, linestyle="--", linewidth=1)
        axes.axvline(0, color="#222222", linewidth=0.8)
        axes.grid(False, axis="y")
        axes.set_yticks(range(len(labels)), labels=[paper.tick(label) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(paper.printable(text_option(figure, "x", words["value"])))
        if len(groups) > 1:
            paper.legend_on_top(axes)
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        rows = _rows(figure)
        said = []
        if has_values(rows, "low"):
            said.append(words["key_error_bar"].format(name=text_option(figure, "interval_label", words["interval"])))
        shared = number_option(figure, "reference")
        if shared is not None:
            said.append(words["key_reference"].format(name=words["reference"], value=format_setting(shared)))
        if missing := missing_count(rows):
            said.append(words["key_missing"].format(count=missing))
        return said


def _rows(figure: Figure) -> list[Row]:
    rows = read_rows(
        figure, labels=("label",), numbers=("value",), optional_labels=("group",), optional_numbers=("low", "high")
    )
    for row in rows:
        row["series"] = row.pop("group") or ""
    return rows
