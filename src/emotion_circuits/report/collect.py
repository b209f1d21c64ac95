"""The study that lies on disk: of every experiment, on every model and pair, the profile's own run and the latest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from emotion_circuits.experiments._registry import experiments
from emotion_circuits.experiments._study import Study, read_failures
from emotion_circuits.report.failures import folder_of
from emotion_circuits.report.variants import identity, is_own
from emotion_circuits.store import ARROW, PAIR, Store

if TYPE_CHECKING:
    from emotion_circuits.experiments._profiles import Profile
    from emotion_circuits.store import Run


def study_on_disk(store: Store, profile: Profile) -> Study:
    """What ``profile`` left in ``store``, with whatever was run beside it and answers something (captures do not).

    Where an experiment of the profile was run with other parameters after the profile's own run, both are part of it,
    the profile's own first.
    """
    planned = [name for name, _ in profile.experiments]
    others = [name for name in experiments() if name not in planned]
    by_name: dict[tuple[str, str], list[Run]] = {}
    for run in store.find(profile.name):
        by_name.setdefault((run.model, run.experiment), []).append(run)
    folders = dict.fromkeys(model for model, _ in by_name)
    found = [
        run
        for folder in folders
        for name in (*planned, *others)
        for run in _shown(by_name.get((folder, name), ()), _latest(store, profile, folder, name), profile)
    ]
    runs = [run for run in found if run.experiment in planned or run.read_summary().get("verdicts")]
    sources = {model: source for run in runs for model, source in _sources(run).items()}
    return Study(profile, runs, read_failures(store, profile.name), sources)


def with_disk(store: Store, finished: Study, models: Sequence[str]) -> Study:
    """What a call on ``models`` (as they were typed) has just found, and what earlier ones left on disk.

    The call's runs come first, and stand for the profile's own on disk of the same experiment on the same model: the
    latest run with other parameters stays behind them. Its failures stand for those of the models and pairs it ran.
    """
    disk = study_on_disk(store, finished.profile)
    fresh: dict[tuple[str, str], set[str]] = {}
    for run in finished.runs:
        fresh.setdefault((run.model, run.experiment), set()).add(run.key)
    kept = [
        run
        for run in disk.runs
        if (keys := fresh.get((run.model, run.experiment))) is None
        or (run.key not in keys and not is_own(run, finished.profile))
    ]
    earlier = {name: source for run in kept for name, source in _sources(run).items()}
    sources = finished.sources | {n: source for n, source in earlier.items() if n not in finished.sources}
    whole = Study(finished.profile, [*finished.runs, *kept], [*finished.failures], sources)
    ran = {folder_of(typed, whole) for typed in (*models, *map(ARROW.join, finished.profile.pairs_of(models)))}
    whole.failures += [failure for failure in disk.failures if folder_of(failure.model, whole) not in ran]
    return whole


def further_runs(study: Study) -> Mapping[tuple[str, str], int]:
    """(model, experiment) → finished runs that lie beside those of the study, with other parameters or seeds."""
    shown: dict[tuple[str, str], list[Run]] = {}
    for run in study.runs:
        shown.setdefault((run.model, run.experiment), []).append(run)
    counts: dict[tuple[str, str], int] = {}
    for root in dict.fromkeys(run.folder.parents[3] for run in study.runs):
        for run in Store(root).find(study.profile.name):
            known = shown.get((run.model, run.experiment), [])
            if known and run.done and identity(run) not in map(identity, known):
                counts[run.model, run.experiment] = counts.get((run.model, run.experiment), 0) + 1
    return counts


def _shown(runs: Sequence[Run], latest: Run | None, profile: Profile) -> Iterator[Run]:
    """The run that the profile plans, and the latest one where it is another."""
    own = [run for run in runs if run.done and is_own(run, profile)]
    if latest is None or latest.key not in {run.key for run in own}:
        seed = None if latest is None else latest.inputs.get("seed")
        # Of several the one that is most like the latest: of its seed, then the one that was begun last.
        yield from sorted(own, key=lambda run: (run.inputs.get("seed") == seed, run.started))[-1:]
    if latest is not None:
        yield latest


def _latest(store: Store, profile: Profile, folder: str, experiment: str) -> Run | None:
    source, pair, target = folder.partition(PAIR)
    return store.latest(profile.name, (source, target) if pair else folder, experiment)


def _sources(run: Run) -> dict[str, str]:
    """The models of a run, each with where it came from."""
    models = run.model.split(PAIR)
    recorded = str(run.read_json("spec.json")["recorded"].get("source", "")).split(ARROW)
    return dict(zip(models, recorded + [""] * len(models), strict=False))
