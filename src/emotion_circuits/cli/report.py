"""``emotion-circuits report``: write the report of a study again, from the runs on disk."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from emotion_circuits.cli._console import print_json, print_text, say
from emotion_circuits.cli._options import RESULT_OPTIONS, ResultOptions
from emotion_circuits.errors import StoreError, UsageError

if TYPE_CHECKING:
    from emotion_circuits.experiments import Profile, Study
    from emotion_circuits.report.commands import Asked
    from emotion_circuits.store import Store
    from emotion_circuits.types import Report

app = App(name="report", help="Write the report of a profile.")


@app.default
def report(
    *,
    profile: Annotated[str, Parameter(help="Profile whose finished runs are reported.")],
    lang: Annotated[str, Parameter(help="Language of the report: en or ja.")] = "en",
    formats: Annotated[tuple[str, ...], Parameter(name="--format", help="Paper figures as: png, svg, pdf.")] = (
        "png",
        "svg",
    ),
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """Write report.html, report.md and the figures from the latest finished run of each experiment; no model needed.

    Exit code 3: some runs cannot be read (damaged, or of another version); they are named, and the page has the rest.
    """
    from emotion_circuits.experiments import load_profile
    from emotion_circuits.report.commands import Asked
    from emotion_circuits.report.comparison import write_summary
    from emotion_circuits.report.write import write_report
    from emotion_circuits.store import Store, slug

    chosen = load_profile(profile)
    study, found, lost = _found(Store(Path(options.results)), chosen, Asked(profile, options.results))
    for error in lost.values():
        say(f"left out: {error}")
    if not study.runs:
        raise UsageError(
            f"no finished run of profile {chosen.name!r} in {options.results}",
            shlex.join(["emotion-circuits", "study", profile, "--results", str(options.results)]),
        )
    folder = Path(options.results) / slug(chosen.name)
    summary = write_summary(study, folder)
    written = write_report(found, folder, lang, formats=formats)
    if options.json:
        print_json({
            "html": written.html, "markdown": written.markdown, "figures": written.figures, "summary": summary,
            "left_out": [*lost],
        })  # fmt: skip
    else:
        print_text(f"report: {written.html.resolve()}")
    return 3 if lost else 0


def _found(store: Store, profile: Profile, asked: Asked) -> tuple[Study, Report, Mapping[Path, StoreError]]:
    """The study on disk with its page, and what had to be left out of both."""
    from emotion_circuits.report.assemble import assemble_report
    from emotion_circuits.report.collect import study_on_disk
    from emotion_circuits.report.comparison import summary_csv
    from emotion_circuits.report.readable import UNREADABLE, unreadable

    try:
        study = study_on_disk(store, profile)
        page = assemble_report(study, asked)
        summary_csv(study)
        return study, page, {}
    except UNREADABLE:
        lost = unreadable(store, profile, asked)
        if not lost:
            raise
    study = study_on_disk(replace(store, without=frozenset(lost)), profile)
    # Further runs on disk are not counted: those that cannot be read are among them.
    return study, assemble_report(study, asked, alone=True), lost
