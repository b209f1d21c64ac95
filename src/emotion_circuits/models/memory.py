"""How much memory is free, and did it run out?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTROL_GROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
UNLIMITED = 1 << 62
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that main memory or the accelerator's memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: the GPU's, or what is available here, within the limits of container and job."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # Blocks that PyTorch holds but does not use are free for us.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_available(), _container(), _job())


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


def _container(root: Path = CONTROL_GROUP, own: Path = OWN_GROUPS) -> int:
    """What the Linux control groups that hold this process still allow, the tightest of them; unlimited without any.

    A container's limit is that of the root that it sees; a Slurm job's and a systemd slice's are on groups between the
    root and the process. Pages of files that were read lately count as used there, although they are given up as soon
    as memory is wanted: a model that was just downloaded or copied would seem to fill it.
    """
    left = [UNLIMITED]
    for folder, (limit, used, cached) in _groups(root, own):
        try:
            most, taken = (int((folder / name).read_text("ascii")) for name in (limit, used))
            left.append(max(0, most - taken + min(taken, _counted(folder / "memory.stat", cached))))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(left)


def _groups(root: Path, own: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Every control group from the root down to this process's, with the names of its files (version 2, then 1).

    Inside a container ``own`` may give the path outside of it: then only the root is found.
    """
    paths = {_VERSION_2: "", _VERSION_1: ""}
    try:
        lines = own.read_text("utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths[_VERSION_2] = path
        elif "memory" in controllers.split(","):
            paths[_VERSION_1] = path
    for names, top in ((_VERSION_2, root), (_VERSION_1, root / "memory")):
        yield top, names
        steps = [step for step in paths[names].split("/") if step]
        if ".." not in steps:  # a group outside of what this process sees
            yield from ((top.joinpath(*steps[: n + 1]), names) for n in range(len(steps)))


def _job() -> int:
    """What a Slurm job may still take here, where its limit is only told and not enforced by a control group."""
    try:
        megabytes = int(os.environ.get("SLURM_MEM_PER_NODE", "0"))
    except ValueError:
        return UNLIMITED
    return max(0, (megabytes << 20) - _resident()) if megabytes > 0 else UNLIMITED  # 0: all of the machine


def _resident() -> int:
    """Memory that this process holds, in bytes; 0 where it is not told."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _counted(path: Path, name: str) -> int:
    """One number of a control group's statistics, 0 where it is not told."""
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
