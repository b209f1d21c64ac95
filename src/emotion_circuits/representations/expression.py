"""Steering written as a sum: ``0.4 gratitude @ L14 - 0.2 anger``.

One grammar for the command line, Python, the explorer and exported files::

    expression = ["-"] term {("+" | "-") term}
    term       = strength [unit] ["*"] emotion ["@" "L" layer]
    unit       = "sd" | "raw"

A strength without unit is a fraction of the mean norm of the residual stream that the directions were read at; ``sd``
counts standard deviations of neutral text along the direction, ``raw`` multiplies the mean difference itself. All three
come with the directions, so that an expression means the same edit for every prompt and in an exported file.

A term without a layer stands at the layer of the term before it; terms in front of the first layer that is named stand
there too; and where none is named, all stand at the layer that the reader of the expression chose.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.types import Condition, Intervention, Positions, SiteKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emotion_circuits.representations.directions import DirectionSet
    from emotion_circuits.representations.steering import Unit

EXAMPLE = "0.4 gratitude @ L14 - 0.2 anger"
_SHOW = f'write it like "{EXAMPLE}"'

_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
# A unit is one only in front of a name, so that an emotion may be called raw.
_UNIT = re.compile(r"(sd|raw)\b(?=\s*\*?\s*[A-Za-z])", re.IGNORECASE)
_EMOTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_LAYER = re.compile(r"[Ll]?\s*(\d{1,6})(?![\w.])")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Term:
    """``strength`` × ``unit`` along an emotion's direction at a layer (``None``: see the module's docstring)."""

    strength: float
    emotion: str
    layer: int | None = None
    unit: Unit = "fraction"

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise UsageError(f"the strength of {self.emotion} is {self.strength}, which is no number", _SHOW)


@dataclass(frozen=True, slots=True)
class Expression:
    """A sum of terms; ``str`` writes it so that :func:`parse_expression` reads back the same."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise UsageError("a steering expression without terms says nothing", _SHOW)

    def __str__(self) -> str:
        written = []
        for position, term in enumerate(self.terms):
            minus = math.copysign(1.0, term.strength) < 0
            sign = ("- " if minus else "+ ") if position else ("-" if minus else "")
            unit = "" if term.unit == "fraction" else term.unit
            layer = "" if term.layer is None else f" @ L{term.layer}"
            written.append(f"{sign}{_number(abs(term.strength))}{unit} {term.emotion}{layer}")
        return " ".join(written)

    @property
    def emotions(self) -> tuple[str, ...]:
        """Every emotion once, in order."""
        return tuple(dict.fromkeys(term.emotion for term in self.terms))

    def at_layers(self, default: int) -> Expression:
        """The same with a layer in every term; ``default`` is for an expression that names none."""
        current = next((term.layer for term in self.terms if term.layer is not None), default)
        placed = []
        for term in self.terms:
            current = current if term.layer is None else term.layer
            placed.append(replace(term, layer=current))
        return Expression(tuple(placed))


def parse_expression(text: str) -> Expression:
    """Read an expression.

    Raises:
        UsageError: anything that is none, saying at which character and what to write there.
    """
    # The signs of typography are what a copied text often holds.
    reader = _Reader(text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-"))
    sign = reader.sign()
    terms = [reader.term(sign or 1)]
    while not reader.at_end():
        sign = reader.sign()
        if sign is None:
            raise reader.error("+ or - is missing between two terms", "+ or -")
        terms.append(reader.term(sign))
    return Expression(tuple(terms))


@dataclass
class _Reader:
    """A cursor over the text of an expression."""

    text: str
    place: int = 0

    def sign(self) -> int | None:
        self._skip()
        if self.text[self.place : self.place + 1] in ("+", "-"):
            self.place += 1
            return -1 if self.text[self.place - 1] == "-" else 1
        return None

    def term(self, sign: int) -> Term:
        strength = self._take(_NUMBER)
        if strength is None and self.text[self.place : self.place + 1] in ("+", "-"):
            raise self.error("two signs follow each other", "one of them")
        if strength is None:
            name = _EMOTION.match(self.text, self.place)
            wanted = (
                f"a strength, such as 0.4 {name[0]}" if name else "a strength and an emotion, such as 0.4 gratitude"
            )
            raise self.error("a strength is missing", wanted)
        unit = self._take(_UNIT)
        self._take(re.compile(r"\*"))
        emotion = self._take(_EMOTION)
        if emotion is None and re.match(r",\d", self.text[self.place :]):
            raise self.error("a comma stands in a number", f"a point, {strength}.{self.text[self.place + 1]}")
        if emotion is None:
            raise self.error(f"an emotion is missing after {strength}", f"one, such as {strength} gratitude")
        layer = None
        if self._take(re.compile("@")) is not None:
            written = self._take(_LAYER)
            if written is None:
                raise self.error("a layer is missing after @", f"one, such as {emotion} @ L14")
            layer = int(written.lstrip("Ll"))
        return Term(sign * float(strength), emotion.lower(), layer, _unit(unit))

    def at_end(self) -> bool:
        self._skip()
        return self.place == len(self.text)

    def error(self, what: str, wanted: str) -> UsageError:
        rest = self.text[self.place : self.place + 20]
        where = f"before {rest!r}" if rest else "at its end"
        return UsageError(
            f"the steering expression {_shortened(self.text)!r} cannot be read: {what} ({where}, character "
            f"{self.place + 1}); write {wanted}",
            _SHOW,
        )

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        self._skip()
        found = pattern.match(self.text, self.place)
        if found is None:
            return None
        self.place = found.end()
        return found[0]

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self.place)
        self.place = found.end() if found else self.place


def steering_condition(
    expression: Expression | str,
    directions: DirectionSet,
    *,
    layer: int | None = None,
    kind: SiteKind = "resid_post",
    positions: Positions = Positions("onward"),  # noqa: B008 - frozen
    schedule: tuple[float, ...] = (1.0,),
) -> Condition:
    """The edit that an expression means; its name is the expression with every layer written out.

    Args:
        directions: of the model that is steered, at the site ``kind``. layer: for an expression that names none
            (default: half-way through the layers of ``directions``).

    Raises:
        UsageError: an expression that cannot be read, an emotion or layer without a direction.
    """
    from emotion_circuits.representations.steering import add_at
    from emotion_circuits.types import Site

    placed = placed_expression(expression, directions, layer)
    edits: list[Intervention] = []
    for term in placed.terms:
        assert term.layer is not None
        vector, length = _vector(term, directions, kind)
        edits.append(add_at(Site(kind, term.layer), vector, length, positions=positions, schedule=schedule))
    return Condition(str(placed), tuple(edits))


def steering_vectors(
    expression: Expression | str, directions: DirectionSet, *, layer: int | None = None
) -> dict[int, NDArray[Any]]:
    """``{layer: [d_model]}`` float64: what an expression adds to the residual stream, summed by layer."""
    import numpy as np

    from emotion_circuits.representations.steering import unit_vector

    found: dict[int, NDArray[Any]] = {}
    for term in placed_expression(expression, directions, layer).terms:
        assert term.layer is not None
        vector, length = _vector(term, directions, "resid_post")
        found[term.layer] = found.get(term.layer, np.zeros(len(vector))) + length * unit_vector(vector)
    return dict(sorted(found.items()))


def placed_expression(expression: Expression | str, directions: DirectionSet, layer: int | None = None) -> Expression:
    """The expression with every layer written out, checked against the emotions and layers of ``directions``."""
    parsed = parse_expression(expression) if isinstance(expression, str) else expression
    half_way = directions.layers[round((len(directions.layers) - 1) / 2)]
    placed = parsed.at_layers(half_way if layer is None else layer)
    for term in placed.terms:
        if term.emotion not in directions.emotions:
            raise unknown_name("emotion", term.emotion, list(directions.emotions))
        assert term.layer is not None
        directions.row(term.layer)
    return placed


def _vector(term: Term, directions: DirectionSet, kind: SiteKind) -> tuple[NDArray[Any], float]:
    """A term's direction and the length that is added along it."""
    from emotion_circuits.representations.steering import scale_of

    assert term.layer is not None
    # Neither unit nor vector depends on the model's name or on where the texts were read.
    direction = directions.direction(term.emotion, term.layer, "", kind, Positions("mean-content"))
    return direction.vector, term.strength * scale_of(direction, term.unit)


def _unit(written: str | None) -> Unit:
    lower = (written or "").lower()
    return "sd" if lower == "sd" else "raw" if lower == "raw" else "fraction"


def _number(value: float) -> str:
    """The shortest digits that give the same number."""
    return repr(int(value)) if value.is_integer() and value < 1e15 else repr(value)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"
