"""Finding experiments: every module of this folder that is not private is imported once and registers itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from emotion_circuits.errors import unknown_name
from emotion_circuits.experiments._contract import Experiment

_REGISTERED: dict[str, Experiment] = {}


def experiment(name: str, summary: str) -> Callable[[type[Experiment]], type[Experiment]]:
    """Register a class as the experiment ``name``; ``summary`` is its line in ``run --list``."""

    def register(cls: type[Experiment]) -> type[Experiment]:
        cls.name, cls.help = name, summary
        _REGISTERED[name] = cls()
        return cls

    return register


def experiments() -> dict[str, Experiment]:
    """All experiments by name."""
    import emotion_circuits.experiments as package

    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_REGISTERED.items()))


def find_experiment(name: str) -> Experiment:
    """The experiment of a name; raises with the nearest names."""
    known = experiments()
    if name not in known:
        raise unknown_name("experiment", name, list(known), "see `emotion-circuits run --list`")
    return known[name]
