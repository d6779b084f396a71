"""The precisions of the CUDA kernels: what an element of features, filters and gradients is, and how floats become it.

Sums are float32 in all of them. `to_elements` rounds as `to_element` in kernels/cuda/common.cuh does, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import DeviceError


@dataclass(frozen=True)
class Precision:
    """One precision.

    Attributes
    ----------
    name : str
        As on the command line.
    dtype : numpy.dtype
        Of an array of elements; uint16 for bfloat16, which NumPy does not have.
    macro : str
        The value of PRECISION that the kernels are compiled with.
    unit : float
        Largest relative error of rounding one number to an element.
    architecture : int
        The oldest GPUs that have it: 75 for sm_75.
    """

    name: str
    dtype: np.dtype
    macro: str
    unit: float
    architecture: int


FLOAT32 = Precision("float32", np.dtype(np.float32), "FLOAT32", 2.0**-24, 75)
TF32 = Precision("tf32", np.dtype(np.float32), "TF32", 2.0**-11, 80)
FLOAT16 = Precision("float16", np.dtype(np.float16), "FLOAT16", 2.0**-11, 80)
BFLOAT16 = Precision("bfloat16", np.dtype(np.uint16), "BFLOAT16", 2.0**-8, 80)
PRECISIONS = {p.name: p for p in (FLOAT32, TF32, FLOAT16, BFLOAT16)}


def find(name: str) -> Precision:
    """The precision of that name; `DeviceError` for one that the kernels do not have."""
    if name not in PRECISIONS:
        raise DeviceError(f"precision: expected one of {', '.join(PRECISIONS)} for a GPU, got {name}")
    return PRECISIONS[name]


def to_elements(a: np.ndarray, precision: Precision) -> np.ndarray:
    """A C-contiguous array of elements, of the precision's dtype: each number rounded to the nearest one.

    Ties go to even; for tf32 away from zero. NaN stays NaN.
    """
    floats = np.ascontiguousarray(a, np.float32)
    if precision is FLOAT32:
        return floats.copy() if floats is a else floats
    if precision is FLOAT16:
        with np.errstate(over="ignore"):  # beyond 65504: infinity, as on the GPU
            return floats.astype(np.float16)
    bits, nan = floats.view(np.uint32).astype(np.uint64), np.isnan(floats)
    if precision is TF32:
        rounded = ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)
        return np.where(nan, np.float32(np.nan), rounded)
    half = 0x7FFF + ((bits >> 16) & 1)
    return np.where(nan, np.uint16(0x7FFF), ((bits + half) >> 16).astype(np.uint16))


def from_elements(a: np.ndarray, precision: Precision) -> np.ndarray:
    """float32, exactly: the inverse of `to_elements`."""
    if precision is BFLOAT16:
        return (a.astype(np.uint32) << 16).view(np.float32)
    return a.astype(np.float32)
