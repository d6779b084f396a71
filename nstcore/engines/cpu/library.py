"""The native kernels (kernels/cpu), found, chosen and bound with ctypes.

There is one library per instruction set, built from the same sources by setup.py. The best that this machine can run is
taken; the environment variable NSTCORE_KERNELS names another one ("avx512", "avx2", "baseline"), or "numpy" for none.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError

VARIABLE = "NSTCORE_KERNELS"
INSTRUCTIONS = ("avx512", "avx2", "baseline")  # the best first
NUMPY = "numpy"
HERE = Path(__file__).resolve().parent
# What may be wrong, and the way out
MISSING = (
    "the native kernels are missing (no working C compiler when nstcore was installed); install gcc or clang, then "
    "nstcore again (in a checkout: delete .venv)"
)
STALE = "were built from other sources than those in kernels/cpu"
UNLOADABLE = "cannot be loaded"
AGAIN = "install nstcore again (in a checkout: delete .venv, or python setup.py build_ext --inplace)"
SLOWER = "in NumPy, some two and a half times slower"


class Floats:
    """Argument type of a float32 array: checked here, because beyond this point nothing is."""

    dtype: np.dtype[Any] = np.dtype(np.float32)

    @classmethod
    def from_param(cls, a: np.ndarray | None) -> c_void_p | None:
        """The address of a C-contiguous array of that type; NULL for None."""
        if a is None:
            return None
        if a.dtype != cls.dtype or not a.flags.c_contiguous:
            raise TypeError(f"expected a C-contiguous {cls.dtype} array, got {a.dtype} with strides {a.strides}")
        return c_void_p(a.ctypes.data)


class Words(Floats):
    """The same of a uint16 array."""

    dtype = np.dtype(np.uint16)


class Convolution(Structure):
    """nst_conv"""

    _fields_ = (
        ("C", c_long),
        ("K", c_long),
        ("H", c_long),
        ("W", c_long),
        ("replicate", c_int),
        ("filters", c_void_p),
        ("plain", c_void_p),
    )


class Tap(Structure):
    """nst_tap"""

    _fields_ = (("S", c_void_p), ("target", c_void_p), ("scale", c_float), ("ds", c_void_p), ("extra", c_void_p))


class First(Structure):
    """nst_first"""

    _fields_ = (
        ("K", c_long),
        ("H", c_long),
        ("W", c_long),
        ("replicate", c_int),
        ("order", c_int * 3),
        ("range", c_float),
        ("mean", c_float * 3),
        ("std", c_float * 3),
    )


class Window(Structure):
    """nst_window"""

    _fields_ = tuple((name, c_long) for name in ("top", "left", "height", "width", "row"))


class Layer(Structure):
    """nst_layer"""

    _fields_ = (
        *((name, c_long) for name in ("C", "K", "H", "W", "R", "S", "P", "Q", "stride", "top", "left", "upsample")),
        *((name, c_int) for name in ("padding", "activation", "depthwise")),
    )


POOLINGS = {"max": 0, "average": 1, "l2": 2}  # NST_MAX, NST_AVERAGE, NST_L2

_team, _conv, _tap, _first = c_void_p, POINTER(Convolution), POINTER(Tap), POINTER(First)
_layer, _window = POINTER(Layer), POINTER(Window)
# Of each function of nst.h: the type of its result, then those of its arguments
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "build": (c_char_p,),
    "supports": (c_int, c_char_p),
    "team_new": (c_void_p, c_int),
    "team_threads": (c_int, _team),
    "team_free": (None, _team),
    "transformed": (c_int, c_long, c_long),
    "pack_transformed": (None, _team, Floats, c_long, c_long, c_int, Floats),
    "pack_plain": (None, _team, Floats, c_long, c_long, c_int, Floats),
    "conv_work": (c_long, _conv, c_int, c_int),
    "conv_forward": (None, _team, _conv, Floats, Floats, Floats, Floats, Floats, c_int, Floats),
    "conv_backward": (None, _team, _conv, Floats, Floats, c_int, _tap, Floats),
    "first_planes": (c_long, _first),
    "first_work": (c_long, _first, c_int),
    "pack_first": (None, Floats, c_long, Floats, Floats),
    "prepare": (None, _team, _first, Floats, Floats),
    "first_forward": (None, _team, _first, Floats, Floats, Floats, Floats, Floats),
    "first_backward": (None, _team, _first, Floats, Floats, Floats, Floats),
    "pool_work": (c_long, c_long, c_long, c_int),
    "pool_backward": (None, _team, c_int, Floats, Floats, c_long, c_long, c_long, _tap, Floats),
    "tap_work": (c_long, c_long, c_int),
    "tap_gradient": (None, _team, Floats, Floats, Floats, c_int, c_int, c_long, c_long, _tap, Floats),
    "block": (None, _team, c_void_p, *[c_long] * 5, c_int, Floats),
    "unblock": (None, _team, c_void_p, *[c_long] * 6, Floats),
    "gram_work": (c_long, c_long),
    "gram": (None, _team, Floats, c_long, c_long, Floats, Floats),
    "gram_within": (None, _team, Floats, c_long, c_long, _window, Floats, Floats),
    "weigh": (None, _team, Floats, Floats, c_long, c_long, Floats),
    "sums": (None, _team, Floats, Floats, c_long, c_long, POINTER(c_double)),
    "sums_within": (None, _team, Floats, Floats, c_long, c_long, _window, POINTER(c_double)),
    "pack_style": (None, _team, Floats, c_long, Floats),
    "style": (c_double, _team, Floats, c_double, Floats, c_double, c_double, c_long, Floats),
    "squared_distance": (c_double, _team, Floats, Floats, Floats, c_long, c_long),
    "squared_distance_within": (c_double, _team, Floats, Floats, Floats, c_long, c_long, _window),
    "total_variation": (c_double, _team, Floats, c_long, c_long, c_long, c_double, c_double, Floats),
    "gates": (None, _team, Floats, c_long, c_long, c_long, c_int, _window, Words),
    "open": (None, _team, Words, c_long, c_long, Floats),
    "copy": (None, _team, Floats, Floats, c_long),
    "fill": (None, _team, Floats, c_double, c_long),
    "dot": (c_double, _team, Floats, Floats, c_long),
    "max_abs": (c_double, _team, Floats, c_long),
    "clip": (None, _team, Floats, c_double, c_double, c_long),
    "free_elements": (c_long, _team, Floats, Floats, c_double, c_double, Floats, POINTER(c_double), c_long),
    "step": (None, _team, Floats, c_double, Floats, c_double, c_double, Floats, c_long),
    "shorten": (c_double, _team, Floats, Floats, Floats, c_double, c_double, POINTER(c_double), c_long),
    "pair": (None, _team, *[Floats] * 6, POINTER(c_double), c_long),
    "pair_products_work": (c_long, c_long, c_int),
    "pair_products": (None, _team, Floats, Floats, POINTER(c_void_p), c_long, POINTER(c_double), Floats, c_long),
    "combine": (None, _team, c_double, *[Floats] * 2, POINTER(c_double), POINTER(c_void_p), c_long, Floats, c_long),
    "adam": (None, _team, *[Floats] * 4, *[c_double] * 8, c_long),
    "layer_filters": (c_long, _layer),
    "pack_layer": (None, _layer, Floats, Floats, Floats),
    "layer_work": (c_long, _layer, c_int),
    "layer_forward": (None, _team, _layer, Floats, Floats, Floats, Floats),
    "moments_work": (c_long, c_long, c_long),
    "moments": (None, _team, Floats, c_long, c_long, POINTER(c_double), POINTER(c_double), Floats),
    "normalise": (None, _team, Floats, c_long, c_long, Floats, Floats, Floats, c_int, Floats, Floats),
    "max_pool": (None, _team, Floats, c_long, c_long, c_long, Floats),
    "resize_work": (c_long, c_long, c_long, c_int),
    "resize": (None, _team, Floats, *[c_long] * 5, c_int, Floats, Floats),
}


class Library:
    """One loaded library: every function of nst.h without its prefix, e.g. `library.gram`."""

    def __init__(self, instructions: str, path: Path) -> None:
        self.instructions = instructions
        self._library = ctypes.CDLL(str(path))
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(self._library, f"nst_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def to_blocks(self, team: int, x: np.ndarray, out: np.ndarray, add: bool = False) -> None:
        """x (C, H, W) into blocks out (C/16, H, W, 16), or onto them. x may be a window of a larger float32 array."""
        self._fit(x, out)
        if x.dtype != np.float32 or x.strides[2] != x.itemsize:
            x = np.ascontiguousarray(x, np.float32)
        plane, row = (stride // x.itemsize for stride in x.strides[:2])
        self.block(team, x.ctypes.data, plane, row, *x.shape, add, out)

    def to_book(self, team: int, blocks: np.ndarray, out: np.ndarray) -> np.ndarray:
        """out (C, H, W) of blocks (C/16, H, W, 16), which may be a window of a larger float32 array."""
        self._fit(out, blocks)
        strides = (stride // blocks.itemsize for stride in blocks.strides[:3])
        self.unblock(team, blocks.ctypes.data, *strides, *out.shape, out)
        return out

    @staticmethod
    def _fit(book: np.ndarray, blocks: np.ndarray) -> None:
        C, H, W = book.shape
        if blocks.shape != (C // 16, H, W, 16):
            raise ValueError(f"expected blocks (C/16, H, W, 16) for features {book.shape}, got {blocks.shape}")

    def __getattr__(self, name: str) -> Any:  # for type checkers: the functions are set above
        raise AttributeError(name)


class Crew:
    """The threads of a library."""

    def __init__(self, library: Library, threads: int) -> None:
        self._free = library.team_free
        self.pointer = library.team_new(threads)
        if not self.pointer:
            raise MemoryError("a team of threads could not be made")
        self.threads = library.team_threads(self.pointer)

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._free(self.pointer)


def sources_hash(folder: Path) -> str | None:
    """As setup.py computes it; None where the sources are not there."""
    files = sorted(folder.glob("*.[ch]"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _sources() -> Path:
    """Where a wheel puts kernels/cpu, or kernels/cpu of a checkout."""
    package = HERE.parents[1]
    inside = package / "_kernels" / "cpu"
    return inside if inside.is_dir() else package.parent / "kernels" / "cpu"


@cache
def _libraries() -> tuple[dict[str, Library], str | None]:
    """The libraries that this machine can run, the best first; and what is wrong where a better one should be."""
    usable: dict[str, Library] = {}
    problem, current = None, sources_hash(_sources())
    for instructions in reversed(INSTRUCTIONS):
        path, baseline = HERE / f"libnst_{instructions}.so", usable.get("baseline")
        # The baseline runs anywhere, and knows what this machine has
        runs = instructions == "baseline" or (baseline is not None and baseline.supports(instructions.encode()))
        if not (runs and path.is_file()):
            continue
        try:
            library = Library(instructions, path)
            wrong = STALE if current not in (None, library.build().decode()) else None
        except AttributeError:  # it lacks a function of nst.h
            wrong = STALE
        except OSError as error:  # damaged, or of another machine
            wrong = f"{UNLOADABLE} ({error})"
        if wrong is None:
            usable[instructions] = library
            problem = None
        else:
            problem = f"the native {instructions} kernels {wrong}; {AGAIN}"
    if not usable and problem is None:
        problem = MISSING
    return dict(reversed(usable.items())), problem


def available() -> tuple[str, ...]:
    """The instruction sets that are built and that this machine has, the best first."""
    return tuple(_libraries()[0])


def choose(kernels: str | None = None) -> tuple[Library | None, str | None]:
    """The library to use, or None for the NumPy form; and a line to tell the user where that was not their choice.

    Parameters
    ----------
    kernels : str, optional
        An instruction set or "numpy"; the environment's, or else the best, if not given.

    Raises
    ------
    DeviceError
        For an instruction set that is not there.
    """
    wanted = kernels or os.environ.get(VARIABLE) or None
    if wanted == NUMPY:
        return None, None
    usable, problem = _libraries()
    if wanted is not None:
        if wanted not in usable:
            have, why = ", ".join((*usable, NUMPY)), f": {problem}" if problem else ""
            raise DeviceError(f"{VARIABLE}: expected one of {have} on this machine, got {wanted!r}{why}")
        return usable[wanted], None
    if not usable:
        return None, f"computing {SLOWER}: {problem}"
    best = next(iter(usable.values()))
    return best, problem and f"computing with the {best.instructions} kernels: {problem}"
