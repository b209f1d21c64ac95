"""AUROC of the shipped ``embedded`` evaluator on labelled texts that its heads were not trained on.

Emotions: every comment of a file in GoEmotions' form (or any file that ``score`` reads), each label against all other
comments. Politeness: top against bottom quartile of rated requests; the shipped head has seen the Stanford requests, so
the figure is that of ten-fold cross-validation with the same recipe, each request scored by a head that did not see it.

Run: ``python benchmarks/evaluator.py --emotions dev.tsv --politeness wikipedia.annotated.csv``
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from emotion_circuits.scorers import LoadOptions, find_scorer
from emotion_circuits.scorers._encoder import MiniLM
from emotion_circuits.scorers._evaluation import expected_calibration_error, label_quality
from emotion_circuits.scorers._files import GOEMOTIONS, read_label_names, read_ratings, read_texts
from emotion_circuits.scorers._training import train_politeness

GOALS = {"macro": 0.88, "gratitude": 0.97, "anger": 0.88, "remorse": 0.94, "politeness": 0.88}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emotions", type=Path, help="labelled comments, unseen in training")
    parser.add_argument("--labels", type=Path, help="names of label numbers (default: GoEmotions')")
    parser.add_argument("--politeness", type=Path, help="rated requests, CSV")
    parser.add_argument("--heads", type=Path, help="folder of heads (default: the shipped ones)")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    if chosen.emotions is None and chosen.politeness is None:
        parser.error("name at least one of --emotions and --politeness")
    found: dict[str, float] = {}
    if chosen.emotions is not None:
        found |= emotions(chosen)
    if chosen.politeness is not None:
        found |= politeness(chosen)
    print()
    for name, value in found.items():
        if name in GOALS:
            print(f"{name:<12} {value:.4f}   goal {GOALS[name]:.2f}   {'ok' if value >= GOALS[name] else 'MISSED'}")
    return 0 if all(value >= GOALS.get(name, 0) for name, value in found.items()) else 1


def emotions(chosen: argparse.Namespace) -> dict[str, float]:
    """One-vs-rest AUROC per label over all comments, with the calibration error of each label."""
    file = read_texts(chosen.emotions, read_label_names(chosen.labels) if chosen.labels else GOEMOTIONS)
    if file.labels is None:
        sys.exit(f"{chosen.emotions} has no labels")
    evaluator = find_scorer("embedded", LoadOptions(device=chosen.device, heads=chosen.heads))
    start = time.perf_counter()
    scores = evaluator.score(file.texts)
    seconds = time.perf_counter() - start
    present = sorted({label for own in file.labels for label in own})
    columns = {label: column for label in present if (column := evaluator.emotion_column(label))}
    quality = label_quality(scores, file.labels, columns)
    print(f"{chosen.emotions.name}: {len(file.texts)} comments, {len(file.texts) / seconds:.0f} a second")
    print(f"{'label':<16}{'AUROC':>8}{'n':>7}{'rest':>7}{'ECE':>8}")
    errors = []
    for q in sorted(quality, key=lambda q: -q.auroc):
        truth = np.array([q.label in own for own in file.labels])
        errors.append(expected_calibration_error(scores[q.column], truth))
        print(f"{q.label:<16}{q.auroc:>8.4f}{q.n:>7}{q.rest:>7}{errors[-1]:>8.4f}")
    macro = float(np.mean([q.auroc for q in quality]))
    print(f"macro over {len(quality)} labels: AUROC {macro:.4f}, expected calibration error {np.mean(errors):.4f}")
    return {"macro": macro, **{q.label: q.auroc for q in quality}}


def politeness(chosen: argparse.Namespace) -> dict[str, float]:
    """Cross-validated AUROC of polite against impolite requests, by the recipe of the shipped head."""
    texts, ratings = read_ratings(chosen.politeness)
    _, card = train_politeness(MiniLM(device=chosen.device), texts, np.array(ratings))
    figures = card["cross_validated"]
    area = float(figures["macro_auroc"])
    print(f"\n{chosen.politeness.name}: {figures['n']} requests (top and bottom quartile), {card['folds']} folds")
    print(f"politeness: AUROC {area:.4f}, expected calibration error {figures['mean_ece']:.4f}")
    return {"politeness": area}


if __name__ == "__main__":
    sys.exit(main())
