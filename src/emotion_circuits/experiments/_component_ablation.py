"""Ablating components somebody names: the endpoint against random matched sets, and the texts they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._component_texts import (
    AblationTextParams,
    metric_means,
    paired_rows,
    text_rows,
    text_tables,
    write_both,
)
from emotion_circuits.experiments._contract import Context, Outcome
from emotion_circuits.experiments._heads import (
    MODES,
    Bench,
    Subject,
    confirm,
    confirmation_bars,
    confirmation_sentence,
)
from emotion_circuits.experiments._steering import BASELINE_NAME
from emotion_circuits.types import Figure, Section

if TYPE_CHECKING:
    from emotion_circuits.circuits.components import Head, Neuron
    from emotion_circuits.engine import Generation, Sampling
    from emotion_circuits.types import Prompt

ABLATED = "ablated"


def ablation_outcome(
    context: Context, params: AblationTextParams, components: Sequence[Head] | Sequence[Neuron], noun: str
) -> Outcome:
    """Everything ``heads.ablate`` and ``neurons.ablate`` report about one set of components."""
    bench = Bench(context, params)
    tested: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    paired: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    for subject in bench.subjects:
        named: Sequence[Any] = components
        for mode in (params.mode, *(m for m in MODES if m != params.mode)):
            sets = params.random if mode == params.mode else 0  # the other modes show how much the mode matters
            tested.append(confirm(bench, subject, named, f"ablate-{subject.emotion}-{mode}", mode, sets))
        prompts = [p.clean for p in subject.testing][: params.texts]
        if prompts:
            step = f"texts-{subject.emotion}"
            write_one = _writer(context, params, subject, components)
            texts = write_both(context, params, step, prompts, ABLATED, write_one, bench.emotions)
            rows += text_rows(texts, ABLATED, "ablation_texts", subject.emotion)
            paired += paired_rows(texts, ABLATED, subject.emotion, params.resamples, context.seed)
            metrics[subject.emotion] = {c: metric_means(texts, c) for c in (BASELINE_NAME, ABLATED)}
    said = [confirmation_sentence(t, noun) for t in tested if t["mode"] == params.mode]
    figure = Figure(
        f"{noun}-ablation", "bars", f"Ablating {', '.join(map(str, components))[:80]}",
        "Change of the endpoint in nats on test scenarios; random sets: central 95 %.",
        "Bars of the change of the endpoint for the named set and for random sets.", confirmation_bars(tested),
        {"x": "change of the endpoint (nats)", "interval_label": "95 % interval"},
    )  # fmt: skip
    tables = text_tables(rows, paired, "ablation_texts", params.top_n)
    section = Section(
        f"{noun}-ablation", f"What happens without these {noun}?", [s + "." for s in said], [figure], tables
    )
    summary = {
        noun: [str(c) for c in components], "mode": params.mode, "prompts": [r["prompt"] for r in rows],
        "baseline_texts": [r["baseline_texts"] for r in rows], "ablation_texts": [r["ablation_texts"] for r in rows],
        "baseline_metrics": {e: m[BASELINE_NAME] for e, m in metrics.items()},
        "ablation_metrics": {e: m[ABLATED] for e, m in metrics.items()},
        "paired": paired, "results": tested,
    }  # fmt: skip
    return Outcome(summary, said, section)


def _writer(
    context: Context, params: AblationTextParams, subject: Subject, components: Sequence[Any]
) -> Callable[[str, Prompt, Sampling], list[Generation]]:
    from emotion_circuits.circuits.conditions import ablation

    donors = {p.clean.id: p.donor for p in subject.testing}
    every = list(donors.values())

    def write(step: str, prompt: Prompt, sampling: Sampling) -> list[Generation]:
        mine = every if params.mode == "mean" else [donors[prompt.id]]
        condition = ablation(context.lm, ABLATED, components, params.mode, prompt=prompt, donors=mine)
        return context.measure.generate(step, [prompt], [condition], sampling)

    return write
