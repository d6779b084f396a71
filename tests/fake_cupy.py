"""A CuPy that keeps books instead of driving a GPU: its memory is NumPy's, and its launches are a list."""

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
        self.host[...] = a

    def get(self, stream, out):
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
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self.cupy.launches.append((self.name, grid, block, args, shared_mem, stream))


def fake_cupy(**facts):
    """A module like CuPy on a machine with one H200, but for `facts`."""
    facts = {"architecture": "90", "available": True, "driver": 13000, "free": 1 << 30} | facts
    cupy = types.ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.ndarray = FakeArray
    cupy.launches, cupy.refuses, cupy.streams, cupy.captures = [], None, [], []

    class Device:
        def __init__(self, index=None):
            self.id = index or 0
            self.compute_capability = facts["architecture"]
            self.attributes = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
            self.mem_info = facts["free"], 2 * facts["free"]

        __enter__ = __exit__ = lambda self, *_: None

    class Stream:
        fails = None
        __enter__ = __exit__ = lambda self, *_: None

        def __init__(self, non_blocking=False):
            self.ptr = self

        def begin_capture(self):
            cupy.captures.append("begun")

        def end_capture(self):
            cupy.captures.append("ended")
            return types.SimpleNamespace(launch=lambda stream: cupy.captures.append(stream))

        def wait_event(self, event):
            cupy.launches.append(("wait", self, event))

        def synchronize(self):
            if self.fails:
                raise RuntimeError(self.fails)

    class Event:
        def __init__(self, disable_timing=False):
            assert disable_timing

        def record(self, stream):
            cupy.launches.append(("record", stream, self))

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
            return 1000

    def count():
        if not facts["available"]:
            raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return 1

    cupy.RawModule = lambda path: types.SimpleNamespace(get_function=lambda name: FakeFunction(cupy, path, name))
    cupy.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=Stream,
        Event=Event,
        MemoryPool=MemoryPool,
        is_available=lambda: facts["available"],
        runtime=types.SimpleNamespace(
            getDeviceCount=count,
            driverGetVersion=lambda: facts["driver"],
            getDeviceProperties=lambda index: {"name": b"NVIDIA H200"},
            memcpyAsync=copy,
            memsetAsync=fill,
            memcpyDeviceToDevice="device to device",
        ),
    )
    return cupy
