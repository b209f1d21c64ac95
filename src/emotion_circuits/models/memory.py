"""How much memory is free, and did it run out?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTROL_GROUP = Path("/sys/fs/cgroup")


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


def _container(root: Path = CONTROL_GROUP) -> int:
    """What a Linux control group still allows (version 2, then 1); unlimited where there is none.

    Pages of files that were read lately count as used there, although they are given up as soon as memory is wanted: a
    model that was just downloaded or copied would seem to fill it.
    """
    for folder, limit, used, cached in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken = (int((folder / name).read_text("ascii")) for name in (limit, used))
            return max(0, most - taken + min(taken, _counted(folder / "memory.stat", cached)))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62


def _counted(path: Path, name: str) -> int:
    """One number of a control group's statistics, 0 where it is not told."""
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
