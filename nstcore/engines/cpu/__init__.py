"""The `cpu` engine: threads over NumPy and its BLAS, for machines without a GPU."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...errors import DeviceError
from ...optim import Vectors
from ...pretrained.weights import Weights
from ..base import Engine
from .network import NumpyNetwork
from .team import Team


class CpuEngine(Engine):
    """NumPy form: Winograd convolutions whose products and transforms are BLAS's.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        float32 for pictures; float64 to tell an error of logic from one of rounding.
    threads : int, optional
        All cores that the process may use, if not given.
    """

    name = "cpu"

    def __init__(self, dtype: str = "float32", threads: int | None = None) -> None:
        if dtype not in ("float32", "float64"):
            raise DeviceError(f"device cpu: expected float32 or float64, got {dtype}; --device reference takes others")
        self.dtype = np.dtype(dtype)
        self.team = Team(threads)
        self.vectors = Vectors()

    def describe(self) -> str:
        plural = "s" if self.team.requested != 1 else ""
        return f"cpu (NumPy, {self.team.requested} thread{plural}, {self.dtype})"

    def network(self, weights: Weights, taps: Iterable[str], pooling: str) -> NumpyNetwork:
        return NumpyNetwork(weights, taps, pooling, self.dtype, self.team)
