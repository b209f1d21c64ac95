"""``emotion-circuits run EXPERIMENT``: one experiment on one model or a pair; options come from its parameter model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from emotion_circuits.cli._bench import loader, progress_of, scorer_of
from emotion_circuits.cli._console import print_json, print_table, print_text
from emotion_circuits.cli._options import (
    COMPUTE_OPTIONS,
    COPY_OPTIONS,
    RUNNER_OPTIONS,
    TRACK_OPTIONS,
    ComputeOptions,
    CopyOptions,
    DryRun,
    RunnerOptions,
    TrackOptions,
)
from emotion_circuits.cli._pairs import pair_verb
from emotion_circuits.cli._runners import carry_out_all, only, plan, show
from emotion_circuits.cli._tracking import tracking
from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import Experiment, PairExperiment
from emotion_circuits.experiments._registry import experiments

if TYPE_CHECKING:
    from emotion_circuits.store import Run

app = App(name="run", help="Run one experiment on one model.")


@app.default
def run(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    list: Annotated[bool, Parameter(help="List the experiments.", show_default=False)] = False,  # noqa: A002 - the flag
    json: Annotated[bool, Parameter(help="Print one JSON object.", show_default=False)] = False,
) -> int:
    """Run one experiment on one model; `run EXPERIMENT --help` shows its parameters."""
    if words:  # the name of an experiment would have found its own command
        raise unknown_name("experiment", words[0], [*experiments()])
    known = [{"experiment": e.name, "what": e.help} for e in experiments().values()]
    if json:
        print_json({"experiments": [{**k, "schema": experiments()[k["experiment"]].Params.model_json_schema()}
                                    for k in known]})  # fmt: skip
        return 0
    print_table(known, {"experiment": "experiment", "what": "what it does"})
    if not list:
        raise UsageError("no experiment was named", "emotion-circuits run directions --model smollm2-135m")
    return 0


def _verb(experiment: Experiment) -> Callable[..., int]:
    """The command of one experiment: its own parameters, then the common options."""

    def verb(
        *,
        model: Annotated[str, Parameter(help="Alias, hub id, folder or .gguf file.")] = "smollm2-135m",
        profile: Annotated[str, Parameter(help="Study profile (name or TOML file) or prompt set.")] = "baseline",
        dry_run: DryRun = False,
        params: Any = None,
        copies: Annotated[CopyOptions, Parameter(name="*")] = COPY_OPTIONS,
        track: Annotated[TrackOptions, Parameter(name="*")] = TRACK_OPTIONS,
        runner: Annotated[RunnerOptions, Parameter(name="*")] = RUNNER_OPTIONS,
        options: Annotated[ComputeOptions, Parameter(name="*")] = COMPUTE_OPTIONS,
    ) -> int:
        return _run(experiment, model, profile, params, copies, track, runner, options, dry_run)

    model_type = Annotated[experiment.Params, Parameter(name="*")]  # type: ignore[name-defined]
    verb.__annotations__ = {**verb.__annotations__, "params": model_type}
    signature = inspect.signature(verb)
    replaced = [p.replace(annotation=model_type, default=_defaults(experiment)) if p.name == "params" else p
                for p in signature.parameters.values()]  # fmt: skip
    verb.__signature__ = signature.replace(parameters=replaced)  # type: ignore[attr-defined]
    verb.__doc__ = experiment.help
    return verb


def _defaults(experiment: Experiment) -> Any:
    """The parameters with nothing given; none where one of them has to be."""
    fields = experiment.Params.model_fields.values()
    return None if any(field.is_required() for field in fields) else experiment.Params()


for _experiment in experiments().values():
    _made = pair_verb(_experiment) if isinstance(_experiment, PairExperiment) else _verb(_experiment)
    app.command(_made, name=_experiment.name)


def _copy(finished: Run, copies: CopyOptions) -> None:
    """Copy the run's CSV files to where the user wants them."""
    from emotion_circuits.store import write_text

    for name, path in (("effects.csv", copies.output_csv), ("distributions.csv", copies.distributions_csv)):
        if path is None:
            continue
        if not finished.path(name).exists():
            raise UsageError(f"{finished.experiment} writes no {name}", "leave the option out, or run controls")
        write_text(path, finished.path(name).read_text(encoding="utf-8"))


def _run(
    experiment: Experiment,
    model: str,
    profile: str,
    params: Any,
    copies: CopyOptions,
    track: TrackOptions,
    runner: RunnerOptions,
    options: ComputeOptions,
    dry_run: bool,
) -> int:
    from emotion_circuits.experiments import Workbench, load_profile, run_experiment
    from emotion_circuits.store import Store

    study = load_profile(profile)
    # Without any of its options the experiment's parameters are not built at all.
    given = {} if params is None else params.model_dump(exclude_unset=True)
    resolved = study.params(experiment.name, given)
    manifest = plan(only(study, experiment.name, resolved), [model], options, runner) if runner.asked else None
    if dry_run and manifest is not None:
        return show(manifest, as_json=options.json)
    bench = Workbench(
        Store(Path(options.results)), study.name, functools.cache(functools.partial(loader(options), model)),
        options.seed, options.rows, options.force, progress_of(options), scorer_of(options),
    )  # fmt: skip
    if dry_run:
        from emotion_circuits.cli._dry_run import show_cells
        from emotion_circuits.experiments._outline import outline_run

        return show_cells(outline_run(experiment.name, resolved, bench), as_json=options.json)
    with tracking(track, Path(options.results), study.name, quiet=options.quiet):
        if manifest is None:
            finished = run_experiment(experiment.name, resolved, bench)
        else:
            finished = carry_out_all(manifest, options, runner)[-1]
    _copy(finished, copies)
    summary = finished.read_summary()
    if options.json:
        print_json({k: v for k, v in summary.items() if k != "verdicts"})
        return 0
    for line in summary["verdicts"]:
        print_text(line)
    print_text(f"results: {finished.folder}")
    if finished.path("section.json").exists():
        from emotion_circuits.report.commands import report_command

        print_text(f"figures and tables: {report_command(profile, options.results)}")
    return 0
