"""The whole objective: its gradient by the pixels against differences along random directions.

ReLU and max pooling have kinks, and a network has so many of them that every step crosses some. So the decisions (which
ReLUs let through, which value of a window wins) are held as they are at x. Around x the function is the same one, so it
has the same gradient there; and it is smooth, so that differences find it for any pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from .. import ops
from ..conventions import CONVENTIONS
from ..objective import Objective
from ..pretrained.weights import Padding
from .check import Proof
from .gradcheck import EPS, TOLERANCE, direction_error
from .samples import random_weights, smooth_picture

SIZE, STYLE_SIZE = (23, 27), (26, 24)
# No layer with fewer positions than channels: its covariance would have eigenvalues 0, whose roots have no derivative
LAYERS = {"content_layers": ["relu2_2", "relu3_1"], "style_layers": ["relu1_1", "relu2_1"]}
# Roots of small eigenvalues have few digits and want a long step, L2 norms near 0 are curved and want a short one: the
# best of three counts. A gradient that is wrong is wrong at every step.
STEPS = {"w2": (1e-5, 1e-4, 1e-3)}


def proofs(seed: int) -> Iterator[Proof]:
    """Every convention with every style loss that it takes, every pooling, border and kind of layer; masks; levels."""
    for convention in CONVENTIONS.values():
        for loss in convention.style_losses:
            several = [{"convention": convention.name, "style_loss": loss, "pooling": kind} for kind in ops.POOLINGS]
            yield _proof(f"{convention.name}, {loss}, any pooling", seed, *several)
    yield _proof("replicated border", seed, *({"padding": p} for p in ("replicate", "replicate-first")))
    taps = {"content_layers": ["conv2_2", "pool2"], "style_layers": ["conv1_1", "pool1", "conv2_1"]}
    yield _proof("losses before ReLU and after pooling", seed, taps)
    masked = [{"masks": True, "style_loss": loss} for loss in ("gram", "mean-std")]
    yield _proof("masks, two styles, a protected part", seed, *masked)
    yield _proof("pyramid", seed, {"pyramid": (2,), "scale": 2})
    yield _proof("VGG19 down to relu5_1", seed, {"content_layers": None, "style_layers": None, "deepest": "conv5_1"})


def _proof(what: str, seed: int, *options: dict[str, Any]) -> Proof:
    return Proof(what, lambda: max(gradient_error(seed, **o) for o in options), TOLERANCE)


def gradient_error(
    seed: int,
    *,
    deepest: str = "conv3_1",
    padding: Padding = "zero",
    masks: bool = False,
    scale: int = 1,
    **options: Any,
) -> float:
    """The error of the gradient along a direction.

    Parameters
    ----------
    seed : int
        Of filters, pictures and the direction.
    deepest, padding : str
        Of the weights.
    masks : bool
        Whether two styles go to two regions, and a part of the content is protected.
    scale : int
        Of the pictures' sizes.
    **options
        Of the objective.
    """
    content, style, other, x, mask = (
        smooth_picture(scale * height, scale * width, 5 * seed + i)
        for i, (height, width) in enumerate((SIZE, STYLE_SIZE, STYLE_SIZE, SIZE, SIZE))
    )
    styles = [style]
    if masks:
        soft = np.clip(2 * mask[..., 0] - 0.5, 0.1, 0.9)
        styles.append(other)
        options |= {"regions": [(soft, ["all", "none"]), (1 - soft, ["all", "all"])], "protect": mask[..., 1] / 2}
    weights = random_weights(deepest=deepest, padding=padding, seed=seed)
    settings = {"tv_weight": 0.3, **LAYERS, **options}
    f = Objective(weights, content, styles, device="reference", dtype="float64", **settings)
    pixels = np.ascontiguousarray(x.transpose(2, 0, 1))
    gradient = f(pixels)[1].copy()
    for part in (f, *f.levels.values()):
        hold_decisions(part.network)
    return min(
        direction_error(lambda x: f(x)[0].total, gradient, pixels, directions=1, seed=seed, step=step)
        for step in STEPS.get(f.style_loss, (EPS,))
    )


def hold_decisions(network: Any) -> None:
    """Have a network of the reference engine decide from now on as it did in its last forward pass."""
    network.forward = partial(network.forward, decisions=network.decisions())
