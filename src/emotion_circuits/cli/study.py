"""``emotion-circuits study PROFILE``: the whole thing, resumable, with a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from emotion_circuits.cli._bench import loader, progress_of, scorer_of
from emotion_circuits.cli._console import duration_text, print_json, print_table, print_text, say
from emotion_circuits.cli._options import (
    COMPUTE_OPTIONS,
    RUNNER_OPTIONS,
    TRACK_OPTIONS,
    ComputeOptions,
    DryRun,
    RunnerOptions,
    TrackOptions,
)
from emotion_circuits.cli._runners import carry_out, plan, show
from emotion_circuits.cli._tracking import tracking
from emotion_circuits.errors import EmotionCircuitsError, UsageError

if TYPE_CHECKING:
    from emotion_circuits.experiments import Profile, Study
    from emotion_circuits.report.commands import Asked
    from emotion_circuits.types import Verdict

app = App(name="study", help="Run a whole study, with a report; resumes where it was.")

PARTLY_DONE = 3


@app.default
def study(
    profile: Annotated[str | None, Parameter(help="smoke, quickstart, baseline, extended, a TOML file …")] = None,
    *,
    model: Annotated[tuple[str, ...], Parameter(help="Models (default: the profile's own).")] = (),
    list: Annotated[bool, Parameter(help="List the profiles.", show_default=False)] = False,  # noqa: A002 - the flag
    dry_run: DryRun = False,
    lang: Annotated[str, Parameter(help="Language of the report: en or ja.")] = "en",
    track: Annotated[TrackOptions, Parameter(name="*")] = TRACK_OPTIONS,
    runner: Annotated[RunnerOptions, Parameter(name="*")] = RUNNER_OPTIONS,
    options: Annotated[ComputeOptions, Parameter(name="*")] = COMPUTE_OPTIONS,
) -> int:
    """Run every experiment of a profile on every model, then write the report. The same command resumes."""
    from emotion_circuits.experiments import load_profile
    from emotion_circuits.report.words import load_words

    if list:
        return _list(options.json)
    load_words(lang)  # a language that does not exist is refused now, not after an hour of work
    if profile is None:
        raise UsageError("no profile was named", "emotion-circuits study quickstart (or: study --list)")
    chosen = load_profile(profile)
    models = tuple(dict.fromkeys(model or chosen.models or ("smollm2-135m",)))
    manifest = plan(chosen, models, options, runner) if runner.asked else None
    if dry_run:
        return _dry_run(chosen, models, options) if manifest is None else show(manifest, as_json=options.json)
    with tracking(track, Path(options.results), chosen.name, quiet=options.quiet):
        start = time.monotonic()
        say(f"study {chosen.name}: {chosen.title}", quiet=options.quiet)
        finished = _compute(chosen, models, options) if manifest is None else carry_out(manifest, options, runner)
        return _tell(finished, profile, models, lang, options, start)


def _list(as_json: bool) -> int:
    from emotion_circuits.experiments import list_profiles, load_profile

    profiles = [load_profile(name) for name in list_profiles()]
    rows = [{"profile": p.name, "title": p.title, "models": list(p.models)} for p in profiles]
    if as_json:
        print_json({"profiles": rows})
    else:
        shown = [{**r, "models": ", ".join(p.models)} for r, p in zip(rows, profiles, strict=True)]
        print_table(shown, {"profile": "profile", "title": "what", "models": "models"})
    return 0


def _compute(profile: Profile, models: Sequence[str], options: ComputeOptions) -> Study:
    """The study in this process."""
    from emotion_circuits.experiments import run_study
    from emotion_circuits.store import Store

    return run_study(
        profile, models, Store(Path(options.results)), loader(options), seed=options.seed, rows=options.rows,
        force=options.force, progress=progress_of(options), scorer=scorer_of(options),
        report=lambda line: say(f"  {line}", quiet=options.quiet),
    )  # fmt: skip


def _tell(finished: Study, typed: str, models: Sequence[str], lang: str, options: ComputeOptions, start: float) -> int:
    """Failures, the answers and the report of a study; the exit code."""
    from emotion_circuits.report.answers import verdicts
    from emotion_circuits.report.commands import Asked

    for failure in finished.failures:
        say(f"failed: {failure.experiment} on {failure.model}: {failure.error}")
    said: list[Verdict] = []
    page = None
    # Where nothing finished there is nothing new to tell, and a report that an earlier run left is kept.
    if finished.runs:
        asked = Asked(typed, options.results, models)
        said = verdicts(finished, asked)
        if not options.json:  # told before the page is made, which reads what others left on disk too
            print_text("\n".join(line for verdict in said for line in verdict.lines()))
        page = _write(finished, asked, lang)
    if options.json:
        print_json({
            "profile": finished.profile.name, "models": models, "verdicts": said, "report": page,
            "seconds": time.monotonic() - start, "runs": [run.folder for run in finished.runs],
            "failures": [{**vars(f), "error": str(f.error)} for f in finished.failures],
        })  # fmt: skip
    elif page is not None:
        print_text(f"report: {page}  ({duration_text(time.monotonic() - start)})")
    return PARTLY_DONE if finished.runs and page is None else _exit_code(finished)


def _write(finished: Study, asked: Asked, lang: str) -> Path | None:
    """The page and the table of the whole profile: what was found now, beside what earlier commands left.

    Where that cannot be read the page has this command's runs only; None where no page can be written at all.
    """
    from emotion_circuits.report.collect import with_disk
    from emotion_circuits.report.readable import UNREADABLE
    from emotion_circuits.store import Store

    study = finished
    try:
        study = with_disk(Store(Path(asked.results)), finished, asked.models)
        return _page(study, asked, lang)
    except UNREADABLE as error:  # what was just computed is told, whatever lies beside it
        reason = str(error) if isinstance(error, EmotionCircuitsError) else _unreadable(study, finished, asked, error)
    try:
        page = _page(finished, asked, lang, alone=True)
    except EmotionCircuitsError as error:
        say(f"no report was written: {error}")
        return None
    say(f"the report has this command's runs only: {reason}")
    return page


def _page(study: Study, asked: Asked, lang: str, *, alone: bool = False) -> Path:
    from emotion_circuits.report.assemble import assemble_report
    from emotion_circuits.report.comparison import write_summary
    from emotion_circuits.report.failures import typed_with_others
    from emotion_circuits.report.write import write_report
    from emotion_circuits.store import slug

    folder = Path(asked.results) / slug(study.profile.name)
    report = assemble_report(study, replace(asked, models=typed_with_others(asked.models, study)), alone=alone)
    write_summary(study, folder)
    return write_report(report, folder, lang).html.resolve()


def _unreadable(study: Study, finished: Study, asked: Asked, error: Exception) -> str:
    """What was met beside the runs of this command, and the run that it comes from where one alone shows it."""
    from emotion_circuits.report.readable import UNREADABLE, met, show, told

    fresh = {run.folder for run in finished.runs}
    for run in study.runs:
        if run.folder in fresh:
            continue
        try:
            show(run, study.profile, asked)
        except UNREADABLE:
            return str(told(run.folder, error))
    return f"what lies beside them cannot be read {met(error)}"


def _exit_code(finished: Study) -> int:
    if not finished.failures:
        return 0
    return PARTLY_DONE if finished.runs else finished.failures[0].error.exit_code


def _dry_run(profile: Profile, models: Sequence[str], options: ComputeOptions) -> int:
    """Every run that is still to be made, and how long it may take on this machine."""
    from emotion_circuits.cli._dry_run import show_cells
    from emotion_circuits.experiments._outline import outline_study
    from emotion_circuits.store import Store

    store = Store(Path(options.results))
    cells = outline_study(profile, models, loader(options), store, seed=options.seed, rows=options.rows)
    return show_cells(cells, as_json=options.json)
