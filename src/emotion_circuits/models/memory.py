"""How much memory is free, and did it run out?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that main memory or the accelerator's memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: the GPU's, or what is available here, within the limit of the container."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # Blocks that PyTorch holds but does not use are free for us.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_available(), _container())


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 4 << 30  # Windows tells nothing without another package: a small machine is assumed


def _container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What a Linux control group still allows (version 2, then 1); unlimited where there is none.

    Pages of files that were read or written count as used there, and are given up as soon as memory is wanted.
    """
    for limit, used, details, name in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            allowed, taken = (int((root / file).read_text("ascii")) for file in (limit, used))
            counts = dict(line.split() for line in (root / details).read_text("ascii").splitlines())
            return max(0, allowed - taken + min(taken, int(counts.get(name, 0))))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62
