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
from emotion_circuits.report.text import format_setting
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
        _choose_bands(rows, names, repeated=panels)
        reference = number_option(figure, "reference")
        layers = _vega_layers(figure, rows, names, words, legend=not panels)
        if reference is not None:
            layers.append(screen.reference_rule(reference, vertical=False))
        chart = alt.layer(*layers, data=screen.data(rows))
        if not panels:
            return screen.finish(chart.properties(width="container", height=300))
        facet = alt.Facet("series:N", title=None, sort=names)
        faceted = chart.properties(width=screen.PANEL_WIDTH, height=150).facet(facet=facet, columns=PANEL_COLUMNS)
        # Every panel its own layer axis: a shared one would hang below the gaps of an unfinished last line.
        return screen.finish(faceted.resolve_axis(x="independent"), panels=PANEL_COLUMNS)

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _rows(figure)
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        names = distinct(rows, "series")
        panels = _in_panels(figure, names)
        _choose_bands(rows, names, repeated=panels)
        columns = min(PANEL_COLUMNS, len(names)) if panels else 1
        lines = -(-len(names) // columns) if panels else 1
        page = paper.new_figure(figure.title, 0.5 + 1.5 * lines if panels else 2.9)
        grid = page.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for index, name in enumerate(names):
            axes = grid[index if panels else 0]
            mine = [row for row in rows if row["series"] == name]
            label = paper.printable(_with_chosen(name, mine, words))
            _paper_series(axes, mine, label, index, series_colours(names)[name])
            if panels:
                axes.set_title(label, loc="left")
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
            paper.legend_on_top(page.axes[0])
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
            shown = format_setting(reference)
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


def _choose_bands(rows: list[Row], names: list[Any], *, repeated: bool) -> None:
    """Mark the rows whose null band is drawn: where series lie over each other, equal bands are drawn only once."""
    seen: set[tuple[Any, ...]] = set()
    for name in names:
        mine = [row for row in rows if row["series"] == name]
        band = tuple((row["layer"], row["null_low"], row["null_high"]) for row in mine)
        drawn = has_values(mine, "null_low") and (repeated or band not in seen)
        seen.add(band)
        for row in mine:
            row["band_drawn"] = drawn


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
        band = alt.Chart().transform_filter(alt.datum.band_drawn).mark_area(color=GREY, opacity=0.16)
        layers.append(band.encode(x=x, y="null_low:Q", y2="null_high:Q", detail="series:N"))
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


def _with_chosen(name: str, rows: list[Row], words: Words) -> str:
    """A series' name with its chosen layers, so that no number has to be squeezed between the curves."""
    chosen = [words["chosen_short"].format(layer=format_setting(row["layer"])) for row in rows if row["chosen"]]
    return f"{name} ({', '.join(chosen[:3])})" if chosen else name


def _paper_series(axes: Axes, rows: list[Row], label: str, index: int, colour: str) -> None:
    layers = [row["layer"] for row in rows]

    def column(key: str) -> list[float]:
        return gaps_as_nan(row[key] for row in rows)

    if any(row["band_drawn"] for row in rows):
        axes.fill_between(layers, column("null_low"), column("null_high"), color=GREY, alpha=0.16, linewidth=0)
    if has_values(rows, "low"):
        axes.fill_between(layers, column("low"), column("high"), color=colour, alpha=0.2, linewidth=0)
    # A mark at the limit of its panel (AUROC 1) is drawn whole.
    axes.plot(layers, column("value"), color=colour, marker=paper.marker(index), label=label, clip_on=False)
    for row in rows:
        if row["chosen"] and row["value"] is not None:
            ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": colour}
            axes.plot(row["layer"], row["value"], "o", clip_on=False, **ring)
