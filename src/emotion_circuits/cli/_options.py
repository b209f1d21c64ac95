"""Options that several verbs share, each declared once with its description.

A verb takes the smallest group that has what it needs::

    @app.default
    def ls(*, options: Annotated[ResultOptions, Parameter(name="*")] = RESULT_OPTIONS) -> int: ...

and, beside its own typed parameters, any other group::

    def run(
        experiment: str,
        *,
        params: Annotated[Params, Parameter(name="*")] = DEFAULT_PARAMS,
        options: Annotated[ComputeOptions, Parameter(name="*")] = COMPUTE_OPTIONS,
    ) -> int: ...

The ``*,`` is needed: without it ``--layers 1 2`` gives the ``2`` to the next field. Options that are lists take several
values. The groups grow: ``OutputOptions`` → ``CacheOptions`` → ``ModelOptions``, and with ``ResultOptions`` they make
``ComputeOptions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

COMMON = Group("Common options", sort_key=100)
"""Shown below a verb's own options in ``--help``."""

Device = Literal["auto", "cpu", "cuda", "mps"]
DType = Literal["float32", "bfloat16", "float16"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is printed and how."""

    json: Annotated[
        bool, Parameter(help="Print one JSON object on stdout instead of tables.", group=COMMON, show_default=False)
    ] = False
    quiet: Annotated[
        bool, Parameter(help="No progress on stderr; results and errors only.", group=COMMON, show_default=False)
    ] = False


@dataclass(frozen=True, kw_only=True)
class CacheOptions(OutputOptions):
    """Where models are kept and whether the network may be used."""

    cache: Annotated[
        Path | None, Parameter(help="Folder of fetched and converted models (default: the user cache).", group=COMMON)
    ] = None
    offline: Annotated[
        bool, Parameter(help="Never use the network: only what is on this machine.", group=COMMON, show_default=False)
    ] = False


@dataclass(frozen=True, kw_only=True)
class ResultOptions(OutputOptions):
    """Where results are kept."""

    results: Annotated[Path, Parameter(help="Folder of all results.", group=COMMON)] = Path("results")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(CacheOptions):
    """How a model is loaded."""

    device: Annotated[
        Device, Parameter(help="Where the model runs; auto takes cuda, then mps, then cpu.", group=COMMON)
    ] = "auto"
    dtype: Annotated[DType, Parameter(help="Number type of the model's weights.", group=COMMON)] = "float32"
    device_map: Annotated[
        DeviceMap | None,
        Parameter(
            help="auto: spread a model that is too large over the GPUs, then main memory, then the disk (accelerate).",
            group=COMMON,
        ),
    ] = None
    rows: Annotated[
        int | None,
        Parameter(
            help="Most (prompt, condition) rows in one batch: for speed and memory; results change by rounding only.",
            group=COMMON,
            validator=Number(gte=1),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(ModelOptions, ResultOptions):
    """Everything that a verb which computes results takes."""

    seed: Annotated[int, Parameter(help="Seed of every random draw.", group=COMMON, validator=Number(gte=0))] = 0
    force: Annotated[bool, Parameter(help="Compute again what is already there.", group=COMMON, show_default=False)] = (
        False
    )


DryRun = Annotated[bool, Parameter(help="Show what would run, and run nothing.", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Where finished and failed runs are mirrored to."""

    track: Annotated[
        str | None,
        Parameter(
            help="Also show the runs in a tracker: mlflow, mlflow:URI, wandb (offline), wandb:PROJECT.", group=COMMON
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Who computes: this process, or several on this machine or a cluster."""

    runner: Annotated[
        Literal["local", "slurm", "ray"] | None,
        Parameter(help="Compute in processes here, in a Slurm array, or on a Ray cluster.", group=COMMON),
    ] = None
    shards: Annotated[
        int | None,
        Parameter(
            help="Workers on single models; more than there are models share each model's rows (default: one a model).",
            group=COMMON,
            validator=Number(gte=1),
        ),
    ] = None
    runner_options: Annotated[
        tuple[str, ...],
        Parameter(help="Of the runner, as name=value: partition=gpu timeout_min=600; workers=2 …", group=COMMON),
    ] = ()

    @property
    def asked(self) -> bool:
        """Whether work is to be handed to other processes."""
        return self.runner is not None or self.shards is not None or bool(self.runner_options)


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """Where CSV files of a run are copied to, beside the run folder that holds them."""

    output_csv: Annotated[Path | None, Parameter(help="Copy the run's effects.csv here.", group=COMMON)] = None
    distributions_csv: Annotated[
        Path | None, Parameter(help="Copy the run's distributions.csv here.", group=COMMON)
    ] = None


COPY_OPTIONS = CopyOptions()
OUTPUT_OPTIONS, CACHE_OPTIONS, RESULT_OPTIONS = OutputOptions(), CacheOptions(), ResultOptions()
MODEL_OPTIONS, COMPUTE_OPTIONS = ModelOptions(), ComputeOptions()
TRACK_OPTIONS, RUNNER_OPTIONS = TrackOptions(), RunnerOptions()
"""The groups with every field at its default: what a verb's signature names."""
