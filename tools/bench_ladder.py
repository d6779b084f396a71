"""The same step in every form that the project has, from the book to the fused kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
from bench_common import Report, about, check_agreement, interleaved, median, milliseconds, pictures, planes

from nstcore import Objective, Weights, ops
from nstcore.bench.im2col import im2col_backward, im2col_forward
from nstcore.engines import Engine, TapGradient
from nstcore.engines.cpu import CpuEngine
from nstcore.engines.cpu.library import INSTRUCTIONS, NUMPY, available
from nstcore.engines.reference import ReferenceEngine, ReferenceNetwork


def ladder_report(weights: Weights, size: int, threads: int, rounds: int) -> Report:
    """Medians of every rung."""
    report = Report(("rung", "code", "step, ms", "times as fast as the first"), notes=about(weights)[:1])
    content, style, start = pictures(size)
    pixels = planes(start)
    steps: dict[str, Callable[[], float]] = {}
    for name, (_, engine) in rungs(threads).items():
        objective = Objective(weights, content, style, engine=engine)
        steps[name] = lambda objective=objective: objective(pixels)[0].total
    check_agreement(steps)
    medians = {name: median(values) for name, values in interleaved(steps, rounds).items()}
    first = next(iter(medians.values()))
    for name, (code, _) in rungs(threads).items():
        report.rows.append((name, code, milliseconds(medians[name]), f"{first / medians[name]:.2f}"))
    report.notes.append(
        f"One step at {size}x{size}. NumPy uses the best instructions of the machine on every rung; the fused "
        "form is shown for each instruction set"
    )
    missing = [i for i in INSTRUCTIONS if i not in available()]
    if missing:
        report.notes.append(f"Not built, or not for this machine: {', '.join(missing)}")
    return report


def rungs(threads: int) -> dict[str, tuple[str, Engine]]:
    """What each rung is -> (where its code is, what computes it)."""
    found: dict[str, tuple[str, Engine]] = {
        "the book: one product per tap, nine per convolution": ("nstcore/ops/conv.py", ReferenceEngine("float32")),
        "im2col: one product per convolution": ("nstcore/bench/im2col.py", Im2colEngine("float32")),
        "Winograd in NumPy: 36 products for a quarter of the multiplications": (
            "nstcore/engines/cpu/winograd.py",
            CpuEngine(threads=threads, kernels=NUMPY),
        ),
    }
    for instructions in reversed(available()):
        engine = CpuEngine(threads=threads, kernels=instructions)
        found[f"Winograd fused in C, {instructions}"] = ("kernels/cpu/winograd.c", engine)
    return found


class Im2colEngine(ReferenceEngine):
    """The book with its convolution replaced."""

    def describe(self) -> str:
        return f"im2col in NumPy, {self.dtype}"

    def network(self, weights: Weights, taps: Iterable[str], pooling: str) -> ReferenceNetwork:
        return Im2colNetwork(weights, taps, pooling, self.dtype)


class Im2colNetwork(ReferenceNetwork):
    """Everything but the convolutions is the book's."""

    def __init__(self, weights: Weights, taps: Iterable[str], pooling: str, dtype: np.dtype) -> None:
        super().__init__(weights, taps, pooling, dtype)
        # (K, C, 3, 3) in memory too, so that the matrix (K, 9 C) is a view
        self.filters = {name: (np.ascontiguousarray(w), b) for name, (w, b) in self.filters.items()}

    def forward(self, pixels: np.ndarray, decisions: Mapping[str, np.ndarray] | None = None) -> None:
        with mock.patch.object(ops, "conv_forward", im2col_forward):
            super().forward(pixels, decisions)

    def backward(self, gradients: Mapping[str, Sequence[TapGradient]]) -> Any:
        with mock.patch.object(ops, "conv_backward", im2col_backward):
            return super().backward(gradients)
