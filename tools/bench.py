"""Time of one step (loss and gradient), beside PyTorch's eager forms where it is installed.

    python tools/bench.py [--sizes 256,512] [--threads 2] [--rounds 7] [--weights builtin]

The candidates take turns, so that a noisy machine disturbs all of them alike; the table gives medians and their ratio
to nstcore. Trust only ratios of one run, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nstcore import Objective, Weights, load_weights
from nstcore.engines.cpu.team import available_cores


def pictures(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Content, style and a starting point, (size, size, 3): smooth noise, so that ReLUs behave as on a picture."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size] / size
    found = []
    for _ in range(3):
        picture = np.full((size, size, 3), 0.5)
        for _ in range(12):
            u, v = rng.normal(size=2) * 40
            picture += 0.06 * np.sin(rows * u + columns * v + rng.uniform(0, 6))[..., None] * rng.normal(size=3)
        found.append(np.clip(picture + 0.05 * rng.random((size, size, 3)), 0, 1).astype(np.float32))
    return found[0], found[1], found[2]


def candidates(weights: Weights, size: int, threads: int) -> dict[str, Callable[[], object]]:
    """Name -> one step."""
    content, style, start = pictures(size)
    objective = Objective(weights, content, style, device="cpu", threads=threads)
    pixels = np.ascontiguousarray(start.transpose(2, 0, 1))
    found: dict[str, Callable[[], object]] = {objective.engine.describe(): lambda: objective(pixels)}
    try:
        import torch
        from torch_peer import TorchPeer
    except ImportError:
        return found
    torch.set_num_threads(threads)
    for layout, last in (("NCHW", False), ("channels_last", True)):
        peer = TorchPeer(weights, content, style, channels_last=last)
        found[f"PyTorch {torch.__version__} eager, {layout}"] = lambda peer=peer: peer(start)
    return found


def measure(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each candidate, interleaved."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def machine(threads: int) -> str:
    """What was measured on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{model}, {threads} of {available_cores()} cores, NumPy {np.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--weights", default="builtin")
    args = parser.parse_args()
    weights = load_weights(args.weights)
    print(f"One step on {machine(args.threads)}; medians of {args.rounds}, interleaved\n")
    print("| size | form | step | relative to nstcore |\n|---|---|---|---|")
    for size in map(int, args.sizes.split(",")):
        medians = measure(candidates(weights, size, args.threads), args.rounds)
        mine = next(iter(medians.values()))
        for name, seconds in medians.items():
            print(f"| {size}x{size} | {name} | {seconds * 1e3:.0f} ms | {seconds / mine:.2f} |")


if __name__ == "__main__":
    main()
