"""float16's powers of two: gradients that are too small for it are multiplied by one on their way back, and so is S.

They are found on the device, from sums that the host need not know, so that an evaluation is one sequence of launches;
two of them find the scales, however many losses there are. A gradient may be beyond float16 all the same. Whoever has
read that repeats the evaluation with smaller scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..asked import TapGradient
from .device import Array, Device, Kernel
from .later import LaterArray
from .losses import ROWS, STYLE, Losses, check_fit
from .moments import Guide
from .precision import FLOAT16
from .vectors import THREADS, VECTOR, pieces

ATTEMPTS = (0, 6, 12, 18)  # by how many powers of two the scales of one evaluation are lowered, one after the other
KINDS = 4  # scale_kind of common.cuh
ONE = -1  # in place of a job: the number 1
MOST = 256  # pieces of a job: a warp adds them up, and as many blocks keep memory busy
FLOAT, ELEMENT, PART = np.dtype(np.float32), FLOAT16.dtype, np.dtype(np.float64)


@dataclass(frozen=True)
class Scales:
    """Powers of two for one backward pass, on the device.

    Attributes
    ----------
    rows : dict
        float32 arrays (4,), as scale_kind in common.cuh has them, by the address of a loss's dG; 0 for a loss without.
        Empty where nothing is multiplied.
    """

    rows: Mapping[int, Array] = field(default_factory=dict)

    def of(self, dG: int = 0) -> Array | None:
        """What kernels are handed for a loss."""
        return self.rows.get(dG)


@dataclass(frozen=True)
class Job:
    """A sum over an array: w (F - P)^2, or a^2.

    Attributes
    ----------
    a : array
        F, elements (H, W, N); or float32, of which the largest magnitude is found, too.
    P : array like F, or None
    w : float32 array (H W,), or None
    parts : float64 array, or None
        What the sum is the sum of, where somebody has left it already.
    """

    a: Array
    P: Array = None
    w: Array = None
    parts: Array = None

    @property
    def pieces(self) -> int:
        """How many numbers the sum is added up from."""
        if self.parts is not None:
            return self.parts.size
        return min(pieces(self.a.size, VECTOR if self.a.dtype == FLOAT else 16 // ELEMENT.itemsize), MOST)

    @property
    def blocks(self) -> int:
        """Of the launch that leaves these numbers."""
        return 0 if self.parts is not None else self.pieces

    def row(self, device: Device, first: int, sums: Array) -> list[int]:
        """Of the table of style/01_two_stage.cu, for a job whose first block that is; blocks leave theirs in `sums`."""
        dtype = FLOAT if self.a.dtype == FLOAT else ELEMENT
        check_fit(self.a, self.P, self.w)
        places = [_address(device, a, kind) for a, kind in ((self.a, dtype), (self.P, dtype), (self.w, FLOAT))]
        parts = _address(device, sums, PART) + PART.itemsize * first
        if self.parts is not None:
            parts = _address(device, self.parts, PART)
        return [*places, self.a.size, self.a.shape[-1], dtype == FLOAT, first, self.pieces, parts]


@dataclass
class Terms:
    """What the scales are found from: a tap's mean square is the sum of its terms, coefficient a b for two jobs' sums.

    Attributes
    ----------
    jobs : list of Job
    found : list of (coefficient, a, b)
        Places of jobs, or ONE.
    first : list of int
        Where each tap's terms begin, and the last one's end.
    of_gradients : dict of int
        The place of each dG's job, by its address.
    """

    jobs: list[Job] = field(default_factory=list)
    found: list[tuple[float, int, int]] = field(default_factory=list)
    first: list[int] = field(default_factory=lambda: [0])
    of_gradients: dict[int, int] = field(default_factory=dict)

    def add(self, coefficient: float, *jobs: Job) -> None:
        """A term of the tap that is under way."""
        begin = len(self.jobs)
        self.jobs += jobs
        a, b = (*range(begin, len(self.jobs)), ONE, ONE)[:2]
        self.found.append((coefficient, a, b))

    def end_tap(self) -> None:
        self.first.append(len(self.found))

    @property
    def blocks(self) -> int:
        return sum(job.blocks for job in self.jobs)

    @property
    def coefficients(self) -> np.ndarray:
        return np.array([coefficient for coefficient, *_ in self.found], np.float64)

    @property
    def places(self) -> np.ndarray:
        """As loss_scales takes them."""
        pairs = [job for _, *pair in self.found for job in pair]
        return np.array([*self.first, *pairs, *self.of_gradients.values()], np.int32)

    def table(self, device: Device, sums: Array) -> np.ndarray:
        """As measure takes it; blocks leave their sums in `sums`."""
        rows, first = list[list[int]](), 0
        for job in self.jobs:
            rows.append(job.row(device, first, sums))
            first += job.blocks
        return np.array(rows, np.int64)


def place_of(device: Device, tap: str, guide: Guide | None = None) -> tuple[str, int]:
    """What sums over a tap's features under a guide are known by."""
    return tap, 0 if guide is None else device.address(guide.G)


class LossScale:
    """The scales of one network.

    They follow from the features and the gradients alone, never from earlier steps: an evaluation can be repeated.

    Parameters
    ----------
    losses : Losses
    """

    def __init__(self, losses: Losses) -> None:
        self.losses, self.device = losses, losses.device
        self.attempt = 0
        self._rooms: dict[str, Array] = {}
        self._exponents = self.device.to_device(np.array(ATTEMPTS, np.int32))
        self._lowered = self.device.to_device(np.array(ATTEMPTS[:1], np.int32))
        self._tables: dict[str, tuple[np.ndarray, Array]] = {}

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Those that the last `measure` used: a graph knows their places, others may follow them."""
        return (*self._rooms.values(), *(table for _, table in self._tables.values()))

    def measure(
        self,
        gradients: Mapping[str, Sequence[TapGradient]],
        features: Mapping[str, Array],
        above: Array = None,
        traced: Mapping[tuple[str, int], Array] | None = None,
    ) -> Scales:
        """Scales that bring the largest gradients to about 1: float16 reaches 5 digits up from there, 7 down.

        For every tap about the mean square of what its losses send back is measured. |S F| is taken as |S| |F|, and
        sum w^2 x as max w sum w x, which they do not exceed. What comes from `above`, the next part's gradient, counts
        as a loss's gradient does. sum w F^2 is the trace of F's Gram matrix: where its parts are among the `traced`, by
        `place_of` the tap and the guide, F is not read. The host reads nothing.
        """
        terms = Terms()
        for tap, of_tap in gradients.items():
            for term in of_tap:
                self._ask(terms, features[tap], term, (traced or {}).get(place_of(self.device, tap, term.guide)))
            terms.end_tap()
        if above is not None:
            terms.add(1 / above.size, Job(above))
            terms.end_tap()
        blocks, jobs, dGs = terms.blocks, len(terms.jobs), [0, *terms.of_gradients]
        sums, extremes = self._room("sums", blocks, PART), self._room("extremes", blocks, np.dtype(np.uint32))
        results, rows = self._room("results", 2 * jobs, PART), self._room("rows", KINDS * len(dGs), FLOAT)
        table = self._table("jobs", terms.table(self.device, sums))
        coefficients, places = self._table("coefficients", terms.coefficients), self._table("places", terms.places)
        if blocks:
            self._kernel("measure")(blocks, THREADS, table, jobs, extremes)
        counts = jobs, len(terms.first) - 1, len(terms.found), len(terms.of_gradients)
        arrays = table, extremes, results, coefficients, places, self._lowered, rows
        self._kernel("loss_scales")(1, THREADS, *arrays, *counts)
        return Scales({dG: rows[KINDS * i : KINDS * (i + 1)] for i, dG in enumerate(dGs)})

    def lower(self) -> bool:
        """Smaller scales from the next launch on; whether there are any."""
        if self.attempt + 1 == len(ATTEMPTS):
            return False
        self._take(self.attempt + 1)
        return True

    def restore(self) -> None:
        """Those again that every evaluation begins with."""
        if self.attempt:
            self._take(0)

    def _take(self, attempt: int) -> None:
        self.attempt = attempt
        self.device.copy(self._exponents[attempt : attempt + 1], self._lowered)

    def _ask(self, terms: Terms, F: Array, term: TapGradient, parts: Array) -> None:
        """About the mean square of what a loss sends back; `parts` are those of sum w F^2, if they are there."""
        guide = term.guide
        w, most = (None, 1.0) if guide is None else (guide.w, guide.most)
        if term.dG is not None:
            terms.of_gradients[self.device.address(term.dG)] = len(terms.jobs)
            terms.add(4 * most**2 / F.size, Job(term.dG), Job(F, None, w, parts))
        if term.ds is not None:
            weights = F.size / F.shape[2] if guide is None else guide.squares
            if isinstance(term.ds, LaterArray):
                terms.add(term.ds.factor**2 * weights / F.size, Job(term.ds.array))
            else:
                terms.add(float(term.ds @ term.ds) * weights / F.size)
        if term.target is not None:
            terms.add((2 * most * term.scale) ** 2 / F.size, Job(F, term.target.P, w))

    def _kernel(self, function: str) -> Kernel:
        return self.device.kernel(STYLE, function, FLOAT16, THREADS=THREADS, ROWS=ROWS)

    def _room(self, name: str, size: int, dtype: np.dtype) -> Array:
        if name not in self._rooms or self._rooms[name].size < max(size, 1):
            self._rooms[name] = self.device.empty(max(size, 1), dtype)
        return self._rooms[name]

    def _table(self, name: str, numbers: np.ndarray) -> Array:
        """They on the device; made anew only where they are others than last time."""
        last = self._tables.get(name)
        if last is None or not np.array_equal(last[0], numbers):
            last = self._tables[name] = numbers, self.device.to_device(numbers)
        return last[1]


def _address(device: Device, a: Array, dtype: np.dtype) -> int:
    """For a table, where no launch can check what lies there; 0 for None."""
    if a is None:
        return 0
    if not device.owns(a) or a.dtype != dtype or not a.flags.c_contiguous:
        found = f"{a.dtype} with strides {a.strides}" if device.owns(a) else type(a)
        raise TypeError(f"loss scales: expected C-contiguous {dtype} arrays of {device.name}, got {found}")
    return device.address(a)
