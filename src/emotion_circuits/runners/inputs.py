"""What a cell's answer depends on, told without loading a model: where any of it changes, so does the cell's id.

A run's own key says the same exactly (``experiments/_runner.py``), but only whoever has loaded the model knows it. What
is told here may change where the key does not (a model's files were copied, say): the cell is then looked at again,
and its run found finished.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from emotion_circuits.experiments._contract import Experiment, ExperimentParams, Needed, PairExperiment, PairNeeded
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.store import content_key, fingerprint_file


def cell_id(experiment: str, models: Sequence[str], versions: Mapping[str, str]) -> str:
    """The id of a cell from its experiment's :func:`experiment_key` and what its models are."""
    return content_key({"experiment": experiment, "models": models, "versions": [versions.get(m) for m in models]})


def experiment_key(profile: Profile, experiment: str, seed: int, dtype: str | None) -> str:
    """Twelve digits that change with anything but the model that can change a number of an experiment in this study.

    Its parameters, its version and those of the experiments that it builds on, the texts and files that they name, and
    the texts, lexicons and models that the package brings.

    Raises:
        UsageError, StoreError: the parameters ask for something that there is not (a set, an emotion, a file).
    """
    params = profile.params(experiment)
    chain = _built_on(experiment, params)
    return content_key({
        "profile": profile.name, "experiment": experiment, "params": params, "seed": seed, "dtype": dtype,
        "built_on": [[e.name, e.version, e.inputs(p)] for e, p in chain],
        "files": {text: fingerprint_file(path) for text, path in _files_named(chain)},
        "package": _package_data(),
    })  # fmt: skip


def names_relative_files(profile: Profile, experiment: str) -> bool:
    """Whether the parameters name a file by a path that means something in one folder only."""
    chain = _built_on(experiment, profile.params(experiment))
    return any(not path.is_absolute() for _, path in _files_named(chain))


def _built_on(experiment: str, params: ExperimentParams) -> list[tuple[Experiment, ExperimentParams]]:
    """The experiment and everything that it requires, with their parameters, each once."""
    found: dict[str, tuple[Experiment, ExperimentParams]] = {}

    def visit(name: str, params: ExperimentParams) -> None:
        key = content_key({"experiment": name, "params": params})
        if key in found:
            return
        one = find_experiment(name)
        found[key] = one, params
        needed: Sequence[Needed | PairNeeded] = (
            one.requires_of_pair(params) if isinstance(one, PairExperiment) else one.requires(params)
        )
        for other in needed:
            visit(other.experiment, other.params)

    visit(experiment, params)
    return list(found.values())


def _files_named(chain: Sequence[tuple[Experiment, ExperimentParams]]) -> Iterator[tuple[str, Path]]:
    """Every text of the parameters that is a file's path or the name of one of the user's prompt sets, with the path.

    Whatever the parameter is called: experiments of others name files too.
    """
    from emotion_circuits.prompts import list_sets
    from emotion_circuits.prompts.loading import BUILT_IN
    from emotion_circuits.prompts.user_data import user_sets_folder

    sets = set(list_sets())
    for text in dict.fromkeys(t for _, params in chain for t in _texts(params.model_dump(mode="json"))):
        if text in BUILT_IN:  # these names win over files
            continue
        if (path := _file(text)) is not None:
            yield text, path
        elif text in sets:
            yield text, (user_sets_folder() / f"{text}.jsonl").absolute()


def _file(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a sentence: too long for a name, or it begins with "~"
        return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)


@functools.cache
def _package_data() -> str:
    """What the package brings beside code: prompt sets, lexicons, the list of models."""
    folders = [files("emotion_circuits.prompts") / name for name in ("sets", "lexicons")]
    found = [f for folder in folders for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.is_file()]
    found.append(files("emotion_circuits.models") / "registry.toml")
    return content_key({"files": [[f.name, hashlib.sha256(f.read_bytes()).hexdigest()] for f in found]})
