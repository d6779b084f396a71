"""A texture from style statistics alone: the deeper the layers that match, the larger what is alike [1]_.

        x = argmin  sum_l style_l(x) + tv_weight * TV(x),        starting from noise

over the first layer; the first two; and so on. style_l is the relative squared distance of the layer's statistics from
the picture's: for Gram matrices sum (G/M - A/M')^2 / sum (A/M')^2.

References
----------
.. [1] Gatys, Ecker, Bethge, "Texture Synthesis Using Convolutional Neural Networks", NIPS 2015, figure 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engines import Engine
from ..images import Picture
from ..objective import STYLE_LAYERS
from ..pretrained import Weights
from ..transfer import Result
from .paint import Moment, Part, paint
from .study import Study

DISTANCE = "style distance"


def texture(
    picture: Picture,
    layers: Sequence[str] = STYLE_LAYERS,
    *,
    weights: str | Path | Weights = "auto",
    size: int | str = 192,
    iterations: int = 300,
    optimizer: str = "lbfgs",
    style_loss: str = "gram",
    tv_weight: float = 0.05,
    init: str | Path = "noise",
    pooling: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
    stop: Callable[[], bool] | None = None,
    on_step: Callable[[Moment], object] | None = None,
    **options: Any,
) -> Study:
    """Paint textures that have the picture's statistics at the first layer, at the first two, and so on.

    Parameters
    ----------
    picture : path, PIL image or array (H, W, 3) or (H, W, 4)
    layers : sequence of str
        From the shallowest to the deepest.
    weights, size, iterations, optimizer, init, pooling, device, dtype, threads, engine, stop
        As for `nstcore.stylize`.
    style_loss : {"gram", "centred", "mean-std", "w2"}
    tv_weight : float
        Of total variation; against noise that the layers do not see, see `reconstruct`.
    on_step : callable, optional
        Called with a `Moment` after every evaluation.
    **options
        Others of `nstcore.stylize`: seed, history, learning_rate, average.

    Returns
    -------
    Study
        A panel for each set of layers, with the numbers

        "style distance"  root of the mean over the set's layers of style_l: 0 where the statistics are the picture's,
                          1 where they are as far from them as those of no features at all
        by layer          root of style_l

    Raises
    ------
    UsageError
        If something that was given cannot be used; nothing was computed.
    """
    parts = [Part(span(some), some, {"style_layers": some, "content_layers": some[:1]}) for some in prefixes(layers)]
    return paint(
        "texture",
        picture,
        parts,
        _distances,
        weights=weights,
        size=size,
        device=device,
        dtype=dtype,
        threads=threads,
        engine=engine,
        stop=stop,
        on_step=on_step,
        iterations=iterations,
        optimizer=optimizer,
        init=init,
        pooling=pooling,
        tv_weight=tv_weight,
        style_loss=style_loss,
        style_weight=1.0,
        content_weight=0.0,
        **options,
    )


def prefixes(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """The first layer; the first two; and so on, as in the papers' figures."""
    return [tuple(layers[: i + 1]) for i in range(len(layers))]


def span(layers: Sequence[str]) -> str:
    """Some layers in words: "relu1_1", or "relu1_1 to relu3_1"."""
    return layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


def _distances(result: Result, pixels: np.ndarray, alpha: np.ndarray | None) -> dict[str, float]:
    terms = result.terms.style_layers
    return {DISTANCE: math.sqrt(sum(terms.values()) / len(terms))} | {tap: math.sqrt(v) for tap, v in terms.items()}
