"""The steering experiments as small commands on the tiny model whose tokenizer knows the emotions' words."""

from __future__ import annotations

from pathlib import Path

from emotion_circuits.store.runs import LATEST

EXPERIMENTS = ("sweep", "steer", "compare", "controls", "real-world", "swap", "iterative", "patch")

PROFILE = """
title = "Steering"
models = ["{model}"]

[[experiment]]
name = "directions"
prompts = "baseline"
scenarios = 20
permutations = 99
resamples = 200
"""

SMALL = ("--max-new-tokens", 5, "--scenarios", 3, "--emotions", "gratitude", "anger")
SWEEP = (*SMALL, "--layers", 0, 1, "--strengths", -0.4, 0, 0.4, "--samples", 2, "--random", 19)


def within_sweep(words: tuple[object, ...]) -> tuple[object, ...]:
    """Options of ``sweep`` as ``controls`` takes them."""
    return tuple(f"--sweep.{str(w)[2:]}" if str(w).startswith("--") else w for w in words)


WORDS: dict[str, tuple[object, ...]] = {
    "sweep": SWEEP,
    "steer": ("--text", "The parcel came on Monday and", "--max-new-tokens", 5, "--strengths", -0.4, 0, 0.4),
    "compare": (*SMALL, "--layers", 0, 1, "--strengths", -0.2, 0, 0.2, "--effect", 0.05, "--resamples", 200,
                "--positions", "last", "mean-content"),
    "controls": (*within_sweep(SWEEP), "--generated", 2,
                 "--resamples", 200, "--permutations", 99),
    "real-world": ("--max-new-tokens", 5, "--scenarios", 8, "--resamples", 200, "--permutations", 99),
    "swap": ("--max-new-tokens", 5, "--scenarios", 4, "--layers", 0, 1, "--resamples", 200, "--permutations", 99),
    "iterative": ("--max-new-tokens", 10, "--scenarios", 3, "--resamples", 200, "--permutations", 99,
                  "--schedule", "decay", "--decay-rate", 0.5, "--log-activations"),
    "patch": ("--prompts", "extended", "--scenarios", 6, "--layers", 0, 2, "--positions", "last", "all",
              "--resamples", 200),
}  # fmt: skip


def line(name: str, model: Path, profile: Path, results: Path) -> list[str]:
    """The words of a command before its options."""
    return [*map(str, ("run", name, "--model", model, "--profile", profile, "--results", results, "--quiet"))]


def folder_of(results: Path, experiment: str) -> Path:
    """The run that was asked for last."""
    pointer = max(results.glob(f"*/*/{experiment}/{LATEST}"), key=lambda p: p.stat().st_mtime)
    return pointer.parent / pointer.read_text(encoding="utf-8").strip()
