"""Studies on many processes and machines: a plan of shards, one function that runs a shard, and three ways to start it.

1. The planner writes an immutable manifest: cells (an experiment on a model or a pair), and shards (one model load and
   the cells that are computed with it). 2. Every backend calls :func:`run_shard` with the manifest and a number, in a
   process on this machine, a Slurm job or a Ray task. 3. Cells leave their result in the ordinary run folders; several
   shards may work on the same cells and then share the rows of each step (``experiments/_crew.py``).

Nothing but files connects the processes: claims with a heartbeat, parts that are written and then renamed.
"""

from __future__ import annotations

from emotion_circuits.runners.manifest import Cell, Manifest, Shard, Work, read_manifest
from emotion_circuits.runners.plan import plan_study
from emotion_circuits.runners.shard import ShardReport, run_shard
from emotion_circuits.runners.state import CellState, collect, states

__all__ = [
    "Cell", "CellState", "Manifest", "Shard", "ShardReport", "Work", "collect", "plan_study", "read_manifest",
    "run_shard", "states",
]  # fmt: skip
