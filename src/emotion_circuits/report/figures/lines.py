"""``lines``: a plain line per series, such as activation norms by layer; optionally on a logarithmic axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
from matplotlib.ticker import FuncFormatter, MaxNLocator

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


@figure_kind("lines")
class Lines(Drawing):
    """Rows ``{x or layer, series, value, low?, high?}``.

    Options: ``x`` and ``y`` (axis labels), ``log`` (true: logarithmic y axis, where zero and below cannot be drawn and
    count as missing), ``reference`` (a dashed line), ``interval_label``.
    """

    options = frozenset({"x", "y", "log", "reference", "interval_label"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        rows = _rows(figure)
        if not has_values(rows):
            return screen.no_data(words)
        names = distinct(rows, "series")
        whole = alt.Axis(format="d", tickMinStep=1) if _is_whole(rows) else alt.Axis()
        x = alt.X("x:Q", title=_x_label(figure, words), axis=whole, scale=alt.Scale(nice=False, zero=False))
        y_scale = alt.Scale(type="log") if figure.options.get("log") else alt.Scale(zero=False)
        y_axis = alt.Axis(format="~s", tickCount=5) if figure.options.get("log") else alt.Axis()
        y = alt.Y("value:Q", title=text_option(figure, "y", words["value"]), scale=y_scale, axis=y_axis)
        colour = screen.series_colour(names, legend=len(names) > 1)
        hover = [
            alt.Tooltip("series:N", title=words["series"]),
            alt.Tooltip("x:Q", title=_x_label(figure, words)),
            alt.Tooltip("value:Q", title=text_option(figure, "y", words["value"]), format=",.3~f"),
        ]
        layers: list[alt.Chart | alt.LayerChart] = []
        if has_values(rows, "low"):
            ribbon = alt.Chart().mark_area(opacity=0.2)
            layers.append(ribbon.encode(x=x, y=alt.Y("low:Q", scale=y_scale), y2="high:Q", color=colour))
        layers.append(alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=colour))
        points = alt.Chart().mark_point(filled=True, size=34, opacity=1)
        shape = screen.series_shape(names, legend=len(names) > 1)
        layers.append(points.encode(x=x, y=y, color=colour, shape=shape, tooltip=hover))
        reference = number_option(figure, "reference")
        if reference is not None:
            layers.append(screen.reference_rule(reference, vertical=False))
        return screen.finish(alt.layer(*layers, data=screen.data(rows)).properties(width="container", height=280))

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _rows(figure)
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        names = distinct(rows, "series")
        page = paper.new_figure(figure.title, 2.7)
        axes = page.add_subplot()
        for index, name in enumerate(names):
            mine = [row for row in rows if row["series"] == name]
            at = [row["x"] for row in mine]
            colour = series_colours(names)[name]
            lows, highs = (gaps_as_nan(row[key] for row in mine) for key in ("low", "high"))
            axes.fill_between(at, lows, highs, color=colour, alpha=0.2, linewidth=0)
            values = gaps_as_nan(row["value"] for row in mine)
            axes.plot(at, values, color=colour, marker=paper.marker(index), label=paper.printable(name))
        reference = number_option(figure, "reference")
        if reference is not None:
            axes.axhline(reference, color=GREY, linestyle="--", linewidth=1)
        if figure.options.get("log"):
            axes.set_yscale("log")
            # Plain numbers: powers of ten would need mathematical text, which is off because labels are untrusted.
            axes.yaxis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
            )
        if _is_whole(rows):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(paper.printable(_x_label(figure, words)))
        axes.set_ylabel(paper.wrapped(text_option(figure, "y", words["value"]), 40, most_lines=2))
        if len(names) > 1:
            paper.legend_on_top(axes)
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        rows = _rows(figure)
        said = []
        if has_values(rows, "low"):
            said.append(words["key_interval"].format(name=text_option(figure, "interval_label", words["interval"])))
        reference = number_option(figure, "reference")
        if reference is not None:
            said.append(words["key_reference"].format(name=words["reference"], value=format_setting(reference)))
        if missing := missing_count(rows):
            said.append(words["key_missing"].format(count=missing))
        return said


def _is_layer(figure: Figure) -> bool:
    return any("layer" in row for row in figure.data)


def _is_whole(rows: list[Row]) -> bool:
    """Layers, steps: nothing lies between two of them."""
    return all(float(row["x"]).is_integer() for row in rows)


def _x_label(figure: Figure, words: Words) -> str:
    return text_option(figure, "x", words["layer"] if _is_layer(figure) else "x")


def _rows(figure: Figure) -> list[Row]:
    place = "layer" if _is_layer(figure) else "x"
    rows = read_rows(figure, labels=("series",), numbers=(place, "value"), optional_numbers=("low", "high"))
    logarithmic = bool(figure.options.get("log"))
    for row in rows:
        row["x"] = row.pop("layer") if place == "layer" else row["x"]
        for key in ("value", "low", "high"):
            if logarithmic and row[key] is not None and row[key] <= 0:
                row[key] = None
    return sorted((row for row in rows if row["x"] is not None), key=lambda row: row["x"])
