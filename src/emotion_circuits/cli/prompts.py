"""``emotion-circuits prompts``: what a prompt set holds, whether it is sound, and how to make one of your own."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from emotion_circuits.cli._console import print_json, print_table, print_text, say
from emotion_circuits.cli._options import OUTPUT_OPTIONS, OutputOptions
from emotion_circuits.errors import EmotionCircuitsError

if TYPE_CHECKING:
    from emotion_circuits.prompts import SetStatistics

app = App(name="prompts", help="List, show, validate and build prompt sets.")

Output = Annotated[OutputOptions, Parameter(name="*")]
SetName = Annotated[str, Parameter(help="A set's name (see `prompts list`) or the path of a JSONL file.")]


@app.command(name="list")
def list_(*, options: Output = OUTPUT_OPTIONS) -> int:
    """List the built-in prompt sets and your own."""
    from emotion_circuits.prompts import list_sets, load_prompts, set_statistics
    from emotion_circuits.prompts.loading import BUILT_IN

    rows = []
    for name in list_sets():
        row: dict[str, Any] = {"name": name, "built_in": name in BUILT_IN}
        try:
            counts = set_statistics(load_prompts(name))
        except EmotionCircuitsError as error:
            # One damaged set of the user's must not hide the others.
            rows.append({**row, "texts": None, "scenarios": None, "labels": [], "about": f"unreadable: {error.what}"})
            continue
        about = BUILT_IN[name].description if name in BUILT_IN else "your own"
        totals = {"texts": counts.total, "scenarios": counts.scenarios, "labels": list(counts.labels)}
        rows.append({**row, **totals, "about": about})
    if options.json:
        print_json({"sets": rows})
    else:
        print_table(rows, {"name": "set", "texts": "texts", "scenarios": "scenarios", "about": "what it holds"})
    return 0


@app.command
def show(
    name: SetName,
    *,
    texts: Annotated[int, Parameter(help="How many texts to print as examples (0: none).")] = 4,
    options: Output = OUTPUT_OPTIONS,
) -> int:
    """Show totals, counts per label, split and stratum, lengths, and a few texts of a set."""
    from emotion_circuits.prompts import load_prompts, set_statistics

    prompts = load_prompts(name)
    counts = set_statistics(prompts)
    # Evenly spaced, so that examples come from the whole set and differ in label.
    step = max(1, len(prompts) // texts + 1) if texts > 0 else len(prompts)
    examples = prompts[::step][:texts] if texts > 0 else ()
    if options.json:
        print_json({"name": name, "statistics": asdict(counts), "examples": [asdict(p) for p in examples]})
        return 0
    paired = "paired by scenario" if counts.paired else "unpaired"
    print_text(f"{name}: {counts.total} texts, {counts.scenarios} scenarios, {paired}")
    _print_labels(counts)
    for title, group in (
        ("strata", counts.strata), ("domains", counts.domains), ("end punctuation", counts.ends),
        ("languages", counts.languages),
    ):  # fmt: skip
        if group:
            shown = [f"{key} {count}" for key, count in list(group.items())[:8]]
            more = f", … ({len(group)} in all)" if len(group) > len(shown) else ""
            print_text(textwrap.fill(f"{title}: {', '.join(shown)}{more}", 80, subsequent_indent="  "))
    if examples:
        print_text("")
        print_table(
            [{"id": prompt.id, "split": prompt.split, "text": prompt.text} for prompt in examples],
            {"id": "id", "split": "split", "text": "text"},
        )
    return 0


@app.command
def validate(name: SetName, *, options: Output = OUTPUT_OPTIONS) -> int:
    """Check a set: fields, duplicates, balance of length and punctuation, leaks between splits, spans.

    Exits 1 where there is an error, 2 where the file cannot be read at all.
    """
    from emotion_circuits.prompts import set_statistics
    from emotion_circuits.prompts import validate as find_problems
    from emotion_circuits.prompts.balance import surface_auroc
    from emotion_circuits.prompts.loading import load_rows

    rows, problems = load_rows(name)
    prompts = [row.prompt for row in rows]
    reported = {(problem.line, problem.field) for problem in problems}
    problems += [p for p in find_problems(prompts, rows=rows) if (p.line, p.field) not in reported]
    problems.sort()
    errors = sum(problem.level == "error" for problem in problems)
    surface = surface_auroc(prompts)
    if options.json:
        print_json(
            {
                "name": name,
                "valid": errors == 0,
                "statistics": asdict(set_statistics(prompts)) if prompts else None,
                "surface_auroc": surface,
                "problems": [asdict(problem) for problem in problems],
            }
        )
    else:
        if prompts:
            _print_labels(set_statistics(prompts), surface)
        for problem in problems:
            print_text(f"{problem.level}: {problem}")
        print_text(f"{name}: {len(prompts)} texts, {errors} errors, {len(problems) - errors} warnings")
    if errors:
        first = next(problem for problem in problems if problem.level == "error")
        raise EmotionCircuitsError(f"{name} has {errors} errors, the first: {first}", "correct the lines named above")
    return 0


@app.command
def build(
    *,
    from_: Annotated[
        list[Path], Parameter(name="--from", help="File(s) .jsonl, .json or .csv with your texts, or a folder of them.")
    ],
    name: Annotated[str, Parameter(help="What to call the set; lower-case letters, digits, - and _.")],
    words: Annotated[
        Path | None,
        Parameter(
            help="TOML file with the words of emotions that have no built-in list: steering and "
            "circuits are measured by them."
        ),
    ] = None,
    options: Output = OUTPUT_OPTIONS,
) -> int:
    """Make a prompt set of your own texts: JSONL or CSV with text and emotion (optional scenario, split, …), or JSON
    {"prompts": [...]} per emotion. Without scenarios the analysis is unpaired."""
    from emotion_circuits.prompts import build_profile, set_statistics
    from emotion_circuits.prompts import validate as find_problems
    from emotion_circuits.prompts.loading import load_rows

    built = build_profile(from_, name, words)
    rows, _ = load_rows(name)
    problems = find_problems(built.prompts, rows=rows)
    if options.json:
        print_json(
            {
                "name": built.name,
                "path": built.path,
                "paired": built.paired,
                "words": built.words,
                "notes": built.notes,
                "statistics": asdict(set_statistics(built.prompts)),
                "problems": [asdict(problem) for problem in problems],
            }
        )
        return 0
    print_text(f"{built.name}: {len(built.prompts)} texts saved to {built.path}")
    _print_labels(set_statistics(built.prompts))
    for emotion, forms in built.words.items():
        print_text(f"words of {emotion!r}: {', '.join(forms)}")
    for note in built.notes:
        print_text(f"note: {note}")
    if problems:
        say(
            f"{len(problems)} findings; `emotion-circuits prompts validate {name}` lists them, the first: {problems[0]}"
        )
    return 0


def _print_labels(counts: SetStatistics, surface: dict[str, float] | None = None) -> None:
    """One line per label: texts, splits, words and characters (mean and range), AUROC of the surface classifier."""
    rows = []
    for label, total in counts.labels.items():
        lengths, splits = counts.lengths[label], counts.label_splits[label]
        row = {
            "label": label,
            "texts": total,
            **{split: splits.get(split, 0) for split in ("fit", "dev", "test", "none")},
            "words": f"{lengths.words_mean:.1f} ({lengths.words_min}-{lengths.words_max})",
            "characters": f"{lengths.characters_mean:.0f} ({lengths.characters_min}-{lengths.characters_max})",
        }
        if surface:
            row["auroc"] = f"{surface[label]:.2f}" if label in surface else None
        rows.append(row)
    columns = {"label": "label", "texts": "texts", "fit": "fit", "dev": "dev", "test": "test"}
    if any(row["none"] for row in rows):
        columns["none"] = "no split"
    columns |= {"words": "words", "characters": "characters"}
    if surface:
        columns["auroc"] = "AUROC*"
    print_table(rows, columns)
    if surface:
        print_text("* of label vs rest from length and punctuation alone, held out by scenario; at most 0.60\n")
