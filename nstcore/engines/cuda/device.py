"""What the CUDA engine asks of a device: memory, and kernels to launch. One interface for a GPU and for its stand-in.

`gpu.py` is CuPy; `on_cpu.py` runs the same .cu files on the CPU (see tools/cuda_on_cpu). Everything else in this folder
is written once, for both. CUDA itself checks no argument of a launch: a Python float would pass as a double, a view as
its base. So every launch is checked here against the kernel's signature, before it reaches either.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from ..memory import free_memory
from . import source
from .boxes import TensorMap
from .precision import FLOAT32, Precision
from .variants import options

if TYPE_CHECKING:
    from .rounds import Rounds


class CannotCapture(RuntimeError):
    """What cannot be part of a graph was asked for while one was recorded."""


class Graph(ABC):
    """Launches, copies and fills that were recorded, with their arguments as they were."""

    @abstractmethod
    def launch(self) -> None:
        """All of them again, in their order."""


class Reading:
    """Copies of one array's values to the host, one after the other, during which the device may go on.

    This one makes them at once, as a device must that computes in the same place.
    """

    def __init__(self, device: Device, array: Array) -> None:
        self.device, self.array = device, array
        self._host: Any = None

    def begin(self) -> None:
        """Copy the values that the array has once all that was launched before is over."""
        self._host = self.device.to_host(self.array)

    def end(self) -> np.ndarray:
        """That copy; waits for it alone, not for what was launched after it."""
        return self._host


Array = Any  # of the device: cupy.ndarray, or the stand-in's
Size = int | Sequence[int]
LARGEST_GRID = (2**31 - 1, 65535, 65535)


class Kernel(ABC):
    """One kernel of one rung, compiled for a precision and options; call it to launch it.

    Attributes
    ----------
    name : str
        "conv3x3/03_register_tile conv3x3_forward", for messages.
    """

    def __init__(self, rung: source.Rung, function: str, precision: Precision, device: Device) -> None:
        self.name = f"{rung.name} {function}"
        self.parameters = rung.kernels[function]
        self.device = device
        self._dtypes = [np.dtype(_dtype(p, precision)) for p in self.parameters]

    def __call__(self, grid: Size, block: Size, *arguments: Any, shared: int = 0) -> None:
        """Launch `grid` blocks of `block` threads, with `shared` bytes of dynamic shared memory.

        Parameters
        ----------
        grid, block : int or up to three of them
        *arguments
            One for each parameter of the kernel: C-contiguous arrays of this device, of the parameter's dtype, or None
            for a null pointer; Python or NumPy numbers; a TensorMap, or None for one that is not looked at.
        shared : int

        Raises
        ------
        TypeError, ValueError
            For an argument that the kernel would misread: a mistake of the program, not of its user.
        """
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name}: expected {len(self.parameters)} arguments, got {len(arguments)}")
        checked = [self._checked(*each) for each in zip(self.parameters, self._dtypes, arguments, strict=True)]
        wide, threads = _three(grid), _three(block)
        if any(not 0 < n <= most for n, most in zip(wide, LARGEST_GRID, strict=True)):
            raise ValueError(f"{self.name}: expected a grid within {LARGEST_GRID}, got {wide}")
        if not 0 < math.prod(threads) <= 1024:
            raise ValueError(f"{self.name}: expected 1 to 1024 threads in a block, got {threads}")
        self._launch(wide, threads, checked, shared)

    def _array(self, parameter: source.Parameter, dtype: np.dtype, a: Array) -> Array:
        if a is None:
            return None
        if not self.device.owns(a):
            raise TypeError(f"{self.name}: {parameter.name}: expected an array of {self.device.name}, got {type(a)}")
        if a.dtype != dtype or not a.flags.c_contiguous:
            raise TypeError(
                f"{self.name}: {parameter.name}: expected a C-contiguous {dtype} array, got {a.dtype} with strides "
                f"{a.strides} for shape {a.shape}"
            )
        return a

    def _checked(self, parameter: source.Parameter, dtype: np.dtype, a: Any) -> Any:
        if parameter.type == source.BOXES:
            return self._boxes(parameter, dtype, a)
        return self._array(parameter, dtype, a) if parameter.array else _scalar(self.name, parameter, dtype, a)

    def _boxes(self, parameter: source.Parameter, dtype: np.dtype, boxes: TensorMap | None) -> TensorMap:
        found = TensorMap(None) if boxes is None else boxes
        if not isinstance(found, TensorMap):
            raise TypeError(f"{self.name}: {parameter.name}: expected a TensorMap, got {type(found)}")
        array = self._array(parameter, dtype, found.array)
        if array is not None and (problem := found.problem(self.device.address(array))):
            raise ValueError(f"{self.name}: {parameter.name}: expected {problem}")
        return found

    @abstractmethod
    def _launch(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[Any], shared: int) -> None:
        """Launch with checked arguments: arrays, None, tensor maps, or NumPy scalars of the parameter's own type."""


class Device(ABC):
    """A GPU, or what stands in for one.

    Attributes
    ----------
    kind : str
        The engine's name on the command line: "cuda", "cuda-on-cpu".
    name : str
        For messages and the picture's metadata: "NVIDIA H200".
    architecture : int
        90 for sm_90.
    processors : int
        Multiprocessors: how many blocks there should be at least, for all of them to have work.
    shared_bytes : int
        Most dynamic shared memory that a block can have.
    rounds : Rounds, or None
        Those in which several pictures are painted at once.
    packed : mapping
        The filters that networks have here, see filters.py.
    """

    kind: str
    name: str
    architecture: int
    processors: int
    shared_bytes: int
    rounds: Rounds | None = None

    def __init__(self) -> None:
        self._kernels: dict[Any, Kernel] = {}
        self._capturing = False
        self.packed: WeakValueDictionary[Any, Any] = WeakValueDictionary()

    def kernel(self, rung: str | source.Rung, function: str, precision: Precision = FLOAT32, **defines: int) -> Kernel:
        """A kernel of a rung, compiled with -DNAME=value for each of `defines`; kept for the next call."""
        found = source.read(rung) if isinstance(rung, str) else rung
        key = found.name, found.digest, function, precision.name, tuple(sorted(defines.items()))
        if key not in self._kernels:
            if function not in found.kernels:
                raise ValueError(f"{found.name}: expected one of {', '.join(found.kernels)}, got {function}")
            self._kernels[key] = self._compile(found, function, precision, options(precision, defines))
        return self._kernels[key]

    @abstractmethod
    def _compile(
        self, rung: source.Rung, function: str, precision: Precision, defines: Mapping[str, str]
    ) -> Kernel: ...

    @abstractmethod
    def owns(self, a: Any) -> bool:
        """Whether `a` is an array in this device's memory."""

    @abstractmethod
    def address(self, a: Array) -> int:
        """Where an array of this device begins, for kernels that take a table of arrays."""

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """A new C-contiguous array, its values unset, aligned to 256 bytes."""

    @abstractmethod
    def to_device(self, a: np.ndarray) -> Array:
        """A C-contiguous copy in the device's memory, of the same dtype."""

    @abstractmethod
    def to_host(self, a: Array) -> np.ndarray:
        """A NumPy copy; waits for what was launched before."""

    def reading(self, a: Array) -> Reading:
        """A way to read an array while the device goes on."""
        return Reading(self, a)

    @abstractmethod
    def copy(self, source: Array, out: Array) -> None:
        """out = source, both C-contiguous, of one dtype and size."""

    @abstractmethod
    def copy_rows(self, source: Array, out: Array) -> None:
        """out = source, both (C, H, W) of one dtype, whose planes are contiguous: rows of all planes of an array."""

    @abstractmethod
    def fill_bytes(self, a: Array, byte: int) -> None:
        """Set every byte of a C-contiguous array: 0 for zeros, 255 for NaN in any float type."""

    @abstractmethod
    def capture(self) -> AbstractContextManager[Graph]:
        """What is launched, copied or filled within the block is recorded, not done; `Graph.launch` does it.

        The arrays stay in use: they must live as long as the graph. Memory can neither be taken nor exchanged with the
        host within it, nor waited for: that raises `CannotCapture`, and nothing has been recorded.
        """

    @abstractmethod
    def joined(self, graphs: Sequence[Graph]) -> Graph:
        """One graph of several that use no array in common, or only read it: they may run at the same time.

        It holds no arrays: it may be launched while all of them may be.
        """

    def launch(self, graph: Graph) -> None:
        """Launch a graph; where several pictures are painted at once, together with the graphs of the others."""
        if self.rounds is None:
            graph.launch()
        else:
            self.rounds.launch(graph)

    @property
    def capturing(self) -> bool:
        """Whether launches are recorded at the moment."""
        return self._capturing

    def _outside_capture(self, what: str) -> None:
        if self._capturing:
            raise CannotCapture(f"{what}: not while launches are recorded")

    def free_bytes(self) -> int | None:
        """Memory that new arrays may take; None where nobody knows."""
        return free_memory()

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything that was launched; what failed there is raised here."""


def plane_bytes(a: Array) -> tuple[int, int]:
    """From one plane of an array (C, H, W) to the next, and of one, whose rows lie together.

    Raises
    ------
    TypeError
        If they do not.
    """
    row = a.itemsize * a.shape[-1]
    if len(a.shape) != 3 or a.strides[1:] != (row, a.itemsize) or a.strides[0] < row * a.shape[1]:
        raise TypeError(f"expected (C, H, W) of contiguous planes, got strides {a.strides} for shape {a.shape}")
    return a.strides[0], row * a.shape[1]


def _dtype(parameter: source.Parameter, precision: Precision) -> Any:
    if parameter.type in ("element", source.BOXES):
        return precision.dtype
    return (source.POINTERS if parameter.array else source.SCALARS)[parameter.type]


def _scalar(kernel: str, parameter: source.Parameter, dtype: np.dtype, value: Any) -> np.generic:
    """The value as exactly the type that the kernel takes."""
    if isinstance(value, bool | np.bool_):
        value = int(value)
    if not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{kernel}: {parameter.name}: expected a number, got {type(value)}")
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if int(value) != value or not info.min <= value <= info.max:
            raise ValueError(f"{kernel}: {parameter.name}: expected a whole number that fits {dtype}, got {value}")
        return dtype.type(int(value))
    return dtype.type(value)


def _three(size: Size) -> tuple[int, int, int]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    x, y, z = (*sizes, 1, 1)[:3]
    return int(x), int(y), int(z)
