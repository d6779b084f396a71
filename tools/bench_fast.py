"""One-pass networks beside PyTorch: a picture painted, and the look of a style."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from bench_common import (
    FORMS,
    Report,
    first_call,
    interleaved,
    median,
    milliseconds,
    pictures,
    planes,
    torch_or_none,
)

from nstcore import FastWeights, engines, fast, load_fast_weights
from nstcore.errors import RunError, WeightsError
from nstcore.pretrained.fast import fast_tensors

MODELS = ("magenta", "adain")
STYLE = 256  # side of the style
AGREE = 1e-3  # of a picture in [0, 1]: that all compute the same, not how exactly (tests/test_fast_torch.py has 1e-4)

Step = Callable[[], np.ndarray]


def fast_report(name: str | None, sizes: list[int], threads: int, rounds: int, compiled: bool) -> Report:
    """Medians of every form of both networks at every size; `name` stands for one of them."""
    report = Report(("network", "what", "form", "median, ms", "fastest, ms", "relative to nstcore"))
    if torch_or_none() is None:
        report.notes.append("PyTorch is not installed: nstcore alone")
    loaded = [load_fast_weights(name)] if name else [weights_for(model) for model in MODELS]
    report.notes.append("Weights: " + ", ".join(weights.name for weights in loaded))
    for weights in loaded:
        net = fast.network(weights, engines.create("cpu", "float32", threads))
        style, *_ = pictures(STYLE)
        look = net.look(planes(style))
        cases = [(f"look of {STYLE}x{STYLE}", STYLE, True), *((f"picture {n}x{n}", n, False) for n in sizes)]
        for what, size, of_style in cases:
            x = planes(pictures(size)[0 if not of_style else 1])
            mine: Step = partial(net.look, x) if of_style else partial(net.paint, x, look)
            candidates = {"nstcore": mine}
            found, failures = torch_steps(weights, x, look, of_style, threads, compiled)
            candidates |= found
            report.notes += [f for f in failures if f not in report.notes]
            check(candidates, of_style)
            seconds = interleaved(candidates, rounds)
            own = median(seconds["nstcore"])
            for form, values in seconds.items():
                ratio = f"{median(values) / own:.2f}"
                row = (weights.model, what, form, milliseconds(median(values)), milliseconds(min(values)), ratio)
                report.rows.append(row)
    return report


def weights_for(model: str) -> FastWeights:
    """The published ones if they are in the cache, else random ones of their shapes: as much work."""
    try:
        return load_fast_weights(model)
    except WeightsError:
        rng = np.random.default_rng(0)
        tensors = {}
        for name, shape in fast_tensors(model).items():
            spread = 0.0 if name.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
            tensors[name] = (spread * rng.standard_normal(shape)).astype(np.float32)
        return FastWeights(f"random {model} (He, seed 0)", model, tensors, {})


def torch_steps(
    weights: FastWeights, x: np.ndarray, look: np.ndarray, of_style: bool, threads: int, compiled: bool
) -> tuple[dict[str, Step], list[str]]:
    """PyTorch's forms by name, and why one is not among them. Each has had its first call."""
    torch = torch_or_none()
    if torch is None:
        return {}, []
    from torch_fast_peer import TorchFastPeer

    torch.set_num_threads(threads)
    steps: dict[str, Step] = {}
    failures = []
    for form, channels_last, compile_it in FORMS:
        if compile_it and (of_style or not compiled):
            continue
        peer = TorchFastPeer(weights, channels_last=channels_last, compiled=compile_it)
        vector = torch.from_numpy(look.astype(np.float32)).reshape(1, -1, 1, 1)

        def step(peer: TorchFastPeer = peer, vector: object = vector) -> np.ndarray:
            if of_style:
                return peer.look(x).numpy().reshape(-1)
            return peer.paint(peer.tensor(x), vector)[0].numpy()

        failure = first_call(step, form, compile_it)
        if failure is None:
            steps[f"PyTorch {form}"] = step
        else:
            failures.append(failure)
    return steps, failures


def check(candidates: dict[str, Step], of_style: bool) -> None:
    """Refuse to compare programs that do not compute the same."""
    results = {name: step() for name, step in candidates.items()}
    expected = results["nstcore"]
    bound = AGREE * (np.abs(expected).max() if of_style else 1)
    for name, found in results.items():
        apart = float(np.abs(found - expected).max())
        if not apart <= bound:
            raise RunError(f"{name}: expected what nstcore computes within {bound:.2g}, got it off by {apart:.2g}")
