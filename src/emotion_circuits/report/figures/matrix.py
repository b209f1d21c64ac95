"""``matrix``: a heat map with its numbers printed, such as cosines between emotions."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import altair as alt
import matplotlib
from matplotlib.colors import Colormap, Normalize, to_hex
from matplotlib.patches import Rectangle

from emotion_circuits.errors import UsageError
from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.palette import DIVERGING, MISSING_FILL, SEQUENTIAL, ink_on
from emotion_circuits.report.figures.registry import Drawing, figure_kind
from emotion_circuits.report.figures.rows import Row, distinct, has_values, missing_count, number_option, read_rows
from emotion_circuits.report.text import figure_label, format_number, is_number
from emotion_circuits.report.words import Words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure

NUMBERED_COLUMNS = 14
"""Wider matrices are drawn without numbers in the cells; tooltips and the table have them."""
NUMBERED_CELL = 44
"""CSS pixels a cell needs for its number."""
LINE_CHARACTERS = 14
"""Letters on a line of a cell that shows a label; longer labels are broken into lines."""
_HATCHES = 4


@figure_kind("matrix")
class Matrix(Drawing):
    """Rows ``{row, column, value, label?, hatched?}``: one cell each, ``label`` is printed instead of the number.

    Options: ``scale`` ([lowest, highest] of the colours), ``midpoint`` (a diverging scale around it), ``x`` and ``y``
    (axis labels), ``value`` (what the colour means), ``hatched`` (what a hatched cell means).
    """

    options = frozenset({"scale", "midpoint", "x", "y", "value", "hatched"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        cells = _cells(figure)
        if not has_values(cells):
            return screen.no_data(words)
        rows, columns = distinct(cells, "row"), distinct(cells, "column")
        numbered = len(columns) <= NUMBERED_COLUMNS
        slanted = not _all_numbers(columns) and max(map(len, columns)) > 4
        axis_x = alt.Axis(labelAngle=-40 if slanted else 0, labelOverlap=not numbered, grid=False, ticks=False)
        across: dict[str, Any] = {"sort": columns, "title": _title(figure, "x"), "axis": axis_x}
        down: dict[str, Any] = {"sort": rows, "title": _title(figure, "y"), "axis": alt.Axis(grid=False, ticks=False)}
        x, y = alt.X("column:N", **across), alt.Y("row:N", **down)
        hover = [
            alt.Tooltip("row:N", title=_title(figure, "y") or words["row"]),
            alt.Tooltip("column:N", title=_title(figure, "x") or words["column"]),
            alt.Tooltip("shown:N", title=_title(figure, "value") or words["value"]),
        ]
        tiles = alt.Chart().mark_rect().encode(x=x, y=y, color=_vega_fill(figure, cells), tooltip=hover)
        layers: list[alt.Chart | alt.LayerChart] = [tiles]
        if missing_count(cells):
            absent = alt.Chart().transform_filter("!isValid(datum.value)").mark_rect(fill=MISSING_FILL)
            layers.append(absent.encode(x=x, y=y, tooltip=hover))
        layers += _vega_hatches(cells, across, down)
        if numbered:
            layers += _vega_numbers(cells, x, y, hover)
        most_lines = max(cell["shown"].count("\n") for cell in cells) + 1
        height = len(rows) * (20 + 16 * most_lines if numbered else max(9, min(22, 420 // len(rows))))
        chart = alt.layer(*layers, data=screen.data(cells)).properties(width="container", height=height)
        # Few columns need not fill the page; many need to scroll inside the figure on a phone.
        side = 8 * max(map(len, rows)) + 60
        cell = max(NUMBERED_CELL, 7 * _longest_line(cells)) if numbered else 9
        widest = side + max(110, cell) * len(columns)
        return screen.finish(chart, min_width=min(side, 140) + cell * len(columns), max_width=widest)

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        cells = _cells(figure)
        if not has_values(cells):
            return paper.no_data_figure(figure.title, words)
        rows, columns = distinct(cells, "row"), distinct(cells, "column")
        numbered = len(columns) <= NUMBERED_COLUMNS
        slanted = not _all_numbers(columns) and max(map(len, columns)) > 4
        side, foot = (paper.CHARACTER * min(paper.TICK_CHARACTERS, max(map(len, names))) for names in (rows, columns))
        broad = max(0.62, paper.CHARACTER * _longest_line(cells) + 0.2)
        width = min(paper.WIDTH, 1.7 + side + broad * len(columns)) if numbered else paper.WIDTH
        most_lines = max(cell["shown"].count("\n") for cell in cells) + 1
        tall = 0.22 + 0.14 * most_lines if numbered else max(0.09, min(0.2, 5 / len(rows)))
        page = paper.new_figure(figure.title, 0.9 + tall * len(rows) + 0.7 * foot * slanted, width=width)
        axes = page.add_subplot()
        norm, colours = _scale(figure, cells)
        for cell in cells:
            corner = (columns.index(cell["column"]) - 0.5, rows.index(cell["row"]) - 0.5)
            hatch = "////" if cell["hatched"] else None
            tile = Rectangle(corner, 1, 1, facecolor=cell["fill"], edgecolor=cell["ink"], linewidth=0, hatch=hatch)
            axes.add_patch(tile)
            if numbered:
                centre = (corner[0] + 0.5, corner[1] + 0.5)
                halo = {"facecolor": cell["fill"], "edgecolor": "none", "pad": 1.5} if cell["hatched"] else None
                shown = paper.printable(cell["shown"])
                axes.text(*centre, shown, ha="center", va="center", color=cell["ink"], bbox=halo)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        _paper_labels(axes.set_xticks, columns, slanted=slanted)
        _paper_labels(axes.set_yticks, rows, slanted=False)
        axes.set_xlabel(paper.printable(_title(figure, "x") or ""))
        beside = max(24, int(0.8 * tall * len(rows) / paper.CHARACTER))
        axes.set_ylabel(paper.wrapped(_title(figure, "y") or "", beside, most_lines=2))
        bar = page.colorbar(matplotlib.cm.ScalarMappable(norm, colours), ax=axes, fraction=0.05, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label(paper.wrapped(_title(figure, "value") or "", beside, most_lines=2))
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        cells = _cells(figure)
        said = []
        if missing_count(cells) and has_values(cells):
            said.append(words["key_missing_cell"])
        if any(cell["hatched"] for cell in cells):
            said.append(words["key_broken"].format(name=_title(figure, "hatched") or words["broken"]))
        return said


def _cells(figure: Figure) -> list[Row]:
    cells = read_rows(
        figure, labels=("row", "column"), numbers=("value",), optional_labels=("label",), flags=("hatched",)
    )
    if not has_values(cells):
        return cells
    norm, colours = _scale(figure, cells)
    for cell in cells:
        missing = cell["value"] is None
        cell["fill"] = MISSING_FILL if missing else to_hex(colours(norm(cell["value"])))
        cell["ink"] = ink_on(cell["fill"])
        number = "–" if missing else _short_number(cell["value"])
        cell["shown"] = "\n".join(textwrap.wrap(cell["label"], LINE_CHARACTERS)) if cell["label"] else number
    return cells


def _longest_line(cells: list[Row]) -> int:
    return max(len(line) for cell in cells for line in cell["shown"].split("\n"))


def _short_number(value: float) -> str:
    """Two decimals below 10, so that the number fits its cell."""
    return f"{value:z.2f}".replace("-", "−") if abs(value) < 10 else format_number(value)


def _title(figure: Figure, option: str) -> str | None:
    return figure_label(figure.options[option]) if option in figure.options else None


def _all_numbers(labels: list[Any]) -> bool:
    return all(label.removeprefix("−").replace(".", "", 1).isdecimal() for label in labels)


def _limits(figure: Figure, cells: list[Row]) -> tuple[float, float]:
    scale = figure.options.get("scale")
    if scale is None:
        values = [cell["value"] for cell in cells if cell["value"] is not None]
        return min(values), max(values)
    if not isinstance(scale, list | tuple) or len(scale) != 2 or not all(map(is_number, scale)) or scale[0] >= scale[1]:
        raise UsageError(
            f"figure {figure.name!r} (matrix): scale is {figure_label(repr(scale))}", "write it as [lowest, highest]"
        )
    return float(scale[0]), float(scale[1])


def _scale(figure: Figure, cells: list[Row]) -> tuple[Normalize, Colormap]:
    """Colours by value: equal distances from the midpoint are equally strong, or from lowest to highest."""
    low, high = _limits(figure, cells)
    midpoint = number_option(figure, "midpoint")
    if midpoint is None:
        return Normalize(low, high if high > low else low + 1, clip=True), matplotlib.colormaps[SEQUENTIAL]
    reach = max(midpoint - low, high - midpoint) or 1.0
    return Normalize(midpoint - reach, midpoint + reach, clip=True), matplotlib.colormaps[DIVERGING]


def _vega_fill(figure: Figure, cells: list[Row]) -> alt.Color:
    """The same colours as on paper: sampled from the matplotlib scale, with the same limits."""
    norm, colours = _scale(figure, cells)
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    stops = [low + (high - low) * step / 32 for step in range(33)]
    fills = [to_hex(colours(norm(stop))) for stop in stops]
    legend = alt.Legend(title=_title(figure, "value") or alt.Undefined, gradientLength=160, tickCount=3)
    scale = alt.Scale(domain=stops, range=fills, clamp=True)
    return alt.Color("value:Q", scale=scale, legend=legend)


def _vega_numbers(cells: list[Row], x: alt.X, y: alt.Y, hover: list[alt.Tooltip]) -> list[alt.Chart]:
    """The number of every cell, on a halo of the cell's colour where hatching would cross it."""
    # Fill and stroke, not colour: a second colour without a scale would clash with the scale of the tiles.
    text = alt.Chart().encode(x=x, y=y, text="shown:N", tooltip=hover)
    numbers = text.mark_text(fontSize=12, lineBreak="\n", baseline="middle").encode(fill=alt.Fill("ink:N", scale=None))
    if not any(cell["hatched"] for cell in cells):
        return [numbers]
    halo = text.transform_filter(alt.datum.hatched).mark_text(
        fontSize=12, strokeWidth=6, strokeJoin="round", lineBreak="\n"
    )
    return [halo.encode(stroke=alt.Stroke("fill:N", scale=None)), numbers]


def _vega_hatches(cells: list[Row], across: dict[str, Any], down: dict[str, Any]) -> list[alt.Chart]:
    """Diagonals across hatched cells (Vega-Lite has no pattern fills): segments between points of the cell's edges."""
    if not any(cell["hatched"] for cell in cells):
        return []
    strokes = []
    for step in range(1, 2 * _HATCHES):
        start, end = max(0.0, step / _HATCHES - 1), min(1.0, step / _HATCHES)
        rule = alt.Chart().transform_filter(alt.datum.hatched).mark_rule(strokeWidth=1, opacity=0.75)
        strokes.append(
            rule.encode(
                x=alt.X("column:N", bandPosition=start, **across),
                x2=alt.X2("column:N", bandPosition=end),
                y=alt.Y("row:N", bandPosition=end, **down),
                y2=alt.Y2("row:N", bandPosition=start),
                stroke=alt.Stroke("ink:N", scale=None),
            )
        )
    return strokes


def _paper_labels(set_ticks: Any, labels: list[Any], *, slanted: bool) -> None:
    every = -(-len(labels) // 30)
    shown = [paper.tick(label) for label in labels[::every]]
    placed = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    set_ticks(range(0, len(labels), every), labels=shown, **placed)
