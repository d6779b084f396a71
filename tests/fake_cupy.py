"""A CuPy that keeps books instead of driving a GPU: its memory is NumPy's, and its launches are a list.

What CuPy 14 and CUDA refuse, it refuses: arguments that are not of one element, waits and exchange with the host while
a stream is captured, more shared memory than a function was allowed, and what belongs to a GPU while another one is the
current one. A function of a cubin is one, however often it is asked for, as it is in CUDA's driver.
"""

from __future__ import annotations

import types
import weakref
from pathlib import Path

import numpy as np

LIVING: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # memory by address


class Memory:
    """A pointer into the fake GPU's memory."""

    device_id = 0

    def __init__(self, size: int) -> None:
        self.bytes = np.full(size, 7, np.uint8)
        self.ptr = 0x7F0000000000 + 512 * id(self)
        LIVING[self.ptr] = self


class FakeArray:
    """cupy.ndarray, as far as the device uses it."""

    def __init__(self, shape, dtype, memptr):
        self.shape, self.dtype, self.data = shape, np.dtype(dtype), memptr

    @property
    def host(self):
        count = int(np.prod(self.shape, dtype=int))
        return self.data.bytes[: count * self.dtype.itemsize].view(self.dtype).reshape(self.shape)

    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    flags = property(lambda self: self.host.flags)
    strides = property(lambda self: self.host.strides)

    def set(self, a, stream):
        stream.outside_capture()
        assert (a.dtype, a.shape, a.flags.c_contiguous) == (self.dtype, self.shape, True)
        self.host[...] = a

    def get(self, stream, out):
        stream.outside_capture()
        assert (out.dtype, out.shape, out.flags.c_contiguous) == (self.dtype, self.shape, True)
        out[...] = self.host


class Transposed(FakeArray):
    host = property(lambda self: super().host.T)


class FakeFunction:
    def __init__(self, cupy, path, name):
        self.cupy, self.path, self.name = cupy, path, name
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def compile(self):
        assert Path(self.path).read_bytes().startswith(b"\x7fELF")

    def __call__(self, grid, block, args, *, shared_mem, stream):
        if self.cupy.refuses:
            raise RuntimeError(self.cupy.refuses)
        assert isinstance(grid, tuple)
        assert isinstance(block, tuple)
        for a in args:
            if not (isinstance(a, np.generic) or (isinstance(a, np.ndarray) and a.size == 1)):
                raise TypeError(f"Unsupported type {type(a)}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.cupy.launches.append((self.name, grid, block, args, shared_mem, stream))


def fake_cupy(**facts):
    """A module like CuPy on a machine with one H200, but for `facts`."""
    facts = {"architecture": "90", "gpus": 1, "why": "", "driver": 13000, "free": 1 << 30} | facts
    cupy = types.ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.ndarray = FakeArray
    cupy.launches, cupy.refuses, cupy.streams, cupy.captures = [], None, [], []
    current, functions = [0], {}

    class Device:
        def __init__(self, index=None):
            self.id = current[-1] if index is None else index
            self.compute_capability = facts["architecture"]
            self.attributes = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
            self.mem_info = facts["free"], 2 * facts["free"]

        def __enter__(self):
            current.append(self.id)

        def __exit__(self, *_):
            current.pop()

    class Stream:
        fails = None
        captured = False
        __exit__ = lambda self, *_: None  # noqa: E731

        def __init__(self, non_blocking=False):
            self.ptr, self.device = self, current[-1]

        def __enter__(self):
            assert self.device == current[-1]

        def outside_capture(self):
            if self.captured:
                raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted")

        def begin_capture(self):
            self.outside_capture()
            self.captured = True
            cupy.captures.append("begun")

        def end_capture(self):
            self.captured = False
            cupy.captures.append("ended")
            return types.SimpleNamespace(launch=lambda stream: cupy.captures.append(stream))

        def wait_event(self, event):
            cupy.launches.append(("wait", self, event))

        def synchronize(self):
            self.outside_capture()
            if self.fails:
                raise RuntimeError(self.fails)

    class Event:
        def __init__(self, disable_timing=False):
            self.timing, self.device = not disable_timing, current[-1]

        def record(self, stream):
            assert self.device == stream.device
            cupy.launches.append(("record", stream, self))

        def synchronize(self):
            pass

    def elapsed(*events):
        assert all(event.timing for event in events)
        return 2.0

    def copy(there, here, size, kind, stream):
        assert kind == "device to device"
        LIVING[there].bytes[:size] = LIVING[here].bytes[:size]
        cupy.launches.append(("copy", stream))

    def fill(there, value, size, stream):
        LIVING[there].bytes[:size] = value
        cupy.launches.append(("fill", stream))

    class MemoryPool:
        def malloc(self, size):
            if size > facts["free"]:
                raise MemoryError("out of memory")
            return Memory(size)

        def free_bytes(self):
            return 1000 + current[-1]

        def total_bytes(self):
            return 3000 + current[-1]

    def count():
        if facts["why"]:
            raise RuntimeError(facts["why"])
        return facts["gpus"]

    def function(path, name):
        return functions.setdefault((path, name), FakeFunction(cupy, path, name))

    cupy.RawModule = lambda path: types.SimpleNamespace(get_function=lambda name: function(path, name))
    cupy.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=Stream,
        Event=Event,
        MemoryPool=MemoryPool,
        get_elapsed_time=elapsed,
        runtime=types.SimpleNamespace(
            getDeviceCount=count,
            driverGetVersion=lambda: facts["driver"],
            runtimeGetVersion=lambda: 13020,
            getDeviceProperties=lambda index: {"name": b"NVIDIA H200"},
            memcpyAsync=copy,
            memsetAsync=fill,
            memcpyDeviceToDevice="device to device",
        ),
    )
    return cupy
