"""Threads that share one piece of work, each with a single-threaded BLAS.

NumPy lets go of the interpreter's lock inside its loops and products, so plain Python threads run them side by side.
Products split this way are faster than one BLAS call that starts threads of its own, because everything between the
products is split too. The pieces do not depend on timing: the same thread count always gives the same bits.
"""

from __future__ import annotations

import ctypes
import glob
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...errors import OptionError


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Team:
    """`threads` workers, the caller among them.

    Where the BLAS behind NumPy cannot be told to use one thread, the team has a single worker and the BLAS keeps its
    own threads: slower, never oversubscribed.
    """

    def __init__(self, threads: int | None = None) -> None:
        wanted = available_cores() if threads is None else threads
        if wanted < 1:
            raise OptionError(f"threads: expected 1 or more, got {wanted}")
        self.requested = wanted
        self.threads = wanted if _blas() is not None else 1
        self._others = ThreadPoolExecutor(self.threads - 1, "nstcore") if self.threads > 1 else None

    def split(self, work: Callable[[int, int, int], None], n: int) -> None:
        """Call work(worker, start, stop) on every worker, with its share of range(n); return when all are done."""
        edges = [n * i // self.threads for i in range(self.threads + 1)]
        shares = [(i, a, b) for i, (a, b) in enumerate(pairwise(edges)) if a < b]
        if self._others is None:
            for share in shares:
                work(*share)
            return
        waiting = [self._others.submit(work, *share) for share in shares[1:]]
        try:
            if shares:
                work(*shares[0])
        finally:
            for other in waiting:
                other.result()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, every BLAS call runs in the thread that makes it; the process's own setting comes back after."""
        blas = _blas()
        if blas is None or self.threads == 1:
            yield
            return
        with _lock:
            get, put = blas
            if not _depth:
                _saved[:] = [get()]
                put(1)
            _depth.append(None)
        try:
            yield
        finally:
            with _lock:
                _depth.pop()
                if not _depth:
                    put(_saved[0])


_lock = threading.Lock()
_depth: list[None] = []
_saved: list[int] = []


@cache
def _blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """(get, set) the thread count of the OpenBLAS that NumPy uses, or None where it uses another library."""
    for path in _openblas_files():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for prefix in ("scipy_", ""):
            for suffix in ("64_", ""):
                get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
                put = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
                if get is not None and put is not None:
                    return get, put
    return None


def _openblas_files() -> list[str]:
    """NumPy's own copy first (wheels carry one), then what this process has loaded already."""
    package = Path(np.__file__).parent
    found = [
        *glob.glob(str(package.parent / "numpy.libs" / "*openblas*")),
        *glob.glob(str(package / ".dylibs" / "*openblas*")),
    ]
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        maps = []
    loaded = {line.split()[-1] for line in maps if "openblas" in line}
    # Another package (SciPy) may have brought an OpenBLAS of its own: it is not NumPy's unless NumPy has none.
    return found or sorted(loaded)
