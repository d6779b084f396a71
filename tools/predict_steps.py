"""A whole step on a GPU that is not here: its launches, each with the time predicted for it."""

from __future__ import annotations

from dataclasses import dataclass

from predict_launches import READ, Launch, Recorder, grouped, record_step
from predict_times import Gpu, Prediction, predict
from predict_work import CHANNELS

from nstcore import Weights


@dataclass(frozen=True)
class Row:
    """One kind of launch in a step, and how often it comes."""

    prediction: Prediction
    count: int

    @property
    def seconds(self) -> float:
        return self.count * self.prediction.seconds

    @property
    def gap(self) -> float:
        """Seconds above the floor."""
        return self.seconds - self.count * self.prediction.floor


@dataclass(frozen=True)
class Step:
    """One step: size, precision, rows (the longest first), results that the host reads."""

    size: int
    precision: str
    gpu: Gpu
    rows: tuple[Row, ...]
    reads: int

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    @property
    def launches(self) -> int:
        return sum(row.count for row in self.rows)


def step_of(weights: Weights, size: int, precision: str, gpu: Gpu, convolution: str | None = None) -> Step:
    """Predictions for every launch of a step, by a rung of the convolution or the production one."""
    device = Recorder(gpu.architecture, gpu.processors, gpu.name)
    launches = record_step(weights, precision, size, device, convolution)
    rows = [Row(predict(launch, gpu), n) for launch, n in grouped(launches) if launch.kernel != READ]
    reads = sum(launch.kernel == READ for launch in launches)
    return Step(size, precision, gpu, tuple(sorted(rows, key=lambda row: -row.seconds)), reads)


def name_of(launch: Launch) -> str:
    """The kernel, and the layer that it is of."""
    given = launch.arguments
    if launch.kernel in CHANNELS:
        way = launch.kernel.removeprefix("conv3x3_").replace("pooled", "forward")  # and more, see below
        ends = [given[name] for name in CHANNELS[launch.kernel]]
        beside = (("S", "style"), ("P", "content"), ("pooled", "pool"), ("dpooled", "pool"))
        more = "".join(f" + {word}" for name, word in beside if given.get(name) is not None)
        size = f"{given['H']}x{given['W']}"
        if way == "parts":
            way = f"in {launch.grid[1]} parts"
        return f"conv3x3 {way} {ends[0]} -> {ends[1]}, {size}{more}"
    array = max(launch.arrays.items(), key=lambda item: item[1].nbytes, default=None)
    if launch.kernel in ("gram_partial", "gram_sum"):
        return f"{launch.kernel}, {given['count']} layers"
    return launch.kernel if array is None else f"{launch.kernel} {'x'.join(map(str, array[1].shape))}"
