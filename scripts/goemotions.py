"""Write the single-label comments of a GoEmotions file as labelled texts: ``goemotions.py dev.tsv OUT.jsonl``.

GoEmotions (Demszky et al. 2020, CC BY 4.0): tab-separated text, comma-separated label numbers, comment id. Kept are
gratitude, anger, remorse (our apology) and neutral.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

LABELS = {"2": "anger", "15": "gratitude", "24": "apology", "27": "neutral"}
"""GoEmotions' label numbers, and what the emotion is called here."""


def main(source: str, target: str) -> None:
    with Path(source).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    kept = [{"text": text, "emotion": LABELS[label]} for text, label, *_ in rows if label in LABELS]
    Path(target).write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
