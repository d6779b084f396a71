"""The machines. `create` makes the engine that a name, a precision and a thread count stand for."""

from __future__ import annotations

from ..errors import DeviceError
from .asked import Asked, TapGradient
from .base import Engine, Network

__all__ = ["DEVICES", "PRECISIONS", "Asked", "Engine", "Network", "TapGradient", "create"]

DEVICES = ("auto", "cpu", "cuda", "cuda-on-cpu", "reference")
PRECISIONS = ("float32", "float64", "tf32", "float16", "bfloat16")


def create(device: str = "auto", dtype: str | None = "float32", threads: int | None = None) -> Engine:
    """An engine.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda-on-cpu", "reference"}
        "auto" takes the fastest that this machine has: a GPU, or else `cpu`; for float64 the book. "cuda-on-cpu" runs
        the GPU's kernels on the CPU, for those who study or test them.
    dtype : {"float32", "float64", "tf32", "float16", "bfloat16"} or None
        Precision of the arithmetic: float32 and float64 on `cpu`; all but float64 on a GPU. None is what the device
        paints pictures with: tf32 on a GPU that has it, else float32. Pixels are float32 in all but float64.
    threads : int, optional
        For the CPU: all cores if not given.

    Raises
    ------
    DeviceError
        For a name that is none of these, a device that is not there, or a precision that it does not have.
    """
    if device not in DEVICES:
        raise DeviceError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
    if dtype is not None and dtype not in PRECISIONS:
        raise DeviceError(f"precision: expected one of {', '.join(PRECISIONS)}, got {dtype!r}")
    if device == "auto":
        device = _fastest(dtype)
    if device == "cuda":
        from .cuda import CudaEngine
        from .cuda.gpu import GpuDevice

        return CudaEngine(GpuDevice(), dtype)
    if device == "cuda-on-cpu":
        from .cuda import CudaEngine
        from .cuda.on_cpu import OnCpuDevice

        return CudaEngine(OnCpuDevice(threads=threads), dtype)
    if dtype not in (None, "float32", "float64"):
        raise DeviceError(f"precision: expected float32 or float64 on {device}, got {dtype}; that takes a GPU")
    if device == "reference":
        from .reference import ReferenceEngine

        return ReferenceEngine(dtype or "float32")
    from .cpu import CpuEngine

    return CpuEngine(dtype or "float32", threads)


def _fastest(dtype: str | None) -> str:
    """What "auto" stands for on this machine."""
    if dtype == "float64":
        return "reference"
    from .cuda import gpu

    return "cuda" if gpu.problem() is None else "cpu"
