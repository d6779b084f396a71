"""A GPU, through CuPy: its memory, one stream, and launches of our own cubins. Nothing else of nstcore imports CuPy.

None of CuPy's own kernels are used: they would be compiled on the spot, with headers of CUDA that nobody needs to have
installed. And its arrays are not used as arguments of a launch, only their addresses: CuPy has passed None as garbage
instead of a null pointer (cupy/cupy#9046).
"""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np

from ...errors import DeviceError
from . import nvrtc, source
from .boxes import gpu_argument
from .compile import Compiled, compile_rung
from .device import Array, Device, Graph, Kernel, Reading, plane_bytes
from .precision import Precision

OLDEST = 75  # Turing: what the kernels are compiled for and checked on from
OLDEST_CUDA = 12  # that there is an extra for
FREE_SHARED = 48 * 1024  # bytes of shared memory that a kernel has without asking
Work = Callable[[Any], object]  # (stream): has something done there


def problem() -> str | None:
    """Why there is no GPU to compute on, with the way out, in one line; None where there is one."""
    return _problem(None)


@cache
def _problem(index: int | None) -> str | None:
    try:
        import cupy
    except ImportError as error:
        reason = (
            "CuPy is not installed"
            if error.name == "cupy"
            else f"CuPy cannot be imported ({_line(error.__cause__ or error)})"
        )
        return f'{reason}; for an NVIDIA GPU: pip install "nstcore[{_extra()}]"'
    try:
        count, why = cupy.cuda.runtime.getDeviceCount(), ""
    except RuntimeError as error:
        count, why = 0, f" ({_line(error)})"
    if not count:
        return f"CuPy {cupy.__version__} finds no NVIDIA GPU{why}; {_way_to_a_gpu(cupy)}, or use --device cpu"
    if index is not None and not 0 <= index < count:
        return f"GPU {index}: expected a number from 0 to {count - 1}, of the {count} that are here"
    try:
        compiler = nvrtc.find(cuda := _cuda(cupy))
    except DeviceError as error:
        return str(error)
    gpu = cupy.cuda.Device(index)
    name, architecture = _name(cupy, gpu.id), int(gpu.compute_capability)
    if architecture < OLDEST:
        return f"{name}: expected a GPU of sm_{OLDEST} or later, got sm_{architecture}; use --device cpu"
    if _target(architecture, compiler.architectures) is None:
        return f"{name}: {compiler} does not know sm_{architecture}; pip install --upgrade {nvrtc.package(cuda)}"
    return None


def _line(error: BaseException) -> str:
    """The first line with words in it: CuPy frames some of its messages."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if re.search(r"\w", line)), type(error).__name__)


def _extra() -> str:
    """The extra of setup.py that fits the driver, where nvidia-smi tells which CUDA that has."""
    tool = shutil.which("nvidia-smi")
    try:
        said = subprocess.run([tool], capture_output=True, text=True, timeout=20).stdout if tool else ""
    except (OSError, subprocess.SubprocessError):
        said = ""
    found = re.search(r"CUDA Version:\s*(\d+)", said)
    return f"cuda{12 if found and int(found[1]) < 13 else 13}"


def _way_to_a_gpu(cupy: Any) -> str:
    made, has = cupy.cuda.runtime.runtimeGetVersion() // 1000, _cuda(cupy)
    if OLDEST_CUDA <= has < made:
        name = f"cupy-cuda{made}x"
        return f'it is for CUDA {made}, the driver for {has}: pip uninstall {name}, pip install "nstcore[cuda{has}]"'
    return "install or update NVIDIA's driver"


def _cuda(cupy: Any) -> int:
    """Major version of CUDA that the driver has; 0 without one."""
    return cupy.cuda.runtime.driverGetVersion() // 1000


def _name(cupy: Any, index: int) -> str:
    return cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()


def _target(architecture: int, known: tuple[int, ...]) -> int | None:
    """What to compile for: the GPU's own architecture, or an older one of its family, whose cubins it runs."""
    return max((a for a in known if a <= architecture and a // 10 == architecture // 10), default=None)


class GpuDevice(Device):
    """One GPU; everything happens on one stream of its own, in order.

    The stream waits for CUDA's default stream, so that arrays which the caller made there are ready.

    Parameters
    ----------
    index : int, optional
        CuPy's current device, if not given.

    Raises
    ------
    DeviceError
        If `problem` has something to say.
    """

    kind = "cuda"

    def __init__(self, index: int | None = None) -> None:
        super().__init__()
        if found := _problem(index):
            raise DeviceError(f"device cuda: {found}")
        import cupy

        self.cupy = cupy
        self.gpu = cupy.cuda.Device(index)
        self.name = _name(cupy, self.gpu.id)
        self.architecture = int(self.gpu.compute_capability)
        attributes = self.gpu.attributes
        self.processors = attributes["MultiProcessorCount"]
        self.shared_bytes = attributes["MaxSharedMemoryPerBlockOptin"]
        self.launched = "nothing"
        self._cuda = _cuda(cupy)
        self._target = _target(self.architecture, nvrtc.find(self._cuda).architectures)
        self._pool = cupy.cuda.MemoryPool()
        with self.gpu:
            self.stream = cupy.cuda.Stream()
        self._branches: list[Any] = []  # streams of joined graphs
        self._recorded: GpuGraph | None = None

    def _compile(self, rung: source.Rung, function: str, precision: Precision, defines: Mapping[str, str]) -> GpuKernel:
        assert self._target is not None
        compiled = compile_rung(rung, self._target, defines, cuda=self._cuda)
        return GpuKernel(rung, function, precision, self, compiled)

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.cupy.ndarray) and a.data.device_id == self.gpu.id

    def address(self, a: Array) -> int:
        return a.data.ptr

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        self._outside_capture("new memory")
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = math.prod(shape) * dtype.itemsize
        with self.gpu, self.stream:  # memory that is free again is used again in the order of this stream
            try:
                memory = self._pool.malloc(size)
            except MemoryError as error:
                free, total = self.gpu.mem_info
                raise MemoryError(
                    f"{self.name}: expected {_megabytes(size)} more, got {_megabytes(free)} free of "
                    f"{_megabytes(total)}; take a smaller size"
                ) from error
            return self.cupy.ndarray(shape, dtype, memptr=memory)

    def to_device(self, a: np.ndarray) -> Array:
        self._outside_capture("an array of the host")
        a = np.asarray(a, order="C")
        out = self.empty(a.shape, a.dtype)
        if a.size:
            with self.gpu:
                out.set(a, stream=self.stream)
                self.stream.synchronize()  # `a` is the caller's again
        return out

    def to_host(self, a: Array) -> np.ndarray:
        self._check(a)
        self._outside_capture("a result for the host")
        out = np.empty(a.shape, a.dtype)
        self.synchronize()
        if a.size:
            with self.gpu:
                a.get(stream=self.stream, out=out)
                self.stream.synchronize()
        return out

    def reading(self, a: Array) -> GpuReading:
        self._check(a)
        return GpuReading(self, a)

    def copy(self, source: Array, out: Array) -> None:
        self._check(source)
        self._check(out)
        if source.dtype != out.dtype or source.size != out.size:
            raise ValueError(
                f"copy: expected one dtype and size, got {source.dtype} {source.shape} and {out.dtype} {out.shape}"
            )
        if source.size:
            runtime = self.cupy.cuda.runtime
            there, here, size, kind = out.data.ptr, source.data.ptr, source.nbytes, runtime.memcpyDeviceToDevice
            self._do(lambda stream: runtime.memcpyAsync(there, here, size, kind, stream.ptr))

    def copy_rows(self, source: Array, out: Array) -> None:
        (apart, size), (apart_out, _) = plane_bytes(source), plane_bytes(out)
        if not (self.owns(source) and self.owns(out)) or (source.dtype, source.shape) != (out.dtype, out.shape):
            raise TypeError(f"copy_rows: expected one dtype and shape, got {source.shape} and {out.shape}")
        if source.size:
            runtime, planes = self.cupy.cuda.runtime, len(source)
            sizes = out.data.ptr, apart_out, source.data.ptr, apart, size, planes, runtime.memcpyDeviceToDevice
            self._do(lambda stream: runtime.memcpy2DAsync(*sizes, stream.ptr))

    def fill_bytes(self, a: Array, byte: int) -> None:
        self._check(a)
        if a.size:
            runtime, there, size = self.cupy.cuda.runtime, a.data.ptr, a.nbytes
            self._do(lambda stream: runtime.memsetAsync(there, byte, size, stream.ptr))

    def _do(self, work: Work) -> None:
        """Now, or in the graph that is recorded, which notes it down. `work` knows addresses alone, no arrays: a graph
        holds no memory."""
        with self.gpu:
            work(self.stream)
        if self._recorded is not None:
            self._recorded.work.append(work)

    @contextmanager
    def capture(self) -> Iterator[GpuGraph]:
        found = GpuGraph(self)
        with self.gpu:
            self.stream.begin_capture()
            self._recorded, self._capturing = found, True
            try:
                yield found
            except BaseException:
                with suppress(RuntimeError):  # what was recorded is thrown away
                    self.stream.end_capture()
                raise
            else:
                found.graph = self.stream.end_capture()
            finally:
                self._recorded, self._capturing = None, False

    def joined(self, graphs: Sequence[Graph]) -> GpuGraph:
        """A branch for each: recorded anew on streams of their own, which begin with this device's and end before it
        goes on."""
        cuda = self.cupy.cuda
        with self.gpu:
            while len(self._branches) < len(graphs):
                self._branches.append(cuda.Stream(non_blocking=True))
            begin, *ends = (cuda.Event(disable_timing=True) for _ in (None, *graphs))
        with self.capture() as found:
            self._recorded = None  # it is launched as a whole, never a branch of another
            begin.record(self.stream)
            for graph, stream, end in zip(graphs, self._branches, ends, strict=False):
                assert isinstance(graph, GpuGraph)
                stream.wait_event(begin)
                for work in graph.work:
                    work(stream)
                end.record(stream)
                self.stream.wait_event(end)
        return found

    def synchronize(self) -> None:
        self._outside_capture("a wait")
        try:
            with self.gpu:
                self.stream.synchronize()
        except RuntimeError as error:
            raise RuntimeError(self.failed(error)) from error

    def failed(self, error: RuntimeError) -> str:
        """What to say where a wait ends with an error: it is that of some launch before."""
        return f"{self.name}: a kernel failed, {self.launched} or one before it: {_line(error)}"

    def seconds(self, run: Callable[[], object]) -> float:
        """What the GPU takes for the launches of `run`, by its own clock."""
        with self.gpu:
            events = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            events[0].record(self.stream)
            run()
            events[1].record(self.stream)
            events[1].synchronize()
            return self.cupy.cuda.get_elapsed_time(*events) / 1e3

    def free_bytes(self) -> int:
        free, _ = self.gpu.mem_info
        with self.gpu:  # a pool has one of its own for each GPU
            return int(free) + self._pool.free_bytes()

    @property
    def held_bytes(self) -> int:
        """Memory taken from the GPU: of living arrays, and what `release` would give back."""
        with self.gpu:
            return self._pool.total_bytes()

    def release(self) -> None:
        """Give memory of arrays that are gone back to the GPU."""
        self.synchronize()
        with self.gpu:
            self._pool.free_all_blocks()

    def _check(self, a: Array) -> None:
        if not self.owns(a):
            raise TypeError(f"expected an array of {self.name}, got {type(a)}")
        if not a.flags.c_contiguous:
            raise TypeError(f"expected a C-contiguous array, got strides {a.strides} for shape {a.shape}")


class GpuGraph(Graph):
    """A CUDA graph: one launch for all that was recorded; `work` is the same, call by call, for other streams."""

    def __init__(self, device: GpuDevice) -> None:
        self.device = device
        self.graph: Any = None
        self.work: list[Work] = []

    def launch(self) -> None:
        device = self.device
        try:
            with device.gpu:
                self.graph.launch(stream=device.stream)
        except RuntimeError as error:
            raise RuntimeError(f"{device.name}: the launch of a graph failed: {_line(error)}") from error
        device.launched = "a graph"


class GpuReading(Reading):
    """Into pages of the host that stay where they are, which a GPU writes to by itself; an event says when it has."""

    device: GpuDevice

    def __init__(self, device: GpuDevice, array: Array) -> None:
        super().__init__(device, array)
        with device.gpu:
            self._pinned = device.cupy.cuda.alloc_pinned_memory(array.nbytes)
            self._event = device.cupy.cuda.Event(disable_timing=True)
        self._host = np.frombuffer(self._pinned, array.dtype, array.size).reshape(array.shape)

    def begin(self) -> None:
        device = self.device
        device._outside_capture("a result for the host")
        with device.gpu:
            there = ctypes.c_void_p(self._host.ctypes.data)
            self.array.data.copy_to_host_async(there, self.array.nbytes, device.stream)
            self._event.record(device.stream)

    def end(self) -> np.ndarray:
        device = self.device
        try:
            with device.gpu:
                self._event.synchronize()
        except RuntimeError as error:
            raise RuntimeError(device.failed(error)) from error
        return self._host.copy()


class GpuKernel(Kernel):
    """A kernel of a cubin that we compiled."""

    device: GpuDevice

    def __init__(
        self, rung: source.Rung, function: str, precision: Precision, device: GpuDevice, compiled: Compiled
    ) -> None:
        super().__init__(rung, function, precision, device)
        static = compiled.resources[function].shared
        self._most, self._allowed = device.shared_bytes - static, FREE_SHARED - static
        try:
            with device.gpu:
                self._function = device.cupy.RawModule(path=str(compiled.path)).get_function(function)
                self._function.compile()  # loads the cubin: an error now, not at the first launch
        except RuntimeError as error:
            raise RuntimeError(f"{self.name}: {device.name} refused the cubin: {_line(error)}") from error

    def _launch(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[Any], shared: int) -> None:
        device = self.device
        if shared > self._most:
            raise ValueError(
                f"{self.name}: expected at most {self._most} bytes of dynamic shared memory on {device.name}, "
                f"got {shared}"
            )
        try:
            with device.gpu:
                if shared > self._allowed:  # all at once: the kernels of two devices may be one function of the driver
                    self._function.max_dynamic_shared_size_bytes = self._allowed = self._most
            values, function = tuple(map(gpu_argument, arguments)), self._function
            device._do(lambda stream: function(grid, block, values, shared_mem=shared, stream=stream))
        except RuntimeError as error:
            raise RuntimeError(f"{self.name}: the launch of {grid} x {block} failed: {_line(error)}") from error
        device.launched = self.name


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
