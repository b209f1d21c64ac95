"""``directions``: where is each emotion, and does its direction hold on scenarios it never saw?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._captured import fingerprint_prompts
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    ExperimentParams,
    Needed,
    Outcome,
)
from emotion_circuits.experiments._enough import Chosen, require_enough, require_intervals
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.extract import (
    EmotionNames,
    Extract,
    PositionNames,
    SetNames,
    SiteKinds,
    StudySet,
    emotions_of,
    one_vector_a_text,
    select_sets,
)
from emotion_circuits.prompts.copies import folded, held_in_fit_or_dev, require_disjoint
from emotion_circuits.prompts.matching import AT
from emotion_circuits.types import BASELINE_ARM, INDEXED_KINDS, NEUTRAL, Observation, Positions, Prompt, SiteKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.models.lm import LM
    from emotion_circuits.representations import DirectionSet, Evidence, Labelled
    from emotion_circuits.stats.interval import Interval
    from emotion_circuits.store import Run

ALPHA = 0.05


def _residual_wide(sites: tuple[SiteKind, ...]) -> tuple[SiteKind, ...]:
    for kind in sites:
        if kind in INDEXED_KINDS:
            raise UsageError(
                f"directions are vectors of the residual stream, and site {kind!r} is not one",
                "use resid_pre, resid_mid, resid_post, attn_out or mlp_out",
            )
    return sites


@experiment("directions", "Fit emotion directions and test them on scenarios they never saw.")
class Directions(Experiment):
    """Fit on ``fit`` scenarios, choose a layer on ``dev``, report on ``test``; see ``representations.evidence``."""

    version = 2

    class Params(ExperimentParams):
        """Parameters of ``directions``."""

        prompts: StudySet = Field(
            "baseline", description="Prompt set (name or JSONL file) the directions are fitted on."
        )
        emotions: EmotionNames = Field((), description="Only these emotions (default: all of the set).")
        scenarios: int | None = Field(None, ge=10, description="Only the first N scenarios of every set.")
        sites: Annotated[SiteKinds, AfterValidator(_residual_wide)] = Field(
            ("resid_post",), description="Site kinds: resid_post, resid_pre, mlp_out, …"
        )
        positions: Annotated[PositionNames, AfterValidator(one_vector_a_text)] = Field(
            ("mean-content",), description="Positions; the first one carries the verdict (mean-content by default)."
        )
        layers: tuple[int, ...] = Field((), description="Layers to look at (default: all).")
        compare: SetNames = Field(
            (), description="Other sets on which the same directions are tested (implicit, replication, …)."
        )
        beside: SetNames = Field(
            (), description="Other sets on which directions are fitted anew, to be shown side by side."
        )
        components: int = Field(0, ge=0, description="Also report with N principal components of neutral text removed.")
        permutations: int = Field(999, ge=99, description="Permutations of labels, and random directions.")
        resamples: int = Field(2000, ge=200, description="Bootstrap resamples of scenarios.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return [Needed("extract", Extract.Params(
            sets=_sets(params), emotions=_emotions(params), scenarios=params.scenarios, sites=params.sites,
            positions=params.positions, layers=params.layers,
        ))]  # fmt: skip

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        """Nothing of its own; refuses sets that are too small before anything is captured."""
        sets = select_sets(_sets(params), _emotions(params), params.scenarios)
        reads_words = any(Positions.parse(p).kind == "emotion-word" for p in params.positions)
        for name in (params.prompts, *params.beside):
            require_disjoint(name, sets[name])
            for at_words in (False, True) if reads_words else (False,):
                chosen = Chosen(name, params.emotions, params.scenarios, at_words)
                texts = chosen.texts(sets[name])
                require_enough(chosen, texts)
                if name == params.prompts:
                    require_intervals(chosen, texts)
        return ()

    def inputs(self, params: Params) -> Mapping[str, Any]:
        """Which texts each set holds: the capture of them all does not say."""
        sets = select_sets(_sets(params), _emotions(params), params.scenarios)
        return {"sets": {name: fingerprint_prompts(texts) for name, texts in sets.items()}}

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.experiments._curves import FILE, layer_curves
        from emotion_circuits.experiments._direction_report import direction_section, verdict_lines

        cells = [
            _Cell(context, params, kind, Positions.parse(position))
            for kind in params.sites
            for position in params.positions
        ]
        first = cells[0].results
        results = [*first, *(row for cell in cells[1:] for row in cell.results)]
        section = direction_section(cells[0], results, params)
        return Outcome(
            summary={
                "results": results,
                "paired": cells[0].paired,
                "layers": context.lm.n_layers,
                "layer_numbers": list(cells[0].data.layers),
            },
            verdicts=verdict_lines(first, context.lm.n_layers, cells[0].paired),
            section=section,
            observations=(o for cell in cells for o in cell.observations(context)),
            tensors={"directions": {k: v for cell in cells for k, v in cell.tensors().items()}},
            documents={FILE: layer_curves(cells)},
        )


class _Cell:
    """Everything about one site kind at one position: data, directions, evidence for every emotion."""

    def __init__(self, context: Context, params: Directions.Params, kind: SiteKind, position: Positions) -> None:
        from emotion_circuits.experiments._fitted import captured
        from emotion_circuits.representations import extract_directions, gather_evidence

        self.kind, self.position, self.params = kind, position, params
        self.seed, self.depth = context.seed, context.lm.n_layers
        self._all = captured(context.runs["extract"], kind, position)
        self.data = self._of_set(params.prompts)
        self.emotions = params.emotions or self.data.emotions
        self.directions = extract_directions(self.data.split("fit"), self.emotions)
        self.evidence: dict[str, Evidence] = {
            e: gather_evidence(
                self.directions, self.data, e, self.depth, permutations=params.permutations,
                resamples=params.resamples, seed=self.seed,
            )
            for e in self.emotions
        }  # fmt: skip

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """One row per emotion: the numbers of the run's ``summary.json``."""
        return [self._result(e) for e in self.emotions]

    def _result(self, emotion: str) -> dict[str, Any]:
        ev = self.evidence[emotion]
        neutral, own = ev.against_neutral.interval, ev.own_vs_rest
        return {
            "emotion": emotion,
            "site": self.kind,
            "position": str(self.position),
            "layer": ev.layer,
            "auroc_test": _at(neutral.estimate, ev.row),
            "ci": [_at(neutral.low, ev.row), _at(neutral.high, ev.row)],
            "own_vs_rest": None if own is None else _at(own.interval.estimate, ev.row),
            "own_vs_rest_ci": None if own is None else [_at(own.interval.low, ev.row), _at(own.interval.high, ev.row)],
            "p_layer": ev.p_layer,
            "p_max_layer": ev.p_max_layer,
            "p_shuffled": ev.p_shuffled,
            "p_random": ev.p_random,
            "auroc_dev": _at(ev.dev_auroc, ev.row),
            "auroc_first_layer": _at(neutral.estimate, 0),
            "shuffled_q95": ev.shuffled_high,
            "random_q95": ev.random_high,
            "n_test": ev.n_test,
            "established": established(ev),
            "strata": self._strata(emotion),
            "compare": {name: self._elsewhere(emotion, name) for name in self.params.compare},
            "beside": {name: self._refitted(emotion, name) for name in self.params.beside},
            "without_neutral_components": self._projected(emotion) if self.params.components else None,
        }

    def _elsewhere(self, emotion: str, name: str) -> dict[str, Any] | None:
        """The same direction and layer on another set's texts of which neither scenario nor copy fitted or chose."""
        import numpy as np

        other = self._of_set(name)
        used = self.data.scenarios[self.data.splits != "test"]
        held = held_in_fit_or_dev(self._texts[self.params.prompts])
        copies = {p.id for p in self._texts[name] if folded(p.text) in held}
        seen = np.array([any(part in copies for part in i.split(AT)) for i in other.ids], dtype=bool)
        unseen = other.select(~np.isin(other.scenarios, used) & ~seen)
        return self._tested(emotion, unseen)

    def _tested(self, emotion: str, data: Labelled) -> dict[str, Any] | None:
        row = _auroc_row(self.directions, data, emotion, self.evidence[emotion].row, self.params.resamples, self.seed)
        first = _auroc_row(self.directions, data, emotion, 0, self.params.resamples, self.seed)
        return None if row is None or first is None else {**row, "auroc_first_layer": first["auroc"]}

    def _strata(self, emotion: str) -> dict[str, Any]:
        """Test texts with and without emotion words, each against neutral, where the set has both kinds."""
        test = self.data.split("test")
        kinds = ("explicit", "implicit")
        if not all((test.strata[test.of(emotion)] == kind).any() for kind in kinds):
            return {}
        return {k: self._tested(emotion, test.select((test.labels == NEUTRAL) | (test.strata == k))) for k in kinds}

    def _refitted(self, emotion: str, name: str) -> dict[str, Any] | None:
        """Directions, layer and test anew on another set."""
        from emotion_circuits.representations import extract_directions
        from emotion_circuits.representations.evidence import choose_layer

        data = self._of_set(name)
        if emotion not in data.emotions:
            return None
        shared = tuple(e for e in self.emotions if e in data.emotions)
        directions = extract_directions(data.split("fit"), shared)
        layer, _ = choose_layer(directions, data.split("dev"), emotion, self.depth)
        row = _auroc_row(
            directions, data.split("test"), emotion, directions.row(layer), self.params.resamples, self.seed
        )
        return None if row is None else {"layer": layer, **row}

    def _projected(self, emotion: str) -> dict[str, Any] | None:
        from emotion_circuits.representations import extract_directions

        directions = extract_directions(self.data.split("fit"), self.emotions, components=self.params.components)
        row = _auroc_row(directions, self.data.split("test"), emotion, self.evidence[emotion].row,
                         self.params.resamples, self.seed)  # fmt: skip
        return None if row is None else {"components": self.params.components, **row}

    @cached_property
    def _texts(self) -> dict[str, tuple[Prompt, ...]]:
        return select_sets(_sets(self.params), _emotions(self.params), self.params.scenarios)

    @cached_property
    def stability(self) -> dict[str, Interval]:
        """Split-half cosine of every emotion's direction, by layer."""
        from emotion_circuits.representations import direction_stability

        return direction_stability(self.data.split("fit"), self.emotions, seed=self.seed)

    @property
    def paired(self) -> bool:
        """Whether a scenario is written under two labels at least."""
        from emotion_circuits.prompts.statistics import is_paired

        return is_paired(self._texts[self.params.prompts])

    def _of_set(self, name: str) -> Labelled:
        """The captured texts that belong to a prompt set (twins read at an emotion's words go with their text)."""
        from emotion_circuits.experiments._fitted import only

        return only(self._all, self._texts[name])

    def observations(self, context: Context) -> Iterator[Observation]:
        """Projections of the test texts at every layer: arm ``emotion`` against ``baseline`` (neutral).

        The unit is one standard deviation of the neutral fit texts, zero is their mean: no test text sets the scale.
        """
        import numpy as np

        scorer = "projection" if self.kind == "resid_post" else f"projection:{self.kind}"
        fit, test = self.data.split("fit"), self.data.split("test")
        for emotion in self.emotions:
            neutral = self.directions.scores(fit.x[fit.neutral_for(emotion)], "neutral", emotion)
            used = test.of(emotion) | test.neutral_for(emotion)
            scores = self.directions.scores(test.x[used], "neutral", emotion)
            down = ~test.of(emotion)[used]
            spread = np.maximum(neutral.std(axis=1, ddof=1, keepdims=True), 1e-12)
            units = (scores - neutral.mean(axis=1, keepdims=True)) / spread
            samples: Counter[tuple[str, bool]] = Counter()
            for column, scenario in enumerate(test.scenarios[used]):
                sample = samples[str(scenario), bool(down[column])]
                samples[str(scenario), bool(down[column])] += 1
                for row, layer in enumerate(test.layers):
                    yield Observation(
                        experiment="directions", model=context.lm.name, emotion=emotion, layer=layer,
                        position=str(self.position), strength=None, arm=BASELINE_ARM if down[column] else "emotion",
                        unit=str(scenario), cluster=str(scenario), split="test", sample=sample, scorer=scorer,
                        value=float(units[row, column]),
                    )  # fmt: skip

    def tensors(self) -> Mapping[str, NDArray[np.float64]]:
        """``{site}/{position}/{method}/{emotion}`` [layer, d], and what is needed to score with them."""
        prefix = f"{self.kind}/{self.position}"
        out = {f"{prefix}/{m}/{e}": v for m, by in self.directions.vectors.items() for e, v in by.items()}
        return out | {
            f"{prefix}/neutral_mean": self.directions.neutral_mean,
            f"{prefix}/neutral_sd": self.directions.neutral_sd,
            f"{prefix}/residual_norm": self.directions.residual_norm,
        }


def established(evidence: Evidence) -> bool:
    """Whether question 1 is answered for an emotion: both intervals above .5 and both p ≤ .05 at the chosen layer."""
    row, own = evidence.row, evidence.own_vs_rest
    intervals = [evidence.against_neutral.interval, *([own.interval] if own else [])]
    above = all(float(i.low[row]) > 0.5 for i in intervals)
    return above and evidence.p_layer <= ALPHA and evidence.p_shuffled <= ALPHA


def _sets(params: Directions.Params) -> tuple[str, ...]:
    return tuple(dict.fromkeys((params.prompts, *params.compare, *params.beside)))


def _emotions(params: Directions.Params) -> tuple[str, ...]:
    """The emotions asked for, else those of the main set: texts of others would be captured for nothing."""
    if params.emotions:
        return params.emotions
    return emotions_of(select_sets((params.prompts,), (), params.scenarios)[params.prompts])


def load_directions(run: Run, kind: SiteKind, position: str) -> DirectionSet:
    """The directions that a finished ``directions`` run saved for one site kind and position."""
    import numpy as np

    from emotion_circuits.experiments._fitted import neutral_fit_texts
    from emotion_circuits.representations.directions import METHODS, DirectionSet
    from emotion_circuits.store import open_tensors

    arrays = open_tensors(run.path("directions.safetensors"))
    prefix = f"{kind}/{position}"
    if f"{prefix}/neutral_sd" not in arrays:
        have = sorted({"@".join(k.split("/")[:2]) for k in arrays})
        raise UsageError(f"run {run.key} has no directions for {kind}@{position}; it has {', '.join(have)}")
    summary = run.read_summary()
    emotions = tuple(dict.fromkeys(r["emotion"] for r in summary["results"]))
    mean, sd, norm = (np.array(arrays[f"{prefix}/{n}"]) for n in ("neutral_mean", "neutral_sd", "residual_norm"))
    vectors = {m: {e: np.array(arrays[f"{prefix}/{m}/{e}"]) for e in emotions} for m in METHODS}
    neutral = cache(partial(neutral_fit_texts, run, kind, position))
    return DirectionSet(emotions, tuple(summary["layer_numbers"]), vectors, mean, sd, norm, neutral=neutral)


def _auroc_row(
    directions: DirectionSet, data: Labelled, emotion: str, row: int, resamples: int, seed: int
) -> dict[str, Any] | None:
    """AUROC against neutral and own-vs-rest at one layer on ``data``; None where the set lacks the texts."""
    from emotion_circuits.representations.evidence import layer_auroc

    return layer_auroc(directions, data, emotion, row, resamples=resamples, seed=seed)


def _at(values: Any, row: int) -> float:
    return float(values[row])
