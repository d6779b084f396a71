"""Boxes of arrays: what the bulk tensor copies of sm_90 (TMA) are told to copy, and the convolution that they feed.

A kernel takes a box anywhere in an array, also across its edges, where it finds zeros. How the array and the box are
made it is told by a *tensor map*, an argument of 128 bytes that the driver encodes; on the CPU that stands in for a GPU
it is a structure of plain numbers. kernels/cuda/bulk_copies.cuh is the kernels' side.

References
----------
.. [1] NVIDIA, "CUDA Driver API", tensor map object management, cuTensorMapEncodeTiled.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DeviceError
from .tile_launches import BOX_COLUMNS, Launch

if TYPE_CHECKING:
    from .device import Array, Kernel

ROW_BYTES = 128  # of a box: as many as the tensor cores' permuted rows have
LARGEST_BOX = 256  # along any side
_ENCODED, _ALIGNMENT = 128, 64  # bytes of a CUtensorMap, and on what it begins
# Of cuda.h: CU_TENSOR_MAP_DATA_TYPE_UINT16 and _UINT32 by bytes of an element, whose bits nobody looks at;
# INTERLEAVE_NONE, SWIZZLE_128B, L2_PROMOTION_L2_128B, FLOAT_OOB_FILL_NONE, which is zeros
_TYPES, _OPTIONS = {2: 1, 4: 2}, (0, 3, 2, 0)
# `TensorMap` of tools/cuda_on_cpu/calls.h
_PLAIN = np.dtype([("address", "u8"), ("sizes", "i8", 3), ("strides", "i8", 2), ("box", "u4", 3), ("item", "u4")])


@dataclass(frozen=True)
class TensorMap:
    """A box of an array, as the argument of a launch.

    Attributes
    ----------
    array : Array of elements of 2 or 4 bytes, three dimensions, C-contiguous; None for one that nobody looks at
        Its rows, along the last dimension, are whole 16-byte words, and it begins on one.
    box : three ints
        Sides of the box, in elements; its rows are of 128 bytes.
    """

    array: Array | None
    box: tuple[int, int, int] = (1, 1, 1)

    def problem(self, address: int) -> str | None:
        """What the copies cannot do with an array at that address, in a few words; None if they can."""
        if self.array is None:
            return None
        shape, item = self.array.shape, self.array.itemsize
        if len(shape) != 3 or item not in _TYPES or shape[2] * item % 16 or address % 16 or not math.prod(shape):
            kinds = "three dimensions of elements of 2 or 4 bytes in rows of 16-byte words"
            return f"{kinds}, got {shape} of {item} at {address}"
        if len(self.box) != 3 or not all(0 < n <= LARGEST_BOX for n in self.box) or self.box[2] * item != ROW_BYTES:
            return f"a box within {LARGEST_BOX} elements a side, rows of {ROW_BYTES} bytes, got {self.box}"
        return None

    def _bytes(self) -> tuple[int, int]:
        """From one row to the next, and from one of the first dimension."""
        assert self.array is not None
        row = self.array.shape[2] * self.array.itemsize
        return row, row * self.array.shape[1]

    def plain(self, address: int) -> np.ndarray:
        """For the CPU, of an array at that address; zeros for none."""
        found = np.zeros(1, _PLAIN)
        if self.array is not None:
            found[0] = address, self.array.shape[::-1], self._bytes(), self.box[::-1], self.array.itemsize
        return found

    def encoded(self, address: int) -> np.ndarray:
        """For a GPU: a CUtensorMap of an array at that address, one element of 128 bytes; zeros for none.

        Raises
        ------
        DeviceError
            If the driver has none, or refuses it.
        """
        room = np.zeros(_ENCODED + _ALIGNMENT, np.uint8)
        begin = -room.ctypes.data % _ALIGNMENT
        found = room[begin : begin + _ENCODED]
        if self.array is not None:
            sizes, strides = (ctypes.c_uint64 * 3)(*self.array.shape[::-1]), (ctypes.c_uint64 * 2)(*self._bytes())
            box, steps = (ctypes.c_uint32 * 3)(*self.box[::-1]), (ctypes.c_uint32 * 3)(1, 1, 1)
            to, at = ctypes.c_void_p(found.ctypes.data), ctypes.c_void_p(address)
            kind = _TYPES[self.array.itemsize]
            if status := _encode()(to, kind, 3, at, sizes, strides, box, steps, *_OPTIONS):
                raise DeviceError(
                    f"NVIDIA's driver: expected a tensor map of {self.array.shape} in boxes of {self.box}, "
                    f"got error {status}; take another rung"
                )
        return found.view(f"V{_ENCODED}").reshape(())


def gpu_argument(a: Any) -> np.generic | np.ndarray:
    """Exactly the bytes that a GPU's kernel reads: a scalar of its own type, an address, or an encoded tensor map."""
    if isinstance(a, np.generic):
        return a
    if isinstance(a, TensorMap):
        return a.encoded(0 if a.array is None else a.array.data.ptr)
    return np.uintp(0 if a is None else a.data.ptr)


@cache
def _encode() -> Callable[..., int]:
    """The driver's function, which the process of a GPU has loaded."""
    try:
        return ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    except (OSError, AttributeError) as error:
        raise DeviceError(
            f"NVIDIA's driver: expected one of CUDA 12 or later, which encodes tensor maps, got {error}; update it, or "
            "take another rung"
        ) from error


class BoxConvolution:
    """One pass by 11_tma_wgmma: a launch with tensor maps, with the arguments of the other rungs' one.

    Parameters
    ----------
    kernel : Kernel
    launch : Launch
    """

    def __init__(self, kernel: Kernel, launch: Launch) -> None:
        self._kernel, self._launch = kernel, launch

    def _do(self, *arguments: Any) -> None:
        self._kernel(self._launch.grid, self._launch.block, *arguments, shared=self._launch.shared)

    def _positions(self, x: Array, H: int, W: int) -> TensorMap:
        rows = self._launch.defines["TILE_M"] // BOX_COLUMNS
        return TensorMap(x.reshape(H, W, -1), (rows + 2, BOX_COLUMNS, ROW_BYTES // x.itemsize))

    def _filters(self, w: Array, count: int, taps: int) -> TensorMap:
        return TensorMap(w.reshape(count, taps, -1), (self._launch.defines["TILE_N"], 1, ROW_BYTES // w.itemsize))

    def forward(
        self, x: Array, w: Array, b: Array, linear: Array, y: Array, C: int, K: int, H: int, W: int, replicate: bool
    ) -> None:
        """As conv3x3_forward of the other rungs; the border is zeros."""
        assert not replicate
        self._do(self._positions(x, H, W), self._filters(w, K, 9), b, linear, y, C, K, H, W)

    def pooled(
        self,
        x: Array,
        w: Array,
        b: Array,
        linear: Array,
        y: Array,
        pooled: Array,
        choices: Array,
        kind: int,
        C: int,
        K: int,
        H: int,
        W: int,
        replicate: bool,
    ) -> None:
        """As conv3x3_forward of 10_pooled; the border is zeros."""
        assert not replicate
        maps = self._positions(x, H, W), self._filters(w, K, 9)
        self._do(*maps, b, linear, y, pooled, choices, kind, C, K, H, W)

    def backward(
        self,
        dy: Array,
        w: Array,
        F: Array,
        S: Array,
        style_scale: float,
        P: Array,
        content_scale: float,
        scales: Array,
        mask: bool,
        dx: Array,
        K: int,
        C: int,
        H: int,
        W: int,
    ) -> None:
        """As conv3x3_backward of the other rungs."""
        style = S is not None
        of_style = (self._positions(F, H, W), self._filters(S, C, 1)) if style else (None, None)
        maps = self._positions(dy, H, W), self._filters(w, C, 9), *of_style
        self._do(*maps, style, style_scale, F, P, content_scale, scales, mask, dx, K, C, H, W)
