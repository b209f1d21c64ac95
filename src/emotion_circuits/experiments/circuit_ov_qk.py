"""``circuit.ov-qk``: which heads write the direction, from which tokens, and which attend by emotion; with tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._component_texts import (
    AblationTextParams,
    paired_rows,
    text_rows,
    text_tables,
    write_both,
)
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    ScoreStep,
    TextStep,
)
from emotion_circuits.experiments._enough import MINIMUM_TEST_SCENARIOS
from emotion_circuits.experiments._heads import Bench, Subject, circuit_inputs, confirm, required_directions
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.engine import Generation
    from emotion_circuits.models.lm import LM

CHANGED = "ov ablated"


@experiment("circuit.ov-qk", "OV and QK circuits: who writes the direction, from which tokens, who attends by emotion.")
class CircuitOvQk(Experiment):
    """QK is read from weights where that is valid and measured elsewhere; the result says which."""

    version = 3

    class Params(AblationTextParams):
        """Parameters of ``circuit.ov-qk``."""

        top: int = Field(8, ge=1, description="Heads that write the direction most, ablated together.")
        tokens: int = Field(10, ge=1, description="Source tokens listed per head.")
        neurons: str = Field("", description='Neurons that are ablated together with the heads, as "3:10,12;5:7".')
        texts: int = Field(8, ge=0, description="Test prompts per emotion that are continued.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_directions(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return circuit_inputs(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        from emotion_circuits.experiments._component_work import component_work

        sets = 3 if params.neurons else 1
        return component_work(lm, params, testing=sets * (params.random + 3) + 3, choosing=6)

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        from emotion_circuits.circuits.components import Grid, parse_neurons

        if params.neurons:
            parse_neurons(params.neurons, Grid.of(lm))
        return ()

    def summarise(self, context: Context, params: Params) -> Outcome:
        bench = Bench(context, params)
        found = [_subject(bench, params, s) for s in bench.subjects]
        texts = [r for f in found for r in f["texts"]]
        paired = [r for f in found for r in f["paired"]]
        tokens = [r for f in found for r in f["source_tokens"]]
        columns = {"emotion": "emotion", "head": "head", "source": "from", "tokens": "source tokens"}
        tables = [
            Table("source-tokens", "What the writing heads read", "By weights (vocabulary) and as measured (prompts).",
                  columns, tokens),
            *(text_tables(texts, paired, "ablation_texts", params.top_n) if texts else ()),
        ]  # fmt: skip
        said = [line for f in found for line in f["said"]]
        figures = [figure for f in found for figure in f["figures"]]
        section = Section("ov-qk", "What do the heads read and write?", [s + "." for s in said], figures, tables)
        results = [{k: v for k, v in f.items() if k not in ("figures", "said")} for f in found]
        return Outcome({"results": results}, said, section)


def _subject(bench: Bench, params: CircuitOvQk.Params, subject: Subject) -> dict[str, Any]:
    from emotion_circuits.circuits.components import Grid, Head, parse_neurons

    lm, emotion = bench.context.lm, subject.emotion
    scores = bench.saved(f"{emotion}-ov-qk", lambda: _scores(bench, subject))
    order = (-scores["written"]).argsort(axis=None, kind="stable")[: min(params.top, scores["written"].size // 2)]
    heads = tuple(Head(int(i) // lm.n_heads, int(i) % lm.n_heads) for i in order)
    neurons = parse_neurons(params.neurons, Grid.of(lm)) if params.neurons else ()
    sets: dict[str, tuple[Any, ...]] = {"heads": heads}
    if neurons:
        sets |= {"neurons": neurons, "heads and neurons": (*heads, *neurons)}
    ablated = [
        {"what": what, **confirm(bench, subject, part, f"{emotion}-{what}", params.mode, params.random)}
        for what, part in sets.items()
    ]
    routing = _routing(bench, subject, heads)
    rows, paired = _texts(bench, params, subject, (*heads, *neurons))
    method = "weights" if lm.family.qk_from_weights else "measured"
    said = [
        f"{emotion}: {a['what']} ({len(a['components'])}) that write the direction: ablating them changes the endpoint "
        f"by {a['change']:+.3f} [{a['ci'][0]:+.3f}, {a['ci'][1]:+.3f}] nats, lower than {a['beaten']} of {a['sets']} "
        f"random sets ({'confirmed' if a['confirmed'] else 'NOT confirmed'})"
        for a in ablated
    ] + [f"{emotion}: QK by {method}; {routing['sentence']}"]
    return {
        "emotion": emotion, "qk_method": method, "heads": [str(h) for h in heads],
        "ov_write": scores["write"].tolist(), "ov_copy": scores["copy"].tolist(), "qk": scores["qk"].tolist(),
        "written": scores["written"].tolist(), "ablation": ablated, "routing": routing,
        "source_tokens": _source_tokens(bench, params, subject, heads), "texts": rows, "paired": paired,
        "said": said, "figures": _figures(emotion, scores, method),
    }  # fmt: skip


def _scores(bench: Bench, subject: Subject) -> dict[str, Any]:
    """OV (weights), QK (weights or measured; NaN where neither) and what heads write (measured), ``[layer, head]``."""
    import numpy as np

    from emotion_circuits.circuits.contributions import direct_contributions
    from emotion_circuits.circuits.ov import ov_scores
    from emotion_circuits.circuits.qk import qk_scores

    lm, reading = bench.context.lm, subject.reading
    ov = ov_scores(lm, reading.vector)
    own, twin = (
        direct_contributions(lm, texts, [reading], bench.position)[0].heads.mean(0)
        for texts in ([p.clean for p in subject.choosing], [p.donor for p in subject.choosing])
    )
    try:
        qk = qk_scores(lm, reading.vector, [p for p in subject.choosing if p.clean.spans]).values
    except UsageError:  # no emotion word to measure attention to
        qk = np.full(ov.write.shape, np.nan)
    return {"write": ov.write, "copy": ov.copy, "qk": qk, "written": own - twin}


def _source_tokens(
    bench: Bench, params: CircuitOvQk.Params, subject: Subject, heads: Sequence[Any]
) -> list[dict[str, Any]]:
    from emotion_circuits.circuits.ov import listed, source_tokens_in_prompts, top_source_tokens

    lm, vector = bench.context.lm, subject.reading.vector
    texts = [p.clean for p in subject.choosing]
    measured = source_tokens_in_prompts(lm, texts, heads, vector, k=params.tokens)
    found = {"vocabulary": top_source_tokens(lm, heads, vector, k=params.tokens), "prompts": measured}
    return [
        {"emotion": subject.emotion, "head": str(h), "source": source,
         "tokens": listed(lm, tokens[h]), "scores": [t.score for t in tokens[h]]}
        for h in heads
        for source, tokens in found.items()
    ]  # fmt: skip


def _routing(bench: Bench, subject: Subject, heads: Sequence[Any]) -> dict[str, Any]:
    """The endpoint of neutral texts when the heads attend as in the emotional twin of equal length."""
    import numpy as np

    from emotion_circuits.circuits.pairs import length_matched
    from emotion_circuits.circuits.routing import routed
    from emotion_circuits.engine import score
    from emotion_circuits.stats import bootstrap_interval
    from emotion_circuits.types import Condition

    lm = bench.context.lm
    try:
        pairs = length_matched(lm, subject.testing)
    except UsageError as error:
        return {"pairs": 0, "sentence": f"no routing patch: {error.what}"}

    def compute() -> dict[str, NDArray[np.float64]]:
        plain = score(lm, [p.donor for p in pairs], [Condition("neutral")], [subject.metric])[:, 0, 0]
        patched = np.empty(len(pairs))
        for i, pair in enumerate(pairs):
            with routed(lm, pair.donor, pair.clean, heads):
                patched[i] = score(lm, [pair.donor], [Condition("routed")], [subject.metric])[0, 0, 0]
        return {"change": patched - plain}

    change = bench.saved(f"{subject.emotion}-routing", compute)["change"]
    scenarios = len({p.cluster for p in pairs})
    untested = ""
    if scenarios < MINIMUM_TEST_SCENARIOS:
        untested = f"{len(pairs)} pairs of {scenarios} scenarios: too few to test"
    elif np.ptp(change) == 0:
        untested = f"routing changes the endpoint of {len(pairs)} neutral test texts by the same amount: not tested"
    if untested:
        return {"pairs": len(pairs), "change": float(change.mean()), "sentence": untested}
    found = bootstrap_interval(
        change, [p.cluster for p in pairs], resamples=bench.params.resamples, seed=bench.context.seed
    )
    mean, ci = float(found.estimate), [float(found.low), float(found.high)]
    sentence = (
        f"routing these heads' attention as in the emotional twin changes the endpoint of {len(pairs)} neutral test "
        f"texts by {mean:+.3f} [{ci[0]:+.3f}, {ci[1]:+.3f}] nats"
    )
    return {"pairs": len(pairs), "change": mean, "ci": ci, "sentence": sentence}


def _texts(
    bench: Bench, params: CircuitOvQk.Params, subject: Subject, components: Sequence[Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Texts with the OV circuits ablated while they are written (mean: it goes on acting on generated tokens)."""
    from emotion_circuits.circuits.conditions import ablation

    prompts = [p.clean for p in subject.testing][: params.texts]
    if not prompts:
        return [], []
    context, donors = bench.context, [p.donor for p in subject.testing]
    condition = ablation(context.lm, CHANGED, components, "mean", donors=donors)

    def write(step: str, prompt: Any, sampling: Any) -> list[Generation]:
        return context.measure.generate(step, [prompt], [condition], sampling)

    texts = write_both(context, params, f"texts-{subject.emotion}", prompts, CHANGED, write, bench.emotions)
    rows = text_rows(texts, CHANGED, "ablation_texts", subject.emotion)
    return rows, paired_rows(texts, CHANGED, subject.emotion, params.resamples, context.seed)


def _figures(emotion: str, scores: Mapping[str, NDArray[np.float64]], method: str) -> list[Figure]:
    said = {
        "write": ("OV: share of the direction in what a head can write (1 = chance)", 1.0),
        "qk": (f"QK by {method}: attention by emotion content", 1.0 if method == "weights" else 0.0),
    }
    return [
        Figure(
            f"ov-qk-{key}-{emotion}", "matrix", f"{emotion}: {text}", f"Layer × head; {text}.",
            f"Heatmap of heads for {emotion}: {text}.",
            [{"row": layer, "column": head, "value": float(scores[key][layer, head])}
             for layer in range(scores[key].shape[0]) for head in range(scores[key].shape[1])],
            {"midpoint": middle, "x": "head", "y": "layer", "value": text},
        )
        for key, (text, middle) in said.items()
    ]  # fmt: skip
