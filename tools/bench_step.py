"""The whole step, loss and gradient, beside PyTorch and the limit; and its time per pixel at several sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bench_common import (
    FORMS,
    Report,
    about,
    check_agreement,
    first_call,
    interleaved,
    median,
    milliseconds,
    pictures,
    planes,
    torch_for,
)
from bench_flops import work

from nstcore import Objective, Weights

PRODUCT = 3072  # side of the matrices whose product shows the machine's peak


def step_report(weights: Weights, sizes: list[int], threads: int, rounds: int, compiled: bool) -> Report:
    """Medians of every form at every size."""
    report = Report(("size", "form", "median, ms", "fastest, ms", "relative to nstcore"), notes=about(weights))
    for size in sizes:
        mine, step = nstcore_step(weights, size, threads)
        candidates = {mine: step}
        peers, failures = torch_steps(weights, size, threads, compiled)
        candidates |= peers
        report.notes += [f for f in failures if f not in report.notes]
        check_agreement(candidates)
        seconds = interleaved({**candidates, "product": matrix_product()}, rounds)
        peak = 2 * PRODUCT**3 / min(seconds.pop("product"))
        limit = work(weights.architecture, size, size).limit
        own = median(seconds[mine])
        for name, values in seconds.items():
            ratio = f"{median(values) / own:.2f}"
            report.rows.append((f"{size}x{size}", name, milliseconds(median(values)), milliseconds(min(values)), ratio))
        bound = limit / peak
        form = f"limit: {limit / 1e9:.1f} GFLOP at {peak / 1e9:.0f} GFLOP/s"
        report.rows.append((f"{size}x{size}", form, milliseconds(bound), "-", f"{bound / own:.2f}"))
    report.notes.append(
        "The limit: the multiplications that Winograd F(4x4, 3x3) leaves, conv1_1 in direct form, the Gram matrices "
        f"(symmetric half) and their gradients, at the fastest {PRODUCT}x{PRODUCT} float32 product of NumPy in this run"
    )
    return report


def scaling_report(weights: Weights, sizes: list[int], threads: int, rounds: int) -> Report:
    """Milliseconds per megapixel."""
    report = Report(("size", "median, ms", "ms per megapixel", f"relative to {sizes[0]}x{sizes[0]}"))
    report.notes += about(weights)[:1]
    seconds = interleaved({str(size): nstcore_step(weights, size, threads)[1] for size in sizes}, rounds)
    medians = {size: median(seconds[str(size)]) for size in sizes}
    first = medians[sizes[0]] / sizes[0] ** 2
    for size, value in medians.items():
        per_pixel = value / size**2
        row = (milliseconds(value), milliseconds(1e6 * per_pixel), f"{per_pixel / first:.3f}")
        report.rows.append((f"{size}x{size}", *row))
    return report


def nstcore_step(weights: Weights, size: int, threads: int) -> tuple[str, Callable[[], float]]:
    """(what computes, one step of it)."""
    content, style, start = pictures(size)
    objective = Objective(weights, content, style, device="cpu", threads=threads)
    pixels = planes(start)
    return f"nstcore {objective.engine.describe()}", lambda: objective(pixels)[0].total


def torch_steps(
    weights: Weights, size: int, threads: int, compiled: bool
) -> tuple[dict[str, Callable[[], float]], list[str]]:
    """PyTorch's forms by name, and why one is not among them. Each has had its first call."""
    torch = torch_for(weights, threads)
    if torch is None:
        return {}, []
    from torch_peer import TorchPeer

    if compiled:
        torch.compiler.reset()  # what was compiled for another size does not count towards its limit
    content, style, start = pictures(size)
    steps: dict[str, Callable[[], float]] = {}
    failures = []
    for form, channels_last, compile_it in FORMS:
        if compile_it and not compiled:
            continue
        peer = TorchPeer(weights, content, style, weights.pooling, channels_last=channels_last, compiled=compile_it)
        x = peer.tensor(start).requires_grad_()

        def step(peer: TorchPeer = peer, x: Any = x) -> float:
            x.grad = None
            loss = peer.loss(x)
            loss.backward()
            return loss.item()

        failure = first_call(step, form, compile_it)
        if failure is None:
            steps[f"PyTorch {form}"] = step
        else:
            failures.append(failure)
    return steps, failures


def matrix_product() -> Callable[[], object]:
    """A large product in float32: what the machine's multipliers give to a library that has been tuned for them."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((PRODUCT, PRODUCT), np.float32) for _ in range(2))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)
