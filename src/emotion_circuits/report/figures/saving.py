"""Paper figures as files: ``{folder}/{section}/{figure}.png``, and SVG and PDF beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from emotion_circuits.errors import unknown_name
from emotion_circuits.report.figures import paper
from emotion_circuits.report.figures.registry import drawing_of
from emotion_circuits.report.files import unique_stems, write_atomically
from emotion_circuits.report.leftovers import replacing_files
from emotion_circuits.report.translation import translated
from emotion_circuits.report.words import DEFAULT_LANGUAGE, load_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure, Report

FORMATS = ("png", "svg")
"""What is written unless asked otherwise; ``pdf`` can be added."""
_KNOWN_FORMATS = ("png", "svg", "pdf")
# No dates in the files: the same report twice gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save_figures(
    report: Report, folder: Path, *, formats: Sequence[str] = FORMATS, language: str = DEFAULT_LANGUAGE
) -> list[Path]:
    """Draw every figure of a report (300 dpi; text in SVG and PDF stays text) and return the files written.

    Files that an earlier report drew in ``folder`` and this one does not (another format, other figures) are removed.
    Raises :class:`UsageError` for an unknown figure kind or format, :class:`StoreError` where files cannot be written.
    """
    for name in formats:
        if name not in _KNOWN_FORMATS:
            raise unknown_name("figure format", name, list(_KNOWN_FORMATS))
    words = paper.paper_words(load_words(language))
    report, _ = translated(report, words["language"])
    stems = [*figure_stems(report)]
    names = [f"{stem}.{name}" for stem, _ in stems for name in formats]
    with replacing_files(folder, names):
        for stem, figure in stems:
            with paper.paper_style():
                page = drawing_of(figure).paper(figure, words)
                for name in formats:
                    _save(page, folder / f"{stem}.{name}", name)
    return [folder / name for name in names]


def figure_stems(report: Report) -> Iterator[tuple[str, Figure]]:
    """``section/figure`` for every figure, in the order of the report."""
    figures = [(section.name, figure) for section in report.sections for figure in section.figures]
    stems = unique_stems((section, figure.name) for section, figure in figures)
    return zip(stems, (figure for _, figure in figures), strict=True)


def _save(page: PaperFigure, path: Path, file_format: str) -> None:
    def fill(stream: BinaryIO) -> None:
        page.savefig(stream, format=file_format, dpi=paper.DOTS_PER_INCH, metadata=_METADATA[file_format])

    write_atomically(path, fill)
