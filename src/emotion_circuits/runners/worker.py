"""``python -m emotion_circuits.runners.worker MANIFEST NUMBER``: one shard in a process of its own."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from emotion_circuits.errors import EmotionCircuitsError, UsageError
from emotion_circuits.runners.manifest import read_manifest
from emotion_circuits.runners.shard import run_shard

log = logging.getLogger("emotion_circuits.runners.worker")


def work(path: str, number: int) -> int:
    """Run one shard of the manifest at ``path``; the exit code of the process (0, 1, 2 or 3)."""
    try:
        return run_shard(read_manifest(Path(path)), number).exit_code
    except EmotionCircuitsError as error:
        log.error("%s", error)
        return error.exit_code


def main(words: list[str]) -> int:
    """The command line of a worker; logs to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # A scheduler that takes the machine back sends this first: leave through the context managers, release the claims.
    signal.signal(signal.SIGTERM, _stop)
    try:
        path, text = words
        number = int(text)
    except ValueError:
        error = UsageError(f"a worker takes a manifest and a number, not {' '.join(words)!r}", "see docs/scaling.md")
        log.error("%s", error)
        return error.exit_code
    return work(path, number)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
