"""What tools/gpu_check.py measures: the GPU's peaks, every rung of VGG's convolution, every rung of the layers of
one-pass networks and a whole pass of one. The whole step of a painting is in gpu_steps.py."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
from bench_common import ROOT, median, pictures, planes, torch_or_none
from bench_fast import weights_for

from nstcore import FastWeights, engines, fast, vgg
from nstcore.bench import OPERATIONS, Peaks, Size, measure, rungs
from nstcore.bench.clock import LONG, elapsed, repeated
from nstcore.bench.layers import STANDARD
from nstcore.bench.runs import Machine
from nstcore.bench.traffic import traffic
from nstcore.commands.bench_table import extent
from nstcore.engines.cuda import conv
from nstcore.engines.cuda.device import Array, Device
from nstcore.engines.cuda.precision import PRECISIONS, Precision, to_elements
from nstcore.objective import CONTENT_LAYERS, STYLE_LAYERS

PRODUCT = 8192  # side of the matrices whose product shows a peak
COPY = 1 << 30  # bytes that a copy reads: far more than any cache
MODEL = "magenta"
STYLE = 256  # side of the picture that a look is of
BOOK = 64  # side of those that the book sees and paints, too
# Most that pixels in [0, 1] may be apart; with factors rounded to TF32 on a CPU they were 1e-2
PAINTED = {"the book": 1e-4, "float32": 1e-3, "tf32": 2e-2}
TRIAL = 60  # seconds for a rung that may not come to an end
SMALL = 12  # of a quick rehearsal: positions and channels of a layer, sides of pictures


@dataclass
class Budget:
    """Seconds for everything; what was left out, to keep to them or because it failed; and rungs, by their short
    names, that hang or fail on this GPU: nobody tries them again."""

    seconds: float
    start: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)
    unfit: set[str] = field(default_factory=set)

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


def torch_on_gpu() -> ModuleType | None:
    """PyTorch, where it is installed and has the GPU: one that is made for CPUs, or another driver, has not."""
    torch = torch_or_none()
    return torch if torch is not None and torch.cuda.is_available() else None


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
    if not quick and torch_on_gpu() is not None:
        import gpu_torch_peer

        try:
            for name, product in gpu_torch_peer.products(PRODUCT).items():
                found[name] = 2 * PRODUCT**3 / min(repeated(gpu_torch_peer.seconds, product, rounds))
        except RuntimeError as error:
            print(f"left out: peaks of arithmetic (PyTorch: {error})", flush=True)
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
    """Every rung in the precision that it is for: whose production rung it is; or float32, or all that it has."""
    for short, rung in conv.RUNGS.items():
        mine = [name for name in rung.precisions if conv.PRODUCTION[name] == short]
        if quick and not mine:
            continue
        for name in mine or (["float32"] if "float32" in rung.precisions else rung.precisions):
            yield short, PRECISIONS[name]


def layers(device: Device, size: int, rounds: int, quick: bool, budget: Budget) -> list[dict[str, Any]]:
    """Forward and backward of every rung at every kind of layer."""
    found = []
    for short, precision in ladder(quick):
        if short in budget.unfit:
            continue
        if why := unfit(device, short, precision):
            budget.leave_out(f"conv3x3/{short}", why)
            budget.unfit.add(short)
            continue
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


def unfit(device: Device, short: str, precision: Precision) -> str | None:
    """Why a rung for one kind of GPU alone is left out: this is another; it is wrong; it does not come to an end.

    It is tried in a process of its own: after a kernel that fails, nothing else works in the same one.
    """
    only = conv.RUNGS[short].only
    if only is None:
        return None
    if device.architecture != only:
        return f"for sm_{only} alone, this is sm_{device.architecture}"
    options = f"--rung {short} --precision {precision.name} --device {device.kind} --size 9x15 --channels 72"
    command = [sys.executable, "-m", "nstcore", "bench", "conv", *options.split(), "--rounds", "1", "--quiet"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TRIAL)
    except subprocess.TimeoutExpired:
        return f"not done after {TRIAL} s"
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"it failed: {said[-1]}" if done.returncode else None


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


# -- the layers of one-pass networks, rung by rung ---------------------------------------------------------------------


def network_layers(
    device: Device, rounds: int, quick: bool, peaks: dict[str, float], budget: Budget
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every rung of every layer, verified against the book and timed; and what is wrong."""
    found, problems, machine = [], [], Machine(1, device)
    limits, lasted = Peaks(peaks.get("float32"), peaks["copy"]), 0.0
    for operation, size in cases(quick):
        what = f"{operation} {extent(OPERATIONS[operation], size)}"
        if not budget.allows(lasted, what):
            break
        start = time.monotonic()
        measured = measure(rungs(operation, "cuda"), size, machine, rounds, peaks=limits)
        for line in measured.left_out:
            budget.leave_out(what, line)
        for row in measured.rows:
            name = f"{what} {row.rung.name} {row.name}"
            if not row.passed:
                problems.append(f"{name}: expected the book's within {row.bound:.2g}, got it off by {row.error:.2g}")
                continue
            facts = {"layer": what, "rung": row.rung.file, "pass": row.name, "seconds": row.seconds}
            found.append(facts | {"operations": row.operations, "bytes": row.bytes})
            print(f"{name}: {1e6 * row.median:.1f} us", flush=True)
        lasted = time.monotonic() - start
    return found, problems


def cases(quick: bool) -> list[tuple[str, Size]]:
    """Operations with their sizes; in a rehearsal one of each, in small."""
    if not quick:
        return list(STANDARD)
    first = dict(reversed(STANDARD))
    return [(name, replace(size, H=SMALL, W=SMALL, C=SMALL, K=SMALL)) for name, size in first.items()]


# -- a whole pass ------------------------------------------------------------------------------------------------------


def network_passes(
    device: str, sizes: Sequence[int], rounds: int, quick: bool, compiled: bool, budget: Budget
) -> tuple[list[dict[str, Any]], list[str]]:
    """Time and memory of a pass in every form at every size, picture and result on the device; and what is wrong."""
    weights = weights_for(MODEL)
    print(f"weights: {weights.name}", flush=True)
    problems, found, lasted, before = differing(weights, device, SMALL if quick else BOOK), [], 0.0, 1
    style, *_ = pictures(SMALL if quick else STYLE)
    for size in sorted(sizes):
        if not budget.allows(lasted * max(1.0, size / before), f"a pass over {size}x{size}"):
            continue
        start = time.monotonic()
        runs, results, memory = painters(weights, device, style, size, compiled, budget)
        wrong = apart(results, size)
        problems += wrong.values()
        right = {name: run for name, run in runs.items() if name not in wrong}
        least = traffic(weights, size, size)
        for name, times in turns(right, rounds).items():
            row = {"size": size, "form": name, "seconds": times, "bytes": memory[name], "layers": least}
            found.append(row | {"weights": weights.name})
            print(f"a pass over {size}x{size}, {name}: {1e3 * median(times):.2f} ms", flush=True)
        lasted, before = time.monotonic() - start, size
        runs.clear()
        right.clear()
        gc.collect()
        if device == "cuda" and (torch := torch_on_gpu()) is not None:
            torch.cuda.empty_cache()
    return found, problems


def differing(weights: FastWeights, device: str, side: int) -> list[str]:
    """A line if the device does not paint a small picture as the book does in float64."""
    style, content, _ = (planes(p) for p in pictures(side))
    book, mine = (
        fast.network(weights, engines.create(*key)) for key in (("reference", "float64"), (device, "float32"))
    )
    look = book.look(style)
    results = {"the book": book.paint(content, look), "nstcore float32": mine.paint(content, look)}
    return list(apart(results, side, PAINTED["the book"]).values())


def painters(
    weights: FastWeights, device: str, style: np.ndarray, size: int, compiled: bool, budget: Budget
) -> tuple[dict[str, Callable[[], object]], dict[str, np.ndarray], dict[str, int | None]]:
    """Of every form at one size: a pass, the picture that it paints, and the memory that it takes."""
    engine = engines.create(device, "float32")
    net = fast.network(weights, engine)
    pixels, look = planes(pictures(size)[0]), net.look(planes(style))
    x = net.layers.maps(pixels)

    def paint() -> Any:
        y = net._paint(x, look)
        engine.device.synchronize()
        return y

    mine = "nstcore float32"
    runs: dict[str, Callable[[], object]] = {mine: paint}
    results = {mine: net.layers.numpy(paint())}
    memory: dict[str, int | None] = {mine: getattr(engine.device, "held_bytes", None)}
    if device == "cuda" and torch_on_gpu() is not None:
        import gpu_torch_peer

        for name, run, held, why in gpu_torch_peer.painters(weights, pixels, look, compiled):
            if run is None:
                budget.leave_out(f"{name}, a pass over {size}x{size}", f"it failed: {why}")
            else:
                runs[name], results[name], memory[name] = run, run().cpu().numpy(), held
    return runs, results, memory


def apart(results: dict[str, np.ndarray], size: int, bound: float | None = None) -> dict[str, str]:
    """Of each form that does not paint the first one's picture, a line that says so: it must not be compared."""
    first, *others = results.items()
    found = {}
    for name, painted in others:
        within = bound or PAINTED["tf32" if "TF32" in name else "float32"]
        most = float(np.abs(painted - first[1]).max())
        if not most <= within:
            said = f"expected the picture of {first[0]} within {within:g}, got it off by {most:.2g}"
            found[name] = f"{name}, a pass over {size}x{size}: {said}"
    return found
