"""The two pictures that show whether a family of tests behaves: p-histogram and effect against p."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart by colour-blind readers; markers repeat the distinction.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def p_histogram(effects: pd.DataFrame) -> Figure:
    """Histogram of the uncorrected permutation p with the height expected if nothing had an effect.

    A spike near 0 over a flat floor is signal; a flat line is none; a hump elsewhere, or a rise towards 1, says that
    the p-values themselves are off (dependent units, one-sided use of a two-sided test).
    """
    figure, axes = _canvas()
    p = effects["p_permutation"].dropna().to_numpy(dtype=np.float64)
    bins = np.linspace(0, 1, 21)
    axes.hist(p, bins=bins.tolist(), color=_COLOURS[0], edgecolor="white")
    axes.axhline(len(p) / 20, color=_COLOURS[1], linestyle="--", label="expected without any effect")
    axes.set(xlabel="permutation p (uncorrected)", ylabel="cells", xlim=(0, 1), title=f"{len(p)} tests")
    axes.legend(frameon=False)
    return figure


def effect_against_p(effects: pd.DataFrame, *, alpha: float = 0.05) -> Figure:
    """g_z of every cell against its p, one marker per experiment; filled where Holm's correction rejects."""
    figure, axes = _canvas()
    shown = effects[effects["g_z"].notna() & effects["p_permutation"].notna()]
    for i, (name, part) in enumerate(shown.groupby("experiment", sort=True)):
        g, p = part["g_z"].to_numpy(dtype=np.float64), part["p_permutation"].to_numpy(dtype=np.float64)
        held = part["p_holm"].to_numpy(dtype=np.float64) <= alpha
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        axes.scatter(g[~held], p[~held], facecolors="none", edgecolors=colour, marker=marker, s=26)
        axes.scatter(g[held], p[held], color=colour, marker=marker, s=26, label=str(name) if held.any() else None)
        if not held.any():
            axes.scatter([], [], facecolors="none", edgecolors=colour, marker=marker, s=26, label=str(name))
    axes.axhline(alpha, color="0.5", linestyle="--", linewidth=1)
    axes.axvline(0, color="0.8", linewidth=1, zorder=0)
    floor = 1 / (shown["permutations"].max() + 1) if len(shown) else alpha
    axes.axhline(floor, color="0.5", linestyle=":", linewidth=1, zorder=0, label="smallest p that permutation can give")
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.set(xlabel="standardised effect g_z", ylabel="permutation p (uncorrected, log scale)")
    axes.set_title(f"{len(shown)} cells; filled = below {alpha:g} after Holm's correction", fontsize=10)
    if len(shown):
        axes.legend(frameon=False, fontsize=8)
    return figure


def write_figures(effects: pd.DataFrame, folder: Path, *, alpha: float = 0.05, suffix: str = "") -> list[Path]:
    """Both figures as PNG and SVG under ``folder``, names ending in ``suffix``; returns the paths."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in (
        ("p_histogram", p_histogram(effects)),
        ("effect_vs_p", effect_against_p(effects, alpha=alpha)),
    ):
        for kind in ("png", "svg"):
            path = folder / f"{name}{suffix}.{kind}"
            # No date in the file: the same results give the same picture.
            with mpl.rc_context({"svg.hashsalt": "emotion-circuits"}):
                figure.savefig(path, dpi=160, metadata={"Date": None} if kind == "svg" else {"Software": None})
            written.append(path)
    return written


def _canvas() -> tuple[Figure, Axes]:
    """A figure that belongs to no window system and no global list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
