"""What tools/gpu_check.py measures: the GPU's peaks, every rung of the convolution, and the whole step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from bench_common import median, pictures, planes, torch_or_none

from nstcore import Objective, Weights, engines, vgg
from nstcore.bench.clock import LONG, elapsed, repeated
from nstcore.engines.cuda import conv
from nstcore.engines.cuda.device import Array, Device
from nstcore.engines.cuda.precision import PRECISIONS, Precision, to_elements
from nstcore.errors import DeviceError
from nstcore.objective import CONTENT_LAYERS, STYLE_LAYERS

PRODUCT = 8192  # side of the matrices whose product shows a peak
COPY = 1 << 30  # bytes that a copy reads: far more than any cache
AGREE = {"float32": 1e-3, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2, "PyTorch": 2e-2}  # relative, of losses


@dataclass
class Budget:
    """Seconds for everything, and what was left out, to keep to them or because it failed."""

    seconds: float
    start: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.start)

    def allows(self, seconds: float, what: str) -> bool:
        """Whether that much is left; else `what` is left out."""
        if seconds <= self.left:
            return True
        self.leave_out(what, f"about {seconds:.0f} s needed, {max(0, self.left):.0f} s left")
        return False

    def leave_out(self, what: str, why: str) -> None:
        self.left_out.append(f"{what} ({why})")
        print(f"left out: {self.left_out[-1]}", flush=True)


# -- clocks ------------------------------------------------------------------------------------------------------------


def turns(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in every round, by the wall clock; they take turns, each with one untimed step before."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            start = time.perf_counter()
            step()
            lasted = time.perf_counter() - start
            more = min(20, int(5 * LONG / lasted))
            for _ in range(more):
                step()
            found[name].append((time.perf_counter() - start) / (1 + more))
    return found


# -- peaks -------------------------------------------------------------------------------------------------------------


def peaks(device: Device, rounds: int, quick: bool) -> dict[str, float]:
    """Bytes/s of a copy, read and written; FLOP/s of matrix products by precision, where PyTorch is there."""
    size = 1 << 16 if quick else COPY
    a, b = device.empty(size, np.uint8), device.empty(size, np.uint8)
    device.fill_bytes(a, 1)
    found = {"copy": 2 * size / min(repeated(lambda run: elapsed(device, run), lambda: device.copy(a, b), rounds))}
    if not quick and torch_or_none() is not None:
        import gpu_torch_peer

        for name, product in gpu_torch_peer.products(PRODUCT).items():
            found[name] = 2 * PRODUCT**3 / min(repeated(gpu_torch_peer.seconds, product, rounds))
    return found


# -- the convolution, rung by rung -------------------------------------------------------------------------------------


def shapes(size: int) -> Iterator[tuple[str, int, int, int]]:
    """(name, C, K, side) of every kind of layer that a picture of that size passes, but conv1_1."""
    seen = set()
    for step in vgg.steps_for("vgg19", CONTENT_LAYERS + STYLE_LAYERS):
        shape = step.in_channels, step.out_channels, size // step.stride
        if step.kind == "conv" and step.in_channels > 3 and shape not in seen:
            seen.add(shape)
            yield (step.name, *shape)


def ladder(quick: bool) -> Iterator[tuple[str, Precision]]:
    """Every rung in the precision that it is for: the one whose production rung it is, or float32, or what it has."""
    for short, rung in conv.RUNGS.items():
        mine = [name for name in rung.precisions if conv.PRODUCTION[name] == short]
        if quick and not mine:
            continue
        for name in mine or (["float32"] if "float32" in rung.precisions else rung.precisions[:1]):
            yield short, PRECISIONS[name]


def layers(device: Device, size: int, rounds: int, quick: bool, budget: Budget) -> list[dict[str, Any]]:
    """Forward and backward of every rung at every kind of layer."""
    found = []
    for short, precision in ladder(quick):
        lasted = 0.0
        for name, C, K, side in islice(shapes(size), 2 if quick else None):
            if device.architecture < precision.architecture or not budget.allows(lasted, f"{short} {name}"):
                break
            start = time.monotonic()
            for direction, run in passes(device, precision, short, C, K, side).items():
                times = repeated(lambda run: elapsed(device, run), run, rounds)
                row = {"layer": name, "C": C, "K": K, "side": side, "rung": short, "precision": precision.name}
                found.append(row | {"pass": direction, "seconds": times, "operations": 2 * 9 * C * K * side**2})
                rate = found[-1]["operations"] / median(times) / 1e9
                print(f"{name} {side}x{side} {direction} {short} {precision.name}: {rate:.0f} GFLOP/s", flush=True)
            lasted = time.monotonic() - start
    return found


def passes(
    device: Device, precision: Precision, rung: str, C: int, K: int, side: int
) -> dict[str, Callable[[], object]]:
    """The two passes of one layer, on random numbers."""
    rng = np.random.default_rng(0)

    def there(a: np.ndarray) -> Array:
        return device.to_device(to_elements(a, precision))

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    layer = conv.Convolution(device, precision, rung, C, K, side, side, False)
    w = random(K, C, 3, 3) * np.float32((2 / (9 * C)) ** 0.5)
    filters = device.to_device(layer.rung.filters(w, precision))
    turned = device.to_device(layer.rung.turned(w, precision))
    b = device.to_device(random(K))
    x, dy = there(random(side, side, C)), there(random(side, side, K))
    y, dx = device.empty((side, side, K), precision.dtype), device.empty((side, side, C), precision.dtype)
    return {
        "forward": lambda: layer.forward(x, filters, b, None, y),
        "backward": lambda: layer.backward(dy, turned, None, x, None, 1.0, None, 0.0, True, dx),
    }


# -- the whole step ----------------------------------------------------------------------------------------------------


def steps(
    weights: Weights,
    device: str,
    sizes: Sequence[int],
    precisions: Sequence[str],
    rounds: int,
    compiled: bool,
    budget: Budget,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Time and memory of every form at every size, the smallest first; and what is wrong."""
    found, problems, fixed, timed, before = [], [], 0.0, 0.0, 1
    for size in sorted(sizes):
        # compilation and the like take as long at every size
        if not budget.allows(fixed + timed * (size / before) ** 2, f"the step at {size}x{size}"):
            continue
        start = time.monotonic()
        runs, memory, wrong = forms(weights, device, size, precisions, compiled, budget)
        losses = {name: run() for name, run in runs.items()}
        problems += wrong + disagreeing(losses, size)
        turning = time.monotonic()
        for name, times in turns(runs, rounds).items():
            row = {"size": size, "form": name, "seconds": times, "bytes": memory[name], "loss": losses[name]}
            found.append(row)
            print(f"{size}x{size} {name}: {1e3 * median(times):.2f} ms", flush=True)
        timed = time.monotonic() - turning
        fixed, before = time.monotonic() - start - timed, size
        runs.clear()
        gc.collect()  # the next size needs the memory
        if device == "cuda" and (torch := torch_or_none()) is not None:
            torch.cuda.empty_cache()
    return found, problems


def forms(
    weights: Weights, device: str, size: int, precisions: Sequence[str], compiled: bool, budget: Budget
) -> tuple[dict[str, Callable[[], float]], dict[str, int | None], list[str]]:
    """A step of every form at one size; the memory that it takes; and which of nstcore's failed, and how."""
    problem = pictures(size)
    runs: dict[str, Callable[[], float]] = {}
    memory: dict[str, int | None] = {}
    wrong = []
    for precision in precisions:
        name = f"nstcore {precision}"
        try:
            runs[name], memory[name] = nstcore_step(weights, device, precision, problem)
        except (MemoryError, RuntimeError, DeviceError) as error:
            wrong.append(f"{name} at {size}x{size}: {error}")
    if device == "cuda" and torch_or_none() is not None:
        import gpu_torch_peer

        for name, run, held, why in gpu_torch_peer.steps(weights, problem, compiled):
            if run is None:
                budget.leave_out(f"{name} at {size}x{size}", f"it failed: {why}")
            else:
                runs[name], memory[name] = run, held
    return runs, memory, wrong


def nstcore_step(
    weights: Weights, device: str, precision: str, problem: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[Callable[[], float], int | None]:
    """One step, and the bytes that its engine, which nobody else has, took of the GPU; None on a CPU."""
    content, style, start = problem
    engine = engines.create(device, precision)
    objective = Objective(weights, content, style, engine=engine)
    pixels = engine.array(planes(start))

    def step() -> float:
        terms, _ = objective(pixels)
        engine.device.synchronize()
        return terms.total

    step()
    return step, getattr(engine.device, "held_bytes", None)


def disagreeing(losses: dict[str, float], size: int) -> list[str]:
    """A line for each form that does not compute the first one's loss: it must not be compared."""
    expected = next(iter(losses.values()), 0.0)
    found = []
    for name, loss in losses.items():
        within = AGREE["PyTorch" if name.startswith("PyTorch") else name.split()[1]]
        if not abs(loss - expected) <= within * abs(expected):
            found.append(f"{name} at {size}x{size}: expected the loss {expected:.6g} within {within:g}, got {loss:.6g}")
    return found
