"""What a study would do, before it does it: runs, texts, forward passes, disk, memory, and a measured estimate of time.

Captures are counted by the plans that the runner follows; what an experiment measures afterwards, by the steps that it
declares (:meth:`~emotion_circuits.experiments._contract.Experiment.workload`), cut into batches by the functions that
cut them when they run.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._contract import ExperimentParams, PairExperiment, ScoreStep, TextStep
from emotion_circuits.experiments._pace import Pace, stand_in, with_tokens_behind
from emotion_circuits.experiments._pair_runner import ModelSlot, PairBench, visit_pair
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.experiments._runner import Prepared, Workbench, prepare

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM, Encoded
    from emotion_circuits.store import Run, Store


_LOGIT_COPIES = 2
"""Float32 copies of every token's logits that live at once while a text's perplexity is measured."""


@dataclass(frozen=True)
class Work:
    """What is left to compute. ``tokens`` run through the model's blocks, in ``forwards`` passes.

    ``texts`` are captured, ``scored`` rows scored at their next token, ``written`` texts generated (and read once more
    for their perplexity). ``memory_bytes``: the model's weights, their copies for faster products, and the widest
    values of the largest batch, on the device that it runs on. ``seconds`` are estimated.
    """

    texts: int = 0
    scored: int = 0
    written: int = 0
    tokens: int = 0
    forwards: int = 0
    captured_bytes: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        summed = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        return Work(**{**summed, "memory_bytes": max(self.memory_bytes, other.memory_bytes)})


@dataclass(frozen=True)
class Cell:
    """One run: its key, whether it is done already, and what is left to compute (nothing where it is done).

    ``counted``: whether ``work`` is all of it; some experiments do not say what they run on the model.
    """

    model: str
    experiment: str
    key: str
    done: bool
    work: Work
    counted: bool = True


def outline_study(
    profile: Profile, models: Sequence[str], load: Callable[[str], LM], store: Store, *, seed: int = 0,
    rows: int | None = None,
) -> list[Cell]:  # fmt: skip
    """Every run of a study on its models and their ordered pairs, required ones first, each once."""
    cells: list[Cell] = []
    paired = [name for name, _ in profile.experiments if isinstance(find_experiment(name), PairExperiment)]
    for model in models:
        bench = Workbench(store, profile.name, ModelSlot(functools.partial(load, model)), seed, rows)
        pace = Pace(bench.lm)
        for name, _ in profile.experiments:
            if name not in paired:
                cells += _cells(prepare(name, profile.params(name), bench), bench, pace)
    for names in profile.pairs_of(models) if paired else ():
        slots = [ModelSlot(functools.partial(load, name)) for name in names]
        pair = PairBench(Workbench(store, profile.name, slots[0], seed, rows), *slots)
        for name in paired:
            cells += outline_pair(name, profile.params(name), pair)
    return once(cells)


def outline_run(name: str, params: ExperimentParams | Mapping[str, Any], bench: Workbench) -> list[Cell]:
    """One experiment on one model, behind everything that it requires."""
    return _cells(prepare(name, params, bench), bench, Pace(bench.lm))


def outline_pair(name: str, params: ExperimentParams | Mapping[str, Any], pair: PairBench) -> list[Cell]:
    """One experiment on two models, behind everything that it requires of each."""
    cells: list[Cell] = []

    def single(prepared: Prepared, bench: Workbench) -> None:
        cells.extend(_cells(prepared, bench, Pace(bench.lm)))

    def own(experiment: PairExperiment, resolved: ExperimentParams, run: Run) -> None:
        names = f"{pair.source.identity.name} → {pair.target.identity.name}"
        steps = () if run.done else experiment.workload_of_pair(pair.target, resolved)
        work = Work()
        if steps:
            bench = replace(pair.bench, load=pair.target)
            pace = Pace(bench.lm)
            work = sum((_measured(step, bench, pace) for step in steps), work)
        cells.append(Cell(names, experiment.name, run.key, run.done, work, steps is not None))

    visit_pair(name, params, pair, single, own)
    return once(cells)


def once(cells: Iterable[Cell]) -> list[Cell]:
    """Each run where it is first needed."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.key, cell)
    return list(found.values())


def _cells(prepared: Prepared, bench: Workbench, pace: Pace) -> list[Cell]:
    return [_cell(one, bench, pace) for one in {p.run.key: p for p in _in_order(prepared)}.values()]


def _in_order(prepared: Prepared) -> Iterator[Prepared]:
    for needed in prepared.required.values():
        yield from _in_order(needed)
    yield prepared


def _cell(prepared: Prepared, bench: Workbench, pace: Pace) -> Cell:
    name, key = prepared.experiment.name, prepared.run.key
    if prepared.run.done:
        return Cell(bench.lm.name, name, key, True, Work())
    steps = prepared.experiment.workload(bench.lm, prepared.params)
    work = sum((_measured(step, bench, pace) for step in steps or ()), _captured(prepared, bench, pace))
    return Cell(bench.lm.name, name, key, False, work, counted=steps is not None)


def _measured(step: ScoreStep | TextStep, bench: Workbench, pace: Pace) -> Work:
    return _scored(step, bench, pace) if isinstance(step, ScoreStep) else _written(step, bench, pace)


def _captured(prepared: Prepared, bench: Workbench, pace: Pace) -> Work:
    """The texts that no earlier run has captured; what is kept holds all of them."""
    from emotion_circuits.engine.capture import MAX_ROWS, capture_batches, plan_capture
    from emotion_circuits.experiments._captured_before import find_known

    lm, found = bench.lm, Work()
    for step in prepared.steps:
        plan = plan_capture(lm, step.prompts, step.kinds, step.positions, step.layers)
        rows = bench.rows or MAX_ROWS
        known = {text for one in find_known(lm, prepared.run, step.name, plan, rows) for text in one.here}
        batches = [batch for batch in capture_batches(lm, plan, rows) if known.isdisjoint(batch)]
        widest = max((len(batch) * len(plan.encoded[batch[0]]) for batch in batches), default=0)
        kept = plan.bytes * max(map(len, batches), default=0) // len(plan.encoded)
        tokens = sum(len(plan.encoded[text]) for batch in batches for text in batch)
        read = (plan.layers[-1] + 1) / lm.n_layers
        found += Work(
            texts=len(plan.encoded) - len(known), tokens=tokens, forwards=len(batches), captured_bytes=plan.bytes,
            memory_bytes=_weight_bytes(lm) + widest * _token_bytes(lm) + kept, seconds=tokens * pace.capture() * read,
        )  # fmt: skip
    return found


def _scored(step: ScoreStep, bench: Workbench, pace: Pace) -> Work:
    """One pass a batch, behind one of its prompts' shared part."""
    encoded = [with_tokens_behind(e, step.behind) for e in bench.lm.encode(step.prompts)]
    tokens, batches, widest = _packed(encoded, step, step.conditions, 1, bench, step.rows)
    rows = len(encoded) * step.conditions
    return Work(
        scored=rows, tokens=int(tokens * step.share), forwards=2 * batches,
        memory_bytes=_weight_bytes(bench.lm) + widest, seconds=rows * pace.score(step) * step.share,
    )  # fmt: skip


def _written(step: TextStep, bench: Workbench, pace: Pace) -> Work:
    """One pass a token and batch, behind one of the prompts' shared part; then every text is read in one pass."""
    from emotion_circuits.engine.batching import length_buckets
    from emotion_circuits.scorers.fluency import rows_at_once

    lm, new, each = bench.lm, step.max_new_tokens, step.conditions * step.samples
    encoded = list(lm.encode(step.prompts))
    tokens, batches, widest = _packed(encoded, step, each, new, bench, None)
    forwards, rows = batches * (1 + new), each * len(encoded)
    tokens += rows * (new - 1)
    if step.judged:
        read = [with_tokens_behind(e, new) for e in encoded for _ in range(each)]
        tokens += sum(map(len, read))
        at_once = rows_at_once(lm, new)
        forwards += sum(1 for _ in length_buckets(read, at_once, max_tokens=1 << 30))
        widest = max(widest, _LOGIT_COPIES * 4 * min(at_once, rows) * (new + 1) * lm.vocabulary_size)
    memory, seconds = _weight_bytes(lm) + widest, rows * pace.text(step)
    return Work(written=rows, tokens=tokens, forwards=forwards, memory_bytes=memory, seconds=seconds)


def _packed(
    encoded: Sequence[Encoded], step: ScoreStep | TextStep, each: int, new: int, bench: Workbench, most: int | None
) -> tuple[int, int, int]:
    """Tokens of the first pass of packed rows, batches, and bytes of the largest one."""
    from emotion_circuits.engine import plan_chunks, scored_at_once
    from emotion_circuits.engine.memory import automatic_rows, row_bytes
    from emotion_circuits.engine.prefix import first_edited

    lm = bench.lm
    condition = stand_in(lm, "steered", step.layer, step.at)
    longest = max(map(len, encoded))
    limit = min(n for n in (bench.rows or automatic_rows(lm, longest, new), most) if n)
    rows = [(e, condition) for e in encoded for _ in range(each)]
    # A batch of scores has its prompts' unedited rows too; where a step has batches of its own kind there are none.
    beside = isinstance(step, ScoreStep) and most is None
    chunks = plan_chunks(lm, rows, scored_at_once(lm, rows, limit) if beside else limit)
    tokens = widest = 0
    for chunk in chunks:
        of_prompt = Counter(n // each for n in chunk)
        widest = max(widest, len(chunk) + (len(of_prompt) if beside else 0))
        for owner, count in of_prompt.items():
            shared = first_edited(encoded[owner], condition) if count > 1 else 0
            tokens += shared + count * (len(encoded[owner]) - shared)
    return tokens, len(chunks), widest * row_bytes(lm, longest, new)


def _weight_bytes(lm: LM) -> int:
    from emotion_circuits.models.products import bytes_of_copies

    return bytes_of_copies(lm.model) + sum(p.numel() * p.element_size() for p in lm.model.parameters())


def _token_bytes(lm: LM) -> int:
    """Bytes of one token inside a block: the residual stream, its norm and a sublayer's output, and an MLP that is
    gated (three values a neuron); blocks come one after another, so one of them counts."""
    return (4 * lm.d_model + 3 * lm.d_mlp) * lm.dtype.itemsize
