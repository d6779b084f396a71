"""How long a step takes on the workers of a cluster, as `nstcore.engines.cluster` makes it: a prediction.

        forward     halos, from the owners of the pixels around a tile to its own; then it is computed
        sum         answers, two by two: tiles of one worker there, then from worker to worker
        broadcast   what the losses send back, to one worker, and from there to the others
        backward    gradients of the tiles' own pixels, with that of the total variation, each copied to the next worker
        update      Adam and the average, in one pass; what they make is copied

A pass begins as the driver hands out its tasks, one after the other, each of which passes the scheduler; a worker
computes from its first one on. What happens at the same time counts once, the longer of the two. No machine is slower
than another, nothing is lost on the way, a worker sends and receives at the same time, messages between different
workers do not disturb one another, and beside its tasks every pass takes the same time. The multiplications, the bytes
and the tasks are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from tile_costs import DOUBLE, FLOAT, PIXEL, PartCosts, parts_of, statistics_bytes, sweeps

from nstcore.engines.cluster.layout import Layout
from nstcore.engines.cluster.network import COPIES
from nstcore.engines.tiled.geometry import tiles
from nstcore.engines.tiled.work import Tree
from nstcore.transfer.needs import SMALLEST_TILE, TILE_STEP

# Pictures that each operation makes, and that it passes over, read or written
ADAM, AVERAGE = (3, 7), (1, 3)
UPDATE = ADAM[0] + AVERAGE[0], ADAM[1] + AVERAGE[1]
VARIATION = 3  # pictures that the total variation passes over
MADE = 1 + UPDATE[0]  # with the gradient: pictures that a step copies
# Of a run with Adam, with the workers: x, where it began, m, v, the average, the best two, the gradient; and what an
# update makes, before what it replaces may go
PICTURES = 8 + UPDATE[0]
# Of a tile with a worker of its own, and eight more around it
TASKS = {"take": 8, "forward": 1, "plus": 1, "backward": 1, "Adam and average": 1, "keep": 2}


@dataclass(frozen=True)
class Worker:
    """One worker.

    Attributes
    ----------
    forward, backward : float
        Seconds for a pixel of a window.
    bytes_a_pixel : float
        Of a window's buffers.
    filters, memory : float
        Bytes of its filters, and of what it may use.
    host : float, optional
        Bytes for the pieces of pictures, where those do not lie in that memory.
    """

    forward: float
    backward: float
    bytes_a_pixel: float
    filters: float
    memory: float
    host: float | None = None

    @property
    def alone(self) -> float:
        """Seconds for a pixel of a step in one piece."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Links:
    """What lies between the driver and the workers.

    Attributes
    ----------
    bandwidth : float
        Bytes a second that the driver sends or receives, all workers together.
    between : float
        The same of a worker.
    latency : float
        Seconds of a message.
    task : float
        Seconds that the driver and the scheduler need for a task.
    begin : float
        Seconds that a pass takes beside its tasks: to ask who is there, and for messages to come and go.
    add : float
        Seconds of the sum of two tiles' statistics.
    update : float
        Seconds of Adam for a pixel.
    """

    bandwidth: float
    between: float
    latency: float
    task: float
    begin: float
    add: float
    update: float


@dataclass(frozen=True)
class Wire:
    """Bytes, messages and tasks of one step.

    Attributes
    ----------
    tiles, used : int
        How many, and workers that own any.
    halos : int
        Bytes from worker to worker, for the windows.
    copies : int
        Of new pieces, to the next worker; to the driver where there is only one.
    alone : bool
        Whether there is only one.
    answers : int
        Of one sum of statistics: what a tile answers, or several together.
    shares : int
        What the losses send back.
    crossings : int
        Sums whose second term is with another worker.
    tasks : dict of str to int
        Of each pass.
    """

    tiles: int
    used: int
    halos: int
    copies: int
    alone: bool
    answers: int
    shares: int
    crossings: int
    tasks: dict[str, int]

    @property
    def of_driver(self) -> int:
        """All bytes that leave it or reach it; of the total variation it gets a number for each tile."""
        return self.answers + self.shares + DOUBLE * self.tiles + (self.copies if self.alone else 0)

    @property
    def statistics(self) -> int:
        """From worker to worker, on the way to the driver and back."""
        return self.answers * self.crossings + self.shares * (self.used - 1)


@dataclass(frozen=True)
class ClusterStep:
    """A predicted step.

    Attributes
    ----------
    side : int
        Of a tile's own pixels; `best_side` is what they may have at most.
    wire : Wire
    seconds : dict of str to float
        Of its phases.
    efficiency : float
        The time of one worker alone, in one piece with all the memory that takes, against that of all workers.
    waits : bool
        Whether the busiest worker does not compute tiles for most of the time.
    """

    side: int
    wire: Wire
    seconds: dict[str, float]
    efficiency: float
    waits: bool

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def owners(count: int, workers: int) -> list[int]:
    """Who owns each tile at first: neighbours together."""
    return [n * min(workers, count) // count for n in range(count)]


@cache
def crossings(count: int, workers: int) -> int:
    """Sums of the tree whose terms are with two workers."""
    met = 0

    def plus(a: int, b: int) -> int:
        nonlocal met
        met += a != b
        return a

    tree = Tree(plus)
    for owner in owners(count, workers):
        tree.add(owner)
    tree.total()
    return met


@cache
def seams(size: int, side: int, halo: int, grid: int, workers: int) -> tuple[int, int]:
    """What windows take from other owners: pixels, and tasks."""
    layout, of = Layout(size, size, side), owners(len(tiles(size, size, side, 0, grid)), workers)
    pixels = tasks = 0
    for n, tile in enumerate(tiles(size, size, side, halo, grid)):
        elsewhere = [(of[m], window) for m, window, _ in layout.parts(tile.window) if of[m] != of[n]]
        pixels += sum((rows.stop - rows.start) * (columns.stop - columns.start) for _, (rows, columns) in elsewhere)
        tasks += len({owner for owner, _ in elsewhere})
    return pixels, tasks


def wire(architecture: str, size: int, side: int, workers: int) -> Wire:
    """What goes to and fro in a step of a square picture, with Adam, average and total variation."""
    (whole,) = parts_of(architecture)
    count = sweeps(whole, size, side, keep=True)[0].count
    halo, takes = seams(size, side, whole.kept_halo, whole.grid, workers)
    used, copied = min(workers, count), workers > 1
    return Wire(
        tiles=count,
        used=used,
        halos=halo * PIXEL,
        copies=MADE * size * size * PIXEL,
        alone=not copied,
        answers=statistics_bytes(architecture, DOUBLE) + DOUBLE,  # and the squared distance from the content
        shares=statistics_bytes(architecture, FLOAT),
        crossings=crossings(count, workers),
        tasks={
            "forward": takes + count,
            "sum": count - 1,
            "backward": count * (1 + copied),
            "update": used * (1 + copied),
        },
    )


def memory(size: int, workers: int) -> int:
    """Bytes of the arrays of a picture's size that all workers have together; of one, the driver has the copies."""
    return PICTURES * PIXEL * size**2 * min(COPIES, workers)


def best_side(part: PartCosts, size: int, workers: int, worker: Worker) -> tuple[int, bool]:
    """The tiles that `run --cluster` takes, by the rule of `ClusterNetwork.fit`; and whether their features are kept.

    Raises
    ------
    ValueError
        If the workers have not the memory for any.
    """
    best = None
    always, pieces = worker.filters, memory(size, workers) // workers
    if worker.host is None:
        always += pieces
    elif pieces > worker.host:
        raise ValueError(f"{worker.host / 1e9:.1f} GB are too little for a worker's part of the picture")
    for side in range(SMALLEST_TILE, size + TILE_STEP, TILE_STEP):
        windows, _ = sweeps(part, size, side, keep=True)
        each, need = -(-windows.count // workers), windows.one * worker.bytes_a_pixel
        if always + need > worker.memory:
            continue
        kept = always + (1 + each) * need <= worker.memory
        cost = each * windows.one * (2 if kept else 3)
        if best is None or cost <= best[0]:
            best = cost, side, kept
    if best is None:
        raise ValueError(f"{worker.memory / 1e9:.1f} GB are too little for a tile")
    return best[1], best[2]


def predict(
    architecture: str, size: int, workers: int, worker: Worker, links: Links, copying: float = 1.0
) -> ClusterStep:
    """A step of a picture of `size` x `size` pixels; on average, where `copying` of all steps copy what they make.

    Raises
    ------
    ValueError
        If the workers have not the memory for it.
    """
    (whole,) = parts_of(architecture)
    side, kept = best_side(whole, size, workers, worker)
    sent = wire(architecture, size, side, workers)
    windows, _ = sweeps(whole, size, side, keep=True)
    pixels, window = size * size, windows.one
    each = -(-sent.tiles // workers)
    length = min(tiles(size, size, side, 0, whole.grid)[0].rows.end, size)
    own = length**2  # pixels of a tile
    forward, backward = (window * n for n in (worker.forward, worker.backward + (0.0 if kept else worker.forward)))
    passed, copied = links.update / ADAM[1], copying * PIXEL / (links.bandwidth if sent.alone else links.between)
    backward += own * VARIATION * passed  # both seconds for a pixel of a picture

    def handed(name: str, work: float, last: float) -> float:
        """Seconds of a pass: until the worker that begins last is through, and that which gets the last task."""
        tasks = sent.tasks[name] * links.task
        return links.begin + max(tasks * (1 - 1 / sent.used) + work, tasks + last)

    halo, across = sent.halos / sent.tiles / links.between, math.ceil(math.log2(sent.used))
    first = 2 * links.latency + halo  # of a worker's tiles; meanwhile nothing is computed
    computed = handed("forward", first + each * max(forward, halo), first + forward)
    summed = links.begin + (sent.tasks["forward"] + sent.tasks["sum"]) * links.task  # handed out while workers compute
    hop = links.task + links.latency + links.add + sent.answers / links.between
    inside = max(0, math.ceil(math.log2(sent.tiles)) - across)
    chain = inside * (links.task + links.add) + across * hop + sent.answers / links.bandwidth
    last = own * copied + links.latency  # of the copies: nothing is left to be computed
    seconds = {
        "forward": computed,
        "sum": max(0.0, summed - computed) + chain,
        "broadcast": sent.shares / links.bandwidth + across * (links.latency + sent.shares / links.between),
        "backward": handed("backward", each * max(backward, own * copied) + last, backward + last),
        "update": handed("update", each * own * (UPDATE[0] * copied + UPDATE[1] * passed) + 2 * links.latency, 0.0),
    }
    total = sum(seconds.values())
    efficiency = pixels * worker.alone / (workers * total)
    return ClusterStep(length, sent, seconds, efficiency, total > 2 * each * (forward + backward))


def most_workers(size: int, worker: Worker, links: Links) -> float:
    """Workers with which a step is soonest done, each with a tile, were there no halos to compute. The pixels' time a
    is shared by all, the tasks' time b comes once for each: a / n + b n is least where n^2 = a / b."""
    return math.sqrt(size**2 * sum(of_a_pixel(worker, links)) / (sum(TASKS.values()) * links.task))


def of_a_pixel(worker: Worker, links: Links) -> tuple[float, float, float]:
    """Seconds of a step, halos apart: of the network, of copies, of the update."""
    return worker.alone, MADE * PIXEL / links.between, (VARIATION + UPDATE[1]) / ADAM[1] * links.update
