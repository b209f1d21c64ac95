"""Everything a report leaves on disk, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.report.details import save_tables
from emotion_circuits.report.figures.saving import FORMATS, save_figures
from emotion_circuits.report.files import write_text
from emotion_circuits.report.html_page import render_html
from emotion_circuits.report.markdown import render_markdown
from emotion_circuits.report.report_json import report_to_json
from emotion_circuits.report.words import DEFAULT_LANGUAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emotion_circuits.types import Report


@dataclass(frozen=True)
class WrittenReport:
    """The files of one report."""

    html: Path
    markdown: Path
    json: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]


def write_report(
    report: Report, folder: Path, language: str = DEFAULT_LANGUAGE, *, formats: Sequence[str] = FORMATS
) -> WrittenReport:
    """Write ``report/report.{html,md,json}`` and ``plots/{section}/{figure}.{png,svg}`` under ``folder``.

    Tables that are too long for the page go to ``report/tables/{section}/{table}/``, as :func:`save_tables` says.
    ``folder`` is the profile's results (``results/{profile}``). Raises as :func:`render_html` and
    :func:`save_figures` do.
    """
    pages, plots, tables = folder / "report", folder / "plots", folder / "report" / "tables"
    # JSON first: it is the content, and the pages can be made again from it.
    stored = write_text(pages / "report.json", report_to_json(report))
    figures = save_figures(report, plots, formats=formats, language=language)
    page = pages / "report.html"
    details = save_tables(report, tables, page, language)
    return WrittenReport(
        html=render_html(report, page, language, tables=tables),
        markdown=render_markdown(
            report, pages / "report.md", plots=plots if "png" in formats else None, tables=tables, language=language
        ),
        json=stored,
        figures=tuple(figures),
        tables=tuple(details),
    )
