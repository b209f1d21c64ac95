"""``layer-curves``: a value per layer and series, with its interval, its null band and the layer that was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
from matplotlib.ticker import MaxNLocator

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
from emotion_circuits.report.text import format_number
from emotion_circuits.report.words import Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure

OVERLAID_SERIES = 4
"""More series than this get a panel each."""
PANEL_COLUMNS = 3


@figure_kind("layer-curves")
class LayerCurves(Drawing):
    """Rows ``{layer, series, value, low?, high?, null_low?, null_high?, chosen?}``.

    Options: ``y`` (axis label), ``reference`` (dashed line: chance), ``facet`` (true: a panel per series, even for
    few), ``interval_label`` and ``null_label`` (what the bands are, such as "95 % cluster bootstrap").
    """

    options = frozenset({"y", "reference", "facet", "interval_label", "null_label"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        rows = _rows(figure)
        if not has_values(rows):
            return screen.no_data(words)
        names = distinct(rows, "series")
        panels = _in_panels(figure, names)
        reference = number_option(figure, "reference")
        layers = _vega_layers(figure, rows, names, words, legend=not panels)
        if reference is not None:
            layers.append(screen.reference_rule(reference, vertical=False))
        chart = alt.layer(*layers, data=screen.data(rows))
        if not panels:
            return screen.finish(chart.properties(width="container", height=300))
        faceted = chart.properties(width=screen.PANEL_WIDTH, height=150).facet(
            facet=alt.Facet("series:N", title=None, sort=names), columns=PANEL_COLUMNS
        )
        return screen.finish(faceted, panels=PANEL_COLUMNS)

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _rows(figure)
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        names = distinct(rows, "series")
        panels = _in_panels(figure, names)
        columns = min(PANEL_COLUMNS, len(names)) if panels else 1
        lines = -(-len(names) // columns) if panels else 1
        page = paper.new_figure(figure.title, 0.5 + 1.5 * lines if panels else 2.9)
        grid = page.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for index, name in enumerate(names):
            axes = grid[index if panels else 0]
            _paper_series(axes, [row for row in rows if row["series"] == name], name, index, names, words)
            if panels:
                axes.set_title(paper.printable(name), loc="left")
        for spare in grid[len(names) if panels else 1 :]:
            spare.remove()
        reference = number_option(figure, "reference")
        for axes in page.axes:
            if reference is not None:
                axes.axhline(reference, color=GREY, linestyle="--", linewidth=1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        page.supxlabel(paper.printable(words["layer"]), fontsize=8.5)
        page.supylabel(paper.wrapped(_y_label(figure, words), 40, most_lines=2), fontsize=8.5)
        if not panels:
            paper.legend_on_top(page, page.axes[0])
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        rows = _rows(figure)
        said = []
        if has_values(rows, "low"):
            said.append(words["key_interval"].format(name=text_option(figure, "interval_label", words["interval"])))
        if has_values(rows, "null_low"):
            said.append(words["key_null"].format(name=text_option(figure, "null_label", words["null_band"])))
        if any(row["chosen"] for row in rows):
            said.append(words["key_chosen"].format(name=words["chosen_layer"]))
        reference = number_option(figure, "reference")
        if reference is not None:
            shown = format_number(reference)
            said.append(words["key_reference"].format(name=words["reference"], value=shown))
        if missing := missing_count(rows):
            said.append(words["key_missing"].format(count=missing))
        return said


def _rows(figure: Figure) -> list[Row]:
    rows = read_rows(
        figure,
        labels=("series",),
        numbers=("layer", "value"),
        optional_numbers=("low", "high", "null_low", "null_high"),
        flags=("chosen",),
    )
    return sorted((row for row in rows if row["layer"] is not None), key=lambda row: row["layer"])


def _in_panels(figure: Figure, names: list[Any]) -> bool:
    return len(names) > OVERLAID_SERIES or (len(names) > 1 and bool(figure.options.get("facet")))


def _y_label(figure: Figure, words: Words) -> str:
    return text_option(figure, "y", words["value"])


def _vega_layers(
    figure: Figure, rows: list[Row], names: list[Any], words: Words, *, legend: bool
) -> list[alt.Chart | alt.LayerChart]:
    x = alt.X("layer:Q", title=words["layer"], axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", title=_y_label(figure, words), scale=alt.Scale(zero=False))
    colour = screen.series_colour(names, legend=legend)
    hover = [
        alt.Tooltip("series:N", title=words["series"]),
        alt.Tooltip("layer:Q", title=words["layer"]),
        alt.Tooltip("value:Q", title=_y_label(figure, words), format=".3f"),
    ]
    layers: list[alt.Chart | alt.LayerChart] = []
    if has_values(rows, "null_low"):
        band = alt.Chart().mark_area(color=GREY, opacity=0.16, clip=True)
        layers.append(band.encode(x=x, y=y, detail="series:N").encode(y="null_low:Q", y2="null_high:Q"))
    if has_values(rows, "low"):
        hover += [
            alt.Tooltip("low:Q", title=words["low"], format=".3f"),
            alt.Tooltip("high:Q", title=words["high"], format=".3f"),
        ]
        ribbon = alt.Chart().mark_area(opacity=0.2)
        layers.append(ribbon.encode(x=x, y="low:Q", y2="high:Q", color=colour))
    layers.append(alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=colour))
    points = alt.Chart().mark_point(filled=True, size=34, opacity=1)
    layers.append(points.encode(x=x, y=y, color=colour, shape=screen.series_shape(names, legend=legend), tooltip=hover))
    if not any(row["chosen"] for row in rows):
        return layers
    ring = alt.Chart().mark_point(shape="circle", size=260, filled=False, strokeWidth=2.2, opacity=1)
    layers.append(ring.transform_filter(alt.datum.chosen).encode(x=x, y=y, color=colour, tooltip=hover))
    return layers


def _paper_series(axes: Axes, rows: list[Row], name: str, index: int, names: list[Any], words: Words) -> None:
    colour = series_colours(names)[name]
    layers = [row["layer"] for row in rows]

    def column(key: str) -> list[float]:
        return gaps_as_nan(row[key] for row in rows)

    if has_values(rows, "null_low"):
        axes.fill_between(layers, column("null_low"), column("null_high"), color=GREY, alpha=0.16, linewidth=0)
    if has_values(rows, "low"):
        axes.fill_between(layers, column("low"), column("high"), color=colour, alpha=0.2, linewidth=0)
    axes.plot(layers, column("value"), color=colour, marker=paper.marker(index), label=paper.printable(name))
    for row in rows:
        if row["chosen"] and row["value"] is not None:
            axes.plot(row["layer"], row["value"], "o", markersize=9, markerfacecolor="none", markeredgecolor=colour)
            axes.annotate(
                paper.printable(words["chosen_short"].format(layer=format_number(int(row["layer"])))),
                (row["layer"], row["value"]),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=colour,
            )
