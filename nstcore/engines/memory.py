"""How much memory the host has left, containers' limits included."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, or None where the system does not say.

    The least of what the machine has available and what the control groups of a container leave. Linux's files below
    `root`; elsewhere the free pages, where the system counts them.
    """
    known = [n for n in (_available(root), _left_in_group_v2(root), _left_in_group_v1(root)) if n is not None]
    return max(0, min(known)) if known else _free_pages()


def _available(root: Path) -> int | None:
    """MemAvailable: free, or only caching files."""
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _left_in_group_v2(root: Path) -> int | None:
    group = root / "sys/fs/cgroup"
    return _left(group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file")


def _left_in_group_v1(root: Path) -> int | None:
    group = root / "sys/fs/cgroup/memory"
    files = group / "memory.limit_in_bytes", group / "memory.usage_in_bytes", group / "memory.stat"
    return _left(*files, "total_inactive_file")


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
