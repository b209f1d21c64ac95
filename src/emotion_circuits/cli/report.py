"""``emotion-circuits report``: write the report of a study again, from the runs on disk."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from emotion_circuits.cli._console import print_json, print_text
from emotion_circuits.cli._options import RESULT_OPTIONS, ResultOptions
from emotion_circuits.errors import UsageError

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
    """Write report.html, report.md and the figures from the latest finished run of each experiment; no model needed."""
    from emotion_circuits.experiments import load_profile
    from emotion_circuits.report.assemble import assemble_report
    from emotion_circuits.report.collect import study_on_disk
    from emotion_circuits.report.commands import Asked
    from emotion_circuits.report.comparison import write_summary
    from emotion_circuits.report.write import write_report
    from emotion_circuits.store import Store, slug

    chosen = load_profile(profile)
    study = study_on_disk(Store(Path(options.results)), chosen)
    if not study.runs:
        raise UsageError(
            f"no finished run of profile {chosen.name!r} in {options.results}",
            shlex.join(["emotion-circuits", "study", profile, "--results", str(options.results)]),
        )
    found = assemble_report(study, Asked(profile, options.results))
    folder = Path(options.results) / slug(chosen.name)
    summary = write_summary(study, folder)
    written = write_report(found, folder, lang, formats=formats)
    if options.json:
        print_json({
            "html": written.html, "markdown": written.markdown, "figures": written.figures, "summary": summary,
        })  # fmt: skip
    else:
        print_text(f"report: {written.html.resolve()}")
    return 0
