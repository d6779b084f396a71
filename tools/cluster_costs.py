"""How long a step takes on the workers of a cluster, as `nstcore.engines.cluster.network` makes it: a prediction.

        forward     windows leave the driver, one message and one task for each tile       while workers compute
        sum         answers, two by two: tiles of one worker there, then from worker to worker
        broadcast   what the losses send back, to one worker, and from there to the others
        backward    gradients of the tiles' own pixels come to the driver                  while workers compute
        update      the optimizer, on the driver

What happens at the same time counts once, the longer of the two. No machine is slower than another, nothing is lost on
the way, and messages between different workers do not disturb one another. The multiplications and the bytes are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from tile_costs import DOUBLE, FLOAT, PIXEL, PartCosts, parts_of, statistics_bytes, sweeps

from nstcore.engines.tiled.work import Tree
from nstcore.transfer.needs import SMALLEST_TILE, TILE_STEP


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
    """

    forward: float
    backward: float
    bytes_a_pixel: float
    filters: float
    memory: float

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
    add : float
        Seconds of the sum of two tiles' statistics.
    update : float
        Seconds of the optimizer for a pixel.
    """

    bandwidth: float
    between: float
    latency: float
    task: float
    add: float
    update: float


@dataclass(frozen=True)
class Wire:
    """Bytes and messages of one step.

    Attributes
    ----------
    tiles : int
    windows, gradients : int
        From the driver, and to it.
    answers : int
        Of one sum of statistics: what a tile answers, or several together.
    shares : int
        What the losses send back.
    crossings : int
        Sums whose second term is with another worker.
    """

    tiles: int
    windows: int
    gradients: int
    answers: int
    shares: int
    crossings: int

    @property
    def of_driver(self) -> int:
        """All bytes that leave it or reach it."""
        return self.windows + self.gradients + self.answers + self.shares

    @property
    def between(self) -> int:
        """All bytes from worker to worker, the broadcast apart."""
        return self.answers * self.crossings


@dataclass(frozen=True)
class ClusterStep:
    """A predicted step.

    Attributes
    ----------
    side : int
        Of the tiles.
    wire : Wire
    seconds : dict of str to float
        Of its phases.
    efficiency : float
        The time of one worker alone, in one piece with all the memory that takes, against that of all workers.
    driven : bool
        Whether the workers wait for the driver most of the time.
    """

    side: int
    wire: Wire
    seconds: dict[str, float]
    efficiency: float
    driven: bool

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


def wire(architecture: str, size: int, side: int, workers: int) -> Wire:
    """What goes to and fro in a step of a square picture."""
    (whole,) = parts_of(architecture)
    windows, _ = sweeps(whole, size, side, keep=True)
    answers = statistics_bytes(architecture, DOUBLE) + DOUBLE  # and the squared distance from the content
    return Wire(
        tiles=windows.count,
        windows=windows.area * PIXEL,
        gradients=size * size * PIXEL,
        answers=answers,
        shares=statistics_bytes(architecture, FLOAT),
        crossings=crossings(windows.count, workers),
    )


def best_side(part: PartCosts, size: int, workers: int, worker: Worker) -> tuple[int, bool]:
    """The tiles that `run --cluster` takes, by the rule of `ClusterNetwork.fit`; and whether their features are kept.

    Raises
    ------
    ValueError
        If the workers have not the memory for any.
    """
    best = None
    for side in range(SMALLEST_TILE, size + TILE_STEP, TILE_STEP):
        windows, _ = sweeps(part, size, side, keep=True)
        each, need = -(-windows.count // workers), windows.length**2 * worker.bytes_a_pixel
        if worker.filters + need > worker.memory:
            continue
        kept = worker.filters + (1 + each) * need <= worker.memory
        cost = each * windows.length**2 * (2 if kept else 3)
        if best is None or cost <= best[0]:
            best = cost, side, kept
    if best is None:
        raise ValueError(f"{worker.memory / 1e9:.1f} GB are too little for a tile")
    return best[1], best[2]


def predict(architecture: str, size: int, workers: int, worker: Worker, links: Links) -> ClusterStep:
    """A step of a picture of `size` x `size` pixels."""
    (whole,) = parts_of(architecture)
    side, kept = best_side(whole, size, workers, worker)
    sent = wire(architecture, size, side, workers)
    windows, _ = sweeps(whole, size, side, keep=True)
    pixels, window = size * size, windows.length**2
    each = -(-sent.tiles // workers)
    busy = each * window
    again = 0.0 if kept else worker.forward
    out = sent.windows / links.bandwidth + 2 * sent.tiles * links.task
    back = sent.gradients / links.bandwidth + sent.tiles * links.task
    forward, backward = busy * worker.forward, busy * (worker.backward + again)
    across = math.ceil(math.log2(min(workers, sent.tiles)))
    hop = links.latency + links.add + sent.answers / links.between
    inside = max(0, math.ceil(math.log2(sent.tiles)) - across)
    seconds = {
        "forward": max(out, forward + PIXEL * window / links.bandwidth),
        "sum": max((sent.tiles - 1) * links.task, inside * links.add + across * hop) + sent.answers / links.bandwidth,
        "broadcast": sent.shares / links.bandwidth + across * (links.latency + sent.shares / links.between),
        "backward": max(back, backward + PIXEL * side**2 / links.bandwidth),
        "update": pixels * links.update,
    }
    total = sum(seconds.values())
    return ClusterStep(side, sent, seconds, pixels * worker.alone / (workers * total), total > 2 * (forward + backward))


def most_workers(architecture: str, worker: Worker, links: Links) -> float:
    """Workers that a driver keeps busy, were there no halos: what a pixel takes of one, against what it takes of the
    driver. It does not depend on the picture's size."""
    (whole,) = parts_of(architecture)
    return worker.alone / (2 * whole.input / links.bandwidth + links.update)
