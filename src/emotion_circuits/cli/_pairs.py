"""The command of an experiment on two models: ``--source`` and ``--target`` instead of ``--model``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from emotion_circuits.cli._bench import loader, progress_of, scorer_of
from emotion_circuits.cli._console import print_json, print_text
from emotion_circuits.cli._options import (
    COMPUTE_OPTIONS,
    RUNNER_OPTIONS,
    TRACK_OPTIONS,
    ComputeOptions,
    DryRun,
    RunnerOptions,
    TrackOptions,
)
from emotion_circuits.cli._runners import carry_out_all, only, plan, show
from emotion_circuits.cli._tracking import tracking
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import PairExperiment

if TYPE_CHECKING:
    from emotion_circuits.experiments._pair_runner import PairBench
    from emotion_circuits.store import Run


@dataclass(frozen=True)
class Wanted:
    """What was asked for beside the experiment's own parameters."""

    source: str | None
    target: str | None
    profile: str
    both: bool
    target_untrained: bool
    dry_run: bool


def pair_verb(experiment: PairExperiment) -> Callable[..., int]:
    """The command of one experiment on two models."""

    def verb(
        *,
        source: Annotated[str | None, Parameter(help="Model that has the emotions: alias, hub id, folder …")] = None,
        target: Annotated[str | None, Parameter(help="Model in which they are looked for.")] = None,
        profile: Annotated[str, Parameter(help="Study profile (name or TOML file) or prompt set.")] = "atlas",
        both: Annotated[bool, Parameter(help="Also with the roles exchanged.", show_default=False)] = False,
        target_untrained: Annotated[
            bool, Parameter(help="Target with random weights: nothing must come out shared.", show_default=False)
        ] = False,
        dry_run: DryRun = False,
        params: Any = None,
        track: Annotated[TrackOptions, Parameter(name="*")] = TRACK_OPTIONS,
        runner: Annotated[RunnerOptions, Parameter(name="*")] = RUNNER_OPTIONS,
        options: Annotated[ComputeOptions, Parameter(name="*")] = COMPUTE_OPTIONS,
    ) -> int:
        wanted = Wanted(source, target, profile, both, target_untrained, dry_run)
        return _run(experiment, wanted, params, track, runner, options)

    model_type = Annotated[experiment.Params, Parameter(name="*")]  # type: ignore[name-defined]
    verb.__annotations__ = {**verb.__annotations__, "params": model_type}
    signature = inspect.signature(verb)
    replaced = [p.replace(annotation=model_type, default=experiment.Params()) if p.name == "params" else p
                for p in signature.parameters.values()]  # fmt: skip
    verb.__signature__ = signature.replace(parameters=replaced)  # type: ignore[attr-defined]
    verb.__doc__ = experiment.help
    return verb


def _run(
    experiment: PairExperiment,
    wanted: Wanted,
    params: Any,
    track: TrackOptions,
    runner: RunnerOptions,
    options: ComputeOptions,
) -> int:
    from emotion_circuits.experiments import load_profile
    from emotion_circuits.experiments._pair_runner import run_pair_experiment, same_model

    source, target = wanted.source, wanted.target
    if source is None or target is None:
        raise UsageError(
            f"`{experiment.name}` compares two models, and --{'target' if source else 'source'} is missing",
            f"emotion-circuits run {experiment.name} --source smollm2-135m --target gemma-3-270m",
        )
    if wanted.both and wanted.target_untrained:
        raise UsageError("an untrained target has no way back", "leave out --both or --target-untrained")
    if experiment.distinct and source == target and not wanted.target_untrained:
        raise same_model(experiment.name, source)
    study = load_profile(wanted.profile)
    given = {} if params is None else params.model_dump(exclude_unset=True)
    resolved = study.params(experiment.name, given)
    ways = [(source, target), (target, source)] if wanted.both else [(source, target)]
    manifest = None
    if runner.asked:
        if wanted.target_untrained:
            raise UsageError("--target-untrained is not handed to other processes", "leave out --runner and --shards")
        models = tuple(dict.fromkeys((source, target)))
        manifest = plan(only(study, experiment.name, resolved), models, options, runner, ways)
    if wanted.dry_run and manifest is not None:
        return show(manifest, as_json=options.json)
    if wanted.dry_run:
        from emotion_circuits.cli._dry_run import show_cells
        from emotion_circuits.experiments._outline import outline_pair

        benches = [_bench(study.name, one, other, wanted.target_untrained, options) for one, other in ways]
        cells = [cell for bench in benches for cell in outline_pair(experiment.name, resolved, bench)]
        return show_cells(cells, as_json=options.json)

    def computed() -> Iterator[Run]:
        if manifest is not None:
            yield from carry_out_all(manifest, options, runner)
            return
        for one, other in ways:
            bench = _bench(study.name, one, other, wanted.target_untrained, options)
            yield run_pair_experiment(experiment.name, resolved, bench)

    summaries, folders = [], []
    with tracking(track, Path(options.results), study.name, quiet=options.quiet):
        for finished in computed():
            summaries.append(finished.read_summary())
            folders.append(finished.folder)
    if options.json:
        plain = [{k: v for k, v in s.items() if k != "verdicts"} for s in summaries]
        print_json({"directions": plain} if wanted.both else plain[0])
        return 0
    for summary, folder in zip(summaries, folders, strict=True):
        for line in summary["verdicts"]:
            print_text(line)
        print_text(f"results: {folder}")
    return 0


def _bench(profile: str, source: str, target: str, untrained: bool, options: ComputeOptions) -> PairBench:
    import functools

    from emotion_circuits.experiments._pair_runner import ModelSlot, PairBench, untrained_slot
    from emotion_circuits.experiments._runner import Workbench
    from emotion_circuits.store import Store

    load = loader(options)
    slots = [ModelSlot(functools.partial(load, name)) for name in (source, target)]
    bench = Workbench(
        Store(Path(options.results)), profile, slots[0], options.seed, options.rows, options.force,
        progress_of(options), scorer_of(options),
    )  # fmt: skip
    return PairBench(bench, slots[0], untrained_slot(slots[1]) if untrained else slots[1])
