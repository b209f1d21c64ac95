"""Experiments on an ordered pair of models, on top of the one runner.

What a pair needs of each model is captured by ordinary single-model runs, so that every pair with that model shares
them. The models are loaded one after the other; an experiment of a pair reads captures, and loads a model again only
where it steers.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import (
    ExperimentParams,
    Outcome,
    PairContext,
    PairExperiment,
    PairNeeded,
    Steered,
)
from emotion_circuits.experiments._measure import Measure
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.experiments._runner import Prepared, Workbench, finish_prepared, keep_outcome, prepare

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.models.untrained import UntrainedTwin
    from emotion_circuits.store import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Who a model is, known after it was loaded once."""

    name: str
    source: str
    weights: str
    tokenizer: str
    layers: int
    width: int
    device: str
    dtype: str
    address: str


@dataclass
class ModelSlot:
    """A model that is loaded when it is asked for and forgotten when it is released; called, it gives the model."""

    load: Callable[[], LM]
    _held: LM | None = field(default=None, init=False, repr=False)
    _identity: Identity | None = field(default=None, init=False, repr=False)

    def __call__(self) -> LM:
        if self._held is None:
            self._held = self.load()
        return self._held

    def release(self) -> None:
        """Free the memory; the next call loads the model again."""
        if self._held is not None:
            _ = self.identity  # what was loaded once need not be loaded to be named
        self._held = None
        gc.collect()

    @property
    def identity(self) -> Identity:
        if self._identity is None:
            lm = self()
            self._identity = Identity(
                lm.name, lm.source, lm.fingerprint, lm.tokenizer_fingerprint, lm.n_layers, lm.d_model, str(lm.device),
                lm.dtype_name, lm.address,
            )  # fmt: skip
        return self._identity


@dataclass
class PairBench:
    """Where experiments on two models run: ``bench`` has store, profile, seed and display; its model is not used."""

    bench: Workbench
    source: ModelSlot
    target: ModelSlot
    _twin: UntrainedTwin | None = field(default=None, init=False, repr=False)
    _untrained: ModelSlot | None = field(default=None, init=False, repr=False)

    def slot(self, of: str) -> ModelSlot:
        """The model on one side: ``source``, ``target`` or ``untrained`` (the target's untrained twin)."""
        return {"source": self.source, "target": self.target}.get(of) or self.untrained

    @property
    def untrained(self) -> ModelSlot:
        """The target with random weights; one that has random weights itself gets others."""
        if self._untrained is None:
            self._untrained = ModelSlot(lambda: self._recipe().build(seed=0))
        return self._untrained

    def _recipe(self) -> UntrainedTwin:
        from emotion_circuits.models.untrained import UntrainedTwin

        if self._twin is None:
            self._twin = UntrainedTwin.of(self.target())
            self.target.release()
        return self._twin


def untrained_slot(slot: ModelSlot, seed: int = 1) -> ModelSlot:
    """The untrained twin of a model as a target of its own."""
    from emotion_circuits.models.untrained import UntrainedTwin

    return ModelSlot(lambda: UntrainedTwin.of(slot.load()).build(seed))


def run_pair_experiment(name: str, params: ExperimentParams | Mapping[str, Any], pair: PairBench) -> Run:
    """Run an experiment on an ordered pair, and first what it requires of each model; finished work is reused.

    Results are in ``results/{profile}/{source--target}/{experiment}/{key}``.
    """
    run = _run(name, params, pair, force=pair.bench.force, asked=True)
    run.name_latest()
    return run


def _run(name: str, params: ExperimentParams | Mapping[str, Any], pair: PairBench, *, force: bool, asked: bool) -> Run:
    experiment, resolved = _resolved(name, params)
    runs = {needed.name: _required(needed, pair) for needed in experiment.requires_of_pair(resolved)}
    run, identities = _run_of(experiment, resolved, pair, runs)
    if force:
        with run.lock():
            run.discard()
    if run.done:
        return run
    with run.open():
        if not run.done:
            names = [identities[of].name for of in ("source", "target")]
            log.info("%s of %s → %s, key %s", name, *names, run.key)
            keep_outcome(run, _made_with(identities), _outcome(experiment, resolved, pair, run, runs), asked=asked,
                         summary={"source": names[0], "target": names[1], "profile": pair.bench.profile})  # fmt: skip
    return run


def draws_twin(name: str, params: ExperimentParams | Mapping[str, Any]) -> bool:
    """Whether an experiment on a pair, or one that it requires, builds the untrained twin of the target."""
    experiment = find_experiment(name)
    if not isinstance(experiment, PairExperiment):
        return False
    resolved = params if isinstance(params, ExperimentParams) else experiment.Params.model_validate(params)
    with suppress(UsageError):  # what cannot be answered is said when it is run
        return any(
            needed.of == "untrained" or (needed.of == "pair" and draws_twin(needed.experiment, needed.params))
            for needed in experiment.requires_of_pair(resolved)
        )
    return False


def visit_pair(
    name: str,
    params: ExperimentParams | Mapping[str, Any],
    pair: PairBench,
    single: Callable[[Prepared, Workbench], None],
    own: Callable[[PairExperiment, ExperimentParams, Run], None],
) -> Run:
    """Show every run that an experiment on a pair needs, and last its own, and run nothing.

    ``single`` gets those of one model while that model can be asked for, ``own`` those of the pair.
    """
    experiment, resolved = _resolved(name, params)
    runs = {}
    for needed in experiment.requires_of_pair(resolved):
        if needed.of == "pair":
            runs[needed.name] = visit_pair(needed.experiment, needed.params, pair, single, own)
            continue
        bench = replace(pair.bench, load=pair.slot(needed.of), force=False)
        prepared = prepare(needed.experiment, needed.params, bench)
        single(prepared, bench)
        runs[needed.name] = prepared.run
        if needed.last_of_its_model:
            pair.slot(needed.of).release()
    run, _ = _run_of(experiment, resolved, pair, runs)
    own(experiment, resolved, run)
    return run


def _resolved(name: str, params: ExperimentParams | Mapping[str, Any]) -> tuple[PairExperiment, ExperimentParams]:
    found = find_experiment(name)
    if not isinstance(found, PairExperiment):
        raise TypeError(f"{name} is an experiment of one model")
    resolved = found.Params.model_validate(params) if isinstance(params, Mapping) else params
    found.check(resolved)
    return found, resolved


def _run_of(
    experiment: PairExperiment, params: ExperimentParams, pair: PairBench, runs: Mapping[str, Run]
) -> tuple[Run, dict[str, Identity]]:
    """The run of a pair, done or not, and who its models are."""
    identities = {of: pair.slot(of).identity for of in ("source", "target")}
    for of in identities:
        pair.slot(of).release()
    if experiment.distinct and identities["source"].weights == identities["target"].weights:
        raise same_model(experiment.name, identities["source"].name)
    inputs = {
        "experiment": {"name": experiment.name, "version": experiment.version},
        "params": params,
        "seed": pair.bench.seed,
        **{of: {"name": i.name, "weights": i.weights, "tokenizer": i.tokenizer} for of, i in identities.items()},
        "required": {key: run.key for key, run in runs.items()},
        **experiment.inputs(params),
    }
    recorded = {
        "rows": pair.bench.rows, "device": identities["target"].device, "dtype": identities["target"].dtype,
        "addresses": [identities[of].address for of in ("source", "target")],
        "source": f"{identities['source'].source} → {identities['target'].source}",
    }  # fmt: skip
    names = (identities["source"].name, identities["target"].name)
    return pair.bench.store.run(pair.bench.profile, names, experiment.name, inputs, recorded), identities


def same_model(experiment: str, name: str) -> UsageError:
    """A model paired with itself where that would answer nothing."""
    return UsageError(
        f"`{experiment}` needs two models, and {name} was given as source and target",
        "name another model with --target (see `emotion-circuits models list`)",
    )


def _outcome(
    experiment: PairExperiment, params: ExperimentParams, pair: PairBench, run: Run, runs: Mapping[str, Run]
) -> Outcome:
    def measure(of: Steered) -> Measure:
        pair.slot("untrained" if of == "target" else "target").release()
        return Measure(pair.slot(of)(), run, pair.bench.rows, pair.bench.progress, pair.bench.scorer)

    context = PairContext(
        pair.source.identity, pair.target.identity, pair.bench.profile, pair.bench.seed, runs, run,
        measure, pair.bench.progress,
    )  # fmt: skip
    try:
        return experiment.summarise_pair(context, params)
    finally:
        for of in ("target", "untrained"):
            pair.slot(of).release()


def _required(needed: PairNeeded, pair: PairBench) -> Run:
    """A finished run of one model, or of the pair itself."""
    if needed.of == "pair":
        return _run(needed.experiment, needed.params, pair, force=False, asked=False)
    slot = pair.slot(needed.of)
    bench = replace(pair.bench, load=slot, force=False)
    if needed.of != "untrained":
        bench.require_known_family()
    run = finish_prepared(prepare(needed.experiment, needed.params, bench), bench)
    if needed.last_of_its_model:
        slot.release()
    return run


def _made_with(identities: Mapping[str, Identity]) -> dict[str, str]:
    return {"model": identities["target"].name, "weights": identities["target"].weights,
            "source": identities["source"].name, "source_weights": identities["source"].weights}  # fmt: skip
