"""Did memory run out, and what to type then."""

from __future__ import annotations

from emotion_circuits.errors import EmotionCircuitsError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that main memory or the accelerator's memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def out_of_memory(error: BaseException, on: str = "") -> EmotionCircuitsError:
    """Memory ran out (``on`` which model): what was asked for, and how to ask for less."""
    detail = " ".join(str(error).split("\n")[0].split())
    where = f" on {on}" if on else ""
    return EmotionCircuitsError(
        f"memory ran out{where}" + (f" ({detail})" if detail else ""),
        "use a smaller batch with --rows, --dtype bfloat16, or a smaller model; what was finished is kept",
    )
