"""What every matplotlib figure of a report shares: style, fonts that have the letters, the "no data" figure.

Figures are built from :class:`matplotlib.figure.Figure` directly. Nothing touches pyplot, and the style holds only
inside :func:`paper_style`, so drawing a report leaves no trace in a user's own session.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure as PaperFigure
from matplotlib.ft2font import FT2Font

from emotion_circuits.report.figures.palette import PAPER_MARKERS
from emotion_circuits.report.text import clean_text
from emotion_circuits.report.words import DEFAULT_LANGUAGE, Words, load_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

WIDTH = 6.3
"""Inches: the text width of an A4 or letter page; two thirds of it in a two-column paper stays readable."""
DOTS_PER_INCH = 300
TITLE_CHARACTERS = 88
TICK_CHARACTERS = 28
CHARACTER = 0.065
"""Inches: width of a character of a tick label, roughly."""

# DejaVu comes with matplotlib; the others are looked for because Japanese letters need one of them.
_LATIN = "DejaVu Sans"
_JAPANESE = (
    "Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "IPAPGothic", "TakaoGothic", "VL Gothic",
    "Source Han Sans JP", "Hiragino Sans", "Hiragino Kaku Gothic ProN", "Yu Gothic", "Meiryo", "MS Gothic",
)  # fmt: skip
_STYLE: dict[str, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",  # Japanese fonts often have no bold
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a "$" in a label is a dollar sign
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "emotion-circuits",  # the same figure twice gives the same file
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """The style of paper figures, for drawing and for saving; the user's own settings come back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        style: Any = _STYLE | {"font.family": list(_families())}
        matplotlib.rcParams.update(style)
        yield


def paper_words(words: Words) -> Words:
    """The words a paper figure can really print: English, with a logged word, where no font has the letters."""
    if _missing_letters("".join(words.values())):
        log.warning(
            "no font on this machine has the letters of %s: figures on paper use English words instead "
            "(install Noto Sans CJK or IPA Gothic)",
            words["language_name"],
        )
        return load_words(DEFAULT_LANGUAGE)
    return words


def printable(text: str) -> str:
    """``text`` with every letter that no font here has replaced by ``\\ufffd``, instead of a warning per letter."""
    cleaned = clean_text(text)
    missing = _missing_letters(cleaned)
    return cleaned.translate(dict.fromkeys(map(ord, missing), "\ufffd")) if missing else cleaned


def tick(text: str) -> str:
    """A tick label of at most two short lines."""
    return wrapped(text, TICK_CHARACTERS, most_lines=2)


def wrapped(text: str, characters: int, *, most_lines: int) -> str:
    """Printable text broken into lines of at most ``characters``; what does not fit ends in an ellipsis."""
    return "\n".join(textwrap.wrap(printable(text), characters, max_lines=most_lines, placeholder=" …"))


def new_figure(title: str, height: float, *, width: float = WIDTH) -> PaperFigure:
    """An empty figure of ``width`` × ``height`` inches with a wrapped title; axes are fitted by constrained layout."""
    heading = wrapped(title[:400], int(TITLE_CHARACTERS * width / WIDTH), most_lines=3)
    figure = PaperFigure(figsize=(width, height + 0.16 * (heading.count("\n") + 1)), layout="constrained")
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=9.5)
    return figure


def no_data_figure(title: str, words: Words) -> PaperFigure:
    """A figure that says there is nothing to draw."""
    figure = new_figure(title, 1.2)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, printable(words["no_data"]), ha="center", va="center", fontsize=11, color="#555555")
    return figure


def legend_on_top(axes: Axes, columns: int = 4) -> None:
    """A legend above the axes, where it covers neither data nor title; the figure grows by its height."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        widest = max(map(_letters_wide, labels))
        fitting = max(1, min(columns, int(100 / (widest + 7)), len(handles)))
        figure = axes.get_figure(root=True)
        if figure is not None:
            figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(handles) // fitting))
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.01),
            borderaxespad=0,
            ncols=fitting,
            columnspacing=1.2,
            handlelength=1.8,
        )


def _letters_wide(text: str) -> int:
    """Width in Latin letters: a Japanese letter is as wide as two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def marker(index: int) -> str:
    """The marker of the series with this index."""
    return PAPER_MARKERS[index % len(PAPER_MARKERS)]


@cache
def _families() -> tuple[str, ...]:
    """DejaVu, then the first Japanese font on this machine."""
    installed = set(font_manager.get_font_names())
    if not installed.intersection(_JAPANESE):
        _list_new_fonts()
        installed = set(font_manager.get_font_names())
    return (_LATIN, *[name for name in _JAPANESE if name in installed][:1])


def _list_new_fonts() -> None:
    """Make fonts known that were installed after matplotlib wrote its list, which it never looks over again."""
    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - listed:
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError) as error:
            log.debug("%s cannot be read as a font: %s", path, error)


@cache
def _letters() -> frozenset[int]:
    """Code points that the fonts of :func:`_families` have."""
    paths = [font_manager.findfont(font_manager.FontProperties(family=name)) for name in _families()]
    return frozenset().union(*(FT2Font(path).get_charmap() for path in paths))


def _missing_letters(text: str) -> set[str]:
    return {letter for letter in text if letter != "\n" and ord(letter) not in _letters()}
