"""``emotion-circuits track``: show the runs on disk in a tracker, and see what is shown there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from emotion_circuits.cli._console import print_json, print_table, print_text, say
from emotion_circuits.cli._options import RESULT_OPTIONS, ResultOptions

app = App(name="track", help="Show runs in MLflow or Weights & Biases.")

PARTLY_DONE = 3

To = Annotated[
    str,
    Parameter(
        help="mlflow (a server from MLFLOW_TRACKING_URI, else a local SQLite store), mlflow:URI, or wandb[:PROJECT] "
        "(offline: `wandb sync` uploads)."
    ),
]
OfProfile = Annotated[str | None, Parameter(help="Only runs of this profile (name, TOML file or folder).")]
MaxFileMb = Annotated[
    float, Parameter(help="Largest file that is copied, in megabytes; tensors never are.", validator=Number(gte=0))
]


@app.command
def sync(
    *,
    to: To = "mlflow",
    profile: OfProfile = None,
    max_file_mb: MaxFileMb = 20.0,
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """Send every run below --results that is not there yet, changed, or was sent in part. Sending twice is harmless."""
    from emotion_circuits.cli._results import stored_profile
    from emotion_circuits.store import Store
    from emotion_circuits.tracking import FilePolicy, mirror_results, open_tracker

    tracker = open_tracker(to, Path(options.results))
    policy = FilePolicy(int(max_file_mb * 1_000_000))
    folder = None if profile is None else stored_profile(profile, options.results)
    outcome = mirror_results(Store(Path(options.results)), tracker, folder, policy=policy, fall_back="none")
    if options.json:
        print_json(vars(outcome))
    else:
        print_text(f"{outcome.target}: {len(outcome.sent)} sent, {len(outcome.unchanged)} there already, "
                   f"{len(outcome.missing)} not sent")  # fmt: skip
        for note in outcome.notes:
            say(note)
    if not outcome.notes:
        return 0
    return PARTLY_DONE if outcome.sent or outcome.unchanged else 1


@app.command
def status(
    *,
    to: To = "mlflow",
    profile: OfProfile = None,
    max_file_mb: MaxFileMb = 20.0,
    options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS,
) -> int:
    """List the runs below --results with what the tracker has of them: mirrored, changed, incomplete, missing."""
    from emotion_circuits.cli._results import stored_profile
    from emotion_circuits.store import Store
    from emotion_circuits.tracking import FilePolicy, open_tracker, states

    tracker = open_tracker(to, Path(options.results))
    policy = FilePolicy(int(max_file_mb * 1_000_000))
    folder = None if profile is None else stored_profile(profile, options.results)
    found = states(Store(Path(options.results)), tracker, folder, policy)
    rows = [{"run": record.identity, "status": record.status, "there": state} for record, state in found]
    if options.json:
        print_json({"target": tracker.target, "runs": rows})
    elif rows:
        print_table(rows, {"run": "run", "status": "status", "there": f"in {tracker.target}"})
    else:
        print_text(f"no {'such ' if profile else ''}runs in {options.results}")
    return 0
