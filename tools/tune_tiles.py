"""Which tile, how many parts, or 09_halo_tile, are fastest on this GPU, for every convolution of VGG19 on tensor cores.

    python tools/tune_tiles.py                 measure, and print what is fastest and what the rule predicts
    python tools/tune_tiles.py --write         put it into kernels/tiles.json, which the engine follows from then on
    python tools/tune_tiles.py --sizes 512 --precisions tf32,float16 --rounds 9

Each choice is compared with the simplest kernel, on the same numbers, before it is timed; one that computes something
else is left out, and said to be. Layers of other GPUs that the file holds already stay in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import gpu_bench
import numpy as np
from bench_common import commit, median

from nstcore.bench.clock import elapsed, repeated
from nstcore.engines.cuda import gpu, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS, TENSOR_CORES, Convolution
from nstcore.engines.cuda.device import Device
from nstcore.engines.cuda.precision import PRECISIONS, from_elements, to_elements
from nstcore.engines.cuda.tiles import Choice, Pass
from nstcore.errors import DeviceError, NstcoreError
from nstcore.files import check_writable, replacing

SIZES = "512,1024"
TURNS = 4  # blocks for each multiprocessor, at most, where a sum is split


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--sizes", type=bench._sizes, default=bench._sizes(SIZES), metavar="PIXELS,...", help=SIZES)
    found.add_argument("--precisions", type=_precisions, default=TENSOR_CORES, metavar="NAME,...")
    found.add_argument("--rounds", type=bench._count, default=7, help="of each measurement: 7")
    found.add_argument("--write", nargs="?", type=Path, const=tiles.file(), metavar="FILE", help="kernels/tiles.json")
    return found


def _precisions(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= set(TENSOR_CORES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(TENSOR_CORES)}, got {text}")
    return found


def tune(device: Device, sizes: Sequence[int], precisions: Sequence[str], rounds: int) -> dict[str, Any]:
    """What kernels/tiles.json holds, for this device."""
    passes = dict.fromkeys(
        Pass(*channels, side, side, PRECISIONS[name], device.architecture)
        for name in precisions
        for size in sizes
        for _, C, K, side in gpu_bench.shapes(size)
        for channels in ((C, K), (K, C))  # the backward pass is the same product the other way
    )
    layers = [found for p in passes if (found := measure(device, p, rounds)) is not None]
    return {"made": f"python tools/tune_tiles.py, commit {commit()}, {device.name}", "layers": layers}


def candidates(p: Pass, processors: int) -> Iterator[Choice]:
    """Every tile, and every number of parts that does not make far more blocks than there are multiprocessors; 09's."""
    for tile in tiles.TILES:
        for parts in tiles.PARTS:
            choice = Choice(tile, parts)
            if parts == 1 or choice.blocks(p) * parts <= TURNS * processors:
                yield choice
    yield from (Choice(tile, halo=True) for tile in tiles.HALO_TILES)


def measure(device: Device, p: Pass, rounds: int) -> dict[str, Any] | None:
    """The fastest choice for one pass, with what every choice took; None if none computes what it should."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((p.H, p.W, p.inputs), np.float32)
    w = rng.standard_normal((p.outputs, p.inputs, 3, 3), np.float32) * np.float32((2 / (9 * p.inputs)) ** 0.5)
    arrays = device.to_device(to_elements(x, p.precision)), device.to_device(np.zeros(p.outputs, np.float32))
    shape, y = (p.inputs, p.outputs, p.H, p.W, False), device.empty((p.H, p.W, p.outputs), p.precision.dtype)

    def run(rung: Any) -> Any:
        layer = Convolution(device, p.precision, rung, *shape)
        filters = device.to_device(layer.rung.filters(w, p.precision))
        return lambda: layer.forward(arrays[0], filters, arrays[1], None, y)

    def result(work: Any) -> np.ndarray:
        device.fill_bytes(y, 255)
        work()
        return from_elements(device.to_host(y), p.precision)

    expected, tried = result(run("01_naive")), {}
    for choice in candidates(p, device.processors):
        rung = replace(RUNGS[PRODUCTION[p.precision.name]], launch=choice.launch)
        work = run(rung)
        if not agree(result(work), expected, p):
            print(f"tune_tiles: {_name(p)}: {_choice(choice)} left out: it computes something else", file=sys.stderr)
            continue
        tried[choice] = 1e6 * median(repeated(lambda again: elapsed(device, again), work, rounds))
    if not tried:
        return None
    best, rule = min(tried, key=tried.__getitem__), tiles.predicted(p)
    ruled = f"the rule: {_choice(rule)}" + (f", {tried[rule]:.1f}" if rule in tried else "")
    print(f"{_name(p)}: {_choice(best)}, {tried[best]:.1f} us ({ruled})", flush=True)
    key = {"architecture": p.architecture, "precision": p.precision.name, "inputs": p.inputs, "outputs": p.outputs}
    chosen = {"positions": p.positions, "tile": list(best.tile), "parts": best.parts, "halo": best.halo}
    return key | chosen | {"microseconds": tried[best]} | {"tried": {_choice(c): us for c, us in tried.items()}}


def agree(got: np.ndarray, expected: np.ndarray, p: Pass) -> bool:
    """Within some roundings of an element; NaN agrees with nothing."""
    return bool(np.all(np.abs(got - expected) <= 8 * p.precision.unit * np.abs(expected).max()))


def _name(p: Pass) -> str:
    return f"{p.inputs}-{p.outputs} {p.H}x{p.W} {p.precision.name}"


def _choice(c: Choice) -> str:
    parts = f" in {c.parts} parts" if c.parts > 1 else ""
    return f"{c.tile[0]}x{c.tile[1]}{parts}" + (" by 09" if c.halo else "")


def merged(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """With the layers of other GPUs that the file holds."""
    tiles.measured.cache_clear()
    if not tiles.measured(path):
        return found
    mine = {layer["architecture"] for layer in found["layers"]}
    others = [layer for layer in json.loads(path.read_bytes())["layers"] if layer["architecture"] not in mine]
    return found | {"layers": others + found["layers"]}


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if problem := gpu.problem():
            raise DeviceError(f"device cuda: {problem}")
        if args.write:
            check_writable(args.write)
        device = gpu.GpuDevice()
        names = [name for name in args.precisions if PRECISIONS[name].architecture <= device.architecture]
        if not names:
            raise DeviceError(f"{device.name}: expected a GPU of sm_80 or later, got sm_{device.architecture}")
        found = tune(device, args.sizes, names, args.rounds)
        if args.write:
            with replacing(args.write) as part:
                part.write_text(json.dumps(merged(args.write, found), indent=1) + "\n", encoding="utf-8")
    except NstcoreError as error:
        print(f"tune_tiles: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
