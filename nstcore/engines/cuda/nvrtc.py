"""NVRTC, NVIDIA's run-time compiler for CUDA C++, through ctypes.

It is one library, which needs neither a GPU nor a driver nor the CUDA toolkit; PyPI has it by itself. So the cubin that
a GPU runs and the one that a test without a GPU looks into come from the same few calls.

References
----------
.. [1] NVIDIA, "NVRTC: CUDA C++ runtime compilation", https://docs.nvidia.com/cuda/nvrtc/
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import DeviceError

PACKAGES = {13: "nvidia-cuda-nvrtc", 12: "nvidia-cuda-nvrtc-cu12"}  # by the version of CUDA, the first choice first

# What a program's functions take after the program itself
_PROGRAM = {
    "nvrtcCompileProgram": (c_int, POINTER(c_char_p)),
    "nvrtcGetProgramLogSize": (POINTER(c_size_t),),
    "nvrtcGetProgramLog": (c_char_p,),
    "nvrtcGetCUBINSize": (POINTER(c_size_t),),
    "nvrtcGetCUBIN": (c_char_p,),
}
_KERNEL = re.compile(r"Compiling entry function '(\w+)' for '\w+'(.*?)(?=Compiling entry function|\Z)", re.S)
_ERROR = re.compile(r"^(\S+)\((\d+)\): (?:catastrophic )?error: (.*)$", re.M)


class CompileError(RuntimeError):
    """A source that does not compile: one line with the file, the line in it and what is wrong; all of it in `log`."""

    def __init__(self, name: str, log: str) -> None:
        found = _ERROR.findall(log)
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        first = next((line for line in log.splitlines() if line.strip()), "NVRTC gave no reason")
        super().__init__("{}:{}: {}".format(*found[0]) + more if found else f"{name}: {first}")
        self.log = log


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor.

    Attributes
    ----------
    registers : int
        Of each thread.
    shared : int
        Bytes of static shared memory of each block; what a launch adds is not known here.
    stack : int
        Bytes of local memory of each thread: arrays with computed indices, and spilled registers.
    spill_stores, spill_loads : int
        Bytes of registers that did not fit and go to local memory and back.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


class Nvrtc:
    """One libnvrtc; `version` is its (major, minor), `architectures` what it compiles for: 75 for sm_75.

    Raises
    ------
    OSError
        If it cannot be loaded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._library = library = ctypes.CDLL(self.path)
        library.nvrtcGetErrorString.restype = c_char_p
        library.nvrtcCreateProgram.argtypes = (
            *(POINTER(c_void_p), c_char_p, c_char_p),
            *(c_int, POINTER(c_char_p), POINTER(c_char_p)),
        )
        for name, types in _PROGRAM.items():
            getattr(library, name).argtypes = (c_void_p, *types)
        library.nvrtcDestroyProgram.argtypes = (POINTER(c_void_p),)
        major, minor, count = c_int(), c_int(), c_int()
        self._check(library.nvrtcVersion(byref(major), byref(minor)))
        self.version = major.value, minor.value
        # Of its own folder, in which some of NVIDIA's wheels do not look for it
        builtins = Path(self.path).with_name("libnvrtc-builtins.so.{}.{}".format(*self.version))
        if builtins.is_file():
            ctypes.CDLL(str(builtins))
        self._check(library.nvrtcGetNumSupportedArchs(byref(count)))
        architectures = (c_int * count.value)()
        self._check(library.nvrtcGetSupportedArchs(architectures))
        self.architectures = tuple(architectures)

    def __str__(self) -> str:
        return "NVRTC {}.{}".format(*self.version)

    def compile(
        self, text: str, name: str, headers: Mapping[str, str], architecture: int | str, options: Sequence[str]
    ) -> tuple[bytes, str]:
        """The cubin of a source for one architecture, and what the compiler said.

        Parameters
        ----------
        text, name : str
            CUDA C++, and how messages call it.
        headers : mapping of str
            Text of what it includes, by the name in the #include.
        architecture : int or str
            90 for sm_90, "90a" for what only that one has.
        options : sequence of str

        Raises
        ------
        CompileError
        """
        program = c_void_p()
        names, texts = _strings(headers.keys()), _strings(headers.values())
        created = self._library.nvrtcCreateProgram(
            byref(program), text.encode(), name.encode(), len(headers), texts, names
        )
        self._check(created)
        try:
            given = [f"--gpu-architecture=sm_{architecture}", *options]
            failed = self._library.nvrtcCompileProgram(program, len(given), _strings(given))
            log = self._read(program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
            if failed:
                raise CompileError(name, log or self._error(failed))
            return self._read(program, "nvrtcGetCUBIN"), log
        finally:
            self._library.nvrtcDestroyProgram(byref(program))

    def _read(self, program: c_void_p, function: str) -> bytes:
        size = c_size_t()
        self._check(getattr(self._library, f"{function}Size")(program, byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, function)(program, buffer))
        return buffer.raw

    def _error(self, status: int) -> str:
        return self._library.nvrtcGetErrorString(status).decode()

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"NVRTC ({self.path}): {self._error(status)}")


def _strings(values: Iterable[str]) -> ctypes.Array[c_char_p]:
    encoded = [value.encode() for value in values]
    return (c_char_p * len(encoded))(*encoded)


def find(major: int | None = None) -> Nvrtc:
    """NVRTC as a Python package, else of a CUDA toolkit, else of the system.

    Parameters
    ----------
    major : int, optional
        Of the CUDA version that the driver and CuPy are for, taken first where there is a choice: a driver may refuse
        what a compiler of a later one made.

    Raises
    ------
    DeviceError
        If there is none.
    """
    for version in sorted(PACKAGES, key=lambda m: m != major):
        for path in places(version):
            if found := _load(str(path)):
                return found
    raise DeviceError(
        f"NVRTC, which compiles the CUDA kernels, was not found (libnvrtc.so); pip install {package(major)}"
    )


def package(major: int | None = None) -> str:
    """The name under which pip has NVRTC of that CUDA version."""
    return PACKAGES.get(major or 0, PACKAGES[13])


def problem() -> str | None:
    """Why kernels cannot be compiled here, with the way out, in one line; None where they can."""
    try:
        find()
    except DeviceError as error:
        return str(error)
    return None


def places(major: int) -> Iterator[str | Path]:
    """Where libnvrtc of that CUDA version may lie."""
    name = f"libnvrtc.so.{major}"
    wheels = importlib.util.find_spec("nvidia")
    for root in map(Path, wheels.submodule_search_locations or () if wheels else ()):
        yield from (root / f"cu{major}" / "lib" / name, root / "cuda_nvrtc" / "lib" / name)
    for toolkit in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if toolkit:
            yield Path(toolkit) / "lib64" / name
    yield name  # what the system's loader knows


@cache
def _load(path: str) -> Nvrtc | None:
    if "/" in path and not Path(path).is_file():
        return None
    try:
        return Nvrtc(path)
    except (OSError, AttributeError, RuntimeError):
        return None


def resources(log: str) -> dict[str, Resources]:
    """What each kernel takes, from the log of a compilation with --ptxas-options=-v."""
    return {name: _resources(said) for name, said in _KERNEL.findall(log)}


def _resources(said: str) -> Resources:
    def number(pattern: str) -> int:
        found = re.search(pattern, said)
        return int(found[1]) if found else 0

    if not re.search(r"Used \d+ registers", said):
        raise ValueError(f"NVRTC's log: expected the registers of a kernel, got {said.strip()!r}")
    return Resources(
        registers=number(r"Used (\d+) registers"),
        shared=number(r"(\d+) bytes smem"),
        stack=number(r"(\d+) bytes stack frame"),
        spill_stores=number(r"(\d+) bytes spill stores"),
        spill_loads=number(r"(\d+) bytes spill loads"),
    )
