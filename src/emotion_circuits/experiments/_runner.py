"""The one runner: keys, dependencies, captures, resume and what lands in a run folder."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import StoreError
from emotion_circuits.experiments._captured import capture_to_run, fingerprint_prompts
from emotion_circuits.experiments._contract import CaptureStep, Context, Experiment, ExperimentParams, Outcome
from emotion_circuits.experiments._measure import Measure
from emotion_circuits.experiments._registry import find_experiment

if TYPE_CHECKING:
    from emotion_circuits.experiments._crew import Crew
    from emotion_circuits.models.lm import LM
    from emotion_circuits.scorers import Scorer
    from emotion_circuits.store import Run, Store

log = logging.getLogger(__name__)

Advance = Callable[[int, str], None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a progress display for ``(description, total)``; the command line gives one, libraries need none."""


def no_progress(description: str, total: int) -> AbstractContextManager[Advance]:
    """Shows nothing."""
    return nullcontext(lambda steps, note="": None)


@functools.cache
def default_scorer(name: str) -> Scorer:
    """An evaluator with its default options, loaded once."""
    from emotion_circuits.scorers import find_scorer

    return find_scorer(name)


@dataclass
class Workbench:
    """Where experiments run: a model, a store and a profile.

    ``load`` returns the model and is asked often, so it has to remember it (``functools.cache``). ``rows`` and
    ``progress`` change speed and display only; ``seed`` enters every key. ``force`` computes the experiment that is
    asked for again; what it requires is reused. ``scorer`` finds the evaluators of generated texts by name. With a
    ``crew`` other processes may compute the same runs at the same time: every step is shared with them.
    """

    store: Store
    profile: str
    load: Callable[[], LM]
    seed: int = 0
    rows: int | None = None
    force: bool = False
    progress: Progress = field(default=no_progress, repr=False)
    scorer: Callable[[str], Scorer] = field(default=default_scorer, repr=False)
    crew: Crew | None = None
    _checked: bool = field(default=False, init=False, repr=False)

    @property
    def lm(self) -> LM:
        """The model, loaded when it is first needed."""
        return self.load()

    def require_known_family(self) -> None:
        """Check the contract of a model whose family is only guessed; raises when it does not keep it."""
        from emotion_circuits.engine.verify import require_family
        from emotion_circuits.models.families import family_of

        model_type = self.lm.model.config.model_type
        if family_of(model_type) is None and not self._checked:
            log.info("unknown model type %s: checking it as llama-like", model_type)
            require_family(self.lm)
            self._checked = True


@dataclass(frozen=True)
class Prepared:
    """An experiment with its key known and nothing run yet: what ``--dry-run`` shows and what ``run`` executes."""

    experiment: Experiment
    params: ExperimentParams
    run: Run
    required: Mapping[str, Prepared]
    steps: tuple[CaptureStep, ...]


def run_experiment(name: str, params: ExperimentParams | Mapping[str, Any], bench: Workbench) -> Run:
    """Run an experiment, and first whatever it requires; finished work is reused, interrupted work resumed.

    Args:
        name: see ``emotion-circuits run --list``. params: its parameter model, or a mapping of its fields.

    Returns:
        The finished run: ``run.read_summary()``, ``run.read_observations()``, files in ``run.folder``.

    Raises:
        UsageError: unknown experiment, model, layer, emotion or position. StoreError: results cannot be written.
    """
    bench.require_known_family()
    prepared = prepare(name, params, bench)
    if bench.force:
        _discard(prepared)
    _check_texts(prepared, bench)
    run = _finish(prepared, bench, asked=True)
    run.name_latest()  # reused work is the latest answer too
    return run


def prepare(name: str, params: ExperimentParams | Mapping[str, Any], bench: Workbench) -> Prepared:
    """Resolve an experiment and everything it requires to run folders; loads the model, runs nothing."""
    experiment = find_experiment(name)
    resolved = experiment.Params.model_validate(params) if isinstance(params, Mapping) else params
    required = {n.experiment: prepare(n.experiment, n.params, bench) for n in experiment.requires(resolved)}
    steps = tuple(experiment.plan(bench.lm, resolved))
    inputs = _inputs(experiment, resolved, bench, required, steps)
    recorded = {
        "rows": bench.rows, "device": str(bench.lm.device), "dtype": bench.lm.dtype_name, "source": bench.lm.source,
        "addresses": [bench.lm.address],
    }  # fmt: skip
    run = bench.store.run(bench.profile, bench.lm.name, name, inputs, recorded)
    return Prepared(experiment, resolved, run, required, steps)


def _check_texts(prepared: Prepared, bench: Workbench) -> None:
    """Refuse texts that cannot be captured (too long, no such site) before the required experiments spend any time."""
    from emotion_circuits.engine.capture import plan_capture

    if prepared.required and not prepared.run.done:
        for step in prepared.steps:
            plan_capture(bench.lm, step.prompts, step.kinds, step.positions, step.layers)


def _discard(prepared: Prepared) -> None:
    """Remove the run, and those it requires that another version of the package wrote (nothing here can read them)."""
    with prepared.run.lock():
        prepared.run.discard()
    for needed in prepared.required.values():
        if not _readable(needed.run):
            _discard(needed)


def _readable(run: Run) -> bool:
    from emotion_circuits.store.runs import DONE, SPEC, check_schema

    try:
        for name in (SPEC, DONE):
            if (run.folder / name).exists():
                check_schema(run.folder / name)
    except StoreError:
        return False
    return True


def _finish(prepared: Prepared, bench: Workbench, *, asked: bool) -> Run:
    """The finished run; what is done already is not opened for writing.

    What is only required leaves ``latest`` alone where it names a run: that is the answer to another request.
    """
    run = prepared.run
    if run.done:
        return run
    required = {name: _finish(needed, bench, asked=False) for name, needed in prepared.required.items()}
    if bench.crew is not None:
        _finish_together(prepared, required, bench, asked)
        return run
    with run.open():
        if not run.done:
            _keep(prepared, _outcome(prepared, required, bench), bench, asked)
    return run


def _finish_together(prepared: Prepared, required: Mapping[str, Run], bench: Workbench, asked: bool) -> None:
    """Take part in a run that other processes may compute too; the first one with an outcome writes it."""
    run = prepared.run
    with run.open_together():
        try:
            outcome = _outcome(prepared, required, bench)
        except StoreError:
            if not run.done:  # else the others have finished it and cleared its parts away
                raise
            return
        with run.lock():
            if not run.done:
                _keep(prepared, outcome, bench, asked)


def _outcome(prepared: Prepared, required: Mapping[str, Run], bench: Workbench) -> Outcome:
    """Capture what the experiment plans, and let it read the result."""
    lm, run, experiment = bench.lm, prepared.run, prepared.experiment
    log.info("%s on %s (%s), key %s", experiment.name, lm.name, lm.source, run.key)
    captures = {}
    total = sum(len(step.prompts) for step in prepared.steps)
    with bench.progress(f"{experiment.name} {lm.name}", total) as advance:
        for step in prepared.steps:
            captures[step.name] = capture_to_run(
                lm, run, step, bench.rows, advance, bench.crew, anew=bench.force
            )  # fmt: skip
    measure = Measure(lm, run, bench.rows, bench.progress, bench.scorer, bench.crew)
    context = Context(lm, bench.profile, bench.seed, required, captures, measure)
    return experiment.summarise(context, prepared.params)


def _keep(prepared: Prepared, outcome: Outcome, bench: Workbench, asked: bool) -> None:
    made_with = {"model": bench.lm.name, "weights": bench.lm.fingerprint}
    keep_outcome(prepared.run, made_with, outcome, asked=asked,
                 summary={"model": bench.lm.name, "profile": bench.profile})  # fmt: skip


def finish_prepared(prepared: Prepared, bench: Workbench) -> Run:
    """The finished run of something that another experiment requires."""
    return _finish(prepared, bench, asked=False)


def keep_outcome(
    run: Run, made_with: Mapping[str, str], outcome: Outcome, *, asked: bool, summary: Mapping[str, Any]
) -> None:
    """Write everything an experiment found; ``done.json`` comes last. ``summary`` says what it was run on."""
    from emotion_circuits.store import plain, write_tensors

    for file, arrays in outcome.tensors.items():
        write_tensors(run.path(f"{file}.safetensors"), arrays, made_with)
    for file, content in outcome.documents.items():
        run.write_json(f"{file}.json", plain(content))
    for name, text in outcome.files.items():
        run.write_text(name, text)
    # Streamed, and no file at all where there is none: only the first is looked at.
    rows = iter(outcome.observations)
    for first in rows:
        run.write_observations(chain((first,), rows))
    if outcome.section is not None:
        run.write_json("section.json", plain(outcome.section))
    run.finish({**summary, **outcome.summary, "verdicts": list(outcome.verdicts)}, asked=asked)


def _inputs(
    experiment: Experiment,
    params: ExperimentParams,
    bench: Workbench,
    required: Mapping[str, Prepared],
    steps: Sequence[CaptureStep],
) -> dict[str, Any]:
    """Everything that can change a number of this run."""
    return {
        "experiment": {"name": experiment.name, "version": experiment.version},
        "params": params,
        "seed": bench.seed,
        "model": {"name": bench.lm.name, "weights": bench.lm.fingerprint, "tokenizer": bench.lm.tokenizer_fingerprint},
        "prompts": {step.name: fingerprint_prompts(step.prompts) for step in steps},
        "steps": [{"name": s.name, "kinds": s.kinds, "positions": [str(p) for p in s.positions], "layers": s.layers}
                  for s in steps],
        "required": {name: needed.run.key for name, needed in required.items()},
        **experiment.inputs(params),
    }  # fmt: skip
