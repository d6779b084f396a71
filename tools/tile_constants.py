"""Measures of this machine that the predictions of tools/predict_tiles.py begin with, and the file that keeps them."""

from __future__ import annotations

import json
import mmap
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import ROOT, commit, machine, pictures, planes, timed
from tile_costs import DOUBLE, FLOAT, TAPS, parts_of, statistics_bytes, step

from nstcore import Objective, Weights, disk, vgg
from nstcore.engines import TapGradient
from nstcore.engines.cpu import CpuEngine
from nstcore.engines.tiled import TiledEngine, TiledNetwork, Tiling
from nstcore.engines.tiled.tiling import CUTS
from nstcore.errors import DeviceError, OptionError
from nstcore.objective.layers import CONTENT_LAYERS, STYLE_LAYERS
from nstcore.pretrained import Preprocessing

FILE = Path(__file__).with_suffix(".json").with_name("predict_tiles.json")
ARCHITECTURES = ("vgg19", "vgg16")
TILES = ((512, 0), (1024, 0), (2048, 0), (512, 1), (1024, 1), (1024, 2))  # side, parts in one piece
PLANNED = 8192  # pixels: the side of the picture for which tiles are planned
SIDE, ROUNDS = 512, 7  # of the timed picture; the fastest counts, which is the least disturbed
CHECKED, CHECKED_TILE = 1024, 256
COUNT = 1 << 22  # elements of the optimizer's arrays
MESSAGE = 1 << 25  # bytes, of bandwidths
DISK = 1 << 29
SMALL = 200  # messages, of latencies
TASKS = 300
REST = 0.02  # seconds between two passes: what follows within 10 ms Dask sends together, later
GPU = re.compile(r"^\| 1024x1024 \| float16 \|[^|]*\|[^|]*\| ([0-9.]+) \|", re.M)
GPU_BYTES = re.compile(r"^\| 1024x1024 \|.*\| [0-9.]+ \(([0-9]+)\) \| [0-9.]+ \([0-9]+\) \|$", re.M)

Constants = dict[str, Any]


def read() -> Constants:
    """What was measured last.

    Raises
    ------
    OptionError
        If nothing was, or it cannot be read.
    """
    try:
        return json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{FILE}: expected constants, got {error}; make them with --measure") from None


def measure(threads: int | None, say: Callable[[str], object]) -> Constants:
    """All of them; some two minutes on a quiet machine."""
    engine = CpuEngine(threads=threads)
    assert engine.threads is not None
    found: Constants = {"machine": machine(engine.threads), "commit": commit(), "threads": engine.threads}
    for name, of in (
        ("passes", lambda: {a: passes(a, engine) for a in ARCHITECTURES}),
        ("plans", lambda: {a: plans(a, engine) for a in ARCHITECTURES}),
        ("update", lambda: update(engine)),
        ("add", lambda: add(engine)),
        ("socket", loopback),
        ("disk", scratch),
        ("dask", dask),
    ):
        say(name)
        found[name] = of()
    say("check")
    found["check"] = check(engine, found)
    return found


def random_weights(architecture: str) -> Weights:
    """He-initialised filters down to the deepest of the usual layers."""
    rng, filters = np.random.default_rng(0), {}
    needed = {s.name for s in vgg.steps_for(architecture, TAPS)}
    for conv, shape in vgg.convolutions(architecture).items():
        if conv in needed:
            w = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / (9 * shape[1])))
            filters[conv] = (w, np.zeros(shape[0], np.float32))
    preprocessing = Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Weights(f"random {architecture} (He, seed 0)", architecture, filters, preprocessing, "zero", "max", {})


def passes(architecture: str, engine: CpuEngine) -> list[list[float]]:
    """Seconds of each part (the usual cuts), forward with its statistics and backward, for a pixel of the picture."""
    weights, found = random_weights(architecture), []
    rng = np.random.default_rng(1)
    for part in Tiling(SIDE).parts(vgg.find(architecture, STYLE_LAYERS[-1]).block):
        within = [t for t in TAPS if part.first <= vgg.find(architecture, t).block <= (part.last or 9)]
        network = engine.network(weights, within, "max", part)
        side = SIDE // part.stride
        x = planes(pictures(SIDE)[0]) if part.first == 1 else rng.random((network.steps[0].in_channels, side, side))
        x = engine.array(x)
        network.forward(x)
        targets = {tap: network.keep(tap) for tap in within if tap in CONTENT_LAYERS}
        above = None if part.last is None else engine.array(network.features(network.steps[-1].output))
        matrices = {t: engine.array(np.eye(vgg.find(architecture, t).out_channels) / side**2) for t in within}

        def forward(network: Any = network, x: Any = x, within: Any = within, targets: Any = targets) -> None:
            network.forward(x)
            network.grams([t for t in within if t in STYLE_LAYERS])
            for tap, target in targets.items():
                network.squared_distance(tap, target)

        gradients = {
            t: [TapGradient(dG=matrices[t]) if t in STYLE_LAYERS else TapGradient(target=targets[t], scale=1e-9)]
            for t in within
        }
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            times[0].append(timed(forward))
            times[1].append(timed(lambda n=network, g=gradients, a=above: n.backward(g, a)))  # type: ignore[misc]
        found.append([min(t) / SIDE**2 for t in times])
    return found


def plans(architecture: str, engine: CpuEngine) -> dict[str, Any]:
    """What the program plans: bytes of filters and of a window's pixel in one piece; tiles and memory of tilings."""
    weights = random_weights(architecture)
    whole = engine.network(weights, TAPS, "max").memory(1024, 1024)
    filters = whole.pop("filters")
    found: dict[str, Any] = {"filters": filters, "bytes a pixel": sum(whole.values()) / 1024**2, "tiles": {}}
    tiled = TiledEngine(engine, Tiling(TILES[0][0]))
    network = tiled.network(weights, TAPS, "max")
    assert isinstance(network, TiledNetwork)
    for side, one_piece in TILES:
        network.retiled(Tiling(side, whole=one_piece))
        found["tiles"][f"{side},{one_piece}"] = {
            "sides": network.sides,
            "memory": {str(size): network.bytes(size, size) for size in (2048, 4096, 8192, 16384, 32768)},
            "work": network.work(PLANNED, PLANNED),
        }
    return found


def update(engine: CpuEngine) -> float:
    """Seconds of Adam for a pixel, on arrays that lie on disk."""
    vectors = TiledEngine(engine, Tiling(SIDE), least=0).vectors
    x, g, m, v = (disk.disk_array((COUNT,)) for _ in range(4))
    options: dict[str, Any] = {
        "betas": (0.9, 0.99),
        "corrections": (0.1, 0.01),
        "learning_rate": 0.02,
        "epsilon": 1e-8,
        "lo": 0.0,
        "hi": 1.0,
    }
    seconds = [timed(lambda: vectors.adam(x, g, m, v, **options)) for _ in range(ROUNDS)]
    return 3 * min(seconds) / COUNT


def add(engine: CpuEngine) -> float:
    """Seconds of the sum of two tiles' statistics."""
    a, b = (np.ones(statistics_bytes("vgg19", DOUBLE) // DOUBLE) for _ in range(2))
    return min(timed(lambda: np.add(a, b)) for _ in range(3 * ROUNDS))


def loopback() -> dict[str, float]:
    """Bytes a second and the latency of a TCP connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        echo = threading.Thread(target=_echo, args=(server,), daemon=True)
        echo.start()
        with socket.create_connection(server.getsockname()) as ours:
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def there_and_back() -> None:
                ours.sendall(b"x")
                ours.recv(1)

            latency = min(timed(there_and_back) for _ in range(SMALL)) / 2
            data = bytes(MESSAGE)

            def send() -> None:
                ours.sendall(b"y" + data)
                ours.recv(1)

            bandwidth = MESSAGE / min(timed(send) for _ in range(ROUNDS))
        echo.join(5)
    return {"bandwidth": bandwidth, "latency": latency}


def _echo(server: socket.socket) -> None:
    theirs, _ = server.accept()
    buffer = bytearray(1 << 20)
    with theirs:
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while first := theirs.recv(1):
            left = MESSAGE if first == b"y" else 0
            while left:
                left -= theirs.recv_into(buffer, min(left, len(buffer)))
            theirs.sendall(b"z")


def scratch() -> dict[str, float]:
    """Bytes a second of the scratch folder: written and read by the disk, and of a file that the system has cached."""
    array = disk.disk_array((DISK // FLOAT,))
    mapping: Any = array.base
    while not isinstance(mapping, mmap.mmap):
        mapping = mapping.base
    block = np.ones(disk.STRIP_BYTES // FLOAT, np.float32)

    def write(flush: bool) -> None:
        for start in range(0, array.size, block.size):
            array[start : start + block.size] = block
        if flush:
            mapping.flush()
            os.sync()
        disk.release(array)

    def read_again() -> None:
        for start in range(0, array.size, block.size):
            block[:] = array[start : start + block.size]
        disk.release(array)

    written = DISK / timed(lambda: write(True))
    cached = 2 * DISK / (timed(read_again) + timed(lambda: write(False)))
    with_disk = _read_cold()
    return {"written": written, "read": with_disk, "cached": cached}


def _read_cold() -> float:
    """Bytes a second of a file that the system was asked to forget."""
    path = disk.scratch_folder() / f"nstcore-read-{os.getpid()}"
    try:
        with open(path, "wb+", buffering=0) as file:
            block = bytes(disk.STRIP_BYTES)
            for _ in range(DISK // len(block)):
                file.write(block)
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = time.perf_counter()
            while file.read(len(block)):
                pass
            return DISK / (time.perf_counter() - start)
    finally:
        with suppress(OSError):
            path.unlink()


def dask() -> dict[str, float] | None:
    """Seconds of a task, and of a pass beside its tasks, and bytes a second of windows, through Dask on this machine;
    None where there is none."""
    from nstcore.engines.cluster import Cluster, ClusterEngine, member

    try:
        cluster = Cluster("local:2", "cpu", threads=1)  # two: what the one makes is copied to the other
    except DeviceError:
        return None
    with cluster:
        worker, _ = cluster.living()
        picture = np.ones((3, 4 * SIDE, 4 * SIDE), np.float32)

        async def tasks() -> None:
            await cluster.result([cluster.submit(member.done, [], worker=worker) for _ in range(TASKS)])

        async def windows() -> None:
            for start in range(0, 3 * SIDE, SIDE // 2):
                window = np.ascontiguousarray(picture[:, start : start + SIDE])
                await cluster.scattered(window, worker)

        count = len(range(0, 3 * SIDE, SIDE // 2)) * 3 * SIDE * 4 * SIDE * FLOAT
        cluster.watched(tasks(), [worker])
        seconds = min(timed(lambda: cluster.watched(tasks(), [worker])) for _ in range(3))
        bandwidth = count / min(timed(lambda: cluster.watched(windows(), [worker])) for _ in range(5))
        engine = ClusterEngine(cluster)
        x = engine.array(np.zeros((3, vgg.SMALLEST_SIDE, vgg.SMALLEST_SIDE), np.float32))

        def passed() -> None:
            engine.vectors.fill(x, 0.0)  # two tasks: apply, keep
            cluster.store.deferred.flush()

        passes = []
        for _ in range(SMALL // 4):
            time.sleep(REST)
            passes.append(timed(passed))
    beside = max(0.0, min(passes) - 2 * seconds / TASKS)  # where few are measured, tasks may seem to take it all
    return {"task": seconds / TASKS, "pass": beside, "bandwidth": bandwidth}


def gpu() -> dict[str, Any]:
    """What kernels/README.md predicts for a GPU."""
    text = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
    time_of, bytes_of = GPU.search(text), GPU_BYTES.search(text)
    if time_of is None or bytes_of is None:
        raise OptionError("kernels/README.md: expected predictions for 1024x1024 in float16, found none")
    return {
        "name": "NVIDIA H200, float16, predicted",
        "seconds a pixel": float(time_of[1]) / 1e3 / 1024**2,
        "bytes a pixel": int(bytes_of[1]),
        "memory": 141e9,
    }


def check(engine: CpuEngine, found: Constants) -> dict[str, float]:
    """A step in tiles as it is measured, for a look at what `passes` predict of it."""
    weights = random_weights("vgg19")
    content, style, start = pictures(CHECKED)
    tiled = TiledEngine(engine, Tiling(CHECKED_TILE))
    objective = Objective(weights, content, style, engine=tiled, tv_weight=0.0)
    assert isinstance(objective.network, TiledNetwork)
    pixels = tiled.array(planes(start))
    objective(pixels)
    measured = min(timed(lambda: objective(pixels)) for _ in range(3))
    parts, sides = parts_of("vgg19", CUTS), objective.network.sides
    predicted = step(parts, CHECKED, sides, passes=found["passes"]["vgg19"]).seconds
    return {"size": CHECKED, "tile": CHECKED_TILE, "measured": measured, "predicted": predicted}


def write(found: Constants) -> None:
    text = json.dumps(found, indent=1, default=float)
    FILE.write_text(text + "\n", encoding="utf-8")
