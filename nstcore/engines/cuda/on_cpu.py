"""A device without a GPU: the same .cu files, compiled for the CPU, launched in the same way. For learners and tests.

Kernels run a thousand times slower than on a GPU, but a mistake in one comes back as an exception, and the threads of a
block can be run in several orders, which a correct kernel does not notice. See tools/cuda_on_cpu/README.md.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import zip_longest
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError
from ..cpu.team import available_cores
from . import on_cpu_build, source
from .boxes import TensorMap
from .device import Array, Device, Graph, Kernel, plane_bytes
from .precision import Precision

ORDERS = ("ascending", "descending", "random")
ALIGNMENT = 256
_SANITIZERS = {"asan": ("__asan_init", "libasan.so"), "tsan": ("__tsan_init", "libtsan.so")}


class KernelError(RuntimeError):
    """A mistake that a kernel made; names kernel, .cu file and line, block and thread."""


def problem() -> str | None:
    """Why kernels cannot run on this CPU, in one line; None if they can."""
    return on_cpu_build.problem()


class OnCpuDevice(Device):
    """Kernels on the CPU, one fiber for each CUDA thread.

    Parameters
    ----------
    order : {"ascending", "descending", "random"}
        In which the blocks, and the threads of each, begin and go on.
    build : {"fast", "debug", "asan", "tsan"}
        How kernels are compiled: optimised; for a debugger; under AddressSanitizer and UndefinedBehaviorSanitizer;
        under ThreadSanitizer. The sanitizers' libraries must be loaded before Python is.
    threads : int, optional
        Of the operating system, which share the blocks; all cores if not given, one for a debugger or a sanitizer.
    seed : int
        Of the random order.

    Raises
    ------
    DeviceError
        If there is no compiler, or no sanitizer loaded.
    """

    kind = "cuda-on-cpu"
    name = "cuda-on-cpu"
    architecture = 90
    shared_bytes = 232448  # of a block on sm_90

    def __init__(
        self, order: str = "ascending", build: str = "fast", threads: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self._recorded: OnCpuGraph | None = None
        if order not in ORDERS or build not in on_cpu_build.BUILDS:
            raise ValueError(f"expected one of {ORDERS} and of {(*on_cpu_build.BUILDS,)}, got {order}, {build}")
        if reason := problem():
            raise DeviceError(reason)
        if build in _SANITIZERS:
            symbol, name = _SANITIZERS[build]
            if not hasattr(_process(), symbol):
                way = f"LD_PRELOAD=$(g++ -print-file-name={name}) python ..."
                raise DeviceError(f"{build}: expected a process with {name} loaded first, got none; start it as {way}")
        self.order, self.build, self.seed = order, build, seed
        self.processors = available_cores()
        self.threads = (threads or self.processors) if build == "fast" else 1

    def _compile(
        self, rung: source.Rung, function: str, precision: Precision, defines: Mapping[str, str]
    ) -> OnCpuKernel:
        return OnCpuKernel(rung, function, precision, self, on_cpu_build.library(rung, defines, self.build))

    def owns(self, a: Any) -> bool:
        return isinstance(a, DeviceArray)

    def address(self, a: Array) -> int:
        return a._host.ctypes.data

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> DeviceArray:
        """Every byte is 255, which is NaN in any float type; the allocation ends with the last element."""
        self._outside_capture("new memory")
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        count, address = prod(sizes), ctypes.c_void_p()
        if _process().posix_memalign(
            ctypes.byref(address), ctypes.c_size_t(ALIGNMENT), ctypes.c_size_t(count * kind.itemsize)
        ):
            raise MemoryError(f"{self.name}: no {count * kind.itemsize} bytes")
        buffer = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(address.value or 0)
        weakref.finalize(buffer, _process().free, address)
        host = np.frombuffer(buffer, np.uint8)
        host[...] = 255
        return DeviceArray(host.view(kind).reshape(sizes))

    def to_device(self, a: np.ndarray) -> DeviceArray:
        out = self.empty(a.shape, a.dtype)
        out._host[...] = a
        return out

    def to_host(self, a: Array) -> np.ndarray:
        if not self.owns(a):
            raise TypeError(f"expected an array of {self.name}, got {type(a)}")
        self._outside_capture("a result for the host")
        return a._host.copy()

    def copy(self, source: Array, out: Array) -> None:
        if source.dtype != out.dtype or source.size != out.size:
            raise TypeError(f"copy: expected {out.size} of {out.dtype}, got {source.size} of {source.dtype}")
        here, there = self._flat(source), self._flat(out)
        self._do(lambda: np.copyto(there, here))

    def copy_rows(self, source: Array, out: Array) -> None:
        plane_bytes(source), plane_bytes(out)
        if (source.dtype, source.shape) != (out.dtype, out.shape):
            raise TypeError(f"copy_rows: expected one dtype and shape, got {source!r} and {out!r}")
        here, there = source._host, out._host
        self._do(lambda: np.copyto(there, here))

    def fill_bytes(self, a: Array, byte: int) -> None:
        there = self._flat(a).view(np.uint8)
        self._do(lambda: there.fill(byte))

    def _do(self, work: Callable[[], object]) -> None:
        """At once, or when the graph that is recorded is launched."""
        if self._recorded is None:
            work()
        else:
            self._recorded.work.append(work)

    def _flat(self, a: Array) -> np.ndarray:
        if not self.owns(a) or not a.flags.c_contiguous:
            raise TypeError(f"expected a C-contiguous array of {self.name}, got {a!r}")
        return a._host.reshape(-1)

    @contextmanager
    def capture(self) -> Iterator[OnCpuGraph]:
        self._recorded, self._capturing = OnCpuGraph(), True
        try:
            yield self._recorded
        finally:
            self._recorded, self._capturing = None, False

    def joined(self, graphs: Sequence[Graph]) -> OnCpuGraph:
        """Their launches in turn, one of each: what only works in another order, or alone, goes wrong here, too."""
        with self.capture() as found:
            for works in zip_longest(*(graph.work for graph in graphs if isinstance(graph, OnCpuGraph))):
                found.work += [work for work in works if work is not None]
        return found

    def synchronize(self) -> None:
        """Launches are over when they return."""
        self._outside_capture("a wait")


class OnCpuGraph(Graph):
    """What a GPU would have in a graph, as a list: nothing is computed before it is launched."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def launch(self) -> None:
        for work in self.work:
            work()


class OnCpuKernel(Kernel):
    """One kernel in a library built for the CPU."""

    def __init__(
        self, rung: source.Rung, function: str, precision: Precision, device: OnCpuDevice, library: Path
    ) -> None:
        super().__init__(rung, function, precision, device)
        self._device = device
        self._function = getattr(_load(library), f"launch_{function}")

    def _launch(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[Any], shared: int) -> None:
        device = self._device
        if not 0 <= shared <= device.shared_bytes:
            raise ValueError(
                f"{self.name}: expected at most {device.shared_bytes} bytes of shared memory, got {shared}"
            )
        if block[2] > 64:
            raise ValueError(f"{self.name}: expected blocks of at most 64 threads in z, got {block}")
        values = [_value(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        asked = _Launch(grid, block, shared, ORDERS.index(device.order), device.threads, device.seed)
        device._do(partial(self._run, asked, pointers, (values, arguments)))

    def _run(self, asked: _Launch, pointers: Any, held: Any) -> None:
        """`held` is what the pointers point to, and the arrays behind addresses: they live until then."""
        message = ctypes.create_string_buffer(1024)
        if self._function(ctypes.byref(asked), pointers, message, ctypes.c_size_t(len(message))):
            raise KernelError(f"{self.name}: {message.value.decode(errors='replace')}")


class _Launch(ctypes.Structure):
    """`Launch` of tools/cuda_on_cpu/calls.h."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("order", ctypes.c_int),
        ("os_threads", ctypes.c_uint),
        ("seed", ctypes.c_uint64),
    )


def _value(argument: Any) -> np.ndarray:
    """What the kernel is given, in memory: a scalar of its own type, an address, or a tensor map."""
    if argument is None:
        return np.zeros(1, np.uintp)
    if isinstance(argument, TensorMap):
        return argument.plain(0 if argument.array is None else argument.array._host.ctypes.data)
    if isinstance(argument, DeviceArray):
        return np.array([argument._host.ctypes.data], np.uintp)
    return np.array([argument])


class DeviceArray:
    """An array in the device's memory: it has a shape and parts, but no arithmetic, as if it lay on a GPU.

    So code that is written for a GPU, and would there read the host's memory or copy without saying so, fails here too.
    """

    __slots__ = ("_host",)
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @property
    def dtype(self) -> np.dtype:
        return self._host.dtype

    @property
    def size(self) -> int:
        return self._host.size

    @property
    def ndim(self) -> int:
        return self._host.ndim

    @property
    def nbytes(self) -> int:
        return self._host.nbytes

    @property
    def itemsize(self) -> int:
        return self._host.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        return self._host.strides

    @property
    def flags(self) -> Any:
        return self._host.flags

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key: Any) -> DeviceArray:
        part = self._host[key]
        if not isinstance(part, np.ndarray) or not np.may_share_memory(part, self._host):
            raise _refusal()
        return DeviceArray(part)

    def reshape(self, *shape: Any) -> DeviceArray:
        """Another shape of the same memory."""
        other = self._host.reshape(*shape)
        return DeviceArray(other)

    def ravel(self) -> DeviceArray:
        """One dimension."""
        return self.reshape(-1)

    def view(self, dtype: Any) -> DeviceArray:
        """The same memory as another type."""
        return DeviceArray(self._host.view(dtype))

    def __repr__(self) -> str:
        return f"DeviceArray({self.shape}, {self.dtype})"


def _refusal(*_: Any, **__: Any) -> TypeError:
    return TypeError("an array of the device: use the engine's operations, or to_host")


def _refuse(*_: Any, **__: Any) -> Any:
    raise _refusal()


_TWO = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
_ONE = ("neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "bool", "int", "float", "iter", "setitem")
for _name in (*(f"__{side}{n}__" for n in _TWO for side in ("", "r", "i")), *(f"__{n}__" for n in _ONE)):
    setattr(DeviceArray, _name, _refuse)
DeviceArray.__array__ = DeviceArray.__array_function__ = _refuse  # type: ignore[attr-defined]


@cache
def _load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


@cache
def _process() -> ctypes.CDLL:
    return ctypes.CDLL(None)
