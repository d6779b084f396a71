"""A picture from the content features of one layer alone: what the layer still knows of it [1]_, [2]_.

        x = argmin  sum (F(x) - P)^2 / sum P^2 + tv_weight * TV(x),        starting from noise

F(x) are the features of x at the layer, P those of the picture. What the features hardly see stays as the start had it,
and that is noise of single pixels: the filters of conv1_1 answer seven times less to a grey chequerboard than to waves
of four pixels, and to one of red and blue eighteen times less than to a plain colour. Without total variation, which
[2]_ adds for this reason, the noise would count as something that the layer has lost.

References
----------
.. [1] Gatys, Ecker, Bethge, "A Neural Algorithm of Artistic Style", 2015, figure 1; CVPR 2016, figure 1.
.. [2] Mahendran, Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR 2015.
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

FEATURES, PIXELS = "feature error", "pixel error"


def reconstruct(
    picture: Picture,
    layers: Sequence[str] = STYLE_LAYERS,
    *,
    weights: str | Path | Weights = "auto",
    size: int | str = 192,
    iterations: int = 300,
    optimizer: str = "lbfgs",
    tv_weight: float = 0.1,
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
    """Paint the picture anew from its features at each of the layers, one at a time.

    Parameters
    ----------
    picture : path, PIL image or array (H, W, 3) or (H, W, 4)
        Transparent parts enter neither the losses nor the errors.
    layers : sequence of str
    weights, size, iterations, optimizer, init, pooling, device, dtype, threads, engine, stop
        As for `nstcore.stylize`.
    tv_weight : float
        Of total variation. 0 leaves the noise of the start wherever the features do not see it.
    on_step : callable, optional
        Called with a `Moment` after every evaluation.
    **options
        Others of `nstcore.stylize`: seed, history, learning_rate, average.

    Returns
    -------
    Study
        A panel for each layer, with two numbers:

        "feature error"  |F - P| / |P|, the distance of its features from the picture's
        "pixel error"    root of sum (x - p)^2 / sum (p - mean colour of p)^2: 0 for the picture itself, 1 for a plain
                         surface in its mean colour

    Raises
    ------
    UsageError
        If something that was given cannot be used; nothing was computed.
    """
    parts = [Part(layer, (layer,), {"content_layers": (layer,), "style_layers": (layer,)}) for layer in layers]
    return paint(
        "reconstruct",
        picture,
        parts,
        _errors,
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
        style_weight=0.0,
        **options,
    )


def pixel_error(x: np.ndarray, p: np.ndarray, alpha: np.ndarray | None = None) -> float:
    """Distance of pixels x from p, both (3, H, W), relative to how far p is from its mean colour.

    `alpha` (H, W) weighs the positions. A picture of one colour has no such measure: the distance is then absolute.
    """
    w = np.ones(p.shape[1:]) if alpha is None else alpha.astype(np.float64)
    mean = (w * p).sum(axis=(1, 2), keepdims=True) / w.sum()
    spread = float((w * np.square(p - mean)).sum())
    apart = float((w * np.square(np.subtract(x, p, dtype=np.float64))).sum())
    return math.sqrt(apart / spread if spread > 0 else apart / (3 * w.sum()))


def _errors(result: Result, pixels: np.ndarray, alpha: np.ndarray | None) -> dict[str, float]:
    (squared,) = result.terms.content_layers.values()  # the convention's: sum (F-P)^2 / sum P^2
    return {FEATURES: math.sqrt(squared), PIXELS: pixel_error(result.pixels, pixels, alpha)}
