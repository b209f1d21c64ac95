"""``emotion-circuits readout``: which emotion every token of a text holds."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from emotion_circuits.cli._bench import loader, progress_of, scorer_of
from emotion_circuits.cli._console import print_json, print_table, print_text
from emotion_circuits.cli._options import COMPUTE_OPTIONS, ComputeOptions
from emotion_circuits.errors import UsageError

app = App(name="readout", help="Show which emotion every token of a text holds.")


@app.default
def readout(
    *text: Annotated[str, Parameter(help="Texts to read, each in quotes.")],
    model: Annotated[str, Parameter(help="Alias, hub id, folder or .gguf file.")] = "smollm2-135m",
    profile: Annotated[str, Parameter(help="Study profile (name or TOML file) or prompt set.")] = "baseline",
    layer: Annotated[int | None, Parameter(help="Layer of the table (default: half-way); --json has them all.")] = None,
    emotions: Annotated[tuple[str, ...], Parameter(help="Only these emotions.")] = (),
    method: Annotated[
        Literal["centred", "neutral"], Parameter(help="centred: which emotion; neutral: how far from neutral text.")
    ] = "centred",
    options: Annotated[ComputeOptions, Parameter(name="*")] = COMPUTE_OPTIONS,
) -> int:
    """Score every token with the emotion directions of a profile, in standard deviations of neutral tokens.

    The first call on a model fits the directions (minutes); later ones read the text only.
    """
    from emotion_circuits.experiments import Workbench, load_profile, run_experiment
    from emotion_circuits.store import Store

    if not text:
        raise UsageError("there is no text to read", 'emotion-circuits readout "Thank you so much!"')
    study = load_profile(profile)
    given: dict[str, Any] = {"text": text, "layer": layer, "emotions": emotions, "method": method}
    bench = Workbench(
        Store(Path(options.results)), study.name, functools.cache(functools.partial(loader(options), model)),
        options.seed, options.rows, options.force, progress_of(options), scorer_of(options),
    )  # fmt: skip
    finished = run_experiment("readout", study.params("readout", given), bench)
    summary = finished.read_summary()
    if options.json:
        print_json({"model": summary["model"], "method": method, "texts": finished.read_json("readout.json")})
        return 0
    columns = {"token": "token", **{e: e for e in summary["emotions"]}}
    for number, shown in enumerate(text):
        rows = [
            {"token": _visible(row["token"]), **{e: f"{row[e]:+6.1f}" for e in summary["emotions"]}}
            for row in summary["results"]
            if row["text"] == number
        ]
        print_table(rows, columns, f"{_short(shown)}\nlayer {summary['layer']}, SD of neutral tokens")
    print_text(f"results: {finished.folder}")
    return 0


def _visible(token: str) -> str:
    """A token with its spaces and line ends to be seen."""
    return token.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 76 else f"{flat[:75]}…"
