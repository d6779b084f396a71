"""The device's memory, copies and kernels: memory is the CPU's, a launch goes to the stand-in of tools/cuda_on_cpu."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from .streams import do, new, play, played, queue, run, stream_of, unsafe, violation

TO_DEVICE, TO_HOST, WITHIN = 1, 2, 3  # cudaMemcpyKind
MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
MEMORY, FREE_SHARED, MOST_SHARED = 2 << 30, 48 * 1024, 232448
# cudaDeviceAttr: compute capability 9.0, multiprocessors, shared memory of a block; 1 for what nobody asks
ATTRIBUTES = {75: 9, 76: 0, 16: 4, 97: MOST_SHARED}
CUDA = 13

_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = (c_void_p, c_size_t, c_size_t)
_libc.free.argtypes = (c_void_p,)

cubins: dict[str, Any] = {}  # (rung, defines, resources) behind a cubin, by its path
modules: dict[int, str] = {}
functions: dict[int, Function] = {}
device_memory: dict[int, int] = {}  # bytes, by address
pinned: dict[int, int] = {}


def _take(memory: dict[int, int], size: int, byte: int) -> int:
    found = c_void_p()
    if _libc.posix_memalign(byref(found), 512, size):
        violation(f"{size} bytes: the CPU has no more memory")
    address = found.value or 0
    ctypes.memset(address, byte, size)
    memory[address] = size
    return address


def _give_back(memory: dict[int, int], address: int) -> None:
    """After the work that may still use it."""

    def done() -> None:
        del memory[address]
        _libc.free(address)

    queue.append(done)
    run()


def _inside(memory: dict[int, int], address: int, size: int) -> bool:
    return any(begin <= address and address + size <= begin + length for begin, length in memory.items())


def need(what: str, address: int, size: int = 1) -> None:
    if not _inside(device_memory, address, size):
        violation(f"{what}: {size} bytes at {address:#x}, which is no memory of the device")


@play
def memGetInfo() -> tuple[int, int]:
    return MEMORY - sum(device_memory.values()), MEMORY


@play
def malloc(size: int) -> int:
    unsafe("malloc")
    if size > memGetInfo()[0]:
        violation(f"malloc: {size} bytes, {memGetInfo()[0]} are free; an error of CUDA is not played here")
    return _take(device_memory, size, 0xFF)


@play
def free(address: int) -> None:
    unsafe("free")
    if address:
        _give_back(device_memory, address)


@play
def hostAlloc(size: int, flags: int) -> int:
    unsafe("hostAlloc")
    return _take(pinned, size, 0xFF)


@play
def freeHost(address: int) -> None:
    unsafe("freeHost")
    _give_back(pinned, address)


@play
def memcpyAsync(to: int, begin: int, size: int, kind: int, stream: int) -> None:
    if kind not in (TO_DEVICE, TO_HOST, WITHIN):
        violation(f"memcpyAsync: a copy of the kind {kind}, not played here")
    pageable = kind != WITHIN and not _inside(pinned, begin if kind == TO_DEVICE else to, size)
    if pageable and stream_of(stream, "memcpyAsync").capture:
        violation("memcpyAsync: a copy of pageable memory in a capture")
    data = ctypes.string_at(begin, size) if pageable and kind == TO_DEVICE else begin

    def copy(now: bool = True) -> None:
        for address in (begin,) * (kind != TO_DEVICE) + (to,) * (kind != TO_HOST):
            need("memcpyAsync", address, size)
        if now:
            ctypes.memmove(to, data, size)

    copy(now=False)
    do(stream, copy, "memcpyAsync")
    if pageable and kind == TO_HOST:
        run()


@play
def memcpy2DAsync(to: int, apart: int, begin: int, pitch: int, width: int, rows: int, kind: int, stream: int) -> None:
    if kind != WITHIN or width > min(apart, pitch):
        violation(f"memcpy2DAsync: rows of {width} bytes, {pitch} and {apart} apart, of the kind {kind}")

    def copy(now: bool = True) -> None:
        need("memcpy2DAsync", begin, pitch * (rows - 1) + width)
        need("memcpy2DAsync", to, apart * (rows - 1) + width)
        for i in range(rows if now else 0):
            ctypes.memmove(to + i * apart, begin + i * pitch, width)

    copy(now=False)
    do(stream, copy, "memcpy2DAsync")


@play
def memsetAsync(address: int, byte: int, size: int, stream: int) -> None:
    def fill(now: bool = True) -> None:
        need("memsetAsync", address, size)
        if now:
            ctypes.memset(address, byte, size)

    fill(now=False)
    do(stream, fill, "memsetAsync")


# -- the device, and kernels -------------------------------------------------------------------------------------------


class Function:
    """A kernel of a cubin: the stand-in's, and how many bytes each parameter has."""

    def __init__(self, module: int, name: str) -> None:
        from nstcore.engines.cuda import device, on_cpu, on_cpu_build, source
        from nstcore.engines.cuda.precision import PRECISIONS

        rung, defines, resources = cubins[modules[module]]
        self.module, self.name, self.static = module, name, resources[name].shared
        self.most = FREE_SHARED - self.static
        precision = next(p for p in PRECISIONS.values() if p.macro == defines["PRECISION"])
        self.run = getattr(on_cpu._load(on_cpu_build.library(rung, defines, "fast")), f"launch_{name}")
        self.parameters = [
            (p, 128 if p.type == source.BOXES else 8 if p.array else np.dtype(device._dtype(p, precision)).itemsize)
            for p in rung.kernels[name]
        ]


for _name, _value in {
    "getDevice": 0,
    "getDeviceCount": 1,
    "_ensure_context": None,
    "driverGetVersion": 1000 * CUDA,
    "runtimeGetVersion": 1000 * CUDA,
    "_getCUDAMajorVersion": CUDA,
}.items():
    played[_name] = lambda value=_value: value


@play
def setDevice(index: int) -> None:
    if index:
        violation(f"setDevice: GPU {index}, there is one")


@play
def deviceGetAttribute(attribute: int, index: int) -> int:
    return ATTRIBUTES.get(attribute, 1)


@play
def getDeviceProperties(index: int) -> dict[str, bytes]:
    return {"name": b"CuPy on a CPU"}


@play
def moduleLoad(path: str) -> int:
    unsafe("moduleLoad")
    if path not in cubins or Path(path).read_bytes()[:4] != b"\x7fELF":
        violation(f"moduleLoad: {path}: no cubin of nstcore's")
    return new(modules, path)


@play
def moduleUnload(module: int) -> None:
    run()
    del modules[module]


@play
def moduleGetFunction(module: int, name: str) -> int:
    """One for each name, as the driver has it: what is set for it holds for all who asked."""
    same = (handle for handle, f in functions.items() if (f.module, f.name) == (module, name))
    return next(same, 0) or new(functions, Function(module, name))


@play
def funcGetAttribute(attribute: int, function: int) -> int:
    if attribute != MAX_DYNAMIC_SHARED:
        violation(f"funcGetAttribute: {attribute}, not played here")
    return functions[function].most


@play
def funcSetAttribute(function: int, attribute: int, value: int) -> None:
    found = functions[function]
    if attribute != MAX_DYNAMIC_SHARED or value + found.static > MOST_SHARED:
        violation(f"funcSetAttribute: {found.name}: attribute {attribute}, {value} bytes and {found.static} static")
    found.most = value


@play
def launchKernel(handle: int, *sizes: int) -> None:
    from nstcore.engines.cuda import on_cpu

    function, name = functions[handle], functions[handle].name
    grid, block, (shared, stream, packed, _) = sizes[:3], sizes[3:6], sizes[6:]
    if shared > function.most:
        violation(f"{name}: {shared} bytes of dynamic shared memory, {function.most} are allowed")
    addresses = (c_void_p * len(function.parameters)).from_address(packed)
    values = [  # with room: the stand-in may read a whole word
        ctypes.create_string_buffer(ctypes.string_at(a, size), size + 64)
        for a, (_, size) in zip(addresses, function.parameters, strict=True)
    ]
    pointers = (c_void_p * len(values))(*map(ctypes.addressof, values))
    asked = on_cpu._Launch(grid, block, shared, 0, len(os.sched_getaffinity(0)), 0)

    def check() -> None:
        for (parameter, _), value in zip(function.parameters, values, strict=True):
            if parameter.array and (address := int.from_bytes(value.raw[:8], "little")):
                need(f"{name}: {parameter.name}", address)

    def work() -> None:
        check()
        message = ctypes.create_string_buffer(1024)
        if function.run(byref(asked), pointers, message, c_size_t(len(message))):
            violation(f"{name}: {message.value.decode(errors='replace')}")

    check()
    do(stream, work, name)
