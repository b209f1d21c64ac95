"""``violins``: the distribution of a value in every arm, lying, with median and middle half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.distributions import Summary, summarise
from emotion_circuits.report.figures.palette import GREY, SERIES_COLOURS
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

COLOUR = SERIES_COLOURS[0]


@figure_kind("violins")
class Violins(Drawing):
    """Rows ``{arm, value}``, one per observation. Options: ``x`` (axis label), ``reference`` (a dashed line)."""

    options = frozenset({"x", "reference"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        arms = _summaries(figure)
        if not any(arms.values()):
            return screen.no_data(words)
        rows = [row for arm, summary in arms.items() for row in _vega_rows(arm, summary, words)]
        x = alt.X("x:Q", title=text_option(figure, "x", words["value"]), scale=alt.Scale(zero=False))
        y = alt.Y("edge:Q", axis=None, scale=alt.Scale(domain=[-1, 1]))
        hover = [
            alt.Tooltip("arm:N", title=words["arm"]),
            alt.Tooltip("n:Q", title=words["number"]),
            alt.Tooltip("median:Q", title=words["median"], format=".3f"),
            alt.Tooltip("q1:Q", title=words["first_quartile"], format=".3f"),
            alt.Tooltip("q3:Q", title=words["third_quartile"], format=".3f"),
        ]
        body = alt.Chart().transform_filter("isValid(datum.edge)").mark_area(color=COLOUR, opacity=0.35)
        middle = alt.datum(0)
        layers: list[alt.Chart | alt.LayerChart] = [
            body.encode(x=x, y=y, y2="other:Q"),
            alt.Chart().mark_rule(strokeWidth=5, color=COLOUR).encode(x=alt.X("q1:Q"), x2="q3:Q", y=middle),
            alt.Chart()
            .mark_point(filled=True, size=90, opacity=1, color="white", stroke=COLOUR, strokeWidth=2.5)
            .encode(x=alt.X("median:Q"), y=middle, tooltip=hover),
        ]
        if not all(arms.values()):
            note = alt.Chart().transform_filter("isValid(datum.note)").mark_text(align="left", opacity=0.75)
            layers.append(note.encode(x=alt.value(4), y=middle, text="note:N"))
        reference = number_option(figure, "reference")
        if reference is not None:
            layers.append(screen.reference_rule(reference, vertical=True))
        chart = alt.layer(*layers, data=screen.data(rows)).properties(width=600, height=58)
        header = alt.Header(labelAnchor="start", labelPadding=2)
        faceted = chart.facet(
            facet=alt.Facet("arm:N", title=None, sort=list(arms), header=header), columns=1, spacing=6
        )
        return screen.finish(faceted, panels=1)

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        arms = _summaries(figure)
        if not any(arms.values()):
            return paper.no_data_figure(figure.title, words)
        page = paper.new_figure(figure.title, 0.7 + 0.5 * len(arms))
        axes = page.add_subplot()
        for index, summary in enumerate(arms.values()):
            if summary is None:
                place = axes.get_yaxis_transform()
                axes.text(0.01, index, paper.printable(words["no_data"]), transform=place, va="center", color=GREY)
                continue
            if summary.density.size:
                half = 0.42 * summary.density / summary.density.max()
                axes.fill_between(summary.at, index - half, index + half, color=COLOUR, alpha=0.35, linewidth=0)
            axes.hlines(index, summary.first_quartile, summary.third_quartile, color=COLOUR, linewidth=3.5)
            axes.plot(summary.median, index, "o", markersize=5, markerfacecolor="white", markeredgecolor=COLOUR)
        reference = number_option(figure, "reference")
        if reference is not None:
            axes.axvline(reference, color=GREY, linestyle="--", linewidth=1)
        # No break inside the parentheses.
        names = [
            f"{arm} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{summary.n if summary else 0:,})"
            for arm, summary in arms.items()
        ]
        axes.set_yticks(range(len(arms)), labels=[paper.tick(name) for name in names])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel(paper.printable(text_option(figure, "x", words["value"])))
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        rows = _rows(figure)
        said = [words["key_violin"]] if has_values(rows) else []
        reference = number_option(figure, "reference")
        if reference is not None:
            said.append(words["key_reference"].format(name=words["reference"], value=format_setting(reference)))
        if missing := missing_count(rows):
            said.append(words["key_missing"].format(count=missing))
        return said

    def table(self, figure: Figure, words: Words) -> tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]:
        columns = {
            "arm": words["arm"],
            "n": words["number"],
            "q1": words["first_quartile"],
            "median": words["median"],
            "q3": words["third_quartile"],
        }
        return columns, [_facts(arm, summary) for arm, summary in _summaries(figure).items()]


def _rows(figure: Figure) -> list[dict[str, Any]]:
    return read_rows(figure, labels=("arm",), numbers=("value",))


def _summaries(figure: Figure) -> dict[str, Summary | None]:
    """Arm → its summary, or ``None`` where all of its values are missing."""
    rows = _rows(figure)
    values: dict[str, list[float]] = {arm: [] for arm in distinct(rows, "arm")}
    for row in rows:
        if row["value"] is not None:
            values[row["arm"]].append(row["value"])
    return {arm: summarise(found) if found else None for arm, found in values.items()}


def _facts(arm: str, summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {"arm": arm, "n": 0, "q1": None, "median": None, "q3": None}
    quartiles = {"q1": summary.first_quartile, "median": summary.median, "q3": summary.third_quartile}
    return {"arm": arm, "n": summary.n} | quartiles


def _vega_rows(arm: str, summary: Summary | None, words: Words) -> list[dict[str, Any]]:
    if summary is None:
        return [{"arm": arm, "note": words["no_data"]}]
    shape: list[dict[str, Any]] = []
    if summary.density.size:
        half = 0.95 * summary.density / summary.density.max()
        edges = zip(summary.at.round(6).tolist(), half.round(4).tolist(), strict=True)
        shape = [{"arm": arm, "x": at, "edge": edge, "other": -edge} for at, edge in edges]
    return [_facts(arm, summary), *shape]
