"""What a transfer needs before anything is computed: pictures, weights, the engine, the sizes, and what they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import engines, images, vgg
from ..engines import Engine
from ..errors import OptionError
from ..images import Picture
from ..objective import CONTENT_LAYERS, STYLE_LAYERS
from ..objective.layers import layer_weights
from ..optim import checked_count
from ..pretrained import Weights, load_weights
from .ladder import Rung, climb
from .needs import Needs
from .pictures import Pictures
from .plan import Plan
from .pyramid import blocks, chosen
from .record import is_word
from .rung import Optimizer
from .tiles import Tile, planned, with_memory

OPTIMIZERS = ("adam", "lbfgs")


@dataclass(frozen=True)
class Prepared:
    """See `prepare`; `optimizer` and `plan` are those of the size that was chosen."""

    pictures: Pictures
    weights: Weights
    engine: Engine
    options: dict[str, Any]
    optimizer: Optimizer
    needs: Needs
    plan: Plan


def prepare(
    content: Picture,
    styles: Sequence[Picture],
    *,
    weights: str | Path | Weights,
    size: int | str,
    fit: bool,
    style_scale: float | Sequence[float],
    style_size: int | Sequence[int | None] | None,
    colors: str,
    iterations: int,
    ladder: str | int,
    pyramid: str,
    optimizer: str,
    learning_rate: float,
    average: float,
    history: int,
    device: str,
    dtype: str | None,
    threads: int | None,
    engine: Engine | None,
    tile: Tile,
    memory: str,
    options: dict[str, Any],
) -> Prepared:
    """Read what is to be read, and plan the memory; whether the plan fits is for the caller to check.

    Parameters
    ----------
    content, weights, size, ...
        As for `stylize`.
    styles : sequence of pictures
    options : dict
        Of `Objective`. Masks in it are read; `statistics` is added.

    Raises
    ------
    UsageError
        If something cannot be used; nothing was computed.
    """
    if optimizer not in OPTIMIZERS:
        raise OptionError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    checked_count("iterations", iterations)
    checked_count("history", history)
    if not 0 < learning_rate < math.inf:
        raise OptionError(f"learning_rate: expected a number above 0, got {learning_rate}; the usual one is 0.02")
    if not 0 <= average < 1:
        raise OptionError(f"average: expected a decay in [0, 1), got {average}; the usual one is 0.9, and 0 is none")
    with_pyramid = chosen(pyramid, options.get("convention", "relative"))
    _load_masks(options)
    pictures = Pictures(content, styles, colors, style_scale, style_size)
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    engine = with_memory(memory, tile, engine or engines.create(device, dtype, threads))
    options.setdefault("statistics", {})
    stride = _stride(loaded, options)
    pictures.read_by(stride)

    def rungs(size: tuple[int, int]) -> list[Rung]:
        return climb(size, ladder, iterations, stride, blocks_of)

    def blocks_of(size: tuple[int, int]) -> tuple[int, ...]:
        return blocks(size, pictures.style_sizes(max(size)), stride) if with_pyramid else ()

    wanted = images.target_size(pictures.size, size)
    chosen_by = Optimizer(optimizer, learning_rate, history, average)

    def needs_of(engine: Engine) -> Needs:
        return Needs(pictures, loaded, engine, options, chosen_by, rungs)

    engine, needs, plan = planned(tile, fit, wanted, engine, needs_of)
    final = Optimizer(optimizer, learning_rate, plan.history, average)
    return Prepared(pictures, loaded, engine, options, final, needs, plan)


def _stride(weights: Weights, options: dict[str, Any]) -> int:
    """Pixels that one position of the deepest layer stands for: no picture may be smaller."""
    usual = {"content_layers": CONTENT_LAYERS, "style_layers": STYLE_LAYERS}
    layers = [layer for name, those in usual.items() for layer in layer_weights(name, options.get(name), those, 1.0)]
    return max((vgg.find(weights.architecture, layer).stride for layer in layers), default=1)


def _load_masks(options: dict[str, Any]) -> None:
    """Masks are read once, not at every size."""
    if options.get("protect") is not None:
        options["protect"] = images.read_mask(options["protect"])
    if options.get("regions"):
        options["regions"] = [
            (
                images.read_mask(content),
                [mask if is_word(mask) else images.read_mask(mask) for mask in styles],
            )
            for content, styles in options["regions"]
        ]
