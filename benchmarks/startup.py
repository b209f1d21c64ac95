"""What a command costs before it does anything: ``--help``, the list of experiments, and a call whose work is done.

Run: ``python benchmarks/startup.py`` (under a minute; needs the embedded SmolLM2). Exits 1 when a goal is missed. Each
command runs as a process of its own, in turn with the interpreter that does nothing and with one that imports torch
and transformers, which every command that touches a model has to pay.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from ratios import Ratio, finish, interleaved, parser, ratio, summary

HELP_GOAL = 0.3
"""Seconds; the one absolute goal, because it is what a person waits for."""
AGAIN = ("study", "smoke", "--quiet")


def measure(repeats: int) -> list[Ratio]:
    """Seconds of ``--help`` and ratios of the other commands."""
    with tempfile.TemporaryDirectory() as folder:

        def process(*words: str) -> None:
            subprocess.run([sys.executable, *words], check=True, capture_output=True)

        def command(*words: str) -> None:
            process("-m", "emotion_circuits", *words)

        command(*AGAIN, "--results", folder)
        seconds = interleaved(
            {
                "nothing": lambda: process("-c", "pass"),
                "import torch, transformers": lambda: process("-c", "import torch, transformers.modeling_utils"),
                "--help": lambda: command("--help"),
                "run --list": lambda: command("run", "--list"),
                "study that is done": lambda: command(*AGAIN, "--results", folder),
            },
            repeats,
        )
    libraries = seconds["import torch, transformers"]
    return [
        summary("--help, seconds", seconds["--help"], HELP_GOAL, "at most"),
        ratio("--help / bare interpreter", seconds["--help"], seconds["nothing"]),
        ratio("run --list / bare interpreter", seconds["run --list"], seconds["nothing"]),
        ratio("finished study / importing libraries", seconds["study that is done"], libraries),
    ]


def main() -> int:
    chosen = parser(__doc__, repeats=7).parse_args()
    return finish(measure(chosen.repeats), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
