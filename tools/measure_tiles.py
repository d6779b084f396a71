"""Peak memory and time per pixel of pictures in tiles, each painted by a process of its own.

    python tools/measure_tiles.py --weights vgg19 --tile 512 --sizes 1024,2048,4096 -o FOLDER
    python tools/measure_tiles.py --weights vgg19 --tile auto --sizes 8192 --limit 4 --alone -o FOLDER

Every picture is the package's example content and style at that size, square, from and to PNG files, one iteration of
Adam (two evaluations, and one of the average), no ladder. Peak memory is the largest resident size (VmHWM) of the
process, with interpreter, libraries, and pages of files; `--limit` also limits its data (RLIMIT_DATA), but for files
that are mapped into memory. The first line is the smallest size in one piece, which the times are compared with; take a
quiet machine. The last line compares the peaks of the tiles.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

PAINT = """
import json, resource, sys, time
given = json.loads(sys.argv[1])
if given["limit"]:
    resource.setrlimit(resource.RLIMIT_DATA, (given["limit"],) * 2)
import nstcore
from nstcore.transfer.tiles import word_of
from nstcore.engines.memory import held_memory

seen, found = [], {}

def step(_):
    used = resource.getrusage(resource.RUSAGE_SELF)
    seen.append((time.perf_counter(), used.ru_utime + used.ru_stime))

def begin(objective, rungs):
    found.update(tile=word_of(objective.engine), work=objective.network.work(given["size"], given["size"]))

began = time.perf_counter()
result = nstcore.stylize(
    given["content"], given["style"], weights=given["weights"], size=given["size"], tile=given["tile"],
    iterations=1, ladder="off", pyramid=given["pyramid"], device="cpu",
    on_start=begin, on_step=step,
)
result.save(given["output"])
print(json.dumps({
    **found, "peak": held_memory()[1], "step": seen[1][0] - seen[0][0], "cpu": seen[1][1] - seen[0][1],
    "whole": time.perf_counter() - began,
    "losses": [terms.total for terms in result.losses],
}))
"""


def squared(name: str, size: int, folder: Path) -> str:
    """An example picture as a square of so many pixels a side, in a file: its decoder is part of what is measured."""
    example = Path(__file__).resolve().parents[1] / "nstcore" / "examples" / name
    path = folder / f"{example.stem}-{size}.png"
    Image.open(example).convert("RGB").resize((size, size), Image.Resampling.LANCZOS).save(path)
    return str(path)


def painted(size: int, tile: int | str, args: argparse.Namespace) -> dict:
    """What a process of its own has measured."""
    root = Path(__file__).resolve().parents[1]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    given = {
        "size": size,
        "tile": tile,
        "weights": args.weights,
        "limit": int(args.limit * 1e9),
        "pyramid": args.pyramid,
        "content": squared("content.jpg", size, args.output),
        "style": squared("style.jpg", size, args.output),
        "output": str(args.output / f"tiles-{size}-{tile}.png"),
    }
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", PAINT, json.dumps(given)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{size} pixels, tile {tile}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="auto", help="as for `run` (default: auto)")
    parser.add_argument("--sizes", default="1024,2048,4096", help="sides in pixels (default: 1024,2048,4096)")
    parser.add_argument("--tile", default="512", help="as for `run` (default: 512)")
    parser.add_argument("--limit", type=float, default=0, help="of the process's data, in GB (default: none)")
    parser.add_argument("--pyramid", default="auto", help="as for `run` (default: auto)")
    parser.add_argument("--alone", action="store_true", help="leave out the picture in one piece")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pictures")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    sizes = [int(size) for size in args.sizes.split(",")]
    tile = int(args.tile) if args.tile.isdigit() else args.tile
    print("| size | tile | peak, MB | s a step | CPU, s | ns a pixel | convolutions, times the whole | in all, s |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    peaks = []
    runs = [] if args.alone else [(sizes[0], "off")]
    for size, of in [*runs, *((size, tile) for size in sizes)]:
        found = painted(size, of, args)
        peaks += [found["peak"]] if of != "off" else []
        nanoseconds = 1e9 * found["step"] / size**2
        print(
            f"| {size} | {found['tile']} | {found['peak'] / 1e6:.0f} | {found['step']:.2f} | {found['cpu']:.2f} |"
            f" {nanoseconds:.0f} | {found['work']:.2f} | {found['whole']:.0f} |",
            flush=True,
        )
    print(f"\npeak in tiles: the largest is {max(peaks) / min(peaks):.3f} times the smallest")


if __name__ == "__main__":
    main()
