"""A whole study: every experiment of a profile on every model, resumable, one failure at a time."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emotion_circuits.errors import EmotionCircuitsError, UnknownModelError
from emotion_circuits.experiments._contract import PairExperiment
from emotion_circuits.experiments._memory import is_out_of_memory, out_of_memory
from emotion_circuits.experiments._pair_runner import ModelSlot, PairBench, run_pair_experiment
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.experiments._runner import Progress, Workbench, default_scorer, no_progress, run_experiment
from emotion_circuits.store import ARROW, model_folder, slug

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.scorers import Scorer
    from emotion_circuits.store import Run, Store

log = logging.getLogger(__name__)

T = TypeVar("T")

FAILED, FAILURES = "failed.json", "failures.jsonl"
"""In a model's folder: why it did not finish the last time, and every such time with its traceback."""


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
    models: Sequence[str],
    store: Store,
    load: Callable[[str], LM],
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    rows: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
    scorer: Callable[[str], Scorer] = default_scorer,
    report: Callable[[str], None] = lambda line: None,
) -> Study:
    """Run every experiment of ``profile`` on every model.

    A model that fails (unknown, unreachable, broken, or in a way that nobody foresaw) leaves its failure and
    the others go on; within a model the experiments after a failed one are skipped. ``report`` gets one line
    per finished experiment.
    """
    study = Study(profile)
    single, paired = kinds(profile)
    sound = []
    for model in models:
        loaded = functools.cache(functools.partial(load, model))
        bench = Workbench(store, profile.name, loaded, seed, rows, force, progress, scorer)
        for experiment in single:
            found = attempt(model, experiment, functools.partial(
                run_experiment, experiment, profile.params(experiment, overrides), bench))  # fmt: skip
            if isinstance(found, Failure):
                _failed(study, store, found, model, report)
                break
            study.runs.append(found)
            study.sources[bench.lm.name] = bench.lm.source
            for verdict in found.read_summary()["verdicts"]:
                report(verdict)
        else:
            sound.append(model)
            clear_log(store, profile.name, model)
        del loaded, bench  # one model in memory at a time
    for names in _pairs(profile, models, sound) if paired else ():
        slots = [ModelSlot(functools.partial(load, name)) for name in names]
        pair = PairBench(Workbench(store, profile.name, slots[0], seed, rows, force, progress, scorer), *slots)
        shown = ARROW.join(names)
        for experiment in paired:
            found = attempt(shown, experiment, functools.partial(
                run_pair_experiment, experiment, profile.params(experiment, overrides), pair))  # fmt: skip
            if isinstance(found, Failure):
                _failed(study, store, found, names, report)
                break
            study.runs.append(found)
            study.sources.update({slot.identity.name: slot.identity.source for slot in slots})
            for verdict in found.read_summary()["verdicts"]:
                report(verdict)
        else:
            clear_log(store, profile.name, names)
    return study


def _pairs(profile: Profile, models: Sequence[str], sound: Sequence[str]) -> list[tuple[str, str]]:
    """The study's pairs of models that have finished what comes before."""
    return [pair for pair in profile.pairs_of(models) if {*pair} <= {*sound}]


def kinds(profile: Profile) -> tuple[list[str], list[str]]:
    """The profile's experiments on one model, and those on ordered pairs of models."""
    names = [name for name, _ in profile.experiments]
    paired = [name for name in names if isinstance(find_experiment(name), PairExperiment)]
    return [name for name in names if name not in paired], paired


def attempt(model: str, experiment: str, run: Callable[[], T]) -> T | Failure:
    """What ``run`` gives, or why there is nothing: what fails on one model may not lose those after it."""
    try:
        return run()
    except EmotionCircuitsError as error:
        return Failure(model, experiment, error)
    except Exception as error:  # noqa: BLE001 - one model's defect must not lose the models after it
        return Failure(model, experiment, _unforeseen(model, error))


def _failed(
    study: Study, store: Store, failure: Failure, model: str | tuple[str, ...], report: Callable[[str], None]
) -> None:
    # Why is told once, at the end of the study; nobody would find it above the lines of the models after it.
    report(f"{failure.experiment} on {failure.model} did not finish")
    log.info("%s on %s failed: %s", failure.experiment, failure.model, failure.error)
    study.failures.append(failure)
    leave_log(store, study.profile.name, failure, model)


def _unforeseen(model: str, error: Exception) -> EmotionCircuitsError:
    """What is none of our own errors: memory that ran out, or a defect, which keeps its traceback as the cause."""
    if is_out_of_memory(error):
        failure = out_of_memory(error, model)
    else:
        failure = EmotionCircuitsError(
            f"unexpected failure on {model}: {type(error).__name__}: {' '.join(str(error).split())}",
            f"this is a defect of the program or of the model's files: the traceback is in {FAILURES} beside its runs",
        )
    failure.__cause__ = error
    return failure


def leave_log(store: Store, profile: str, failure: Failure, model: str | tuple[str, ...]) -> None:
    """What went wrong, beside the model's runs: a model that could not even be loaded has no run folder.

    Of what is no model nothing is left: who mistyped it never runs it again, and nothing would take the note away.
    """
    from emotion_circuits.errors import StoreError
    from emotion_circuits.store import append_jsonl, write_json
    from emotion_circuits.store.provenance import now

    error = failure.error
    # An evaluator that is no model is another matter.
    if isinstance(error, UnknownModelError) and _whole(error.model) in map(_whole, failure.model.split(ARROW)):
        return
    record = {"time": now(), "model": failure.model, "experiment": failure.experiment, "type": type(error).__name__,
              "message": error.what, "fix": error.fix}  # fmt: skip
    with suppress(StoreError):  # results that cannot be written are the failure itself
        path = failed_file(store, profile, model)
        write_json(path, record)
        append_jsonl(path.with_name(FAILURES), [{**record, "traceback": "".join(traceback.format_exception(error))}])


def clear_log(store: Store, profile: str, model: str | tuple[str, ...]) -> None:
    """A model that went through has not failed; what happened before stays in its log."""
    with suppress(OSError):
        failed_file(store, profile, model).unlink(missing_ok=True)


def read_failures(store: Store, profile: str) -> list[Failure]:
    """The models of a study that did not finish the last time they were run."""
    return [read_failure(path) for path in failure_notes(store, profile)]


def failure_notes(store: Store, profile: str) -> list[Path]:
    """The files that note why a model of a study did not finish."""
    found = (store.root / slug(profile)).glob(f"*/{FAILED}")
    return sorted(path for path in found if path not in store.without)


def read_failure(path: Path) -> Failure:
    """What one such file notes."""
    from emotion_circuits.store import read_json

    noted = read_json(path)
    return Failure(noted["model"], noted["experiment"], EmotionCircuitsError(noted["message"], noted["fix"]))


def _whole(typed: str) -> Path:
    return Path(typed).expanduser().resolve()


def failed_file(store: Store, profile: str, model: str | tuple[str, ...]) -> Path:
    """Where it is noted why a model or a pair, typed or told (``a → b``), did not finish the last time."""
    models = tuple(model.split(ARROW)) if isinstance(model, str) else model
    return store.root / slug(profile) / model_folder(models) / FAILED
