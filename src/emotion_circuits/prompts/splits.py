"""Which scenario belongs to fit, dev and test: 50, 20 and 30 percent, always by scenario.

Built-in scenarios are numbered. Inside every block of ten (s001-s010, s011-s020, …) a fixed pseudo-random permutation
gives five to fit, two to dev and three to test, so the first 40, the first 70, the last 30 and all 100 scenarios have
exactly these shares, and a scenario keeps its split in whatever set it appears. Other scenarios go by a hash of their
name.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from emotion_circuits.types import Split

SHARES: dict[Split, float] = {"fit": 0.5, "dev": 0.2, "test": 0.3}
SPLITS: tuple[Split, ...] = ("fit", "dev", "test")
BLOCK = 10
_NUMBERED = re.compile(r"([a-z])(\d{3})")

_FIT_DEV_TEST: tuple[Split, ...] = ("fit",) * 5 + ("dev",) * 2 + ("test",) * 3


def block_split(series: str, number: int) -> Split:
    """Split of item ``number`` (from 1) of a numbered ``series``: 5 fit, 2 dev, 3 test in every ten."""
    if number < 1:
        raise ValueError(f"items are numbered from 1, not {number}")
    block, position = divmod(number - 1, BLOCK)
    order = sorted(range(BLOCK), key=lambda item: _digest(f"{series}/{block}/{item}"))
    return _FIT_DEV_TEST[order.index(position)]


def scenario_split(scenario: str) -> Split:
    """Split of a scenario by its name alone: by block where the name is a letter and a number, else by hash."""
    if match := _NUMBERED.fullmatch(scenario):
        return block_split(match[1], int(match[2]))
    fraction = int.from_bytes(_digest(scenario)[:8], "big") / 2**64
    if fraction < SHARES["fit"]:
        return "fit"
    return "dev" if fraction < SHARES["fit"] + SHARES["dev"] else "test"


def assign_splits(keys: Iterable[str]) -> dict[str, Split]:
    """A split for every distinct key (scenario, or text where there are no scenarios), independent of their order.

    Each key goes by :func:`scenario_split`. In a small set that can leave a split with too little; then the keys,
    sorted by hash, are dealt out in the same shares instead: with three keys or more no split is empty, with ten or
    more each has two, with twenty or more the test split has the six that an interval needs. Scenarios that are
    numbered as ours keep our split as long as none is empty.
    """
    distinct = sorted(set(keys), key=_digest)
    by_name = {key: scenario_split(key) for key in distinct}
    held = Counter(by_name.values())
    own_names = not all(map(_NUMBERED.fullmatch, distinct))
    least = dict.fromkeys(SPLITS, 2 if own_names and len(distinct) >= BLOCK else 1)
    if own_names and len(distinct) >= 2 * BLOCK:
        least["test"] = 6
    if len(distinct) < len(SPLITS) or all(held[split] >= least[split] for split in SPLITS):
        return by_name
    deal: Sequence[Split] = ("fit", "test", "dev", "fit", "test", "fit", "fit", "test", "fit", "dev")
    return {key: deal[index % BLOCK] for index, key in enumerate(distinct)}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8")).digest()
