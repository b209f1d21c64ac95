"""``intervals``: a dot with its interval per row, such as baseline, extended and replication side by side."""

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

ROW_PIXELS = 22
"""Height of one dot's lane on the screen."""


@figure_kind("intervals")
class Intervals(Drawing):
    """Rows ``{label, value, group?, low?, high?, reference?}``; groups are dodged inside a label.

    Options: ``x`` (axis label), ``reference`` (one dashed line for all rows; a row's own reference is a short stroke),
    ``interval_label`` (such as "95 % cluster bootstrap") and ``reference_label``.
    """

    options = frozenset({"x", "reference", "interval_label", "reference_label"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        rows = _rows(figure)
        if not has_values(rows):
            return screen.no_data(words)
        labels, groups = distinct(rows, "label"), distinct(rows, "series")
        x = alt.X("value:Q", title=text_option(figure, "x", words["value"]), scale=alt.Scale(zero=False, padding=12))
        y = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(grid=True, ticks=False), scale=_lanes(0.3))
        offset = alt.YOffset("series:N", sort=groups, scale=_lanes(0.2))
        colour = screen.series_colour(groups, legend=len(groups) > 1)
        shape = screen.series_shape(groups, legend=len(groups) > 1)
        hover = [
            alt.Tooltip("label:N", title=words["label"]),
            alt.Tooltip("series:N", title=words["group"]),
            alt.Tooltip("value:Q", title=text_option(figure, "x", words["value"]), format=".3f"),
            alt.Tooltip("low:Q", title=words["low"], format=".3f"),
            alt.Tooltip("high:Q", title=words["high"], format=".3f"),
            alt.Tooltip("reference:Q", title=words["reference"], format=".3f"),
        ]
        layers: list[alt.Chart | alt.LayerChart] = []
        shared = number_option(figure, "reference")
        if shared is not None:
            layers.append(screen.reference_rule(shared, vertical=True))
        base = alt.Chart().encode(y=y, yOffset=offset)
        if has_values(rows, "low"):  # an axis of nothing but missing values is a warning on the console
            layers.append(base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q"), x2="high:Q", color=colour))
        if has_values(rows, "reference"):
            stroke = base.mark_tick(color=GREY, thickness=2.5, size=16, opacity=1)
            layers.append(stroke.encode(x=alt.X("reference:Q"), tooltip=hover))
        points = base.mark_point(filled=True, size=95, opacity=1)
        layers.append(points.encode(x=x, color=colour, shape=shape, tooltip=hover))
        if missing_count(rows):
            absent = base.transform_filter("!isValid(datum.value)").mark_text(align="right", dx=-6)
            layers.append(absent.encode(x=alt.value("width"), text=alt.value(words["missing"]), color=alt.value(GREY)))
        height = max(70, len(labels) * (max(len(groups), 1) * ROW_PIXELS + 8))
        return screen.finish(alt.layer(*layers, data=screen.data(rows)).properties(width="container", height=height))

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _rows(figure)
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        labels, groups = distinct(rows, "label"), distinct(rows, "series")
        lane = 0.2 if len(groups) > 1 else 0.3
        page = paper.new_figure(figure.title, 0.8 + lane * len(labels) * max(len(groups), 1))
        axes = page.add_subplot()
        shared = number_option(figure, "reference")
        if shared is not None:
            axes.axvline(shared, color=GREY, linestyle="--", linewidth=1)
        for index, group in enumerate(groups):
            mine = [row for row in rows if row["series"] == group]
            heights = [labels.index(row["label"]) + _dodge(index, len(groups)) for row in mine]
            colour = series_colours(groups)[group]
            lows, highs = (gaps_as_nan(row[key] for row in mine) for key in ("low", "high"))
            axes.hlines(heights, lows, highs, color=colour)
            axes.scatter(gaps_as_nan(row["reference"] for row in mine), heights, marker="|", s=60, color=GREY)
            values = gaps_as_nan(row["value"] for row in mine)
            marker = paper.marker(index)
            axes.scatter(values, heights, marker=marker, s=26, color=colour, label=paper.printable(group), zorder=3)
            for row, height in zip(mine, heights, strict=True):
                if row["value"] is None:
                    place = axes.get_yaxis_transform()
                    axes.text(
                        0.99,
                        height,
                        paper.printable(words["missing"]),
                        transform=place,
                        va="center",
                        ha="right",
                        color=GREY,
                    )
        axes.set_yticks(range(len(labels)), labels=[paper.tick(label) for label in labels])
        axes.set_ylim(len(labels) - 0.45, -0.55)
        axes.set_xlabel(paper.printable(text_option(figure, "x", words["value"])))
        if len(groups) > 1:
            paper.legend_on_top(axes)
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        rows = _rows(figure)
        said = []
        if has_values(rows, "low"):
            said.append(words["key_whisker"].format(name=text_option(figure, "interval_label", words["interval"])))
        name = text_option(figure, "reference_label", words["reference"])
        if has_values(rows, "reference"):
            said.append(words["key_reference_rows"].format(name=name))
        shared = number_option(figure, "reference")
        if shared is not None:
            said.append(words["key_reference"].format(name=name, value=format_setting(shared)))
        if missing := missing_count(rows):
            said.append(words["key_missing"].format(count=missing))
        return said


def _rows(figure: Figure) -> list[Row]:
    rows = read_rows(
        figure,
        labels=("label",),
        numbers=("value",),
        optional_labels=("group",),
        optional_numbers=("low", "high", "reference"),
    )
    shared = number_option(figure, "reference")
    for row in rows:
        row["series"] = row.pop("group") or ""
        if row["reference"] == shared:
            row["reference"] = None  # the line for all rows shows it already
    return rows


def _lanes(padding: float) -> alt.Scale:
    # Dots alone would get a point scale, which knows no inner padding.
    return alt.Scale(type="band", paddingInner=padding, paddingOuter=padding / 2)


def _dodge(index: int, count: int) -> float:
    """Offset of a group inside its label's lane, centred, with a gap of two dots to the next label."""
    return (index - (count - 1) / 2) / (count + 1)
