"""Finding scorers: every module of this folder that is not private is imported once and registers what it has."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.scorers._contract import LoadOptions, Scorer

_REGISTERED: dict[str, type[Scorer]] = {}
DEFAULT_OPTIONS = LoadOptions()


S = TypeVar("S", bound=Scorer)


def scorer(name: str, summary: str) -> Callable[[type[S]], type[S]]:
    """Register a class as the scorer ``name``; ``summary`` is its line in ``score --list``.

    A name that ends with a colon (``hub:``) is a family: what stands behind the colon goes to ``load`` as ``target``.
    """

    def register(cls: type[S]) -> type[S]:
        cls.name, cls.help = name, summary
        _REGISTERED[name] = cls
        return cls

    return register


def scorer_classes() -> dict[str, type[Scorer]]:
    """All scorer classes by name; nothing of theirs is loaded."""
    import emotion_circuits.scorers as package

    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_REGISTERED.items()))


def list_scorers() -> dict[str, str]:
    """Names that :func:`find_scorer` accepts, each with its line; families with the members known by name."""
    lines: dict[str, str] = {}
    for name, cls in scorer_classes().items():
        if name.endswith(":"):
            lines |= cls.members()
        else:
            lines[name] = cls.help
    return lines


def find_scorer(name: str, options: LoadOptions = DEFAULT_OPTIONS) -> Scorer:
    """The scorer of a name, loaded: ``lexicon``, ``embedded``, ``hub:go-emotions``, ``hub:OWNER/NAME``, ``hub:FOLDER``.

    Raises:
        UsageError: no such scorer. ModelError: it cannot be fetched or read; nothing else takes its place.
    """
    classes = scorer_classes()
    family, colon, target = name.partition(":")
    cls = classes.get(f"{family}{colon}" if colon else name)
    if cls is None:
        raise unknown_name("scorer", name, list(list_scorers()), "see `emotion-circuits score --list`")
    if colon and not target.strip():
        raise UsageError(f"scorer {name!r} names no model", f"write {name}OWNER/NAME or {name}FOLDER")
    return cls.load(target, options)
