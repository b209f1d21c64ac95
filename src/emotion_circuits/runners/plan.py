"""From a study to its manifest: which cells, and how they are cut into shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import PairExperiment
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.runners.inputs import cell_id, experiment_key, names_relative_files
from emotion_circuits.runners.manifest import Cell, Manifest, Shard, Work, manifest_folder


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
    """The manifest of a study; nothing is written and no model is loaded (the hub is asked for its models' commits).

    Every model is one shard with its experiments in order. ``shards`` beyond the number of models are further workers
    on the same models, in turn: they share the rows of each step. Ordered pairs of models are shards of their own,
    after both models' shards; an experiment on a pair is not divided.

    Args:
        shards: workers on single models (default: one a model). pairs: those that experiments on two models get
            (default: those of the profile). loading: dtype, device, device_map, cache, offline.

    Raises:
        UsageError: no model, a model named twice, fewer than one shard, or parameters that ask for something that there
            is not (a set, an emotion, a file).
    """
    if shards is not None and shards < 1:
        raise UsageError(f"{shards} shards do nothing", "use --shards with 1 or more")
    if not models or len(set(models)) != len(models):
        named = ", ".join(models) or "none"
        raise UsageError(f"a study needs models, each once, not {named}", "name them with --model")
    single = [n for n, _ in profile.experiments if not isinstance(find_experiment(n), PairExperiment)]
    paired = [n for n, _ in profile.experiments if n not in single]
    work = _work(profile, models, seed, rows, loading)
    cells: list[Cell] = []
    keys = {name: experiment_key(profile, name, seed, loading.get("dtype")) for name in (*single, *paired)}

    def add(names: Sequence[str], of: tuple[str, ...]) -> tuple[int, ...]:
        first = len(cells)
        cells.extend(Cell(cell_id(keys[name], of, work.versions), name, of) for name in names)
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


def _work(profile: Profile, models: Sequence[str], seed: int, rows: int | None, loading: Mapping[str, Any]) -> Work:
    from emotion_circuits.models.sources import version_of

    sources = {model: _source(model) for model in models}
    versions = {model: version_of(source, offline=bool(loading.get("offline"))) for model, source in sources.items()}
    cache = loading.get("cache")
    whole = {**loading, "cache": None if cache is None else str(Path(cache).expanduser().absolute())}
    relative = any(names_relative_files(profile, name) for name, _ in profile.experiments)
    return Work(
        profile.name, profile.title, profile.description, profile.experiments, sources, whole, seed, rows,
        profile.pairs, profile.prompts, versions, str(Path.cwd()) if relative else "",
    )  # fmt: skip


def _source(model: str) -> str:
    """What is loaded for a name: a folder or file by its whole path, as workers may be started elsewhere.

    A link to a folder is followed now: it may lead to another one when a worker starts.
    """
    from emotion_circuits.models.sources import path_of

    path = path_of(model)
    if path is None or not path.exists():
        return model
    return str(path.resolve() if path.is_dir() else path.absolute())
