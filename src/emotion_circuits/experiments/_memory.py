"""Did memory run out, and what to type then."""

from __future__ import annotations

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.models.memory import is_out_of_memory

__all__ = ["is_out_of_memory", "out_of_memory"]


def out_of_memory(error: BaseException, on: str = "") -> EmotionCircuitsError:
    """Memory ran out (``on`` which model): what was asked for, and how to ask for less."""
    detail = " ".join(str(error).split("\n")[0].split())
    where = f" on {on}" if on else ""
    return EmotionCircuitsError(
        f"memory ran out{where}" + (f" ({detail})" if detail else ""),
        "use a smaller batch with --rows (the interrupted step starts anew with it), --dtype bfloat16, or a smaller "
        "model; what was finished is kept",
    )
