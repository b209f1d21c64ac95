"""The manifest: what a study consists of and how it is cut, written once and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store import content_key, plain, read_json, slug, write_once

SCHEMA = 1
FILE, FOLDER = "manifest.json", "shards"


@dataclass(frozen=True)
class Work:
    """What has to be done, complete enough for another machine: a profile, models and how they are loaded.

    ``sources`` maps a model's name as the user gave it to what is loaded (a folder as an absolute path), ``versions``
    to what showed at planning which one it is. ``loading`` holds dtype, device, device_map, cache and offline; ``rows``
    the most rows of a batch; ``prompts`` the set that the study is about; ``folder`` the one in which relative paths
    of parameters mean something, where there are any.
    """

    profile: str
    title: str
    description: str
    experiments: tuple[tuple[str, Mapping[str, Any]], ...]
    sources: Mapping[str, str]
    loading: Mapping[str, Any]
    seed: int = 0
    rows: int | None = None
    pairs: Literal["all", "first"] = "all"
    prompts: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment on one model, or on an ordered pair; ``id`` depends on what is computed, not on where.

    See ``runners/inputs.py``: another text, file, weight or version of an experiment makes it another cell.
    """

    id: str
    experiment: str
    models: tuple[str, ...]

    @property
    def shown(self) -> str:
        return f"{self.experiment} on {' → '.join(self.models)}"


@dataclass(frozen=True, slots=True)
class Shard:
    """One model load (two for a pair) and the cells computed with it, in order.

    ``after``: shards that have to end first. Shards with the same cells are ``seats`` workers on the same work.
    """

    models: tuple[str, ...]
    cells: tuple[int, ...]
    after: tuple[int, ...] = ()
    seat: int = 0
    seats: int = 1


@dataclass(frozen=True)
class Manifest:
    """``folder`` is ``results/{profile}/shards/{key}``; ``cells[i]`` is what shards mean by the number i."""

    folder: Path
    work: Work
    cells: tuple[Cell, ...]
    shards: tuple[Shard, ...]

    @property
    def results(self) -> Path:
        """The folder of all results, wherever this machine has mounted it."""
        return self.folder.parents[2]

    @property
    def path(self) -> Path:
        return self.folder / FILE

    def cells_of(self, number: int) -> list[Cell]:
        """The cells of shard ``number``; raises :class:`UsageError` when there is no such shard."""
        if not 0 <= number < len(self.shards):
            raise UsageError(f"there is no shard {number}: {self.path} has {len(self.shards)}", "number them from 0")
        return [self.cells[c] for c in self.shards[number].cells]

    @cached_property
    def key(self) -> str:
        return self.folder.name

    @cached_property
    def drawing(self) -> frozenset[str]:
        """Names of the experiments that draw an untrained twin of their target."""
        from emotion_circuits.experiments._pair_runner import draws_twin

        return frozenset(name for name, params in self.work.experiments if draws_twin(name, params))

    def write(self) -> Manifest:
        """Write the manifest unless it is there already; raises :class:`StoreError` when another one is."""
        if not write_once(self.path, _text(self)) and self.path.read_text(encoding="utf-8") != _text(self):
            raise StoreError(
                f"{self.path} is not the manifest of this study (it was changed, or another version wrote it)",
                f"remove the folder {self.folder}; finished runs are kept",
            )
        return self


def manifest_folder(results: Path, work: Work, cells: tuple[Cell, ...], shards: tuple[Shard, ...]) -> Path:
    """Where a manifest belongs: its name depends on its content."""
    content = {"work": vars(work), "cells": [c.id for c in cells], "shards": [asdict(s) for s in shards]}
    return results / slug(work.profile) / FOLDER / content_key(content)


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file (or its folder); :class:`StoreError` when it is missing, broken or of another schema."""
    path = path / FILE if path.is_dir() else path
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise StoreError(
            f"{path} was written by another version of emotion-circuits",
            "use one version on all machines, or plan the study again",
        )
    try:
        work = Work(**{**content["work"], "experiments": tuple((n, p) for n, p in content["work"]["experiments"])})
        cells = tuple(Cell(i, e, tuple(m)) for i, e, m in content["cells"])
        shards = tuple(
            Shard(tuple(s["models"]), tuple(s["cells"]), tuple(s["after"]), s["seat"], s["seats"])
            for s in content["shards"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is not a manifest ({error})", "plan the study again") from error
    return Manifest(path.absolute().parent, work, cells, shards)


def _text(manifest: Manifest) -> str:
    content = {
        "schema": SCHEMA,
        "work": plain(vars(manifest.work)),
        "cells": [[c.id, c.experiment, c.models] for c in manifest.cells],
        "shards": [asdict(s) for s in manifest.shards],
    }
    return json.dumps(content, separators=(",", ":")) + "\n"
