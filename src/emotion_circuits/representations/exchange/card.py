"""What an exported vector is: the expression it stands for, of which model, from which texts, and how long it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.expression import Expression, placed_expression, steering_vectors
from emotion_circuits.store.files import write_json

if TYPE_CHECKING:
    from emotion_circuits.representations.directions import DirectionSet

CARD_SUFFIX = ".card.json"
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """Where vectors come from. Fields of a file that another program wrote are empty.

    ``expression`` is what the vectors add up to (all layers written out); ``norms`` are the mean norms of the residual
    stream, by layer, that its fractions refer to; ``lengths`` the lengths of the vectors themselves. ``weights``,
    ``tokenizer`` and ``prompts`` are fingerprints; ``run`` is the key of the run that fitted the directions.
    """

    expression: str = ""
    model: str = ""
    architecture: str = ""
    weights: str = ""
    tokenizer: str = ""
    profile: str = ""
    run: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    site: str = "resid_post"
    position: str = ""
    method: str = ""
    norms: Mapping[str, float] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class VectorFile:
    """``vectors[layer]`` is ``[d_model]`` float64, added to the output of that block (counted from 0)."""

    vectors: Mapping[int, NDArray[np.float64]]
    card: Card

    def __post_init__(self) -> None:
        widths = {np.asarray(v).shape for v in self.vectors.values()}
        if len(widths) != 1 or len(next(iter(widths))) != 1:
            raise UsageError(f"{len(self.vectors)} vectors of shapes {sorted(widths)}", "give vectors of one width")
        if not all(np.isfinite(v).all() for v in self.vectors.values()):
            raise UsageError("a vector holds NaN or infinity", "check where it was computed")


def expressed(
    expression: Expression | str, directions: DirectionSet, provenance: Mapping[str, Any], *, layer: int | None = None
) -> VectorFile:
    """What an expression adds, with its card. ``provenance`` fills the card's other fields.

    Raises:
        UsageError: as :func:`~emotion_circuits.representations.expression.steering_condition`.
    """
    placed = placed_expression(expression, directions, layer)
    vectors = steering_vectors(placed, directions)
    card = Card(
        expression=str(placed),
        norms={str(at): float(directions.residual_norm[directions.row(at)]) for at in vectors},
        lengths={str(at): float(np.linalg.norm(v)) for at, v in vectors.items()},
        method="difference of class means",
        **provenance,
    )
    return VectorFile(vectors, card)


def write_card(path: Path, card: Card) -> Path:
    """Write the card of the file ``path`` beside it."""
    return write_json(_beside(path), card.to_dict())


def read_card(path: Path) -> Card:
    """The card beside ``path``; an empty one where there is none.

    Raises:
        UsageError: a card that is none, or of a later format.
    """
    beside = _beside(path)
    if not beside.is_file():
        return Card()
    return card_of(beside.read_text(encoding="utf-8", errors="replace"), beside)


def card_of(text: str, where: Path) -> Card:
    """A card from its JSON."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} is not valid JSON: {error.msg}", "remove it, or export the vector again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UsageError(f"{where} is no card of format {FORMAT} (it says {found})", "export the vector again")
    known = {name: content[name] for name in Card.__dataclass_fields__ if name in content}
    for name, value in known.items():
        wanted: type = dict if name in ("prompts", "norms", "lengths", "versions") else str
        if not isinstance(value, wanted):
            raise UsageError(f"{where}: {name} is no {wanted.__name__}", "export the vector again")
    return Card(**known)


def require_length(values: NDArray[np.float64], where: Path, layer: int) -> NDArray[np.float64]:
    """The values, if they are one vector of finite numbers that is not all 0."""
    if (
        values.ndim != 1
        or not len(values)
        or not np.isfinite(values).all()
        or not math.isfinite(float(values @ values))
    ):
        raise UsageError(f"{where}: the vector of layer {layer} is no list of finite numbers", "export it again")
    return values


def _beside(path: Path) -> Path:
    return path.with_name(path.name + CARD_SUFFIX)
