"""What a shard works with: its models, loaded once, and the profile's parameters."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.experiments._crew import Crew
from emotion_circuits.experiments._pair_runner import ModelSlot, PairBench, run_pair_experiment
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._runner import Progress, Workbench, no_progress, run_experiment
from emotion_circuits.runners.inputs import cell_id, experiment_key
from emotion_circuits.runners.manifest import Cell, Manifest, Work
from emotion_circuits.runners.state import write_notices
from emotion_circuits.store import Store

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.scorers import Scorer
    from emotion_circuits.store import Run


def profile_of(work: Work) -> Profile:
    """The study's profile, from the manifest instead of its file."""
    models = tuple(work.sources)
    return Profile(work.profile, work.title, work.description, models, work.experiments, work.pairs, work.prompts)


class Desk:
    """Runs the cells of one shard; models stay loaded between them."""

    def __init__(self, manifest: Manifest, crew: Crew, progress: Progress = no_progress) -> None:
        self._manifest, self._work, self._crew, self._progress = manifest, manifest.work, crew, progress
        self._profile = profile_of(manifest.work)
        self._store = Store(manifest.results, crew.marker)
        self._slots: dict[str, ModelSlot] = {}
        self._scorer = functools.cache(self._find_scorer)

    def run(self, cell: Cell) -> tuple[Run, str]:
        """The finished run of a cell, and where its models came from.

        Raises:
            EmotionCircuitsError: it is not what was planned any more. Whatever the experiment raises.
        """
        self._require_planned(cell)
        params = self._profile.params(cell.experiment)
        slots = [self._slot(model) for model in cell.models]
        bench = Workbench(
            self._store, self._profile.name, slots[0], self._work.seed, self._work.rows, False, self._progress,
            self._scorer, self._crew,
        )  # fmt: skip
        if len(slots) == 1:
            run = run_experiment(cell.experiment, params, bench)
            return run, bench.lm.source
        run = run_pair_experiment(cell.experiment, params, PairBench(bench, slots[0], slots[1]))
        return run, " → ".join(slot.identity.source for slot in slots)

    def _require_planned(self, cell: Cell) -> None:
        """Refuse texts, files or a package unlike those of the plan: its cell would be noted with their answer."""
        key = experiment_key(self._profile, cell.experiment, self._work.seed, self._work.loading.get("dtype"))
        if cell_id(key, cell.models, self._work.versions) != cell.id:
            raise EmotionCircuitsError(
                f"{cell.shown} was planned with other texts, files or another version of the package than are here now",
                "run the same command again, which plans it anew; all machines need the same texts and package",
            )

    def _slot(self, model: str) -> ModelSlot:
        if model not in self._slots:
            self._slots[model] = ModelSlot(functools.partial(self._load, model))
        return self._slots[model]

    def _load(self, model: str) -> LM:
        from emotion_circuits.models import load_lm

        self._require_planned_files(model)
        lm = load_lm(self._work.sources[model], **_paths(self._work.loading))
        self._require_planned_files(model)  # they may have been written anew while they were read
        self._crew.require_folder()  # a note would make it anew
        write_notices(self._manifest, model, lm.notices)
        return lm

    def _require_planned_files(self, model: str) -> None:
        """Refuse a local model whose files have other names, sizes or times than those of the plan.

        A hub is not asked again. Files that cannot be seen are left to whoever loads them.
        """
        from emotion_circuits.models.sources import path_of, version_of

        source, planned = self._work.sources[model], self._work.versions.get(model)
        if planned and path_of(source) is not None and version_of(source) not in (planned, ""):
            raise EmotionCircuitsError(
                f"{model} was planned with other files than are in {source} now",
                "run the same command again, which plans it anew; all machines need the same files of a model, copies "
                "with the times of the original (`cp -p`)",
            )

    def _find_scorer(self, name: str) -> Scorer:
        from emotion_circuits.scorers import LoadOptions, find_scorer

        loading = _paths(self._work.loading)
        return find_scorer(
            name, LoadOptions(device=loading["device"], cache=loading["cache"], offline=loading["offline"])
        )


def _paths(loading: Any) -> dict[str, Any]:
    cache = loading.get("cache")
    return {**loading, "cache": None if cache is None else Path(cache)}
