"""How the figures of a report came about: a paragraph for each kind of experiment that is part of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from emotion_circuits.experiments.shared_texts import position_of

if TYPE_CHECKING:
    from emotion_circuits.store import Run

UNPAIRED_TEXTS = (
    "Texts are not matched: no scenario is written under two labels. Splits fit, dev and test are disjoint by scenario "
    "(by text where there is none); layers are chosen on dev (the middle of the plateau within one standard error of "
    "the best, never the last two) and every figure is measured on test."
)
UNPAIRED_MEANS = (
    "A direction is mean(emotion) − mean(neutral); own-vs-rest compares with the other emotions' texts. Scores weigh "
    "each dimension by its variance on neutral fit texts."
)
UNPAIRED_TESTS = (
    "Intervals are 95 % cluster bootstraps over scenarios, or over texts where there are none (DeLong's for thousands "
    "of single texts). Permutation p values are (b + 1) / (m + 1); labels are permuted over unmatched texts, the same "
    "way for all layers (max-T), so a difference in topic or length between the labels would count as emotion."
)

PAIRED = (
    "Texts are matched minimal pairs: one scenario written once per emotion and once neutrally. Splits fit, dev and "
    "test are disjoint by scenario; layers are chosen on dev (the middle of the plateau within one standard error of "
    "the best, never the last two) and every figure is measured on test.",
    "Residual streams are read from the unmodified Hugging Face model at the output of each block (never after the "
    "final norm). A prefix token stands before every text and takes the attention sink; it is left out of every mean.",
    "A direction is mean(emotion) − mean(neutral); own-vs-rest uses means centred over the emotions within scenarios. "
    "Scores weigh each dimension by its variance on neutral fit texts.",
    "Intervals are 95 % BCa cluster bootstraps over scenarios (DeLong's for thousands of single texts). Permutation p "
    "values are (b + 1) / (m + 1), with one permutation of labels within scenarios shared by all layers (max-T).",
)

UNITS = {
    "fraction": "a fraction of the mean residual norm at the positions that are steered",
    "raw": "a multiple of the mean-difference vector itself",
    "sd": "a number of standard deviations of neutral text along the vector",
}
"""What strength 1 is, by the unit that a run recorded."""

STEERING = (
    "Steering adds a vector at the output of one block, at every step from the prompt's last token on unless a run was "
    "given other positions."
)
ENDPOINT = (
    "The endpoint is the log-sum-exp of the next-token logits of the emotion's words minus that of as many neutral "
    "words matched in frequency (the run's emotion-tokens.json lists them)."
)
RANDOM = (
    "Random vectors are isotropic, matched to the covariance of neutral activations, or refitted on shuffled labels; p "
    "is the rank (b + 1) / (m + 1) of the vector's mean odd effect among them, at the same length and, for each "
    "family, at the length that gives the same KL divergence on dev prompts."
)
RANDOM_TEXTS = (
    "Controls write texts under random vectors of each family, all of the emotion vector's length; an interval of the "
    "difference between its texts and theirs is over prompts and vectors where there are five of each, else over "
    "prompts."
)
WRITTEN = (
    "Written texts are judged without their prompts: by a classifier on a sentence encoder, by words of the emotion's "
    "lexicon, and for damage by perplexity, repetition, variety and empty texts, all together."
)
MAPS = (
    "Maps between two models are fitted on paired activations of neutral text only, in standardised coordinates. The "
    "source is reduced to the principal components that cross-validation keeps, and the ridge penalty is chosen by "
    "cross-validation; all words of one text stay in one fold."
)
TRANSFER = (
    "Transfer is the mean own-vs-rest AUROC of the source's mapped directions on the target's test texts. Its floors "
    "are the same transfer where nothing learnt can be shared: through maps of shuffled pairs, into an untrained "
    "target, into the target's and from the source's embedding layer. τ is (transfer − highest floor) / (native − "
    "highest floor), native being a probe of the target's own; its interval refits everything in every resample.",
    "Transfer is held against relabelled emotions, refitted maps of shuffled pairs and random directions with the "
    "source's covariance; the largest p counts. A direction is identified where the share of its energy in the "
    "components that the map reads is at least .15 above a random direction's; otherwise nothing can be said.",
)
MAPPED = (
    "A mapped vector steers at the length at which the target's own vector works best on dev prompts. It has to beat, "
    "at that length, the same vector through maps of shuffled pairs, random vectors with the target's covariance, and "
    "the whole chain in an untrained twin."
)
SUBSPACES = (
    "Emotion subspaces are spanned by the leading differences of texts from the others of their scenario, and their "
    "overlaps stand beside those of relabelled texts, of shuffled maps or of random subspaces."
)
ABLATION = (
    "A component is ablated by giving it its activation in the neutral twin (resample), its mean activation, or zero; "
    "the change is that of the endpoint. What a screen proposes is chosen on fit and dev scenarios and confirmed as a "
    "set on test scenarios, against random sets of equal size in the same layers."
)
ATTRIBUTION = (
    "Attribution patching estimates from gradients what an ablation would change; of every emotion it is told how well "
    "that agrees with exact ablations, and whether it may be used."
)
CIRCUIT = (
    "A circuit is the set of the strongest nodes, heads and MLPs; all others carry their activations in the neutral "
    "twin. Faithfulness is the share of the endpoint that is left on test scenarios, and is compared with that of "
    "random circuits of equal size."
)
ROUTES = (
    "What a head writes along the direction (OV) is split by the token it reads from. Which tokens it attends to is "
    "read from its weights (QK) where neither rotary positions nor norms of queries and keys lie between, and measured "
    "elsewhere."
)
MATCHED = (
    "Heads of two models are matched by relative depth, and by role: how a head's attention is shared between emotion "
    "words and neutral ones. The null hypothesis is that the target's top heads are like any other heads of it; as "
    "many are drawn at random and paired in the same way."
)
OWN_TEXTS = (
    "Labelled texts of one's own are read by the directions as they were fitted, at the layer chosen on dev: nothing "
    "is fitted or chosen on them."
)
READOUT = (
    "A readout scores single tokens of a text by the directions, in standard deviations of neutral tokens: a look at "
    "one text, and no test."
)
PATCHING = (
    "Patching puts activations of an emotional text into its neutral twin, or the other way round, and reads the "
    "endpoint: recovery is 0 for the neutral text and 1 for the emotional one."
)

_STEERED = ("sweep", "controls", "compare", "iterative", "real-world", "steer", "transfer-steer")
_PARTS = ("heads.screen", "heads.ablate", "neurons.saliency", "neurons.ablate", "circuit.report", "circuit.ov-qk")
_PATCHED = ("patch", "swap", "heads.patch")
_SPACES = ("align", "subspace-align", "overlap", "k-sweep")
_OF_WORDS = ("sweep", "compare", "transfer-steer", *_PARTS, *_PATCHED)
"""Experiments that read the endpoint."""


def methods(runs: Sequence[Run]) -> tuple[str, ...]:
    """The paragraphs for these runs, in the order of the questions."""
    names = {run.experiment for run in runs}
    told = [
        *_directions(runs),
        *([OWN_TEXTS] if "check" in names else []),
        *([READOUT] if "readout" in names else []),
        *([STEERING, *_units(runs)] if names & {*_STEERED} else []),
        *([ENDPOINT] if names & {*_OF_WORDS} else []),
        *([RANDOM] if "sweep" in names else []),
        *([RANDOM_TEXTS] if "controls" in names else []),
        *([WRITTEN] if names & {"sweep", "controls", "transfer-steer"} else []),
        *_positions(runs),
        *([MAPS] if names & {"transfer", "transfer-steer", *_SPACES} - {"overlap"} else []),
        *(TRANSFER if "transfer" in names else []),
        *([MAPPED] if "transfer-steer" in names else []),
        *([SUBSPACES] if names & {*_SPACES} else []),
        *([ABLATION] if names & {*_PARTS} else []),
        *([ATTRIBUTION] if names & {"heads.screen", "circuit.report"} else []),
        *([MATCHED] if "heads.match" in names else []),
        *([ROUTES] if "circuit.ov-qk" in names else []),
        *([CIRCUIT] if "circuit.report" in names else []),
        *([PATCHING] if names & {*_PATCHED} else []),
    ]
    return tuple(told)


def _directions(runs: Sequence[Run]) -> Iterator[str]:
    """Texts, readings, directions and tests; matched and unmatched texts are told apart."""
    found = [run for run in runs if run.experiment == "directions"]
    unpaired = bool(found) and not any(run.read_summary()["paired"] for run in found)
    yield from (UNPAIRED_TEXTS, PAIRED[1], UNPAIRED_MEANS, UNPAIRED_TESTS) if unpaired else PAIRED
    params = [run.read_params() for run in found]
    numbers = {(p["permutations"], p["resamples"]) for p in params}
    yield from (f"Directions: {m} permutations, {r} resamples." for m, r in sorted(numbers))


def _positions(runs: Sequence[Run]) -> Iterator[str]:
    """Where emotional texts were read, for the comparisons of two models that read them at each place."""
    for place, names in _experiments_by(position_of, runs, {"transfer", "transfer-steer", *_SPACES}):
        yield f"Emotional texts read at ({names}): {place}."


def _units(runs: Sequence[Run]) -> Iterator[str]:
    """What strength means, for the experiments that steered in each unit; one is said of all of them."""
    for unit, names in _experiments_by(_unit, runs, _STEERED):
        yield f"Strength ({names}): {UNITS[unit]}."


def _experiments_by(
    value_of: Callable[[Run], str], runs: Sequence[Run], among: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Each value of those experiments' runs, with the names of the experiments that have it."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if run.experiment in among:
            found.setdefault(value_of(run), []).append(run.experiment)
    return ((value, ", ".join(dict.fromkeys(names))) for value, names in found.items())


def _unit(run: Run) -> str:
    """As the run recorded it; ``controls`` steers in the cells of its sweep, and what records none has fractions."""
    sweep = run.read_params().get("sweep", {})
    own = "raw" if sweep.get("grid") == "plan" else sweep.get("unit", "fraction")
    return str(run.read_summary().get("unit", own))
