"""Did memory run out?"""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that main memory or the accelerator's memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
