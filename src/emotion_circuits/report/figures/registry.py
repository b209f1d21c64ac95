"""Which drawing belongs to which figure kind.

A kind is one file in this folder with one class, registered by :func:`figure_kind`. The class reads the figure's plain
rows once and draws them twice: :meth:`Drawing.vega` for the screen and :meth:`Drawing.paper` for print.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.report.words import Words

if TYPE_CHECKING:
    import altair as alt
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure


class Drawing(ABC):
    """How one kind of figure is drawn. ``words`` holds the fixed words in the language of the report.

    Both drawings must show a missing value as missing, and rows without any value as the word for "no data".
    """

    options: frozenset[str] = frozenset()
    """The options that this kind understands; any other is an error."""

    @abstractmethod
    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        """The figure as an Altair chart without title (the page prints it), transparent, following the text colour."""

    @abstractmethod
    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        """The figure as a matplotlib figure that belongs to nobody else (pyplot is never involved)."""

    def key(self, figure: Figure, words: Words) -> list[str]:
        """Sentences that say what the marks mean, only for marks that are there."""
        return []

    def table(self, figure: Figure, words: Words) -> tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]:
        """Columns (key → heading) and rows of the table under the figure: by default the figure's own rows."""
        keys = dict.fromkeys(key for row in figure.data for key in row)
        # What stands on an axis of numbers is named by the figure alone.
        axis = {"x": str(figure.options.get("x", "x"))}
        return {key: axis.get(key) or words.get(key, key) for key in keys}, figure.data


_KINDS: dict[str, Drawing] = {}


def figure_kind(name: str) -> Callable[[type[Drawing]], type[Drawing]]:
    """Class decorator: draw figures whose ``kind`` is ``name`` with this class. A name can be taken only once."""

    def register(drawing: type[Drawing]) -> type[Drawing]:
        if name in _KINDS and type(_KINDS[name]).__qualname__ != drawing.__qualname__:
            raise UsageError(f"figure kind {name!r} is already drawn by {type(_KINDS[name]).__name__}", "rename one")
        _KINDS[name] = drawing()
        return drawing

    return register


def figure_kinds() -> list[str]:
    """All registered names, sorted."""
    return sorted(_KINDS)


def drawing_of(figure: Figure) -> Drawing:
    """The drawing of a figure; raises :class:`UsageError` for an unknown kind or an option it does not have."""
    if figure.kind not in _KINDS:
        raise unknown_name(f"figure kind (figure {figure.name!r})", figure.kind, figure_kinds())
    drawing = _KINDS[figure.kind]
    for option in figure.options:
        if option not in drawing.options:
            kind = f"option of {figure.kind!r} (figure {figure.name!r})"
            raise unknown_name(kind, option, sorted(drawing.options))
    return drawing
