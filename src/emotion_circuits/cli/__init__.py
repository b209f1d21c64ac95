"""The command ``emotion-circuits``: one small file per verb, each with a cyclopts ``App`` called ``app``."""

from __future__ import annotations

from collections.abc import Sequence


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` when ``tokens`` is ``None``) and return its exit code: 0 done, 1 failed,
    2 wrong use, 3 partly done, 130 stopped by Ctrl-C."""
    from emotion_circuits.cli._app import run_command_line

    return run_command_line(tokens)
