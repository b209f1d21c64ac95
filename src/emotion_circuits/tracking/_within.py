"""A call that is given limited time, whatever it hangs on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from emotion_circuits.tracking._contract import TrackerError

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], doing: str) -> T:
    """The result of ``call``; raises :class:`TrackerError` when it is not there after ``seconds``.

    Time limits of network libraries count from the last byte, and none of them covers the look-up of a name or a
    locked file. So the call gets a thread of its own, which is left behind when it hangs and does not keep the
    process alive. A defect in the call shows its traceback and counts as a failure of the tracker: it cannot end the
    study that is being mirrored.
    """
    results: list[T] = []
    errors: list[TrackerError] = []

    def work() -> None:
        try:
            results.append(call())
        except TrackerError as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="tracking", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        what = f"took longer than {seconds:.0f} s" if thread.is_alive() else "ended with a defect of the program"
        raise TrackerError(f"{doing} {what}", "see whether the server is busy, then `emotion-circuits track sync`")
    return results[0]
