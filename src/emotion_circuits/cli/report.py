"""``emotion-circuits report``: write the report of a study again, from the runs on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from emotion_circuits.cli._console import print_json, print_text
from emotion_circuits.cli._options import RESULT_OPTIONS, ResultOptions
from emotion_circuits.cli.study import study_command
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._registry import experiments

app = App(name="report", help="Write the report of a profile.")


@app.default
def report(
    *,
    profile: Annotated[str, Parameter(help="Profile whose finished runs are reported.")],
    lang: Annotated[str, Parameter(help="Language of the report: en or ja.")] = "en",
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """Write report.html, report.md and the figures from the latest finished run of each experiment; no model needed."""
    from emotion_circuits.experiments import Study, load_profile
    from emotion_circuits.experiments._study import read_failures
    from emotion_circuits.report.assemble import assemble_report
    from emotion_circuits.report.write import write_report
    from emotion_circuits.store import Store, slug

    chosen = load_profile(profile)
    store = Store(Path(options.results))
    models = list(dict.fromkeys(run.model for run in store.find(chosen.name)))
    planned = [name for name, _ in chosen.experiments]
    others = [name for name in experiments() if name not in planned]
    latest = [store.latest(chosen.name, m, name) for m in models for name in (*planned, *others)]
    # Of what the profile does not name, whatever was run beside it and answers something (captures do not).
    runs = [run for run in latest if run and (run.experiment in planned or run.read_summary().get("verdicts"))]
    if not runs:
        raise UsageError(
            f"no finished run of profile {chosen.name!r} in {options.results}", f"emotion-circuits study {chosen.name}"
        )
    sources = {run.model: str(run.read_json("spec.json")["recorded"].get("source", "")) for run in runs}
    study = Study(chosen, runs, read_failures(store, chosen.name), sources)
    command = study_command(profile, tuple(sources), options.results)
    written = write_report(assemble_report(study, command), Path(options.results) / slug(chosen.name), lang)
    if options.json:
        print_json({"html": written.html, "markdown": written.markdown, "figures": written.figures})
    else:
        print_text(f"report: {written.html.resolve()}")
    return 0
