"""The `cpu` engine, for machines without a GPU: native kernels where they are built, else threads over NumPy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ... import vgg
from ...errors import DeviceError, OptionError
from ...optim import Vectors
from ...pretrained.weights import Weights
from ..base import Engine, Network
from ..operations import Operations
from .arena import Spare
from .library import Crew, choose
from .native import CHANNELS, NativeNetwork
from .network import NumpyNetwork
from .operations import NativeOperations
from .team import Team, available_cores
from .vectors import NativeVectors


class CpuEngine(Engine):
    """Winograd convolutions: fused in C, or in NumPy with the products left to BLAS.

    Weights whose layers are not multiples of 32 channels wide (none that are published) are computed in NumPy.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        float32 for pictures; float64, in NumPy only, to tell an error of logic from one of rounding.
    threads : int, optional
        All cores that the process may use, if not given.
    kernels : {"avx512", "avx2", "baseline", "numpy"}, optional
        The environment's NSTCORE_KERNELS, or else the best that is there, if not given.
    """

    name = "cpu"

    def __init__(self, dtype: str = "float32", threads: int | None = None, kernels: str | None = None) -> None:
        if dtype not in ("float32", "float64"):
            raise DeviceError(f"device cpu: expected float32 or float64, got {dtype}")
        wanted = available_cores() if threads is None else threads
        if wanted < 1:
            raise OptionError(f"threads: expected 1 or more, got {wanted}")
        self.dtype = np.dtype(dtype)
        self.precision = dtype
        self.threads = wanted
        self.library, self.notice = choose(kernels) if dtype == "float32" else (None, None)
        if self.library is not None:
            self.crew = Crew(self.library, wanted)
            self._spare = Spare()
        self.vectors = Vectors() if self.library is None else NativeVectors(self.library, self.crew)

    def describe(self) -> str:
        form = "NumPy" if self.library is None else f"native {self.library.instructions}"
        plural = "s" if self.threads != 1 else ""
        return f"cpu ({form}, {self.threads} thread{plural}, {self.dtype})"

    def network(self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE) -> Network:
        if self.library is not None and all(len(b) % CHANNELS == 0 for _, b in weights.filters.values()):
            spare = None if part == vgg.WHOLE else self._spare  # the parts of a network take turns
            return NativeNetwork(weights, taps, pooling, self.library, self.crew, part, spare)
        return NumpyNetwork(weights, taps, pooling, self.dtype, Team(self.threads), part)

    def operations(self) -> Operations:
        return super().operations() if self.library is None else NativeOperations(self.library, self.crew)

    def style_term(self, G: Any, M: int, A: Any, M_style: int, scale: float) -> tuple[float, Any]:
        if self.library is None:
            return super().style_term(G, M, A, M_style, scale)
        return self.library.style(self.crew.pointer, G, M, A, M_style, scale, len(G), G), G

    def total_variation(self, pixels: Any, scale: float, gradient: Any, diagonal: float = 0.0) -> float:
        if self.library is None:
            return super().total_variation(pixels, scale, gradient, diagonal)
        return self.library.total_variation(self.crew.pointer, pixels, *pixels.shape, scale, diagonal, gradient)
