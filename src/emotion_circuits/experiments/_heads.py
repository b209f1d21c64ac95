"""What every experiment on components shares: texts, endpoint, direction, saved parts and matched random sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import Context, ExperimentParams, Needed
from emotion_circuits.experiments._endpoint import EndpointTokens, endpoint_inputs
from emotion_circuits.experiments._fitted import fitted_emotions
from emotion_circuits.experiments._steering import SITE
from emotion_circuits.experiments.directions import Directions
from emotion_circuits.experiments.extract import EmotionNames, ReadPosition, StudySet, emotions_of, select_sets
from emotion_circuits.types import Observation, Positions, Prompt, Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emotion_circuits.circuits.components import Component, Grid, Head, Neuron
    from emotion_circuits.circuits.contributions import Reading
    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.circuits.pairs import Pair

    Set = tuple[Component, ...]

C = TypeVar("C", "Head", "Neuron")

Mode = Literal["resample", "mean", "zero"]
MODES: tuple[Mode, ...] = ("resample", "mean", "zero")
RANDOM_SETS = 100
FEWEST_PAIRS = 4
FEWEST_SETS = 19
"""Random sets below which a rank cannot reach p = .05."""
CONFIRMED_SHARE = 0.95
"""Share of the random sets that a confirmed set has to beat."""


class CircuitParams(ExperimentParams):
    """Parameters of every experiment on heads, neurons and circuits."""

    prompts: StudySet = Field("extended", description="Prompt set of matched scenarios (name or JSONL file).")
    emotions: EmotionNames = Field((), description="Only these emotions (default: all of the set).")
    limit: int = Field(32, ge=FEWEST_PAIRS, description="Pairs of texts per emotion, for choosing and for testing.")
    read_at: ReadPosition = Field("mean-content", description="Token position the emotion direction is read at.")
    layer: int | None = Field(None, description="Layer the direction is read at (default: the one chosen on dev).")
    resamples: int = Field(2000, ge=200, description="Bootstrap resamples of scenarios.")
    directions: Directions.Params = Field(default_factory=Directions.Params, description="Where directions come from.")


class AblationParams(CircuitParams):
    """Parameters of experiments that ablate in one way."""

    mode: Mode = Field("resample", description="What an ablated component carries: a twin's activation, a mean, zero.")


def required_directions(params: CircuitParams) -> Sequence[Needed]:
    """The ``directions`` run that has the direction at the wanted position."""
    wanted = params.directions
    return [Needed("directions", wanted.model_copy(update={
        "positions": tuple(dict.fromkeys((*wanted.positions, params.read_at))),
        "sites": tuple(dict.fromkeys((*wanted.sites, SITE))),
    }))]  # fmt: skip


def circuit_inputs(params: CircuitParams) -> Mapping[str, Any]:
    """Texts, lexicons and neutral pool: what the numbers depend on besides the parameters."""
    from emotion_circuits.experiments._captured import fingerprint_prompts

    return {
        **endpoint_inputs(expected_emotions(params)), "texts": fingerprint_prompts(chosen_texts(params)),
    }  # fmt: skip


def expected_emotions(params: CircuitParams) -> tuple[str, ...]:
    """The emotions that will be measured: those asked for, or all of the texts that will have a direction.

    Raises:
        UsageError: an emotion without a direction, or none with one.
    """
    have, known = emotions_of(chosen_texts(params)), fitted_emotions(params.directions)
    for emotion in params.emotions:
        if emotion not in known:
            raise unknown_name("emotion with a direction", emotion, list(known))
    if not (found := params.emotions or tuple(e for e in have if e in known)):
        raise UsageError(
            f"no emotion of {params.prompts} ({', '.join(have)}) has a direction: they are fitted on "
            f"{params.directions.prompts} ({', '.join(known)})",
            f"use one set for both: --prompts {params.directions.prompts}",
        )
    return found


def chosen_texts(params: CircuitParams) -> tuple[Prompt, ...]:
    """The texts of the wanted emotions and neutral."""
    return select_sets((params.prompts,), params.emotions)[params.prompts]


@dataclass(frozen=True)
class Subject:
    """One emotion: pairs to choose components on (fit and dev scenarios) and others to test them on."""

    emotion: str
    choosing: tuple[Pair, ...]
    testing: tuple[Pair, ...]
    metric: Endpoint
    reading: Reading


@dataclass(frozen=True)
class Bench:
    """The subjects of one run, resolved when they are asked for."""

    context: Context
    params: CircuitParams

    @cached_property
    def emotions(self) -> tuple[str, ...]:
        """Those asked for, or all of the set that have a direction."""
        return expected_emotions(self.params)

    @cached_property
    def tokens(self) -> EndpointTokens:
        return EndpointTokens(self.context.measure, self.emotions)

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(self._subject(e) for e in self.emotions)

    def _subject(self, emotion: str) -> Subject:
        choosing, testing = split_pairs(chosen_texts(self.params), emotion, self.params.limit)
        return Subject(emotion, choosing, testing, self.tokens.metric(emotion), self._reading(emotion))

    def _reading(self, emotion: str) -> Reading:
        from emotion_circuits.circuits.contributions import Reading
        from emotion_circuits.experiments.directions import load_directions

        run = self.context.runs["directions"]
        found = load_directions(run, SITE, self.params.read_at)
        rows = [r for r in run.read_summary()["results"] if r["emotion"] == emotion and r["site"] == SITE]
        own = [r for r in rows if r["position"] == self.params.read_at] or rows
        wanted = self.params.layer
        layer = int(own[0]["layer"]) if wanted is None else self.context.lm.layers([wanted])[0]
        return Reading(Site(SITE, layer), found.vectors["neutral"][emotion][found.row(layer)])

    @property
    def position(self) -> Positions:
        """Where the direction is read."""
        return Positions.parse(self.params.read_at)

    def saved(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        """Arrays that are computed once: what a killed run finished is not computed again."""
        import numpy as np

        parts = self.context.measure.run.parts
        if not parts.has(name):
            parts.write(name, {k: np.asarray(v) for k, v in compute().items()})
        return {k: np.array(v) for k, v in parts.arrays(name).items()}


def split_pairs(texts: Sequence[Prompt], emotion: str, limit: int) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """(pairs of fit and dev scenarios, pairs of test scenarios), at most ``limit`` each, evenly over the set.

    Raises:
        UsageError: too few of either; a set without a split has no test scenarios.
    """
    from emotion_circuits.circuits.pairs import twin_pairs

    pairs = twin_pairs(texts, emotion)
    halves = [p for p in pairs if p.clean.split != "test"], [p for p in pairs if p.clean.split == "test"]
    for half, name in zip(halves, ("fit and dev", "test"), strict=True):
        if len(half) < FEWEST_PAIRS:
            raise UsageError(
                f"{len(half)} texts of {emotion} have a neutral twin in the {name} scenarios, "
                f"{FEWEST_PAIRS} are needed",
                "write more scenarios, each with a neutral text too, or use a matched set with splits, such as "
                "--prompts extended",
            )
    return _evenly(halves[0], limit), _evenly(halves[1], limit)


def _evenly(pairs: Sequence[Pair], limit: int) -> tuple[Pair, ...]:
    n = min(limit, len(pairs))
    return tuple(pairs[i * len(pairs) // n] for i in range(n))


FEWER_SETS = (50, 19, 10, 3)
"""How many random sets are tried for where a small model does not have as many as were asked for."""


def matched_sets(components: Sequence[C], grid: Grid, count: int, seed: int) -> tuple[list[tuple[C, ...]], int]:
    """Random sets of equal size and layer distribution, and the layer slack that it took to find so many.

    A small model may not have ``count`` of them at any slack: then fewer, down to none.
    """
    from emotion_circuits.circuits.components import random_matched_sets

    for wanted in (count, *(n for n in FEWER_SETS if n < count)):
        for slack in range(grid.layers if wanted else 0):
            try:
                return random_matched_sets(components, grid, wanted, seed=seed, layer_slack=slack), slack
            except UsageError:
                continue
    return [], 0


def beats_random(beaten: int, sets: int) -> bool:
    """Whether a set that beats ``beaten`` of ``sets`` random ones is above chance; too few sets show nothing."""
    return sets >= FEWEST_SETS and beaten > CONFIRMED_SHARE * sets


def confirm(
    bench: Bench, subject: Subject, components: Sequence[C], name: str, mode: Mode, sets: int
) -> dict[str, Any]:
    """Ablate a chosen set and as many random matched ones on test scenarios, and rank it among them.

    ``change`` is ablated − clean of the endpoint in nats with its interval over scenarios; ``beaten`` counts the random
    sets that lower it less; ``p`` = (b + 1)/(m + 1). ``sets`` 0: no random sets are run. Fewer than 19 confirm nothing.
    """
    from emotion_circuits.circuits.ablation import ablate_sets
    from emotion_circuits.circuits.components import Grid
    from emotion_circuits.stats import bootstrap_interval, permutation_p

    lm, seed = bench.context.lm, bench.context.seed
    random: Sequence[Sequence[Any]]
    random, slack = matched_sets(components, Grid.of(lm), sets, seed)
    sets = len(random)
    every: list[Sequence[Any]] = [tuple(components), *random]

    def compute() -> Mapping[str, Any]:
        found = ablate_sets(lm, subject.testing, every, subject.metric, mode=mode)
        return {"clean": found.clean, "ablated": found.ablated}

    arrays = bench.saved(name, compute)
    changes = arrays["ablated"] - arrays["clean"]
    clusters = [p.cluster for p in subject.testing]
    own = bootstrap_interval(changes[0], clusters, resamples=bench.params.resamples, seed=seed)
    controls = changes[1:].mean(-1)
    beaten = int((changes[0].mean() < controls).sum())
    return {
        "emotion": subject.emotion, "mode": mode, "components": [str(c) for c in components],
        "change": float(own.estimate), "ci": [float(own.low), float(own.high)], "beaten": beaten, "sets": sets,
        "p": float(permutation_p(changes[0].mean(), controls, "less")) if sets else None, "layer_slack": slack,
        "random_mean": float(controls.mean()) if sets else None,
        "random": [float(c) for c in controls], "clean": float(arrays["clean"].mean()),
        "confirmed": bool(beats_random(beaten, sets) and own.high < 0),
        "scenarios": len(set(clusters)),
    }  # fmt: skip


def confirmation_sentence(row: Mapping[str, Any], noun: str) -> str:
    """The verdict in words."""
    if not row["sets"]:
        return (
            f"{row['emotion']}: ablating the {len(row['components'])} {noun} changes the endpoint by "
            f"{row['change']:+.3f} nats; NOT confirmed: this model has no random sets of equal size to compare with"
        )
    slack = f", from up to {row['layer_slack']} layers away" if row["layer_slack"] else ""
    verdict = "confirmed" if row["confirmed"] else "NOT confirmed"
    return (
        f"{row['emotion']}: {verdict}: ablating the {len(row['components'])} {noun} changes the endpoint on "
        f"{row['scenarios']} test scenarios by {row['change']:+.3f} [{row['ci'][0]:+.3f}, {row['ci'][1]:+.3f}] nats, "
        f"lower than {row['beaten']} of {row['sets']} random sets of equal size and layers{slack} "
        f"(mean {row['random_mean']:+.3f}, p {row['p']:.3g}, {row['mode']})"
    )


def confirmation_bars(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a bar figure: the chosen set with its interval, the mean of random sets with their central 95 %."""
    import numpy as np

    bars: list[dict[str, Any]] = []
    for r in rows:
        label = f"{r['emotion']}, {r['mode']}"
        bars.append({"label": label, "group": "chosen", "value": r["change"], "low": r["ci"][0], "high": r["ci"][1]})
        if not r["random"]:
            continue
        low, high = np.quantile(r["random"], [0.025, 0.975])
        bars.append({"label": label, "group": "random sets", "value": r["random_mean"], "low": float(low),
                     "high": float(high)})  # fmt: skip
    return bars


def observation(context: Context, experiment: str, emotion: str, arm: str, pair: Pair, value: float) -> Observation:
    """One endpoint of one text under one arm."""
    return Observation(
        experiment, context.lm.name, emotion, None, "last", None, arm, pair.clean.id, pair.cluster, pair.clean.split, 0,
        "endpoint", float(value),
    )  # fmt: skip
