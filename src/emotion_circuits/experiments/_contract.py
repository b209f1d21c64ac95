"""What an experiment is: parameters, what it needs, what it runs, and how it reads the result.

An experiment is one file in this folder::

    @experiment("directions", "Fit emotion directions and test them on scenarios they never saw.")
    class Directions(Experiment):
        class Params(ExperimentParams): ...                 # declared once: options, TOML keys and schema come from it
        def requires(self, params): ...                     # other experiments whose results it reads
        def plan(self, lm, params): ...                     # what the shared runner captures, scores and generates
        def summarise(self, context, params): ...           # conditions to measure; tables, figures, sentences

Modules here import torch, numpy and pandas inside functions only: the command line reads their parameters for
``--help``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from emotion_circuits.types import Activations, Observation, Positions, Prompt, Section, SiteKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.experiments._measure import Measure
    from emotion_circuits.experiments._pair_runner import Identity
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run


class OfStudy:
    """Marks a parameter that names the labelled texts a study is about: its default is the profile's ``prompts``."""


class ExperimentParams(BaseModel):
    """Base of every experiment's parameters: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overrules: ClassVar[Mapping[tuple[str, Any], Sequence[str]]] = {}
    """(field, value) → fields: where that value is asked for, a profile with another one says nothing of these."""


@dataclass(frozen=True)
class CaptureStep:
    """Activations that the runner captures into the run folder, resumably; ``name`` is the file's."""

    name: str
    prompts: tuple[Prompt, ...]
    kinds: tuple[SiteKind, ...]
    positions: tuple[Positions, ...]
    layers: tuple[int, ...] | None = None


ONWARD = Positions("onward")


@dataclass(frozen=True)
class ScoreStep:
    """Rows whose next token is scored: every prompt under ``conditions`` conditions.

    They are edited at the positions ``at`` of ``layer`` (several layers: one in the middle), which decides how much the
    rows of a prompt share. ``behind``: tokens behind each prompt that are read too. ``rows``: a batch that never holds
    more. ``share``: of the model's blocks that a row runs through.
    """

    name: str
    prompts: tuple[Prompt, ...]
    conditions: int
    layer: int = 0
    at: Positions = ONWARD
    behind: int = 0
    rows: int | None = None
    share: float = 1.0


@dataclass(frozen=True)
class TextStep:
    """Texts that are written: ``samples`` of every prompt under ``conditions`` conditions.

    ``judged``: every text is read once more by the unsteered model (perplexity), and by the evaluators.
    """

    name: str
    prompts: tuple[Prompt, ...]
    conditions: int
    max_new_tokens: int
    samples: int = 1
    layer: int = 0
    at: Positions = ONWARD
    judged: bool = True


@dataclass(frozen=True)
class Needed:
    """Another experiment, with parameters, whose finished run this one reads."""

    experiment: str
    params: ExperimentParams


@dataclass(frozen=True)
class Context:
    """What ``summarise`` gets: the model, the finished runs it required (by experiment), and its own captures.

    ``measure`` writes texts and scores under conditions that the experiment makes from these.
    """

    lm: LM
    profile: str
    seed: int
    runs: Mapping[str, Run]
    captures: Mapping[str, Activations]
    measure: Measure


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    ``summary`` is JSON; ``verdicts`` are one line per answer; ``section`` is its part of a report; ``tensors`` are
    saved as ``{file}.safetensors`` by name, ``documents`` as ``{file}.json``, ``files`` as text under their own names.
    """

    summary: Mapping[str, Any]
    verdicts: Sequence[str] = ()
    section: Section | None = None
    observations: Iterable[Observation] = ()
    tensors: Mapping[str, Mapping[str, NDArray[np.generic]]] = field(default_factory=dict)
    documents: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Experiment:
    """Base class of experiments; see the module's docstring."""

    name: ClassVar[str]
    help: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when a change of code changes the numbers: it is part of every key, so that old runs are not reused."""
    Params: ClassVar[type[ExperimentParams]] = ExperimentParams

    def requires(self, params: Any) -> Sequence[Needed]:
        """Experiments that have to be finished first."""
        return ()

    def plan(self, lm: LM, params: Any) -> Sequence[CaptureStep]:
        """What the runner has to run on the model."""
        return ()

    def workload(self, lm: LM, params: Any) -> Sequence[ScoreStep | TextStep] | None:
        """What ``summarise`` runs on the model at most, for ``--dry-run``; None: what it runs is not counted.

        Some of it depends on what is found first (a length at which disturbances match may not exist).
        """
        return ()

    def inputs(self, params: Any) -> Mapping[str, Any]:
        """Anything besides the parameters that can change a number (contents of files that they name)."""
        return {}

    def summarise(self, context: Context, params: Any) -> Outcome:
        """Turn what was run into tables, figures and sentences."""
        raise NotImplementedError


class UncountedExperiment(Experiment):
    """Base of experiments that do not say how much they run on the model: ``--dry-run`` tells that it does not know."""

    def workload(self, lm: LM, params: Any) -> None:
        return None


Steered = Literal["target", "untrained"]
"""Models of a pair that can be steered: the target, and its twin with random weights."""


@dataclass(frozen=True)
class PairNeeded:
    """A run that an experiment on two models reads: of the source, the target, the target's untrained twin, or of the
    pair itself; ``name`` is its key in :class:`PairContext`."""

    name: str
    of: Literal["source", "target", "untrained", "pair"]
    experiment: str
    params: ExperimentParams
    last_of_its_model: bool = True


@dataclass(frozen=True)
class PairContext:
    """What an experiment on two models reads: who they are and the finished runs, by :class:`PairNeeded` name.

    No model is in memory; ``measure(of)`` loads the target or its untrained twin, for those that steer it, and forgets
    the other one.
    """

    source: Identity
    target: Identity
    profile: str
    seed: int
    runs: Mapping[str, Run]
    run: Run
    measure: Callable[[Steered], Measure]
    progress: Callable[[str, int], AbstractContextManager[Callable[[int, str], None]]]


class PairExperiment(Experiment):
    """Base class of experiments on an ordered pair of models (``--source``, ``--target``).

    ``distinct``: a model paired with itself is refused.
    """

    distinct: ClassVar[bool] = False

    def check(self, params: Any) -> None:
        """Refuse a request that cannot be answered, before any model is loaded."""

    def requires_of_pair(self, params: Any) -> Sequence[PairNeeded]:
        """Runs that have to be finished first."""
        return ()

    def workload_of_pair(self, target: Callable[[], LM], params: Any) -> Sequence[ScoreStep | TextStep] | None:
        """What ``summarise_pair`` runs on a model, as :meth:`workload`; most read captures and run nothing."""
        return ()

    def summarise_pair(self, context: PairContext, params: Any) -> Outcome:
        """Turn the finished runs into tables, figures and sentences."""
        raise NotImplementedError
