"""What speed and memory this machine gives a model, measured in seconds, and what to change where something is off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.experiments._contract import ScoreStep, TextStep
from emotion_circuits.types import Prompt

if TYPE_CHECKING:
    from emotion_circuits.engine.memory import RowBudget
    from emotion_circuits.models.lm import LM

PROMPT = Prompt("bench", "After the meeting we walked to the station and")
ROWS, NEW_TOKENS = 32, 12
"""Rows that are timed together (more are no faster each on a CPU), and tokens that each writes."""
FEW_ROWS = 16
"""A budget below this leaves the matrix products half empty."""


@dataclass(frozen=True)
class Speed:
    """Rates per second. ``…_limit`` is what the matrix products alone allow for as many rows, whatever is around them.

    ``captured``: tokens read with activations kept; ``scored``: rows that share a prompt, each with its own edit;
    ``written``: new tokens of ``rows`` such rows together, ``written_alone``: of one row at a time.
    """

    rows: int
    captured: float
    captured_limit: float
    scored: float
    written: float
    written_limit: float
    written_alone: float

    @property
    def gain(self) -> float:
        """How many times as fast packed rows are written as one row at a time."""
        return self.written / self.written_alone


@dataclass(frozen=True)
class Machine:
    """Where the model runs. ``load``: processes that wanted a core in the last minute, before anything was timed."""

    device: str
    gpu: bool
    dtype: str
    torch: str
    capability: str
    threads: int
    cores: int
    load: float | None
    products: str
    faster_products: str
    has_onednn: bool


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights, and the most that was in use: by the process, or by the model on its GPU."""

    weights: int
    peak: int | None


@dataclass(frozen=True)
class Bench:
    """Everything that ``emotion-circuits bench`` tells."""

    model: str
    machine: Machine
    speed: Speed
    memory: Memory
    budget: RowBudget
    advice: tuple[str, ...]


def measure(lm: LM, max_rows: int | None = None) -> Bench:
    """Time a few batches of each kind of work on ``lm``, which takes seconds to a minute on a CPU."""
    from emotion_circuits.engine.memory import row_budget

    machine = machine_of(lm)
    budget = row_budget(lm, len(lm.encode([PROMPT])[0]), NEW_TOKENS)
    speed = speed_of(lm, min(ROWS, max_rows or budget.rows))
    advice = tuple(advised(machine, budget))
    return Bench(lm.name, machine, speed, _memory(lm), budget, advice)


def speed_of(lm: LM, rows: int) -> Speed:
    """The rates of a model with ``rows`` rows in a batch."""
    from emotion_circuits.engine.batching import capture_tokens
    from emotion_circuits.engine.capture import MAX_ROWS
    from emotion_circuits.experiments._pace import seconds_per_scored_row, seconds_per_written_token
    from emotion_circuits.models.product_limit import seconds_per_forward

    middle, length = lm.n_layers // 2, len(lm.encode([PROMPT])[0])
    texts = min(MAX_ROWS, capture_tokens(lm.device) // length)
    tokens = texts * length
    score = ScoreStep("bench", (PROMPT,), rows, middle)
    text = TextStep("bench", (PROMPT,), rows, NEW_TOKENS, layer=middle, judged=False)
    return Speed(
        rows=rows,
        captured=tokens / _captured(lm, texts),
        captured_limit=tokens / seconds_per_forward(lm, tokens, head=False, repeats=1),
        scored=1 / seconds_per_scored_row(lm, score, rows),
        written=1 / seconds_per_written_token(lm, text, rows, NEW_TOKENS),
        written_limit=rows / seconds_per_forward(lm, rows),
        written_alone=1 / seconds_per_written_token(lm, text, 1, NEW_TOKENS),
    )


def _captured(lm: LM, texts: int) -> float:
    """Seconds of one capture batch: the last token's residual stream at every layer is kept."""
    from dataclasses import replace

    from emotion_circuits.engine import capture
    from emotion_circuits.experiments._pace import seconds_of
    from emotion_circuits.types import Positions

    prompts = [replace(PROMPT, id=str(i)) for i in range(texts)]
    return seconds_of(lambda: capture(lm, prompts, ["resid_post"], [Positions("last")]), lm)


def machine_of(lm: LM) -> Machine:
    """What the model runs on and with."""
    import torch

    from emotion_circuits.models.products import faster_library, has_onednn, product_library

    ours = lm.device.type == "cpu" and lm.dtype is torch.float32
    return Machine(
        device=str(lm.device),
        gpu=torch.cuda.is_available() or torch.backends.mps.is_available(),
        dtype=lm.dtype_name,
        torch=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        cores=usable_cores(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        products=product_library() if ours else "torch",
        faster_products=faster_library() if ours else "torch",
        has_onednn=has_onednn(),
    )


def advised(machine: Machine, budget: RowBudget) -> Iterator[str]:
    """One line for everything that is off."""
    on_cpu = machine.device == "cpu"
    if on_cpu and machine.gpu:
        yield "there is a GPU and the model is not on it: --device auto"
    if on_cpu and machine.threads > machine.cores:
        yield f"{machine.threads} threads share {machine.cores} cores: set OMP_NUM_THREADS={machine.cores}"
    if on_cpu and machine.threads < machine.cores:
        asked = "unset OMP_NUM_THREADS" if os.environ.get("OMP_NUM_THREADS") else "set OMP_NUM_THREADS to use more"
        yield f"{machine.threads} of {machine.cores} cores compute: {asked}"
    if on_cpu and machine.load is not None and machine.load > machine.cores / 2:
        yield (
            f"the processor was busy in the last minute (load {machine.load:.1f} on {machine.cores} cores): if other "
            "programs still run, the figures above are too low"
        )
    if machine.faster_products == "onednn" and machine.products != "onednn":
        yield (
            "oneDNN is off and would be faster here: unset EMOTION_CIRCUITS_PRODUCTS"
            if machine.has_onednn
            else "this PyTorch has no oneDNN, which would be faster here: install the wheel that PyPI has"
        )
    if budget.rows < FEW_ROWS:
        yield (
            f"free memory holds {budget.rows} rows: close other programs, or load with --dtype bfloat16 or "
            "--device-map auto"
        )


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, within the quota of its container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, _quota(bound)))


def _quota(otherwise: int, file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Whole cores that a Linux control group allows (version 2)."""
    try:
        allowed, period = file.read_text("ascii").split()
        return round(int(allowed) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return otherwise


def _memory(lm: LM) -> Memory:
    import torch

    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    return Memory(weights, torch.cuda.max_memory_allocated(lm.device) if lm.device.type == "cuda" else _peak())


def _peak() -> int | None:
    """The most memory that the process ever held, in bytes; unknown on Windows."""
    try:
        import resource
    except ImportError:
        return None
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
