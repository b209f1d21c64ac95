"""The figures of a report: one file per kind, drawn for the screen (Vega-Lite) and for paper (matplotlib).

A new kind is one file with a class under :func:`figure_kind`, imported below.
"""

from emotion_circuits.report.figures import (
    bars,
    circuit,
    dendrogram,
    histogram,
    intervals,
    layer_curves,
    lines,
    matrix,
    scatter,
    violins,
)
from emotion_circuits.report.figures.registry import Drawing, drawing_of, figure_kind, figure_kinds
from emotion_circuits.report.figures.saving import save_figures

__all__ = [
    "Drawing", "bars", "circuit", "dendrogram", "drawing_of", "figure_kind", "figure_kinds", "histogram", "intervals",
    "layer_curves", "lines", "matrix", "save_figures", "scatter", "violins",
]  # fmt: skip
