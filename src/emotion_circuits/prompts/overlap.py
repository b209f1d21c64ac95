"""Texts that are too alike: near-duplicates by word order, and by the bag of their words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from typing import Any

from emotion_circuits.prompts.statistics import words

FOUR_GRAM_LIMIT = 0.3
BAG_LIMIT = 0.6


def four_grams(text: str) -> frozenset[tuple[str, ...]]:
    """Word 4-grams of a text; a shorter text is one gram of all its words."""
    tokens = words(text)
    return frozenset(tuple(tokens[i : i + 4]) for i in range(max(1, len(tokens) - 3)))


def bag(text: str) -> frozenset[str]:
    """The distinct words of a text."""
    return frozenset(words(text))


def jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    """|a ∩ b| / |a ∪ b|; 0 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def alike_pairs(items: Sequence[frozenset[Any]], limit: float) -> Iterator[tuple[int, int, float]]:
    """``(i, j, Jaccard)`` with i < j of every two sets above ``limit``.

    Only sets that share an element are compared, and the rarest elements are enough to find them: two sets with
    Jaccard above t share one of the first |a| − ⌈t·|a|⌉ + 1 elements of either in any common order (prefix filter).
    """
    frequency: dict[Any, int] = defaultdict(int)
    for element in chain.from_iterable(items):
        frequency[element] += 1
    index: dict[Any, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        ordered = sorted(item, key=lambda element: (frequency[element], str(element)))
        for element in ordered[: len(ordered) - int(limit * len(ordered)) + 1]:
            index[element].append(number)
    seen: set[tuple[int, int]] = set()
    for holders in index.values():
        for pair in combinations(holders, 2):
            if pair not in seen:
                seen.add(pair)
                similarity = jaccard(items[pair[0]], items[pair[1]])
                if similarity > limit:
                    yield (*pair, similarity)
