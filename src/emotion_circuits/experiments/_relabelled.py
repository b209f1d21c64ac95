"""What permuting labels adds to a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emotion_circuits.types import Prompt


def relabelling_inputs(compared: Iterable[Sequence[Prompt]]) -> Mapping[str, Any]:
    """Nothing, unless scenarios of one label change places as wholes in one of the sets of texts that are permuted.

    There runs with the same parameters have other numbers, in which such scenarios kept their labels or their texts
    were shuffled singly.
    """
    import numpy as np

    from emotion_circuits.stats.permutation import moves_wholes

    for texts in filter(None, compared):  # a set without texts to fit on is refused where it is fitted
        labels = np.array([p.emotion for p in texts])
        codes = np.unique([p.scenario or f"text:{p.id}" for p in texts], return_inverse=True)[1].astype(np.intp)
        if moves_wholes(labels, codes):
            return {"relabelled": "scenarios of one label as wholes"}
    return {}
