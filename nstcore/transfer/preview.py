"""What a transfer would take, without making it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import images
from ..engines import Engine
from ..images import Picture
from ..pretrained import Weights
from .calibrate import Pace, measure
from .plan import Plan
from .prepare import prepare
from .run import check_names, stylize


@dataclass(frozen=True)
class Estimate:
    """What a transfer would take.

    Attributes
    ----------
    plan : Plan
        Sizes, and the memory; `plan.fits` says whether it fits.
    refusal : str or None
        Why `stylize` would not begin, and what would fit.
    pace : Pace or None
        What a step took in a calibration; None if none was made.
    seconds : float or None
        About how long it would take.
    weights : Weights
    engine : Engine
    optimizer : str
    work : float
        Of a step at the full size, against one in one piece; see `Network.work`.
    """

    plan: Plan
    refusal: str | None
    pace: Pace | None
    seconds: float | None
    weights: Weights
    engine: Engine
    optimizer: str
    work: float


def estimate(
    content: Picture, style: Picture | Sequence[Picture], *, calibrate: bool = True, **options: Any
) -> Estimate:
    """What `stylize` with the same arguments would take, in memory and time; nothing is painted or written.

    Parameters
    ----------
    content, style, **options
        As for `stylize`.
    calibrate : bool
        Measure for about a second how long a step takes, unless the transfer does not fit.

    Raises
    ------
    UsageError
        If something that was given cannot be used.
    """
    given = inspect.signature(stylize).bind(content, style, **options)
    given.apply_defaults()
    check_names("estimate", given.arguments["options"])
    wanted = inspect.signature(prepare).parameters.keys() - {"content", "styles"}
    prepared = prepare(content, images.as_list(style), **{name: given.arguments[name] for name in wanted})
    plan, refusal = prepared.plan, prepared.needs.refusal(prepared.plan)
    pace = measure(prepared) if calibrate and refusal is None else None
    styles = [prepared.pictures.style_sizes(max(rung.size)) for rung in plan.rungs]
    network = prepared.needs.network

    def work(height: int, width: int) -> float:
        return network.work(height, width) * network.share(height, width)

    seconds = None if pace is None else pace.seconds(plan.rungs, styles, work)
    weights, engine, optimizer = prepared.weights, prepared.engine, prepared.optimizer.name
    return Estimate(plan, refusal, pace, seconds, weights, engine, optimizer, network.work(*plan.size))
