"""Every launch of a step, without a GPU: the engine runs on a device whose kernels are noted down and compute nothing.

What is recorded is what the engine asks for, launch by launch, with its arguments checked as on a GPU; only the numbers
are missing. Memory is taken from the system and never touched, so that a step of any size fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from bench_common import pictures, planes

from nstcore import Objective, Weights, minimize_adam
from nstcore.engines.cuda import CudaEngine, source
from nstcore.engines.cuda.boxes import TensorMap
from nstcore.engines.cuda.device import Array, Kernel
from nstcore.engines.cuda.on_cpu import DeviceArray, OnCpuDevice
from nstcore.engines.cuda.precision import Precision

STEPS = 4  # evaluations: the first compiles, the second may record a graph, the third is a step, the fourth ends it
COPY, FILL, READ = "copy", "fill", "read back"


@dataclass(frozen=True)
class Launch:
    """One kernel's launch, or a copy, a fill, or a result that the host reads.

    Attributes
    ----------
    kernel : str
        "conv3x3_forward"; COPY, FILL or READ.
    arguments : dict
        By the parameter's name: arrays of the device, None, or numbers; of a copy or a fill its `source` and `out`.
    rung : str
        "conv3x3/03_register_tile"; empty for what is no kernel.
    precision : Precision or None
    defines : dict of str
        -D options.
    grid, block : three ints each
    shared : int
        Bytes of dynamic shared memory.
    written : frozenset of str
        Names of the arrays that it may write to.
    """

    kernel: str
    arguments: Mapping[str, Any]
    rung: str = ""
    precision: Precision | None = None
    defines: Mapping[str, str] = field(default_factory=dict)
    grid: tuple[int, ...] = (0, 0, 0)
    block: tuple[int, ...] = (0, 0, 0)
    shared: int = 0
    written: frozenset[str] = frozenset()

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)

    @property
    def threads(self) -> int:
        """Of a block."""
        return math.prod(self.block)

    @property
    def arrays(self) -> dict[str, Array]:
        """Those that were passed."""
        return {name: a for name, a in self.arguments.items() if isinstance(a, DeviceArray)}

    @property
    def form(self) -> tuple[Any, ...]:
        """The same for launches that do the same work: all but where arrays lie and what numbers they are scaled by."""
        sizes = tuple((name, a.nbytes) for name, a in self.arrays.items())
        whole = tuple((n, int(a)) for n, a in self.arguments.items() if isinstance(a, int | np.integer))
        options = tuple(sorted(self.defines.items()))
        return self.rung, self.kernel, options, self.grid, self.block, self.shared, sizes, whole


class Recorder(OnCpuDevice):
    """A device that notes down what it is asked for.

    Parameters
    ----------
    architecture, processors : int
        Of the GPU that it stands for: 90 for sm_90, 132 multiprocessors.
    name : str

    Attributes
    ----------
    launches : list of Launch
        In their order.

    Raises
    ------
    DeviceError
        Where the stand-in for a GPU has no compiler.
    """

    kind = "cuda"

    def __init__(self, architecture: int, processors: int, name: str) -> None:
        super().__init__()
        self.architecture, self.processors, self.name = architecture, processors, name
        self.launches: list[Launch] = []

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> DeviceArray:
        """Not written to: the system gives no page of it."""
        self._outside_capture("new memory")
        return DeviceArray(np.empty(shape, dtype))

    def to_host(self, a: Array) -> np.ndarray:
        """Ones: finite, as every loss is."""
        self._outside_capture("a result for the host")
        self._note(Launch(READ, {"source": a}))
        return np.ones(a.shape, a.dtype)

    def copy(self, source: Array, out: Array) -> None:
        self._do(partial(self._note, Launch(COPY, {"source": source, "out": out}, written=frozenset({"out"}))))

    def fill_bytes(self, a: Array, byte: int) -> None:
        self._do(partial(self._note, Launch(FILL, {"out": a}, written=frozenset({"out"}))))

    def free_bytes(self) -> int:
        """As much as anybody wants."""
        return 1 << 60

    def _note(self, launch: Launch) -> None:
        self.launches.append(launch)

    def _compile(self, rung: source.Rung, function: str, precision: Precision, defines: Mapping[str, str]) -> Any:
        return RecordedKernel(rung, function, precision, self, defines)


class RecordedKernel(Kernel):
    """One kernel of a `Recorder`."""

    def __init__(
        self, rung: source.Rung, function: str, precision: Precision, device: Recorder, defines: Mapping[str, str]
    ) -> None:
        super().__init__(rung, function, precision, device)
        self._recorder = device
        self._facts: dict[str, Any] = {"rung": rung.name, "precision": precision, "defines": dict(defines)}
        self._facts["written"] = frozenset(p.name for p in self.parameters if p.written)
        self._function = function

    def _launch(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[Any], shared: int) -> None:
        given = (a.array if isinstance(a, TensorMap) else a for a in arguments)
        named = {p.name: a for p, a in zip(self.parameters, given, strict=True)}
        launch = Launch(self._function, named, grid=grid, block=block, shared=shared, **self._facts)
        self._recorder._do(partial(self._recorder._note, launch))


def record_step(
    weights: Weights, precision: str, size: int, device: Recorder, convolution: str | None = None, **options: Any
) -> list[Launch]:
    """The launches of one step of Adam at size x size: the evaluation that the ones after it repeat, and the update.

    Parameters
    ----------
    weights : Weights
    precision : str
    size : int
    device : Recorder
    convolution : str, optional
        A rung by its short name; the production one, if not given.
    **options
        Of the `Objective`.
    """
    content, style, start = pictures(size)
    engine = CudaEngine(device, precision, convolution)
    objective = Objective(weights, content, style, engine=engine, **options)
    begun: list[int] = []

    def evaluate(x: Array) -> tuple[float, Array]:
        begun.append(len(device.launches))
        terms, gradient = objective(x)
        return terms.total, gradient

    x = engine.array(planes(start))
    minimize_adam(evaluate, x, max_evaluations=STEPS, bounds=(0.0, 1.0), vectors=engine.vectors)
    return device.launches[begun[-2] : begun[-1]]


def values(table: Array) -> np.ndarray:
    """What a table holds that the host has made, such as addresses and sizes."""
    return table._host


def grouped(launches: list[Launch]) -> Iterator[tuple[Launch, int]]:
    """Each kind of launch once, with how often it comes, in the order of the step."""
    groups: dict[Any, list[Launch]] = {}
    for launch in launches:
        groups.setdefault(launch.form, []).append(launch)
    return ((found[0], len(found)) for found in groups.values())
