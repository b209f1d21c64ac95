"""``--runner``, ``--shards``: a plan for several processes, shown or carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.cli._bench import loading_of
from emotion_circuits.cli._console import print_json, print_table, print_text, say, size_text
from emotion_circuits.cli._options import ComputeOptions, RunnerOptions
from emotion_circuits.errors import UsageError

if TYPE_CHECKING:
    from emotion_circuits.experiments import Profile, Study
    from emotion_circuits.runners import Manifest
    from emotion_circuits.store import Run

MANY = 40
"""Shards beyond which a table shows the first ones only."""


def plan(
    profile: Profile,
    models: Sequence[str],
    options: ComputeOptions,
    runner: RunnerOptions,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Manifest:
    """The manifest of a study with the options given; nothing is written, no model is loaded.

    Raises:
        UsageError: an option that the runner does not have, or ``--force``.
    """
    from emotion_circuits.runners import plan_study
    from emotion_circuits.runners.backend import backend

    backend(runner.runner or "local", runner.runner_options)
    if options.force:
        raise UsageError(
            "--force computes again in one process, and --runner shares work that several may have begun",
            "leave out --force and name another --results, or leave out --runner",
        )
    return plan_study(
        profile, models, Path(options.results), shards=runner.shards, seed=options.seed, rows=options.rows,
        pairs=pairs, loading=loading_of(options),
    )  # fmt: skip


def only(profile: Profile, experiment: str, params: Any) -> Profile:
    """A study of one experiment with these parameters, in the place of ``profile``."""
    import dataclasses

    return dataclasses.replace(profile, experiments=((experiment, params.model_dump(mode="json")),))


def carry_out(manifest: Manifest, options: ComputeOptions, runner: RunnerOptions) -> Study:
    """Run a manifest to its end, telling on stderr what its shards do."""
    from emotion_circuits.runners.backend import backend, run_manifest

    chosen = backend(runner.runner or "local", runner.runner_options)
    return run_manifest(manifest, chosen, lambda line: say(f"  {line}", quiet=options.quiet))


def carry_out_all(manifest: Manifest, options: ComputeOptions, runner: RunnerOptions) -> list[Run]:
    """The runs of a manifest, in its order; raises the first failure."""
    study = carry_out(manifest, options, runner)
    for failure in study.failures:
        raise failure.error
    return study.runs


def show(manifest: Manifest, *, as_json: bool) -> int:
    """Print the shards of a manifest, what each computes and which it waits for."""
    from emotion_circuits.runners.local import memory_of
    from emotion_circuits.runners.state import states

    status = {s.cell.id: s.status for s in states(manifest)}
    rows: list[Mapping[str, Any]] = [
        {
            "shard": number, "models": list(shard.models), "seat": shard.seat + 1, "seats": shard.seats,
            "after": list(shard.after), "memory_bytes": memory_of(manifest, number),
            "cells": [{"id": c.id, "experiment": c.experiment, "status": status[c.id]}
                      for c in manifest.cells_of(number)],
        }
        for number, shard in enumerate(manifest.shards)
    ]  # fmt: skip
    if as_json:
        print_json({"manifest": manifest.path, "shards": rows})
        return 0
    shown = [
        {
            "shard": r["shard"], "models": " → ".join(r["models"]), "worker": f"{r['seat']} of {r['seats']}",
            "experiments": ", ".join(c["experiment"] for c in r["cells"]), "after": ", ".join(map(str, r["after"])),
            "memory": "unknown" if r["memory_bytes"] is None else size_text(r["memory_bytes"]),
        }
        for r in rows[:MANY]
    ]  # fmt: skip
    headings = {k: k for k in ("shard", "models", "worker", "experiments", "after", "memory")}
    print_table(shown, headings, f"{_count(len(manifest.cells), 'cell')} in {_count(len(rows), 'shard')}")
    if len(rows) > MANY:
        print_text(f"… and {len(rows) - MANY} more: --json lists them")
    done = sum(s == "done" for s in status.values())
    print_text(f"done: {done} of {len(manifest.cells)} cells · would be written to {manifest.path}")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
