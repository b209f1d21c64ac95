"""The study that lies on disk: the latest finished run of every experiment, on every model and pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emotion_circuits.experiments._registry import experiments
from emotion_circuits.experiments._study import Study, read_failures

if TYPE_CHECKING:
    from emotion_circuits.experiments._profiles import Profile
    from emotion_circuits.store import Run, Store

_PAIR, _ARROW = "--", " → "
"""How a pair of models is written as a folder, and its sources in ``spec.json``."""


def study_on_disk(store: Store, profile: Profile) -> Study:
    """What ``profile`` left in ``store``, with whatever was run beside it and answers something (captures do not)."""
    planned = [name for name, _ in profile.experiments]
    others = [name for name in experiments() if name not in planned]
    folders = list(dict.fromkeys(run.model for run in store.find(profile.name)))
    found = [
        run for folder in folders for name in (*planned, *others) if (run := _latest(store, profile, folder, name))
    ]
    runs = [run for run in found if run.experiment in planned or run.read_summary().get("verdicts")]
    sources = {model: source for run in runs for model, source in _sources(run).items()}
    return Study(profile, runs, read_failures(store, profile.name), sources)


def _latest(store: Store, profile: Profile, folder: str, experiment: str) -> Run | None:
    source, pair, target = folder.partition(_PAIR)
    return store.latest(profile.name, (source, target) if pair else folder, experiment)


def _sources(run: Run) -> dict[str, str]:
    """The models of a run, each with where it came from."""
    models = run.model.split(_PAIR)
    recorded = str(run.read_json("spec.json")["recorded"].get("source", "")).split(_ARROW)
    return dict(zip(models, recorded + [""] * len(models), strict=False))
