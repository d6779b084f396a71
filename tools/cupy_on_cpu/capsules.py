"""CuPy's entry points to CUDA, exchanged for Python functions before the rest of CuPy takes their addresses."""

from __future__ import annotations

import ctypes
import importlib
import operator
import re
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from ctypes import c_int, c_size_t, c_ssize_t, c_uint, c_uint64, c_void_p, py_object, pythonapi
from typing import Any

import numpy as np

from . import device
from .streams import played, violation

MODULES = ("cupy_backends.cuda.api.runtime", "cupy_backends.cuda.api.driver")
TYPES: dict[str, Any] = {
    "intptr_t": c_ssize_t,
    "size_t": c_size_t,
    "int": c_int,
    "unsigned int": c_uint,
    "float": ctypes.c_float,
    "PyObject *": py_object,
    "uintmax_t": c_uint64,
    "cudaMemcpyKind": c_int,
    "CUdevice": c_int,
}
KEPT = ("check_status", "get_build_version")  # which ask nothing of CUDA
_SKIP = "int __pyx_skip_dispatch"
_SIGNATURE = re.compile(r"(.*?) ?\((.*)\)")

pythonapi.PyCapsule_New.restype = py_object
pythonapi.PyCapsule_New.argtypes = (c_void_p, ctypes.c_char_p, c_void_p)
pythonapi.PyCapsule_GetName.restype = ctypes.c_char_p
pythonapi.PyCapsule_GetName.argtypes = (py_object,)

calls: Counter[str] = Counter()
_lock = threading.RLock()
_held: list[Any] = []  # what C has the addresses of


class OtherCuPy(Exception):
    """A CuPy that is missing, or has not the entry points that are exchanged here; says which."""


def install() -> None:
    """Exchange them, and import CuPy; in a process that has not done so.

    Raises
    ------
    OtherCuPy
    """
    expected = "CuPy: expected CuPy 14 for CUDA 13"
    try:
        found = [importlib.import_module(name) for name in MODULES]
    except ImportError as error:
        raise OtherCuPy(f"{expected}, got {error}; pip install cupy-cuda13x==14.2.0") from error
    offered = {name for module in found for name in getattr(module, "__pyx_capi__", {})}
    if missing := sorted(played.keys() - offered):
        raise OtherCuPy(f"{expected}, got one without {', '.join(missing)}; pip install cupy-cuda13x==14.2.0")
    if (made := found[1].get_build_version() // 1000) != device.CUDA:
        raise OtherCuPy(f"{expected}, got one for CUDA {made}; pip install cupy-cuda13x==14.2.0")
    for module in found:
        _exchange(module)
    importlib.import_module("cupy")
    _wrap_nstcore()


def _exchange(module: Any) -> None:
    for name, capsule in list(module.__pyx_capi__.items()):
        signature = pythonapi.PyCapsule_GetName(capsule)
        match = _SIGNATURE.fullmatch(signature.decode())
        if name in KEPT or match is None:  # a variable
            continue
        result, *takes = (match[1], *(word.strip() for word in match[2].split(",") if word.strip() != "void"))
        types = [_type(word) for word in takes]
        if result in TYPES and None not in types:
            given = [i for i, word in enumerate(takes) if word != _SKIP]
            optional = takes[-1:] if takes and takes[-1].startswith("struct ") else []
            called = ctypes.PYFUNCTYPE(TYPES[result], *types)(_from_c(name, given, bool(optional)))
            text = ctypes.create_string_buffer(signature)
            address, label = ctypes.cast(called, c_void_p), ctypes.cast(text, ctypes.c_char_p)
            module.__pyx_capi__[name] = pythonapi.PyCapsule_New(address, label, None)
            _held.extend((called, text))
        elif name in played:
            raise OtherCuPy(f"CuPy: {name}: expected types known here, got {signature.decode()}; take CuPy 14.2")
        if hasattr(module, name):
            setattr(module, name, _from_python(name))


def _type(word: str) -> Any:
    """None for one that is not known."""
    return c_int if word == _SKIP else c_void_p if re.fullmatch(r"struct \w+ \*\w*", word) else TYPES.get(word)


def _call(name: str, arguments: Sequence[Any]) -> Any:
    with _lock:
        calls[name] += 1
        if name not in played:
            violation(f"{name}: not played here")
        try:
            return played[name](*arguments)
        except Exception as error:
            traceback.print_exc()
            violation(f"{name}: {type(error).__name__}: {error}")


def _from_c(name: str, given: list[int], optional: bool) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        values = [arguments[i] for i in given]
        if optional and (address := values.pop()):  # {int how many; then the only one there is}
            values += [c_int.from_address(address + 4).value] * c_int.from_address(address).value
        return _call(name, values)

    return called


def _from_python(name: str) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        whole = [operator.index(a) if hasattr(a, "__index__") else a for a in arguments]
        return _call(name, whole)

    return called


def _wrap_nstcore() -> None:
    from nstcore.engines.cuda import boxes, gpu

    compile_rung = gpu.compile_rung

    def compiled(rung: Any, architecture: int, defines: Any, *, cuda: int | None = None) -> Any:
        found = compile_rung(rung, architecture, defines, cuda=cuda)
        device.cubins[str(found.path)] = rung, dict(defines), found.resources
        return found

    def encode(to: Any, kind: int, _: int, at: Any, sizes: Any, strides: Any, box: Any, *options: Any) -> int:
        item = {type_: size for size, type_ in boxes._TYPES.items()}[kind]
        device.need("cuTensorMapEncodeTiled", at.value, strides[1] * sizes[2])
        plain = np.zeros(1, boxes._PLAIN)
        plain[0] = at.value, list(sizes), list(strides), list(box), item
        ctypes.memmove(to, plain.tobytes(), plain.nbytes)
        return 0

    gpu.compile_rung, boxes._encode = compiled, lambda: encode  # type: ignore[assignment]
