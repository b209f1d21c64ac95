"""``emotion-circuits score``: what an evaluator says about the texts of a file, and how good it is on labelled ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from emotion_circuits.cli._console import print_json, print_table, print_text, progress, say, size_text
from emotion_circuits.cli._options import COMMON, CacheOptions, Device
from emotion_circuits.errors import UsageError

if TYPE_CHECKING:
    from emotion_circuits.scorers import Card, Scorer
    from emotion_circuits.scorers._evaluation import LabelQuality
    from emotion_circuits.scorers._files import TextFile

app = App(name="score", help="Score the texts of a file; with labels, measure the evaluator.")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(CacheOptions):
    """Where an evaluator runs; its weights are always float32."""

    device: Annotated[
        Device, Parameter(help="Where the evaluator runs; auto takes cuda, then mps, then cpu.", group=COMMON)
    ] = "auto"
    rows: Annotated[int | None, Parameter(help="Most texts in one batch.", group=COMMON, validator=Number(gte=1))] = (
        None
    )


Options = Annotated[ScoreOptions, Parameter(name="*")]
SCORE_OPTIONS = ScoreOptions()

_MOST_COLUMNS = 6
_MOST_ROWS = 20
_SHOWN = 40


@app.default
def score(
    *,
    scorer: Annotated[
        str | None,
        Parameter(
            help="Which evaluator: lexicon, embedded, hub:NAME, hub:OWNER/NAME, hub:FOLDER, "
            "logits:MODEL or fluency:MODEL."
        ),
    ] = None,
    on: Annotated[
        Path | None,
        Parameter(help="File .jsonl, .json, .csv, .tsv or .txt with field text; labels in emotion or labels."),
    ] = None,
    card: Annotated[bool, Parameter(help="Print what the evaluator is: data, licence, scope, calibration.")] = False,
    list_: Annotated[bool, Parameter(name="--list", help="List the evaluators.")] = False,
    labels: Annotated[
        Path | None, Parameter(help="Names of label numbers in a .tsv without header (default: GoEmotions').")
    ] = None,
    heads: Annotated[Path | None, Parameter(help="Folder that `score train` wrote, for embedded.")] = None,
    revision: Annotated[str | None, Parameter(help="Branch, tag or commit of a hub evaluator.")] = None,
    options: Options = SCORE_OPTIONS,
) -> int:
    """Score every text of a file: a row per text, and per-label AUROC where the file has labels. The text alone is
    scored, never its prompt."""
    from emotion_circuits.scorers import LoadOptions, find_scorer

    if list_:
        return _list(options.json)
    if scorer is None:
        raise UsageError("no evaluator is named", "add --scorer NAME; `emotion-circuits score --list` shows them")
    texts = _read(on, labels) if on is not None else None
    if texts is None and not card:
        raise UsageError("no file to score is named", "add --on FILE, or --card to read what the evaluator is")
    evaluator = find_scorer(
        scorer,
        LoadOptions(
            device=options.device, cache=options.cache, offline=options.offline, revision=revision, rows=options.rows,
            heads=heads,
        ),
    )  # fmt: skip
    found = _scored(evaluator, texts) if texts is not None else {}
    if options.json:
        print_json({"scorer": scorer, "card": evaluator.card().to_dict(), **found})
        return 0
    if card:
        _print_card(evaluator.card())
    if found:
        _print_scores(found, evaluator.columns)
    return 0


@app.command
def train(
    *,
    emotions: Annotated[
        Path | None, Parameter(help="Labelled comments in GoEmotions' .tsv form, or any file that `score` reads.")
    ] = None,
    politeness: Annotated[
        Path | None, Parameter(help="Rated requests as .csv with Request and Normalized Score (Stanford Politeness).")
    ] = None,
    to: Annotated[Path, Parameter(help="Folder for the heads and their card.")],
    labels: Annotated[Path | None, Parameter(help="Label names, one a line, by number (default: GoEmotions').")] = None,
    emotions_name: Annotated[str, Parameter(help="What the comments are, for the card.")] = "labelled texts",
    politeness_name: Annotated[str, Parameter(help="What the requests are, for the card.")] = "rated requests",
    emotions_licence: Annotated[str, Parameter(help="Licence of the comments, for the card.")] = "CC BY 4.0",
    politeness_licence: Annotated[str, Parameter(help="Licence of the requests, for the card.")] = "CC BY 4.0",
    seed: Annotated[
        int, Parameter(help="Seed of split, weights and order.", group=COMMON, validator=Number(gte=0))
    ] = 0,
    options: Options = SCORE_OPTIONS,
) -> int:
    """Train the heads of `embedded` on your files; use them with --heads FOLDER."""
    from emotion_circuits.scorers._encoder import MiniLM
    from emotion_circuits.scorers._heads import write_heads

    if emotions is None and politeness is None:
        raise UsageError("no file to train on is named", "add --emotions FILE.tsv or --politeness FILE.csv")
    tasks = [job for job in (_emotions(emotions, labels, seed), _politeness(politeness, seed)) if job is not None]
    encoder = MiniLM(cache=options.cache, offline=options.offline, device=options.device, rows=options.rows)
    origins = {"emotions": emotions_name, "politeness": politeness_name}
    licences = {"emotions": emotions_licence, "politeness": politeness_licence}
    trained: dict[str, Any] = {}
    cards: dict[str, Any] = {"encoder": encoder.revision}
    for name, texts, data, fit in tasks:
        with progress(f"{name}: reading texts", total=len(texts), quiet=options.quiet) as advance:
            trained[name], figures = fit(encoder, lambda n, advance=advance: advance(n))
        cards[name] = {"data": f"{origins[name]} ({data})", "licence": licences[name], **figures}
    write_heads(to, trained, cards)
    size = sum(path.stat().st_size for path in to.glob("*.safetensors"))
    if options.json:
        print_json({"folder": to, "bytes": size, "heads": {name: cards[name] for name in trained}})
        return 0
    for name in trained:
        _print_training(name, cards[name])
    print_text(f"{size_text(size)} written to {to}; use them: emotion-circuits score --scorer embedded --heads {to}")
    return 0


def _emotions(path: Path | None, labels: Path | None, seed: int) -> tuple[str, Any, str, Any] | None:
    if path is None:
        return None
    from emotion_circuits.scorers._files import GOEMOTIONS, read_label_names
    from emotion_circuits.scorers._training import train_emotions

    found = _read(path, labels)
    if found.labels is None:
        raise UsageError(f"{path} has no labels", "give a field emotion or labels, or GoEmotions' .tsv form")
    names = read_label_names(labels) if labels else GOEMOTIONS
    present = {label for own in found.labels for label in own}
    used = [name for name in names if name in present] + sorted(present - set(names))
    texts = [t.text for t in found.texts]
    known, data = found.labels, _described(path, len(texts))
    return "emotions", texts, data, lambda encoder, step: train_emotions(
        encoder, texts, known, used, seed=seed, progress=step
    )  # fmt: skip


def _politeness(path: Path | None, seed: int) -> tuple[str, Any, str, Any] | None:
    if path is None:
        return None
    import numpy as np

    from emotion_circuits.scorers._files import read_ratings
    from emotion_circuits.scorers._training import train_politeness

    texts, ratings = read_ratings(path)
    data = f"{_described(path, len(texts))}, top against bottom quartile"
    return "politeness", texts, data, lambda encoder, step: train_politeness(
        encoder, texts, np.array(ratings), seed=seed, progress=step
    )  # fmt: skip


def _described(path: Path, n: int) -> str:
    from emotion_circuits.store import fingerprint_file

    return f"{path.name}, {n} texts, SHA-256 {fingerprint_file(path.expanduser())[:16]}"


def _read(path: Path, labels: Path | None) -> TextFile:
    from emotion_circuits.scorers._files import GOEMOTIONS, read_label_names, read_texts

    return read_texts(path, read_label_names(labels) if labels else GOEMOTIONS)


def _scored(evaluator: Scorer, file: TextFile) -> dict[str, Any]:
    """Rows of scores and flags, and the quality per label where the file has labels."""
    from emotion_circuits.scorers import empty_texts, language_flags

    scores, notes = evaluator.score(file.texts), evaluator.notes(file.texts)
    flags, empty = language_flags(file.texts), empty_texts(file.texts).tolist()
    rows = []
    for i, text in enumerate(file.texts):
        row: dict[str, Any] = {"row": i + 1, "text": text.text, "language_flag": flags[i], "empty": empty[i]}
        row |= {name: marks[i] for name, marks in notes.items()}
        if file.labels is not None:
            row["labels"] = sorted(file.labels[i])
        rows.append(row | {"scores": {column: float(scores[column][i]) for column in evaluator.columns}})
    flagged = sum(map(bool, flags))
    if flagged:
        say(f"{flagged} of {len(rows)} texts do not look English (column language_flag): their scores mean little")
    found: dict[str, Any] = {"n": len(rows), "flagged": flagged, "empty": sum(empty), "rows": rows}
    if file.labels is not None:
        found |= _quality(evaluator, scores, file.labels)
    return found


def _quality(evaluator: Scorer, scores: Any, labels: tuple[frozenset[str], ...]) -> dict[str, Any]:
    from emotion_circuits.scorers._evaluation import label_quality

    present = sorted({label for own in labels for label in own})
    columns = {label: c for label in present if (c := _column(evaluator, label)) is not None}
    quality: list[LabelQuality] = label_quality(scores, labels, columns)
    macro = sum(q.auroc for q in quality) / len(quality) if quality else None
    return {
        "auroc": {
            "macro": macro,
            "labels": {q.label: {"auroc": q.auroc, "n": q.n, "rest": q.rest, "column": q.column} for q in quality},
            "not_evaluated": sorted(set(present) - {q.label for q in quality}),
        }
    }


def _column(evaluator: Scorer, label: str) -> str | None:
    return label if label in evaluator.columns else evaluator.emotion_column(label)


def _list(as_json: bool) -> int:
    from emotion_circuits.scorers import list_scorers

    rows = [{"name": name, "what": what} for name, what in list_scorers().items()]
    if as_json:
        print_json({"scorers": rows})
    else:
        print_table(rows, {"name": "scorer", "what": "what"})
        print_text("hub:OWNER/NAME and hub:FOLDER load any other sequence classifier")
        print_text("logits:MODEL and fluency:MODEL take any language model: fluency:smollm2-135m")
    return 0


def _print_card(card: Card) -> None:
    for name in ("name", "what", "data", "licence", "scope", "calibration", "revision"):
        print_text(f"{name:<12} {getattr(card, name)}")
    print_text(f"{'labels':<12} {', '.join(card.labels)}")


def _print_scores(found: dict[str, Any], columns: tuple[str, ...]) -> None:
    """The first rows; of an evaluator with many columns the three highest scores of each text."""
    shown = []
    for row in found["rows"][:_MOST_ROWS]:
        flag = ", ".join(filter(None, [row["language_flag"], *(k for k in ("empty", "truncated") if row.get(k))]))
        text = row["text"][:_SHOWN] + ("…" if len(row["text"]) > _SHOWN else "")
        scored = [item for item in row["scores"].items() if item[1] and not math.isnan(item[1])]
        best = sorted(scored, key=lambda item: -item[1])[:3]
        shown.append(
            {"row": row["row"], "text": text, "flag": flag, **row["scores"],
             "best": ", ".join(f"{column} {value:.2f}" for column, value in best)}
        )  # fmt: skip
    headings = {"row": "row", "text": "text"}
    headings |= {c: c for c in columns} if len(columns) <= _MOST_COLUMNS else {"best": "highest scores"}
    print_table(shown, headings | {"flag": "flag"}, f"{found['n']} texts, the first {len(shown)}")
    if len(shown) < found["n"]:
        print_text("--json gives every text and every column")
    if "auroc" in found:
        rows = [{"label": label, **q} for label, q in found["auroc"]["labels"].items()]
        print_table(
            rows, {"label": "label", "column": "column", "auroc": "AUROC", "n": "n", "rest": "rest"},
            "AUROC, each label against all other texts",
        )  # fmt: skip
        if rows:
            print_text(f"macro AUROC over {len(rows)} labels: {found['auroc']['macro']:.4f}")
        if missing := found["auroc"]["not_evaluated"]:
            print_text(f"without a column, or on every text or none: {', '.join(missing)}")


def _print_training(name: str, card: dict[str, Any]) -> None:
    kind = "held_out" if "held_out" in card else "cross_validated"
    figures = card[kind]
    rows = [{"label": label, **row} for label, row in figures["labels"].items()]
    print_table(
        rows, {"label": "label", "n": "n", "auroc": "AUROC", "threshold": "threshold", "ece": "ECE"},
        f"{name}, {kind.replace('_', ' ')}: {figures['n']} texts, macro AUROC {figures['macro_auroc']}",
    )  # fmt: skip
