"""What pictures in tiles cost, on one machine and on many: the tables of nstcore/README.md, "Pictures of any size".

    python tools/predict_tiles.py               print the tables
    python tools/predict_tiles.py --write       into nstcore/README.md, between its markers
    python tools/predict_tiles.py --measure     measure this machine first, into tools/predict_tiles.json; be quiet then

Multiplications and bytes are counted (tools/tile_costs.py), and tests hold them against the program. Seconds are
predicted (tools/cluster_costs.py) from what was measured of one machine (tools/tile_constants.py), and, of GPUs, from
what kernels/README.md predicts now.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import cluster_costs
import tile_constants
import tile_costs
from bench_common import ROOT, Report
from cluster_costs import MADE, PICTURES, TASKS, Links, Worker, most_workers, of_a_pixel
from tile_constants import Constants
from tile_costs import DOUBLE, FLOAT, PIXEL, UPDATE, parts_of

from nstcore.commands.progress import tell
from nstcore.engines.cluster.member import USABLE
from nstcore.engines.tiled.tiling import CUTS
from nstcore.errors import NstcoreError
from nstcore.files import check_writable

GROUP = "tiles"  # of the markers: <!-- tiles:parts --> ...
PAGE = ROOT / "nstcore" / "README.md"
NETWORKS = {"vgg19": "VGG19", "vgg16": "VGG16"}
SIZES = (4096, 8192, 16384, 32768)
WORKERS = (1, 3, 10, 30, 100, 300, 1000)
SIDES = (512, 1024, 2048)  # of tiles
PICTURE = 8192  # pixels: where one size must do
MEMORY, HOST = 16e9, 128e9  # bytes of a CPU worker, and of the host of a GPU worker, assumed
SELDOM = 10  # steps: how often copies might be made, in place of every one
FEW = 10  # workers, where one number must do


# ---- one machine -----------------------------------------------------------------------------------------------------


def parts_table() -> str:
    """What each part of each network costs by itself."""
    header = ("network", "part", "features, bytes", "ends with, bytes", "gates, bytes", "halo of the features, pixels")
    again, tiles = "forward again, of it", [f"in tiles of {side}" for side in SIDES]
    report = Report((*header, "of the gradient", "multiplications, thousands, in one piece", again, *tiles))
    for architecture, name in NETWORKS.items():
        for part in (*parts_of(architecture), *parts_of(architecture, CUTS)):
            numbers = [part.features, part.output, part.gates, *part.halos, 2 * part.products / 1e3]
            numbers += [part.products_again / 1e3]
            numbers += [tile_costs.step([part], PICTURE, [side]).products / 1e3 / PICTURE**2 for side in SIDES]
            report.rows.append((name, part.name, *(f"{n:.0f}" for n in numbers)))
    return report.markdown()


def tiles_table(constants: Constants) -> str:
    """Sizes of tiles, what they lose, and the memory that they take."""
    memory = [f"memory at {size}, GB" for size in SIZES]
    header = ("network", "--tile", "tiles of the parts, pixels", "multiplications, thousands", "times the whole")
    report = Report((*header, "read, bytes", "written, bytes", *memory))
    for architecture, name in NETWORKS.items():
        for tiling, plan in constants["plans"][architecture]["tiles"].items():
            found = tile_costs.step(parts_of(architecture, CUTS), PICTURE, plan["sides"], int(tiling.partition(",")[2]))
            sides = ", ".join("whole" if side > PICTURE else str(side) for side in plan["sides"])
            per_pixel = [found.products / 1e3, found.read, found.written]
            thousands, read, written = (f"{n / PICTURE**2:.0f}" for n in per_pixel)
            gigabytes = [f"{plan['memory'][str(size)] / 1e9:.2f}" for size in SIZES]
            word = tiling.removesuffix(",0")
            report.rows.append((name, word, sides, thousands, f"{found.lost:.2f}", read, written, *gigabytes))
    return report.markdown()


def uncut_table() -> str:
    """What tiles of a network that is not cut lose: why it is."""
    report = Report(("tile, pixels", *(f"{name}, {words}" for name in NETWORKS.values() for words in ("cut", "uncut"))))
    for side in (256, 512, 1024, 2048, 4096):
        row = [str(side)]
        for architecture in NETWORKS:
            for cuts in (CUTS, ()):
                parts = parts_of(architecture, cuts)
                row.append(f"{tile_costs.step(parts, 4 * PICTURE, [side] * len(parts)).lost:.2f}")
        report.rows.append(row)
    return report.markdown()


def disk_table(constants: Constants) -> str:
    """What lies on disk, and what a step moves."""
    sides = constants["plans"]["vgg19"]["tiles"]["1024,0"]["sides"]
    parts, speed, seconds = parts_of("vgg19", CUTS), constants["disk"], constants["passes"]["vgg19"]
    header = ("picture", "on disk, GB", "of it between the parts, GB", "read in a step, GB", "written, GB")
    report = Report((*header, "if the system keeps the files in memory, s", "if not, s", "the network meanwhile, s"))
    for size in SIZES:
        found = tile_costs.step(parts, size, sides, passes=seconds)
        read, written = found.read + UPDATE[0] * size**2, found.written + UPDATE[1] * size**2
        row = [tile_costs.disk_of_a_run(parts) * size**2, found.stored, read, written]
        times = [(read + written) / speed["cached"], read / speed["read"] + written / speed["written"], found.seconds]
        report.rows.append((f"{size}x{size}", *(f"{n / 1e9:.1f}" for n in row), *map(_seconds, times)))
    return report.markdown()


# ---- a cluster -------------------------------------------------------------------------------------------------------


def cpu_worker(constants: Constants, architecture: str) -> Worker:
    """A machine like the one that was measured."""
    plan = constants["plans"][architecture]
    forward, backward = (sum(column) for column in zip(*constants["passes"][architecture], strict=True))
    return Worker(forward, backward, plan["bytes a pixel"], plan["filters"], USABLE * MEMORY)


def gpu_worker() -> Worker:
    """A GPU as it is predicted; its time is that of its multiplications, half of them forward."""
    found = tile_constants.gpu()
    half = found["seconds a pixel"] / 2
    return Worker(half, half, found["bytes a pixel"], 0.0, USABLE * found["memory"], USABLE * HOST)


def links_of(constants: Constants) -> Links:
    """As measured on one machine; without Dask there, what a bare socket does."""
    bare = constants["socket"]
    found = constants["dask"] or {**bare, "task": bare["latency"], "pass": bare["latency"]}
    bandwidth, update = found["bandwidth"], constants["update"]
    return Links(bandwidth, bandwidth, bare["latency"], found["task"], found["pass"], constants["add"], update)


def traffic() -> str:
    """What goes to and fro, in words."""
    answers, shares = (tile_costs.statistics_bytes("vgg19", itemsize) / 1e6 for itemsize in (DOUBLE, FLOAT))
    tasks = ", ".join(f"{count} {name}" for name, count in TASKS.items())
    return _wrapped(
        f"In bytes: {PIXEL} for each pixel of a halo; {answers:.1f} MB for each sum, {shares:.1f} MB of factors; "
        f"{MADE * PIXEL} of copies for each pixel of the picture. In tasks, for a tile that has a worker to itself and "
        f"eight others around it: {sum(TASKS.values())} ({tasks})."
    )


def memory_of_workers() -> str:
    """What lies with the workers, in words."""
    gigabytes = ", ".join(f"{cluster_costs.memory(size, 2) / 1e9:.0f} GB at {size}x{size}" for size in SIZES)
    return _wrapped(
        f"At most, all workers together have {cluster_costs.memory(1, 2)} bytes for each pixel of the picture, "
        f"{PICTURES} arrays of its size, each twice: {gigabytes}."
    )


def wire_table(constants: Constants) -> str:
    """Bytes and tasks of a step, for a few and for many workers."""
    header = ("picture", "workers", "tiles", "tile, pixels", "halos, GB", "copies, GB", "statistics, GB")
    report = Report((*header, "of the driver, MB", "tasks"))
    for size in SIZES:
        for workers in (10, 30, 100, 300):
            try:
                found = cluster_costs.predict(
                    "vgg19", size, workers, cpu_worker(constants, "vgg19"), links_of(constants)
                )
            except ValueError:
                continue  # the workers have not the memory
            sent = found.wire
            gigabytes = (f"{n / 1e9:.2f}" for n in (sent.halos, sent.copies, sent.statistics))
            numbers = str(sent.tiles), str(found.side), *gigabytes, f"{sent.of_driver / 1e6:.1f}"
            report.rows.append((f"{size}x{size}", str(workers), *numbers, str(sum(sent.tasks.values()))))
    return report.markdown()


def limits_table(rows: Sequence[tuple[str, str, Worker]], links: Links) -> str:
    """With how many workers a step is soonest done, and what they share."""
    report = Report(("network, worker", *(f"{size}x{size}" for size in SIZES)))
    for name, _, worker in rows:
        report.rows.append((name, *(f"{most_workers(size, worker, links):.0f}" for size in SIZES)))
    networks = ", ".join(f"{_seconds(1e9 * worker.alone)} ({name})" for name, _, worker in rows)
    _, copies, update = (1e9 * seconds for seconds in of_a_pixel(rows[0][2], links))
    words = _wrapped(
        f"Nanoseconds of a step for a pixel: the network {networks}; copies {copies:.0f}; Adam, average and total "
        f"variation {update:.0f}, if these take the time of Adam's for each byte that they pass over."
    )
    return "\n\n".join((report.markdown(), words, seldom_copied(rows, links)))


def seldom_copied(rows: Sequence[tuple[str, str, Worker]], links: Links) -> str:
    """What copies would save that are not made in every step, in words."""
    found = []
    for name, architecture, worker in rows:
        every, seldom = (
            cluster_costs.predict(architecture, PICTURE, FEW, worker, links, copying).total
            for copying in (1.0, 1 / SELDOM)
        )
        found.append(f"{_percent(1 - seldom / every)} ({name})")
    return _wrapped(
        f"Copies in one step of {SELDOM} would make steps of {PICTURE}x{PICTURE} on {FEW} workers shorter by "
        f"{', '.join(found)}, and a death would cost up to {SELDOM} steps."
    )


def efficiency_table(rows: Sequence[tuple[str, str, Worker]], links: Links) -> str:
    """Efficiency, and in brackets the seconds of a step; a star where a worker computes less than half of the time,
    nothing where the picture does not fit the workers' memory."""
    report = Report(("network, worker", "picture", *(f"{n} worker{'s' * (n > 1)}" for n in WORKERS)))
    for name, architecture, worker in rows:
        for size in SIZES:
            report.rows.append(
                (name, f"{size}x{size}", *(_cell(architecture, size, n, worker, links) for n in WORKERS))
            )
    return report.markdown()


def _cell(architecture: str, size: int, workers: int, worker: Worker, links: Links) -> str:
    try:
        found = cluster_costs.predict(architecture, size, workers, worker, links)
    except ValueError:
        return "-"
    return f"{_percent(found.efficiency)} ({_seconds(found.total)}){' *' * found.waits}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 9.95 else f"{seconds:.1f}" if seconds >= 0.095 else f"{seconds:.2f}"


# ---- the sections ----------------------------------------------------------------------------------------------------


def sections(constants: Constants) -> dict[str, str]:
    """What belongs between the markers, by name."""
    links = links_of(constants)
    cpu = {architecture: cpu_worker(constants, architecture) for architecture in NETWORKS}
    rows = [(f"{name}, CPU", architecture, cpu[architecture]) for architecture, name in NETWORKS.items()]
    rows.append((f"VGG19, {tile_constants.gpu()['name']}", "vgg19", gpu_worker()))
    found = {
        "parts": parts_table(),
        "cuts": uncut_table(),
        "tiles": tiles_table(constants),
        "disk": disk_table(constants),
        "traffic": traffic(),
        "wire": wire_table(constants),
        "limits": limits_table(rows, links),
        "efficiency": efficiency_table(rows, links),
        "memory": memory_of_workers(),
        "constants": _wrapped(of_constants(constants)),
    }
    return {name: f"{text}\n" for name, text in found.items()}


def of_constants(constants: Constants) -> str:
    """What was measured, in words."""
    times = [
        f"{NETWORKS[a]} {1e9 * w.forward:.0f} forward, {1e9 * w.backward:.0f} backward"
        for a in NETWORKS
        for w in [cpu_worker(constants, a)]
    ]
    links, disk, check, gpu = links_of(constants), constants["disk"], constants["check"], tile_constants.gpu()
    dask = "through Dask" if constants["dask"] else "(no Dask there: a bare socket)"
    return (
        f"Measured at commit {constants['commit']} on {constants['machine']}, driver and workers on that one machine: "
        f"nanoseconds for a pixel and step, {'; '.join(times)}; Adam on arrays on disk {1e9 * links.update:.1f}; "
        f"arrays {dask} {links.bandwidth / 1e9:.2f} GB/s, {1e3 * links.task:.2f} ms a task and "
        f"{1e3 * links.begin:.1f} ms a pass besides; a bare socket {constants['socket']['bandwidth'] / 1e9:.2f} GB/s "
        f"and {1e6 * links.latency:.0f} us; the sum of two tiles' statistics {1e3 * links.add:.2f} ms; files: "
        f"{disk['written'] / 1e9:.2f} GB/s written, {disk['read'] / 1e9:.2f} read, {disk['cached'] / 1e9:.1f} while "
        f"the system has them in memory. Assumed: {MEMORY / 1e9:.0f} GB of each CPU worker, {HOST / 1e9:.0f} GB of the "
        f"host of each GPU worker, {_percent(USABLE)} of which are planned for. From kernels/README.md, which predicts "
        f"it: {gpu['name']}, {1e9 * gpu['seconds a pixel']:.2f} ns for a pixel, {gpu['bytes a pixel']} bytes of it. To "
        f"compare: a step of {check['size']}x{check['size']} in tiles of {check['tile']} took "
        f"{_seconds(check['measured'])} s, from these figures follow {_seconds(check['predicted'])} s."
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--measure", action="store_true", help="measure this machine, and keep what is found")
    found.add_argument("--threads", type=int, metavar="N", help="of a CPU worker (default: all cores)")
    found.add_argument("--write", nargs="?", type=Path, const=PAGE, metavar="FILE", help="nstcore/README.md")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.write is not None:
            check_writable(args.write)
        if args.measure:
            check_writable(tile_constants.FILE)
            tile_constants.write(tile_constants.measure(args.threads, lambda name: tell(f"measuring: {name}")))
        found = sections(tile_constants.read())
        if args.write is not None:
            for name in found:
                bench.split(args.write, name, GROUP)
        for name, text in found.items():
            print(text)
            if args.write is not None:
                bench.write(args.write, name, text, GROUP)
    except NstcoreError as error:
        print(f"predict_tiles: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
