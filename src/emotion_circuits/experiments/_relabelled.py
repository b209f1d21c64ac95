"""What permuting labels adds to a key, and whether the texts have as many arrangements of labels as are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError
from emotion_circuits.types import NEUTRAL, Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.representations.controls import Shuffling


def relabelling_inputs(compared: Iterable[Sequence[Prompt]]) -> Mapping[str, Any]:
    """Nothing, unless scenarios of one label change places as wholes in one of the sets of texts that are permuted.

    There runs with the same parameters have other numbers, in which such scenarios kept their labels or their texts
    were shuffled singly.
    """
    from emotion_circuits.stats.permutation import moves_wholes

    for texts in filter(None, compared):  # a set without texts to fit on is refused where it is fitted
        if moves_wholes(*_coded(texts)):
            return {"relabelled": "scenarios of one label as wholes"}
    return {}


def shuffling_inputs(compared: Sequence[Sequence[Prompt]]) -> Mapping[str, Any]:
    """What label-shuffled vectors add to a key; nothing for texts that are matched one to one.

    Args:
        compared: for every emotion its texts and the neutral ones that it is compared with.
    """
    if all(shuffling.mirrored for _, shuffling in _shuffled(compared)):
        return relabelling_inputs(compared)
    # Where labels change places in unequal numbers, earlier runs refused arrangements that are no mirror image.
    return {**relabelling_inputs(compared), "refused": "the true labels and their mirror image"}


def require_arrangements(
    compared: Iterable[Sequence[Prompt]], asked: int, option: str, least: int, without: str = ""
) -> None:
    """Raise where the labels of an emotion's texts have fewer arrangements than label-shuffled vectors are asked for.

    Args:
        compared: as in :func:`shuffling_inputs`. asked: vectors. option: what the number is set by.
        least: the smallest number that ``option`` takes. without: what to type for no such vectors.
    """
    found = min(((shuffling.others, emotion) for emotion, shuffling in _shuffled(compared)), default=None)
    if found is None or found[0] >= asked:
        return
    others, emotion = found
    instead = f"give {without} for no random vectors" if without else ""
    fewer = f"give {option} {others} or less" if others >= least else instead
    raise UsageError(
        f"{asked} label-shuffled vectors are asked for, but the labels of the texts that {emotion} is fitted on have "
        f"only {others} arrangements besides the true one and its mirror image: the others would be copies",
        " or ".join(filter(None, (fewer, "fit directions on more scenarios"))),
    )


def _shuffled(compared: Iterable[Sequence[Prompt]]) -> Iterator[tuple[str, Shuffling]]:
    """Each emotion that has neutral texts beside its own (without, it is refused where it is fitted)."""
    from emotion_circuits.representations.controls import Shuffling

    for texts in compared:
        emotions = {p.emotion for p in texts}
        if len(emotions) == 2 and NEUTRAL in emotions:
            (emotion,) = emotions - {NEUTRAL}
            labels, codes = _coded(texts)
            yield emotion, Shuffling.of(labels == emotion, codes)


def _coded(texts: Sequence[Prompt]) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """Labels and cluster numbers, as ``representations.labelled`` takes them from captured texts."""
    import numpy as np

    codes = np.unique([p.scenario or f"text:{p.id}" for p in texts], return_inverse=True)[1].astype(np.intp)
    return np.array([p.emotion for p in texts]), codes
