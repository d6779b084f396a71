"""Pictures from noise, one after the other, each with a loss of its own: what `reconstruct` and `texture` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import engines, images, vgg
from ..errors import OptionError
from ..images import Picture
from ..pretrained import Weights, load_weights
from ..transfer import FailedRun, Result, Step, made_with, stylize
from ..transfer.record import named
from .study import Panel, Study, recorded

_PER_PIXEL = 25_000  # multiply-adds that take as long as what the optimizer and memory cost for a pixel, by measurement


@dataclass(frozen=True)
class Part:
    """One picture that is to be painted.

    Attributes
    ----------
    label : str
    layers : tuple of str
        Those that its loss looks at.
    options : dict
        Of `nstcore.stylize`, besides those of the whole study.
    """

    label: str
    layers: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """One evaluation of loss and gradient, as `on_step` sees it.

    Attributes
    ----------
    part, parts : int
        Number of the picture that is being painted, from 0, and how many there are.
    label : str
        Of the picture.
    step : Step
        Of its optimisation.
    share : float
        Of all the work, from 0 to 1: a deep layer costs more than a shallow one.
    """

    part: int
    parts: int
    label: str
    step: Step
    share: float


def paint(
    name: str,
    picture: Picture,
    parts: Sequence[Part],
    measure: Callable[[Result, np.ndarray, np.ndarray | None], dict[str, float]],
    *,
    size: int | str,
    weights: str | Path | Weights,
    device: str,
    dtype: str | None,
    threads: int | None,
    engine: engines.Engine | None,
    stop: Callable[[], bool] | None,
    on_step: Callable[[Moment], object] | None,
    **options: Any,
) -> Study:
    """Paint the parts from noise, at one size, under the losses of the convention `relative`.

    Parameters
    ----------
    name : str
        Of the study.
    picture : path, PIL image or array
        It is content and style at once; the parts say which of the two their loss looks at.
    parts : sequence of Part
    measure : callable (result, pixels (3, H, W), alpha (H, W) or None) -> dict of str to float
        Numbers of a painted picture, given the picture studied at its size.
    size, weights, device, dtype, threads, engine, stop
        As for `nstcore.stylize`.
    on_step : callable, optional
        Called with a `Moment` after every evaluation.
    **options
        Of `nstcore.stylize`.

    Returns
    -------
    Study
        Ctrl-C (or `stop`) ends it with the pictures at hand, the last one as far as it came. A part that fails is left
        out, and told in `problems`.

    Raises
    ------
    UsageError
        If something that was given cannot be used; nothing was computed.
    """
    if not parts:
        raise OptionError("layers: expected at least one layer, got none")
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    engine = engine or engines.create(device, dtype, threads)
    for part in parts:
        loaded.require(part.layers)
    original = images.load(picture)
    target = images.target_size((original.pixels.shape[1], original.pixels.shape[2]), size)
    pixels = images.resize_pixels(original.pixels, target)
    alpha = None if original.alpha is None else images.resize_mask(original.alpha, target)
    for part in parts:
        for layer in part.layers:
            vgg.shape(loaded.architecture, layer, *target)

    costs = [cost(loaded.architecture, part.layers) for part in parts]
    statistics: dict[str, Any] = {}
    panels: list[Panel] = []
    problems: list[str] = []
    interrupted = False
    for number, part in enumerate(parts):
        told = None if on_step is None else _teller(on_step, number, parts, costs)
        try:
            result = stylize(
                picture,
                picture,
                weights=loaded,
                engine=engine,
                size=size,
                ladder="off",
                pyramid="off",
                statistics=statistics,
                stop=stop,
                on_step=told,
                **part.options,
                **options,
            )
        except FailedRun as error:
            problems.append(f"{part.label}: {error}")
            if error.result is not None:
                panels.append(_panel(part, error.result, "failed", measure(error.result, pixels, alpha)))
            continue
        except KeyboardInterrupt:
            if not panels:
                raise
            interrupted = True
            break
        interrupted = result.interrupted
        done, all_of_them = len(result.losses) - 1, options.get("iterations")
        note = f"interrupted after {done} of {all_of_them} iterations" if interrupted else ""
        panels.append(_panel(part, result, note, measure(result, pixels, alpha)))
        if interrupted or (stop is not None and stop()):
            interrupted = interrupted or number + 1 < len(parts)
            break
    shared = panels[0].metadata["settings"] if panels else {}
    facts = {
        "study": name,
        "content": named(picture),
        "settings": {key: value for key, value in shared.items() if not key.endswith("_layers")},
        "complete": not interrupted and not problems,
        **made_with(loaded, engine),
    }
    return Study(name, pixels, panels, recorded(facts, panels), interrupted, problems)


def cost(architecture: str, layers: Sequence[str]) -> float:
    """About what an evaluation down to the deepest of these layers costs for one pixel, in multiply-adds forward."""
    taken = vgg.steps_for(architecture, layers)
    return _PER_PIXEL + sum(9 * s.in_channels * s.out_channels / s.stride**2 for s in taken if s.kind == "conv")


def _teller(
    on_step: Callable[[Moment], object], number: int, parts: Sequence[Part], costs: Sequence[float]
) -> Callable[[Step], object]:
    def told(step: Step) -> object:
        share = (sum(costs[:number]) + step.share * costs[number]) / sum(costs)
        return on_step(Moment(number, len(parts), parts[number].label, step, share))

    return told


def _panel(part: Part, result: Result, note: str, numbers: dict[str, float]) -> Panel:
    return Panel(part.label, result.pixels, numbers, note, result.metadata)
