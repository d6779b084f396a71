"""How much memory the host has left, containers' limits included, and how much of it this process holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

sharers = 1  # processes that paint on this machine at once: each may take its share of what is free


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, or None where the system does not say.

    The least of what the machine has available and what the control groups of a container leave, both shared with
    other `sharers`, and of what the limits of the process (`ulimit -d`, `ulimit -v`) leave. Linux's files below `root`;
    elsewhere the free pages, where the system counts them.
    """
    free = _least((_available(root), _left_in_group_v2(root), _left_in_group_v1(root)))
    own = _left_of_limits(root)
    if free is None and own is None:
        free = _free_pages()
    left = _least((None if free is None else free // sharers, own))
    return None if left is None else max(0, left)


def held_memory() -> tuple[int, int] | None:
    """Bytes of memory that this process holds now, and the most that it has held; None where the system does not say.

    Where only the most is known, it stands for both.
    """
    with suppress(OSError, ValueError, IndexError, KeyError):
        lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
        known = {line[0]: int(line[1]) * 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}
        return known["VmRSS:"], known["VmHWM:"]
    with suppress(ImportError):
        import resource  # not on Windows

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return most, most
    return None


def _available(root: Path) -> int | None:
    """MemAvailable: free, or only caching files."""
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _left_in_group_v2(root: Path) -> int | None:
    groups = _groups(root, "", "sys/fs/cgroup")
    return _least(_left(g / "memory.max", g / "memory.current", g / "memory.stat", "inactive_file") for g in groups)


def _left_in_group_v1(root: Path) -> int | None:
    files, groups = ("memory.limit_in_bytes", "memory.usage_in_bytes"), _groups(root, "memory", "sys/fs/cgroup/memory")
    return _least(_left(g / files[0], g / files[1], g / "memory.stat", "total_inactive_file") for g in groups)


def _left_of_limits(root: Path) -> int | None:
    """What the process's own limits of its data and of its address space leave."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource  # not on Windows

        lines = [line.split() for line in (root / "proc/self/status").read_text().splitlines()]
        used = {line[0]: int(line[1]) * 1024 for line in lines if line[0] in ("VmData:", "VmSize:")}
        limits = {"VmData:": resource.RLIMIT_DATA, "VmSize:": resource.RLIMIT_AS}
        soft = {name: resource.getrlimit(limits[name])[0] for name in used}
        return _least(max(0, n - used[name]) for name, n in soft.items() if n != resource.RLIM_INFINITY)
    return None


def _groups(root: Path, controller: str, mount: str) -> list[Path]:
    """The control group that this process is in and all around it, whose limits hold for it, too.

    Inside a container the tree often begins with the container's own group, and what /proc calls the group's path is
    not below it: then only the mount itself is there to read.
    """
    path = PurePosixPath("/")
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controller in controllers.split(","):
                path = PurePosixPath(name)
    return [root / mount / p.relative_to("/") for p in (path, *path.parents) if p.is_absolute()]


def _least(known: Iterable[int | None]) -> int | None:
    return min((n for n in known if n is not None), default=None)


def _left(limit: Path, used: Path, stat: Path, cache: str) -> int | None:
    """What a group's limit leaves; its pages that only cache files count as free."""
    with suppress(OSError, ValueError):
        left = int(limit.read_text()) - int(used.read_text())  # "max" is no number: no limit
        with suppress(OSError, ValueError):
            lines = [line.split() for line in stat.read_text().splitlines()]
            left += sum(int(line[1]) for line in lines if line[0] == cache)
        return left
    return None


def _free_pages() -> int | None:
    with suppress(OSError, ValueError, AttributeError):
        pages = os.sysconf("SC_AVPHYS_PAGES")
        return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else None
    return None
