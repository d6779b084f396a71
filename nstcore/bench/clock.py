"""How long things take: clocks, repetition, and what the machine reaches at its best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engines.cpu.team import Team
from ..engines.cuda.device import Device

LONG = 0.01  # seconds: what is shorter is repeated within one measurement
PRODUCT = 2048  # side of the matrices whose product shows what arithmetic can reach
COPY = 128 << 20  # bytes that a copy on the CPU reads, and on a GPU
COPY_GPU = 1 << 30  # far more than any cache


def elapsed(device: Device | None, run: Callable[[], object]) -> float:
    """Seconds of what `run` launches: by the GPU's clock, else by the machine's."""
    if device is not None and hasattr(device, "seconds"):
        return device.seconds(run)
    start = time.perf_counter()
    run()
    if device is not None:
        device.synchronize()
    return time.perf_counter() - start


def repeated(clock: Callable[[Callable[[], object]], float], run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of one `run` in each round, after two that warm up."""
    clock(run)
    times = max(1, min(100, math.ceil(LONG / max(clock(run), 1e-9))))

    def many() -> None:
        for _ in range(times):
            run()

    return [clock(many) / times for _ in range(rounds)]


def cpu_peaks(threads: int, rounds: int = 3) -> tuple[float, float]:
    """FLOP/s of a float32 matrix product, and bytes/s of a copy, read and written, in so many threads: the fastest."""
    team = Team(threads)
    a = np.ones((PRODUCT, PRODUCT), np.float32)
    c = np.empty_like(a)
    source, target = np.ones(COPY, np.uint8), np.ones(COPY, np.uint8)

    def rows(_: int, i: int, j: int) -> None:
        np.matmul(a[i:j], a, out=c[i:j])

    def bytes_of(_: int, i: int, j: int) -> None:
        np.copyto(target[i:j], source[i:j])

    def product() -> None:
        with team.at_work():
            team.split(rows, PRODUCT)

    def copy() -> None:
        team.split(bytes_of, COPY)

    fastest = [min(repeated(lambda run: elapsed(None, run), run, rounds)) for run in (product, copy)]
    return 2 * PRODUCT**3 / fastest[0], 2 * COPY / fastest[1]


def gpu_peaks(device: Any, rounds: int = 3) -> tuple[float | None, float]:
    """The same of a GPU: the product is cuBLAS's in float32; None where CuPy does not find it."""
    a, b = device.empty(COPY_GPU, np.uint8), device.empty(COPY_GPU, np.uint8)
    device.fill_bytes(a, 1)
    copy = min(repeated(lambda run: elapsed(device, run), lambda: device.copy(a, b), rounds))
    return _gpu_product(device, rounds), 2 * COPY_GPU / copy


def _gpu_product(device: Any, rounds: int) -> float | None:
    side = 2 * PRODUCT
    try:
        a = device.to_device(np.ones((side, side), np.float32))
        out = device.empty((side, side), np.float32)
        with device.gpu, device.stream:
            product = lambda: device.cupy.matmul(a, a, out=out)  # noqa: E731
            fastest = min(repeated(lambda run: elapsed(device, run), product, rounds))
    except (ImportError, RuntimeError, AttributeError, OSError):  # CuPy without cuBLAS
        return None
    return 2 * side**3 / fastest
