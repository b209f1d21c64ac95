"""Study profiles: TOML files that say which models, which experiments, with which parameters.

``[[experiment]]`` tables are run in order; their keys are the experiment's parameters. A profile is a file of the
package (``quickstart``), a path, or the name of a prompt set (then its directions are studied with default parameters,
and whatever else is run in it reads that set too).
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from pydantic import ValidationError

from emotion_circuits.errors import EmotionCircuitsError, UsageError, unknown_name
from emotion_circuits.experiments._contract import ExperimentParams, OfStudy, PairExperiment
from emotion_circuits.experiments._registry import find_experiment

Pairs = Literal["all", "first"]
_KEYS = {"title", "description", "models", "pairs", "prompts", "experiment"}


@dataclass(frozen=True)
class Profile:
    """A study: ``experiments`` are (name, parameters as written) in order.

    ``pairs``: experiments on two models get every ordered pair of models (``all``), or only those of the ``first``
    model with each other one, both ways. ``prompts``: the set that every experiment reads its emotions from, whether
    the study has that experiment or not, unless its table says otherwise (empty: the default of each experiment).
    """

    name: str
    title: str
    description: str
    models: tuple[str, ...]
    experiments: tuple[tuple[str, Mapping[str, Any]], ...]
    pairs: Pairs = "all"
    prompts: str = ""

    def pairs_of(self, models: Sequence[str]) -> list[tuple[str, str]]:
        """The ordered pairs of ``models`` that the study compares."""
        found = itertools.permutations(models, 2)
        return [(a, b) for a, b in found if self.pairs == "all" or models[0] in (a, b)]

    def params(self, experiment: str, overrides: Mapping[str, Any] | None = None) -> ExperimentParams:
        """Parameters of an experiment in this study: the study's prompt set, its own table, then ``overrides``.

        A field that is named like another experiment of the study takes that one's parameters, unless the table says
        otherwise (so that ``sweep`` steers with the study's directions).
        """
        model, asked = find_experiment(experiment).Params, overrides or {}
        values = _merged(_left(model, self._written(experiment), asked), asked)
        where = f"profile {self.name!r}, experiment {experiment!r}"
        return _validated(model, values, where)

    def refusal(self, experiment: str) -> UsageError | None:
        """Why this study cannot have an experiment as it stands, told without loading a model; None where it can."""
        found = find_experiment(experiment)
        try:
            params = self.params(experiment)
            if isinstance(found, PairExperiment):
                found.check(params)
            found.inputs(params)
        except UsageError as error:
            return error
        return None

    def _written(self, experiment: str) -> dict[str, Any]:
        """The parameters of an experiment as the study has them, those of experiments that it builds on inside."""
        model = find_experiment(experiment).Params
        own = next((p for name, p in self.experiments if name == experiment), {})
        written: dict[str, Any] = {**self._about(model), **own}
        for name, field in model.model_fields.items():
            # A field of that name may be something else: `directions` has a list of sets to `compare`.
            nested = _is_params(field.annotation)
            if nested and isinstance(written.get(name), Mapping):
                written[name] = {**self._about(find_experiment(name).Params), **written[name]}
            elif nested and name not in written and (inner := self._written(name)):
                written[name] = inner
        return written

    def _about(self, model: type[ExperimentParams]) -> dict[str, Any]:
        """The study's prompt set as a value of every parameter that says what a study is about."""
        marked = [
            (name, field) for name, field in model.model_fields.items()
            if self.prompts and any(isinstance(mark, OfStudy) for mark in field.metadata)
        ]  # fmt: skip
        return {name: self.prompts if field.annotation is str else (self.prompts,) for name, field in marked}


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the package."""
    folder = files("emotion_circuits") / "studies"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_profile(name_or_path: str) -> Profile:
    """A profile by name, by path, or made from a prompt set's name; raises when it is none of these, or malformed."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".toml":
        if not path.is_file():
            raise UsageError(f"there is no profile file {path}", f"built-in profiles: {', '.join(list_profiles())}")
        return _parse(path.stem, _read(path), str(path))
    if name_or_path in list_profiles():
        resource = files("emotion_circuits") / "studies" / f"{name_or_path}.toml"
        return _parse(name_or_path, resource.read_text(encoding="utf-8"), f"{name_or_path}.toml")
    return _of_prompt_set(name_or_path)


def _of_prompt_set(name: str) -> Profile:
    from emotion_circuits.prompts import list_sets

    path = Path(name).expanduser()
    if name not in list_sets() and not path.is_file():
        raise unknown_name("profile", name, list(dict.fromkeys((*list_profiles(), *list_sets()))))
    title = path.stem if path.is_file() else name
    return Profile(title, title, f"Directions of the prompt set {title}.", (), (("directions", {}),), prompts=name)


def _parse(name: str, text: str, shown: str) -> Profile:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{shown} is not valid TOML: {error}", "correct the line that it names") from error
    for key in data:
        if key not in _KEYS:
            raise unknown_name(f"key in {shown}", key, sorted(_KEYS))
    for key in ("title", "description", "prompts"):
        if not isinstance(data.get(key, ""), str):
            raise UsageError(f"{shown}: {key} must be a text, not {data[key]!r}", f'write {key} = "…"')
    models = data.get("models", [])
    if not isinstance(models, list) or not all(isinstance(m, str) and m for m in models):
        raise UsageError(f"{shown}: models must be a list of texts, not {models!r}", 'write models = ["smollm2-135m"]')
    pairs = data.get("pairs", "all")
    if pairs not in get_args(Pairs):
        raise UsageError(f"{shown}: pairs must be all or first, not {pairs!r}", 'write pairs = "first"')
    experiments = _experiments(data.get("experiment", []), shown)
    title, description, prompts = data.get("title", name), data.get("description", ""), data.get("prompts", "")
    return Profile(name, title, description, tuple(models), experiments, pairs, prompts)


def _experiments(tables: object, shown: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """The ``[[experiment]]`` tables as (name, parameters), all of them checked."""
    if not isinstance(tables, list) or not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in tables):
        raise UsageError(f"{shown}: every [[experiment]] table needs a name", 'write name = "directions"')
    if not tables:
        raise UsageError(f"{shown} has no experiment", 'add a table [[experiment]] with name = "directions"')
    experiments = {}
    for table in tables:
        name, params = table["name"], {k: v for k, v in table.items() if k != "name"}
        if name in experiments:
            raise UsageError(f"{shown} has the experiment {name!r} twice", "write a profile for each of them")
        try:
            _validated(find_experiment(name).Params, params, f"{shown}, experiment {name!r}")
        except EmotionCircuitsError as error:
            where = "" if shown in error.what else f"{shown}: "
            raise UsageError(f"{where}{error.what}", error.fix) from error
        experiments[name] = params
    return tuple(experiments.items())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the profile file {path}: {error}", "give a UTF-8 text file") from error


def _left(model: type[ExperimentParams], written: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a profile says, less what the values that are asked for bring with them; in nested parameters too."""
    gone = {
        name
        for (field, value), names in model.overrules.items()
        if asked.get(field) == value != written.get(field, model.model_fields[field].default)
        for name in names
    }
    left = {name: value for name, value in written.items() if name not in gone}
    for name, field in model.model_fields.items():
        below, above = left.get(name), asked.get(name)
        if _is_params(field.annotation) and isinstance(below, Mapping) and isinstance(above, Mapping):
            left[name] = _left(field.annotation, below, above)
    return left


def _is_params(annotation: Any) -> TypeGuard[type[ExperimentParams]]:
    return isinstance(annotation, type) and issubclass(annotation, ExperimentParams)


def _merged(written: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``overrides`` on top of ``written``, field by field in nested parameters too."""
    merged = dict(written)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _validated(model: type[ExperimentParams], values: Mapping[str, Any], where: str) -> ExperimentParams:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(model.model_fields)
        raise UsageError(f"{where}: {key}: {first['msg']}", f"known parameters: {known}") from error
