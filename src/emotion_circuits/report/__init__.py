"""Reports: what a study found, as HTML, Markdown, JSON and paper figures.

Experiments fill :class:`~emotion_circuits.types.Report`; nothing here computes a result.
"""

from emotion_circuits.report.details import save_tables
from emotion_circuits.report.figures import figure_kind, figure_kinds, save_figures
from emotion_circuits.report.html_page import render_html
from emotion_circuits.report.markdown import render_markdown
from emotion_circuits.report.report_json import report_from_json, report_to_json
from emotion_circuits.report.words import languages
from emotion_circuits.report.write import WrittenReport, write_report

__all__ = [
    "WrittenReport", "figure_kind", "figure_kinds", "languages", "render_html", "render_markdown", "report_from_json",
    "report_to_json", "save_figures", "save_tables", "write_report",
]  # fmt: skip
