"""Finding trackers: every public module of this folder registers one; ``NAME`` or ``NAME:ADDRESS`` opens it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.tracking._contract import Tracker

Opener = Callable[[str, Path], Tracker]
"""Makes a tracker of an address (empty: the backend's default) and the results folder; reaches nothing yet."""

_REGISTERED: dict[str, Opener] = {}


def tracker(name: str) -> Callable[[Opener], Opener]:
    """Register a class or function as the tracker ``name``."""

    def register(opener: Opener) -> Opener:
        _REGISTERED[name] = opener
        return opener

    return register


def trackers() -> dict[str, Opener]:
    """All trackers by name."""
    import emotion_circuits.tracking as package

    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_REGISTERED.items()))


def open_tracker(target: str, results: Path) -> Tracker:
    """The tracker of ``mlflow``, ``mlflow:URI``, ``wandb`` or ``wandb:PROJECT``; nothing is reached yet.

    Raises:
        UsageError: unknown name, an address the backend cannot use, or its package is not installed.
    """
    name, _, address = target.partition(":")
    known = trackers()
    if name not in known:
        raise unknown_name("tracker", name, list(known))
    return known[name](address, results.expanduser().resolve())


def missing_extra(extra: str) -> UsageError:
    """The error for a backend whose package is not installed."""
    return UsageError(f"tracking with {extra} needs a package that is not installed", f"pip install -e '.[{extra}]'")
