"""A whole study: every experiment of a profile on every model, resumable, one failure at a time."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._runner import Progress, Workbench, no_progress, run_experiment

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """An experiment that did not finish: the rest of the study went on."""

    model: str
    experiment: str
    error: EmotionCircuitsError


@dataclass
class Study:
    """What a study produced so far: finished runs in order, failures, and where each model came from."""

    profile: Profile
    runs: list[Run] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)


def run_study(
    profile: Profile,
    models: Iterable[str],
    store: Store,
    load: Callable[[str], LM],
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    rows: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda line: None,
) -> Study:
    """Run every experiment of ``profile`` on every model.

    A model that fails (unknown, unreachable, broken) leaves its failure and the others go on; within a model the
    experiments after a failed one are skipped. ``report`` gets one line per finished experiment.
    """
    study = Study(profile)
    for model in models:
        loaded = functools.cache(functools.partial(load, model))
        loaded = functools.cache(functools.partial(load, model))
        bench = Workbench(store, profile.name, loaded, seed, rows, force, progress)
        for experiment, _ in profile.experiments:
            try:
                run = run_experiment(experiment, profile.params(experiment, overrides), bench)
            except EmotionCircuitsError as error:
                log.error("%s on %s failed: %s", experiment, model, error)
                study.failures.append(Failure(model, experiment, error))
                break
            study.runs.append(run)
            study.sources[bench.lm.name] = bench.lm.source
            for verdict in run.read_summary()["verdicts"]:
                report(verdict)
    return study
