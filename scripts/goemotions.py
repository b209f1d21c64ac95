"""Write single-label comments of a GoEmotions file as labelled texts: ``goemotions.py dev.tsv OUT.jsonl [LABEL …]``.

GoEmotions (Demszky et al. 2020, CC BY 4.0): tab-separated text, comma-separated label numbers, comment id. Kept are
gratitude, anger, remorse (our apology) and neutral, or the labels that are named.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

NUMBERS = {
    "anger": 2, "disgust": 11, "fear": 14, "gratitude": 15, "joy": 17, "love": 18, "remorse": 24, "sadness": 25,
    "neutral": 27,
}  # fmt: skip
"""GoEmotions' number of each label."""

KEPT = ("gratitude", "anger", "remorse", "neutral")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="train.tsv, dev.tsv or test.tsv of GoEmotions")
    parser.add_argument("target", type=Path, help="the JSONL file to write: text, emotion")
    parser.add_argument(
        "labels", nargs="*", metavar="LABEL", help=f"of {', '.join(NUMBERS)} (default: {' '.join(KEPT)})"
    )
    chosen = parser.parse_args()
    if unknown := {*chosen.labels} - {*NUMBERS}:
        parser.error(f"unknown label {', '.join(sorted(unknown))}: choose from {' '.join(NUMBERS)}")
    names = {str(NUMBERS[label]): "apology" if label == "remorse" else label for label in chosen.labels or KEPT}
    with chosen.source.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    kept = [{"text": text, "emotion": names[label]} for text, label, *_ in rows if label in names]
    chosen.target.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


if __name__ == "__main__":
    main()
