"""From the common options to a place where experiments run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from emotion_circuits.cli import _console
from emotion_circuits.cli._options import ComputeOptions, ModelOptions

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.scorers import Scorer


def loader(options: ModelOptions) -> Callable[[str], LM]:
    """Loads a model by name with the options given, and shows its notices."""

    def load(source: str) -> LM:
        from emotion_circuits.models import load_lm

        lm = load_lm(source, **loading_of(options))
        for notice in lm.notices:
            _console.say(notice, quiet=options.quiet)
        return lm

    return load


def loading_of(options: ModelOptions) -> dict[str, Any]:
    """How a model is loaded, as keywords of ``load_lm``."""
    return {name: getattr(options, name) for name in ("dtype", "device", "device_map", "cache", "offline")}


def scorer_of(options: ModelOptions) -> Callable[[str], Scorer]:
    """Finds the evaluators of generated texts, each loaded once with the options given."""

    @functools.cache
    def found(name: str) -> Scorer:
        from emotion_circuits.scorers import LoadOptions, find_scorer

        return find_scorer(name, LoadOptions(device=options.device, cache=options.cache, offline=options.offline))

    return found


def progress_of(options: ComputeOptions) -> Callable[[str, int], AbstractContextManager[_console.Advance]]:
    """The progress display that experiments open."""

    def opened(description: str, total: int) -> AbstractContextManager[_console.Advance]:
        return _console.progress(description, total, quiet=options.quiet)

    return opened
