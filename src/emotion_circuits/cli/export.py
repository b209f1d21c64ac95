"""``emotion-circuits export``: what a results folder holds, in the paths and shapes of the research plan."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from emotion_circuits.cli._console import print_json, print_text, say, size_text
from emotion_circuits.cli._options import COMMON, RESULT_OPTIONS, ResultOptions
from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError

if TYPE_CHECKING:
    from emotion_circuits.experiments import Profile
    from emotion_circuits.exports import Exported, Written
    from emotion_circuits.store import Store

app = App(name="export")


@app.default
def export(
    *,
    layout: Annotated[
        Literal["plan"], Parameter(help="plan: the research plan's paths and shapes (alignment/k_sweep.json, …).")
    ] = "plan",
    profile: Annotated[str, Parameter(help="Profile whose finished runs are exported.")],
    output: Annotated[
        Path | None,
        Parameter(help="Folder that stands for the plan's results/{profile} (default: RESULTS/PROFILE/plan)."),
    ] = None,
    force: Annotated[
        bool,
        Parameter(
            help="Also replace files that were not exported, or changed since.", group=COMMON, show_default=False
        ),
    ] = False,
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """Write the finished runs of a profile as the research plan has them; for what is not there, say what makes it.

    Nothing is computed and no model is needed. Exit code 3: some runs did not finish or cannot be read. For single
    vectors in the formats of llama.cpp, Neuronpedia, NumPy and CSV see `emotion-circuits vectors export`.
    """
    from emotion_circuits.experiments import load_profile
    from emotion_circuits.exports import Results, export_plan
    from emotion_circuits.store import Store, slug

    chosen, store = load_profile(profile), Store(Path(options.results))
    results = Results(store, chosen.name)
    if not any(run.done for run in results.runs):
        raise UsageError(
            f"no finished run of profile {chosen.name!r} in {options.results}",
            shlex.join(["emotion-circuits", "study", profile, "--results", str(options.results)]),
        )
    folder = output or store.root / slug(chosen.name) / "plan"
    try:
        done = export_plan(results, folder, force=force)
    except StoreError as error:
        if output is None:
            raise
        raise StoreError(error.what, error.fix.replace("--results", "--output")) from error
    commands = _commands(done, store, chosen, profile)
    if options.json:
        print_json(_as_json(done, chosen.name, layout, commands))
    else:
        _show(done, commands)
    if not done.files:
        return 1
    return 3 if done.unfinished else 0


def _commands(done: Exported, store: Store, profile: Profile, typed: str) -> dict[str, str]:
    """Path of the plan → the whole command that makes what is missing there, for the models of the profile."""
    from emotion_circuits.experiments import Study
    from emotion_circuits.report.collect import study_on_disk
    from emotion_circuits.report.commands import DEFAULT_RESULTS, Asked, filled_in

    asked = Asked(typed, store.root)
    try:
        study = study_on_disk(store, profile)
    except EmotionCircuitsError:  # told where the file was wanted; commands then name an embedded model
        study = Study(profile)
    found = {}
    for one in done.missing:
        if " run " in one.command:
            found[one.path] = filled_in(one.command, study, asked)
        else:  # reads results only: it takes no option of a model
            command = one.command.format(profile=shlex.quote(typed))
            where = [] if store.root == DEFAULT_RESULTS else ["--results", str(store.root)]
            found[one.path] = " ".join([command, shlex.join(where)]).strip()
    return found


def _as_json(done: Exported, profile: str, layout: str, commands: dict[str, str]) -> dict[str, Any]:
    return {
        "profile": profile,
        "layout": layout,
        "folder": done.folder,
        "files": [vars(file) for file in done.files],
        "missing": [{"path": m.path, "what": m.what, "command": commands[m.path]} for m in done.missing],
        "unfinished": [vars(item) for item in done.unfinished],
        "left": done.left,
    }


def _show(done: Exported, commands: dict[str, str]) -> None:
    """Paths stand on lines of their own, unbroken, to be copied."""
    from emotion_circuits.exports import plan_files
    from emotion_circuits.exports.folder import totals

    print_text(f"{done.folder}: {len(done.files)} files")
    for path, files in totals(done.files).items():
        print_text(f"  {files[0].path if len(files) == 1 else path}\n      {_described(files)}")
    if done.missing:
        print_text(f"Not there: {len(done.missing)} of the plan's {len(plan_files())} paths. What makes them:")
    shown: dict[str, list[str]] = {}
    for one in done.missing:
        shown.setdefault(commands[one.path], []).append(f"  {one.path}\n")
    for command, paths in shown.items():
        print_text(f"{''.join(paths)}      {command}")
    for item in done.unfinished:
        say(f"left out: {item.source}: {item.reason}" + (f"\n  → {item.fix}" if item.fix else ""))
    if done.left:
        say(f"still there from an earlier export, not written now: {', '.join(done.left)}")


def _described(files: list[Written]) -> str:
    """What the files of one path of the plan hold, how many and how large they are, what became of them."""
    states = [(state, sum(f.state == state for f in files)) for state in ("written", "replaced", "unchanged")]
    became = [(f"{n} {state}" if n < len(files) else state) for state, n in states if n]
    count = [f"{len(files)} files"] if len(files) > 1 else []
    return " · ".join([files[0].what, *count, size_text(sum(file.bytes for file in files)), *became])
