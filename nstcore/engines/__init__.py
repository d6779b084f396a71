"""The machines. `create` makes the engine that a name, a precision and a thread count stand for."""

from __future__ import annotations

from ..errors import DeviceError
from .base import Engine, Network, TapGradient

__all__ = ["DEVICES", "Engine", "Network", "TapGradient", "create"]

DEVICES = ("auto", "cpu", "reference")


def create(device: str = "auto", dtype: str = "float32", threads: int | None = None) -> Engine:
    """An engine.

    Parameters
    ----------
    device : {"auto", "cpu", "reference"}
        "auto" takes the fastest that this machine has: `cpu` for float32, the book for anything else.
    dtype : str
        "float32" or "float64".
    threads : int, optional
        For `cpu`: all cores if not given.

    Raises
    ------
    DeviceError
        For a name that is none of these, or a float type that the device does not have.
    """
    if dtype not in ("float32", "float64"):
        raise DeviceError(f"dtype: expected float32 or float64, got {dtype!r}")
    if device == "auto":
        device = "cpu" if dtype == "float32" else "reference"
    if device == "cpu":
        from .cpu import CpuEngine

        return CpuEngine(dtype, threads)
    if device == "reference":
        from .reference import ReferenceEngine

        return ReferenceEngine(dtype)
    raise DeviceError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
