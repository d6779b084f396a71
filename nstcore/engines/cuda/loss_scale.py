"""float16's powers of two: gradients that are too small for it are multiplied by one on their way back, and so is S.

They are found on the device, from sums that the host need not know, so that an evaluation is one sequence of launches.
A gradient may be beyond float16 all the same. Whoever has read that repeats the evaluation with smaller scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..asked import TapGradient
from .device import Array
from .later import LaterArray
from .losses import ROWS, STYLE, Losses
from .precision import FLOAT16
from .vectors import THREADS

ATTEMPTS = (0, 6, 12, 18)  # by how many powers of two the scales of one evaluation are lowered, one after the other
KINDS = 4  # scale_kind of common.cuh
ONE = -1  # in place of a place: the number 1
WARP = 32


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
        self._sums: Array = None
        self._rows: Array = None
        self._exponents = self.device.to_device(np.array(ATTEMPTS, np.int32))
        self._lowered = self.device.to_device(np.array(ATTEMPTS[:1], np.int32))
        self._tables: dict[str, tuple[np.ndarray, Array]] = {}

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Those that the last `measure` used: a graph knows their places, others may follow them."""
        return self._sums, self._rows, *(table for _, table in self._tables.values())

    def measure(
        self, gradients: Mapping[str, Sequence[TapGradient]], features: Mapping[str, Array], above: Array = None
    ) -> Scales:
        """Scales that bring the largest gradients to about 1: float16 reaches 5 digits up from there, 7 down.

        For every tap about the mean square of what its losses send back is measured. |S F| is taken as |S| |F|, and
        sum w^2 x as max w sum w x, which they do not exceed. What comes from `above`, the next part's gradient, counts
        as a loss's gradient does. Nothing is read.
        """
        terms = [term for of_tap in gradients.values() for term in of_tap]
        every = [term.dG for term in terms if term.dG is not None]
        single = sum(part is not None for term in terms for part in (term.ds, term.target))
        self._make_room(3 * len(every) + single + 1, len(every))
        first, found = [0], list[tuple[float, Any, Any]]()
        with self.losses.into(self._sums):
            for tap, of_tap in gradients.items():
                for term in of_tap:
                    found += self._squares(features[tap], term)
                first.append(len(found))
            if above is not None:
                found.append((1 / above.size, self.losses.squared_sum(above), ONE))
                first.append(len(found))
            extremes = [self.losses.max_abs(dG) for dG in every]
        places = [*first, *(place for _, *pair in found for place in pair), *extremes]
        kernel = self.device.kernel(STYLE, "loss_scales", FLOAT16, THREADS=THREADS, ROWS=ROWS)
        kernel(
            1,
            WARP,
            self._sums,
            self._table("coefficients", np.array([coefficient for coefficient, *_ in found], np.float64)),
            self._table("places", np.array(places, np.int32)),
            self._lowered,
            self._rows,
            len(first) - 1,
            len(found),
            len(every),
        )
        rows = {self.device.address(dG): self._rows[i] for i, dG in enumerate(every, 1)}
        return Scales({0: self._rows[0], **rows})

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

    def _squares(self, F: Array, term: TapGradient) -> Iterator[tuple[float, Any, Any]]:
        """About the mean square of what a loss sends back: coefficient a b, for a and b at those places of the sums."""
        guide, squares = term.guide, self.losses.squared_distance
        w, most = (None, 1.0) if guide is None else (guide.w, guide.most)
        if term.dG is not None:
            yield 4 * most**2 / F.size, self.losses.squared_sum(term.dG), squares(F, None, w)
        if term.ds is not None:
            weights = F.size / F.shape[2] if guide is None else guide.squares
            if isinstance(term.ds, LaterArray):
                yield term.ds.factor**2 * weights / F.size, self.losses.squared_sum(term.ds.array), ONE
            else:
                yield float(term.ds @ term.ds) * weights / F.size, ONE, ONE
        if term.target is not None:
            yield (2 * most * term.scale) ** 2 / F.size, squares(F, term.target.P, w), ONE

    def _make_room(self, sums: int, gradients: int) -> None:
        if self._sums is None or self._sums.size < sums:
            self._sums = self.device.empty(sums, np.float64)
        if self._rows is None or len(self._rows) < gradients + 1:
            self._rows = self.device.empty((gradients + 1, KINDS), np.float32)

    def _table(self, name: str, numbers: np.ndarray) -> Array:
        """They on the device; made anew only where they are others than last time."""
        last = self._tables.get(name)
        if last is None or not np.array_equal(last[0], numbers):
            last = self._tables[name] = numbers, self.device.to_device(numbers)
        return last[1]
