"""``emotion-circuits bench``: what speed and memory this machine gives a model."""

from __future__ import annotations

import textwrap
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from emotion_circuits.cli._bench import loader
from emotion_circuits.cli._console import WIDTH, print_json, print_table, print_text, say, size_text
from emotion_circuits.cli._options import MODEL_OPTIONS, ModelOptions

if TYPE_CHECKING:
    from emotion_circuits.experiments._speed import Bench

app = App(name="bench")


@app.default
def bench(
    *,
    model: Annotated[str, Parameter(help="Alias, hub id, folder or .gguf file.")] = "smollm2-135m",
    options: Annotated[ModelOptions, Parameter(name="*")] = MODEL_OPTIONS,
) -> int:
    """Time reading, scoring and writing on one model, beside what its matrix products alone would allow.

    A few batches of each are run: seconds on an idle machine, minutes on one that other programs use. For a whole
    study there is `study … --dry-run`; `make bench` compares with other ways to do the same work.
    """
    from emotion_circuits.experiments._speed import measure

    lm = loader(options)(model)
    say(f"timing {lm.name} …", quiet=options.quiet)
    started = time.perf_counter()
    found = measure(lm, options.rows)
    seconds = time.perf_counter() - started
    if options.json:
        print_json(_as_json(found, seconds))
    else:
        _show(found)
    return 0


def _as_json(found: Bench, seconds: float) -> dict[str, Any]:
    content = asdict(found)
    content["speed"] |= {"gain": found.speed.gain, **_shares(found)}
    content["budget"] |= {"rows": found.budget.rows}
    return {**content, "seconds": seconds}


def _shares(found: Bench) -> dict[str, float]:
    speed = found.speed
    return {
        "captured_share": speed.captured / speed.captured_limit,
        "written_share": speed.written / speed.written_limit,
    }


def _show(found: Bench) -> None:
    speed, machine, budget, shares = found.speed, found.machine, found.budget, _shares(found)
    rows: list[tuple[str, str, str]] = [
        ("capture", f"{_rate(speed.captured)} tokens/s", f"{shares['captured_share']:.0%} of its products' limit"),
        ("score, packed", f"{_rate(speed.scored)} rows/s", f"{speed.rows} rows of one prompt, an edit each"),
        ("write, packed", f"{_rate(speed.written)} tokens/s",
         f"{speed.rows} rows; {shares['written_share']:.0%} of its products' limit"),
        ("write, one row", f"{_rate(speed.written_alone)} tokens/s", f"packed is {speed.gain:.1f} times as fast"),
        ("rows in a batch", f"{budget.rows}", _why(found)),
        ("weights", size_text(found.memory.weights), f"{machine.dtype} on {machine.device}"),
        ("peak memory", "–" if found.memory.peak is None else size_text(found.memory.peak), "of the whole process"
         if machine.device == "cpu" else "on the device"),
        ("products by", "oneDNN" if machine.products == "onednn" else "PyTorch's default",
         f"torch {machine.torch}, {machine.capability}"),
        ("threads", f"{machine.threads}", f"{machine.cores} cores to use"),
    ]  # fmt: skip
    print_table(
        [dict(zip(("what", "figure", "note"), row, strict=True)) for row in rows],
        {"what": "", "figure": "here", "note": ""}, found.model,
    )  # fmt: skip
    for line in found.advice:
        print_text(textwrap.fill(line, WIDTH, initial_indent="→ ", subsequent_indent="  ", break_on_hyphens=False))


def _why(found: Bench) -> str:
    budget = found.budget
    limit = "all that gain speed" if budget.rows == budget.cap else "what memory holds"
    return f"{limit}; {size_text(budget.row)} each of {size_text(int(budget.share * budget.free))}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
