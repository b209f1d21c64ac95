"""From a study to its manifest: which cells, and how they are cut into shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import PairExperiment
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.runners.manifest import Cell, Manifest, Shard, Work, manifest_folder
from emotion_circuits.store import content_key


def plan_study(
    profile: Profile,
    models: Sequence[str],
    results: Path,
    *,
    shards: int | None = None,
    seed: int = 0,
    rows: int | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    loading: Mapping[str, Any],
) -> Manifest:
    """The manifest of a study; nothing is written and no model is loaded.

    Every model is one shard with its experiments in order. ``shards`` beyond the number of models are further workers
    on the same models, in turn: they share the rows of each step. Ordered pairs of models are shards of their own,
    after both models' shards; an experiment on a pair is not divided.

    Args:
        shards: workers on single models (default: one a model). pairs: those that experiments on two models get
            (default: those of the profile). loading: dtype, device, device_map, cache, offline.

    Raises:
        UsageError: no model, a model named twice, fewer than one shard.
    """
    if shards is not None and shards < 1:
        raise UsageError(f"{shards} shards do nothing", "use --shards with 1 or more")
    if not models or len(set(models)) != len(models):
        named = ", ".join(models) or "none"
        raise UsageError(f"a study needs models, each once, not {named}", "name them with --model")
    single = [n for n, _ in profile.experiments if not isinstance(find_experiment(n), PairExperiment)]
    paired = [n for n, _ in profile.experiments if n not in single]
    work = Work(
        profile.name, profile.title, profile.description, profile.experiments,
        {m: _absolute(m) for m in models}, dict(loading), seed, rows, profile.pairs,
        profile.prompts,
    )  # fmt: skip
    cells: list[Cell] = []
    keys = {name: _experiment_key(profile, name, work) for name in (*single, *paired)}

    def add(names: Sequence[str], of: tuple[str, ...]) -> tuple[int, ...]:
        first = len(cells)
        cells.extend(Cell(content_key({"experiment": keys[name], "models": of}), name, of) for name in names)
        return tuple(range(first, len(cells)))

    chains = {model: add(single, (model,)) for model in models}
    planned = _single_shards(chains, shards) if single else []
    seats: dict[str, list[int]] = {model: [] for model in models}
    for number, shard in enumerate(planned):
        seats[shard.models[0]].append(number)
    for pair in (profile.pairs_of(models) if pairs is None else pairs) if paired else ():
        after = tuple(sorted(n for model in pair for n in seats[model]))
        planned.append(Shard(pair, add(paired, pair), after))
    made = tuple(cells), tuple(planned)
    return Manifest(manifest_folder(Path(results).absolute(), work, *made), work, *made)


def _single_shards(chains: Mapping[str, tuple[int, ...]], wanted: int | None) -> list[Shard]:
    n = max(len(chains), wanted or 0)
    seats = [n // len(chains) + (k < n % len(chains)) for k in range(len(chains))]
    # First seats first: every model is begun before any of them gets help.
    return [
        Shard((model,), cells, (), seat, seats[k])
        for seat in range(max(seats))
        for k, (model, cells) in enumerate(chains.items())
        if seat < seats[k]
    ]


def _experiment_key(profile: Profile, experiment: str, work: Work) -> str:
    return content_key({
        "profile": profile.name, "experiment": experiment, "params": profile.params(experiment), "seed": work.seed,
        "dtype": work.loading.get("dtype"),
    })  # fmt: skip


def _absolute(model: str) -> str:
    """A folder or file as an absolute path: workers may be started elsewhere."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model
