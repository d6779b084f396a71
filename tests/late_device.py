"""The stand-in as late as a GPU may be, and a function on it that needs no network: for tests of what goes ahead."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from nstcore.engines.cuda.device import Reading
from nstcore.engines.cuda.later import Unread
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.on_cpu import OnCpuDevice, OnCpuGraph
from nstcore.engines.cuda.precision import FLOAT32
from nstcore.engines.cuda.vectors import CudaVectors
from nstcore.optim import minimize_adam
from nstcore.optim.adam import Halves

SIZE = (16, 20)


class LateDevice(OnCpuDevice):
    """Does what it is asked to as late as it can: when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list = []
        self.done = 0

    def _do(self, work) -> None:
        if self._recorded is None:
            self.waiting.append(work)
        else:
            super()._do(work)

    def until(self, number: int) -> None:
        """Do all up to that one, counted from the first ever."""
        while self.done < number:
            self.waiting.pop(0)()
            self.done += 1

    @property
    def asked(self) -> int:
        return self.done + len(self.waiting)

    def synchronize(self) -> None:
        super().synchronize()
        self.until(self.asked)

    def to_host(self, a):
        self._outside_capture("a result for the host")
        self.until(self.asked)
        return super().to_host(a)

    def reading(self, a):
        return LateReading(self, a)

    @contextmanager
    def capture(self):
        with super().capture() as graph:
            self._recorded = late = LateGraph(self)
            yield late
        del graph


class LateGraph(OnCpuGraph):
    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self.device = device

    def launch(self) -> None:
        self.device.waiting.extend(self.work)


class LateReading(Reading):
    def begin(self) -> None:
        self.device._do(lambda: setattr(self, "_host", self.array._host.copy()))
        self.number = self.device.asked

    def end(self) -> np.ndarray:
        self.device.until(self.number)
        return self._host


class Bowl:
    """sum x^2 on a device, as an engine has its losses: unread while launches are recorded."""

    def __init__(self, device, forbidden: bool = False) -> None:
        self.device, self.losses, self.vectors = device, Losses(device, FLOAT32), CudaVectors(device)
        self.forbidden = forbidden
        self.begun = 0
        self.watched = False
        self.g = device.empty(SIZE, np.float32)

    def begin(self, x):
        self.begun += 1
        self.vectors.combine(2.0, x, None, (), out=self.g)
        if self.forbidden:
            self.device.to_host(x)
        with self.losses.later():
            number = self.losses.squared_sum(x)
        if self.device.capturing:
            return Unread(number, self.losses.unread, lambda: not self.watched), self.g
        return number.known(self.losses.results()), self.g

    def minimize(self, callback=None, x=None, end=lambda x, found: found, **options):
        if x is None:
            x = self.device.to_device(np.random.default_rng(0).random(SIZE, np.float32))
        return minimize_adam(Halves(self.begin, end), x, callback=callback, vectors=self.vectors, **options)


def everything(bowl: Bowl, stop_at: int | None = None, **options):
    """Every state that a callback sees, as numbers; and the end."""
    seen = []
    host = bowl.device.to_host

    def callback(state):
        arrays = [host(a).tobytes() for a in (state.x, state.state.m, state.state.v)]
        seen.append((state.evaluations, state.iterations, state.loss, state.step, state.state.t, *arrays))
        return state.evaluations == stop_at

    end = bowl.minimize(callback, **{"max_evaluations": 9, "bounds": (0.1, 1.0)} | options)
    return seen, end
