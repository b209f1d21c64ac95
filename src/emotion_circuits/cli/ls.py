"""``emotion-circuits ls``: the runs on disk, what became of them, how large they are."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from emotion_circuits.cli._console import print_json, print_table, print_text, say, size_text
from emotion_circuits.cli._options import RESULT_OPTIONS, ResultOptions
from emotion_circuits.cli._watch import watch_shards
from emotion_circuits.errors import UsageError

if TYPE_CHECKING:
    from emotion_circuits.store import Run

app = App(name="ls")


@app.default
def list_runs(
    *,
    profile: Annotated[str | None, Parameter(help="Only runs of this profile (name, TOML file or folder).")] = None,
    model: Annotated[str | None, Parameter(help="Only runs of this model (A--B for a pair).")] = None,
    experiment: Annotated[str | None, Parameter(help="Only runs of this experiment.")] = None,
    watch: Annotated[
        bool, Parameter(help="Show studies of --runner while they run: progress, failures.", show_default=False)
    ] = False,
    every: Annotated[float, Parameter(help="Seconds between two looks of --watch.", validator=Number(gte=0.1))] = 5.0,
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """List the runs below --results, oldest first: status (done, failed, partial, running), size and time."""
    from emotion_circuits.cli._results import stored_profile
    from emotion_circuits.store import Store

    profile = None if profile is None else stored_profile(profile, options.results)
    if watch:
        if model or experiment:
            raise UsageError("--watch shows whole studies", "leave out --model and --experiment; --profile chooses one")
        return watch_shards(options.results, profile, every, as_json=options.json)
    store = Store(options.results)
    pair = tuple(model.split("--")) if model and model.count("--") == 1 else None
    runs = store.find(profile, (pair[0], pair[1]) if pair else model, experiment)
    rows = [_row(run) for run in runs]
    foreign = store.foreign()
    if options.json:
        print_json({"results": options.results, "runs": rows, "other_schema": foreign})
        return 0
    if rows:
        headings = {name: name for name in ("profile", "model", "experiment", "status", "size", "started", "key")}
        shown = [{**row, "size": size_text(row["bytes"]), "started": _minute(row["started"])} for row in rows]
        print_table(shown, headings)
        for row in rows:
            if row["status"] == "failed":
                print_text(f"failed: {row['folder']}: {row['message']}")
    else:
        print_text(f"no {'such ' if profile or model or experiment else ''}runs in {options.results}")
    if foreign:
        say(f"{len(foreign)} run folders were written by another version and are not listed: {foreign[0]} …")
    return 0


def _row(run: Run) -> dict[str, Any]:
    status = run.status
    finished = run.read_json("done.json")["finished"] if status == "done" else None
    message = run.read_json("failed.json")["message"] if status == "failed" else None
    started = run.started
    return {
        "profile": run.profile,
        "model": run.model,
        "experiment": run.experiment,
        "key": run.key,
        "status": status,
        "bytes": run.size,
        "started": started.isoformat(),
        "finished": finished,
        "message": message,
        "folder": run.folder.as_posix(),
    }


def _minute(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%m-%d %H:%M")
