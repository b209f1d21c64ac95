"""Errors that a user can act on.

Every error that bad input can reach is an :class:`EmotionCircuitsError`: one paragraph that says what is wrong, where,
the likely cause and what to type. The command line prints it without a traceback and exits with its ``exit_code``
(1 failed, 2 wrong use, 3 partly done).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class EmotionCircuitsError(Exception):
    """Something failed that the user can understand: the run stops, what was finished stays.

    Args:
        what: what is wrong and where, one sentence.
        fix: what to type or change, one sentence; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n  → {self.fix}" if self.fix else self.what


class UsageError(EmotionCircuitsError):
    """The request itself is wrong (unknown name, malformed file, impossible option)."""

    exit_code = 2


class UnknownModelError(UsageError):
    """Nothing has the name ``model``, or nothing of the kind lies there."""

    def __init__(self, what: str, fix: str = "", model: str = "") -> None:
        super().__init__(what, fix)
        self.model = model


class ModelError(EmotionCircuitsError):
    """A model could not be found, fetched, converted, loaded, or does not keep its family's contract."""


class ContractError(ModelError):
    """A hook did not fire as often as it must, or a tapped module is not where the family says."""


class StoreError(EmotionCircuitsError):
    """Results could not be read or written (permissions, full disk, older schema)."""


def unknown_name(kind: str, name: object, known: list[str], fix: str = "") -> UsageError:
    """A :class:`UsageError` for a name that is not in a closed list, with the nearest name, if one is near."""
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return UsageError(
        f"unknown {kind} {str(name)!r}; known: {shown}", fix or f"{near(name, known)}choose one of the names above"
    )


def near(name: object, known: Iterable[str] | Mapping[str, str]) -> str:
    """``did you mean …? `` for a mistyped name, where one of the known ones is near; else nothing.

    A mapping holds other spellings of names: spelling → name.
    """
    import difflib

    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.7)
    if not found:
        return ""
    return f"did you mean {known[found[0]] if isinstance(known, Mapping) else found[0]}? "
