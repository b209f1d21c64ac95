"""How an intervention's strength changes from one generation step to the next.

A schedule is a tuple of multipliers: entry 0 acts on the prompt, entry t on the t-th generated token, and the last
entry on every later one.
"""

from __future__ import annotations

import math
import re

from emotion_circuits.errors import UsageError, unknown_name

Schedule = tuple[float, ...]

NAMES = ("constant", "linear", "decay")
"""Schedules by name; any other is written as a list of multipliers (``0.5,1,1``)."""


def constant() -> Schedule:
    """The full strength at every step."""
    return (1.0,)


def linear(steps: int) -> Schedule:
    """From 1 on the prompt down to 0 at step ``steps``, by the same amount at every step: 1 - t / steps."""
    _check_steps(steps)
    return tuple(1 - t / steps for t in range(steps + 1))


def exponential_decay(rate: float, steps: int) -> Schedule:
    """``rate`` to the power t at step t; ``rate`` is the factor from one step to the next, above 0 and at most 1."""
    _check_steps(steps)
    if not (math.isfinite(rate) and 0 < rate <= 1):
        raise UsageError(f"decay rate {rate} is not a factor above 0 and at most 1", "choose one such as 0.9")
    return tuple(rate**t for t in range(steps + 1))


def custom(multipliers: list[float] | tuple[float, ...]) -> Schedule:
    """A schedule of the user's own, one finite multiplier a step; the last one repeats."""
    if not multipliers or not all(math.isfinite(m) for m in multipliers):
        raise UsageError(
            f"schedule {list(multipliers)} is empty or has an entry that is not a number",
            "write one finite multiplier a step, such as 0.5,1,1",
        )
    return tuple(float(m) for m in multipliers)


def parse_schedule(text: str, *, rate: float = 0.9, steps: int = 20) -> Schedule:
    """Read ``constant``, ``linear``, ``decay`` or a list such as ``0.5,1,1``.

    Args:
        rate: factor per step of ``decay``. steps: tokens that will be generated; ``linear`` reaches 0 there.

    Raises:
        UsageError: anything else, naming what is allowed.
    """
    name = text.strip().lower()
    if name == "constant":
        return constant()
    if name == "linear":
        return linear(steps)
    if name == "decay":
        return exponential_decay(rate, steps)
    if not re.match(r"[-+.\d]|nan|inf", name) and "," not in name:
        raise unknown_name("schedule", text, [*NAMES, "0.5,1,1"])
    try:
        return custom([float(entry) for entry in name.split(",")])
    except ValueError:
        raise UsageError(
            f"cannot read schedule {text!r}", "write constant, linear, decay, or a list of numbers such as 0.5,1,1"
        ) from None


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise UsageError(f"a schedule over {steps} steps has no entries", "ask for at least 1 step")
