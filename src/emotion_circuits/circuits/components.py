"""Names of a model's components, and how a request for them is read.

A head is written ``3:5`` (layer 3, head 5), an MLP ``m3``, a neuron ``3:10``. Requests list them: ``"3:5,7:2"``,
``"0:0-11"`` (a range of heads), ``"3:10,12;5:7"`` (neurons 10 and 12 of layer 3, neuron 7 of layer 5). Every wrong
request is answered with the model's grid.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from emotion_circuits.errors import UsageError

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """An attention head."""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.index}"


@dataclass(frozen=True, slots=True, order=True)
class MLP:
    """A whole MLP (what it adds to the residual stream)."""

    layer: int

    def __str__(self) -> str:
        return f"m{self.layer}"


@dataclass(frozen=True, slots=True, order=True)
class Neuron:
    """One MLP neuron: an entry of the down-projection's input."""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.index}"


Node = Head | MLP
"""What a circuit is made of."""
Component = Head | MLP | Neuron
C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class Grid:
    """How many components a model has: layers × heads, and neurons per layer."""

    model: str
    layers: int
    heads: int
    neurons: int

    @classmethod
    def of(cls, lm: LM) -> Grid:
        """The grid of a loaded model."""
        return cls(lm.name, lm.n_layers, lm.n_heads, lm.d_mlp)

    def __str__(self) -> str:
        return (
            f"{self.model} has {self.layers} layers × {self.heads} heads "
            f"(0:0 to {self.layers - 1}:{self.heads - 1}), {self.neurons} neurons per layer"
        )

    def all_heads(self) -> tuple[Head, ...]:
        """Every head, layer by layer."""
        return tuple(Head(layer, h) for layer in range(self.layers) for h in range(self.heads))

    def all_nodes(self) -> tuple[Node, ...]:
        """Every head and every MLP, heads first, layer by layer."""
        return (*self.all_heads(), *(MLP(layer) for layer in range(self.layers)))


def parse_heads(spec: str, grid: Grid) -> tuple[Head, ...]:
    """Read ``"3:5,7:2"`` and ranges ``"0:0-11"``, in the order given.

    Raises:
        UsageError: not a head spec, out of the grid, upside down, twice the same head; shows the grid.
    """
    return _distinct([head for part in _parts(spec, grid) for head in _head_range(part, spec, grid)], grid)


def parse_neurons(spec: str, grid: Grid) -> tuple[Neuron, ...]:
    """Read ``"3:10,12;5:7"``: layers divided by ``;``, their neurons (or ranges ``10-14``) by commas.

    Raises as :func:`parse_heads`.
    """
    neurons = []
    for group in filter(None, (g.strip() for g in spec.split(";"))):
        match = re.fullmatch(r"(\d+):([\d,\s-]+)", group)
        if match is None:
            raise UsageError(f"cannot read neurons {group!r}; {grid}", "write them as 3:10,12;5:7 (layer:neurons)")
        layer = _inside(int(match[1]), grid.layers, "layer", group, grid)
        for item in match[2].split(","):
            numbers = _numbers(item.strip(), group, grid, "write them as 3:10,12;5:7 (layer:neurons)")
            neurons += [Neuron(layer, _inside(n, grid.neurons, "neuron", group, grid)) for n in numbers]
    if not neurons:
        raise UsageError(f"no neurons in {spec!r}; {grid}", "write them as 3:10,12;5:7 (layer:neurons)")
    return _distinct(neurons, grid)


def random_matched_sets(
    components: Sequence[C], grid: Grid, count: int, *, seed: int = 0, layer_slack: int = 0
) -> list[tuple[C, ...]]:
    """``count`` random sets of the same size, kinds and layer distribution, all different and none the given set.

    Together with the given set they are draws without replacement from all matched sets, so that its rank among them
    is an exact p under the null that these components are like any others of their layers
    (:func:`emotion_circuits.stats.random_control_test`). Sets may share members with the given one.

    Args:
        layer_slack: a member may come from up to this many layers above or below its original. MLPs exist once a layer
            and need a slack.

    Raises:
        UsageError: fewer matched sets exist than are asked for.
    """
    given = frozenset(components)
    available = matched_set_count(components, grid) - 1 if layer_slack == 0 else math.inf
    if available < count:
        raise UsageError(
            f"{count} random sets are asked for, but only {int(available)} others match the layers of "
            f"{', '.join(map(str, components))}; {grid}",
            "choose more components, allow a layer slack of 1, or ask for fewer sets",
        )
    rng = np.random.default_rng(seed)
    found: dict[frozenset[C], tuple[C, ...]] = {}
    for _ in range(200 * count):
        drawn = _draw(components, grid, rng, layer_slack)
        if drawn is not None and (key := frozenset(drawn)) != given:
            found.setdefault(key, tuple(drawn))
            if len(found) == count:
                return list(found.values())
    raise UsageError(
        f"only {len(found)} of {count} different random sets were found that match {', '.join(map(str, components))}; "
        f"{grid}",
        "choose more components, a wider layer slack, or fewer sets",
    )


def matched_set_count(components: Sequence[Component], grid: Grid) -> int:
    """How many sets have the same number of components of the same kind in every layer (the given one included)."""
    per_layer = Counter((type(c), c.layer) for c in components)
    return math.prod(math.comb(_size(kind, grid), n) for (kind, _), n in per_layer.items())


def _size(kind: type[Any], grid: Grid) -> int:
    return {Head: grid.heads, MLP: 1, Neuron: grid.neurons}[kind]


def _draw(components: Sequence[C], grid: Grid, rng: np.random.Generator, slack: int) -> list[C] | None:
    """One matched draw, or None when the slack put too many members into one layer."""
    layers: Counter[tuple[type[C], int]] = Counter()
    for c in components:
        low, high = max(0, c.layer - slack), min(grid.layers - 1, c.layer + slack)
        layers[type(c), int(rng.integers(low, high + 1))] += 1
    drawn: list[C] = []
    for (kind, layer), n in sorted(layers.items(), key=lambda item: (item[0][0].__name__, item[0][1])):
        if n > _size(kind, grid):
            return None
        make: Callable[..., Any] = kind
        for i in rng.choice(_size(kind, grid), n, replace=False):
            drawn.append(make(layer) if kind is MLP else make(layer, int(i)))
    return drawn


def _parts(spec: str, grid: Grid) -> Iterator[str]:
    parts = [p.strip() for p in spec.split(",") if p.strip()]
    if not parts:
        raise UsageError(f"no heads in {spec!r}; {grid}", "write heads as 3:5,7:2 or 0:0-11 (layer:head)")
    yield from parts


def _head_range(part: str, spec: str, grid: Grid) -> list[Head]:
    match = re.fullmatch(r"(\d+):([\d-]+)", part)
    fix = "write heads as 3:5,7:2 or 0:0-11 (layer:head)"
    if match is None:
        raise UsageError(f"cannot read head {part!r} in {spec!r}; {grid}", fix)
    layer = _inside(int(match[1]), grid.layers, "layer", part, grid)
    return [Head(layer, _inside(h, grid.heads, "head", part, grid)) for h in _numbers(match[2], part, grid, fix)]


def _numbers(text: str, part: str, grid: Grid, fix: str) -> range:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None:
        raise UsageError(f"cannot read {text!r} in {part!r}; {grid}", fix)
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise UsageError(f"range {text!r} in {part!r} is upside down; {grid}", f"write {last}-{first}")
    # A huge range is refused by its ends before anything is built from it.
    return range(first, last + 1)


def _inside(number: int, size: int, noun: str, part: str, grid: Grid) -> int:
    if number >= size:
        raise UsageError(f"{part!r} names {noun} {number}; {grid}", f"choose a {noun} from 0 to {size - 1}")
    return number


def _distinct(components: Sequence[C], grid: Grid) -> tuple[C, ...]:
    twice = [str(c) for c, n in Counter(components).items() if n > 1]
    if twice:
        raise UsageError(f"named more than once: {', '.join(twice)}; {grid}", "name every component once")
    return tuple(components)
