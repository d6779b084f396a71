"""How programs scale the terms of the loss, so that a weight written for one can be read by another.

Every convention is the same objective with other constants. With N channels and M positions (M' of the style picture),

        content = sum over content layers of  w_l * c(N, M, sum P^2)  * sum (F - P)^2
        style   = sum over style layers of    w_l * s(N, sum (A/M')^2) * sum (G/M - A/M')^2
        total   = content_weight * content + style_weight * style + tv_weight * tv

and c, s, the default weights, and w_l are what a convention names. Programs that work on raw Gram matrices divide by M
as a constant; written as above, the style picture may have a size of its own, and at equal sizes nothing changes.

Another style loss (see `nstcore.objective.statistics`) takes the place of sum (G/M - A/M')^2, and its own value for a
style of nothing at all that of sum (A/M')^2: so `relative` can take any of them. The programs have one each.

tv is the mean over the picture's 3*H*W numbers of the squared differences of neighbours. `crowson` adds a quarter of
those along the diagonals; beyond the border, where its program repeats the last pixels, there are none here. Its
weights were chosen for a network whose input has been divided by its deviation; with one that takes 0 to 255, content
and style grow alike, some 3000 times, and tv counts for little.

References
----------
.. [1] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, eq. 1, 4, 5, 7.
.. [2] Gatys, notebook of github.com/leongatys/PytorchNeuralStyleTransfer.
.. [3] Johnson, github.com/jcjohnson/neural-style, neural_style.lua.
.. [4] Crowson, github.com/crowsonkb/style-transfer-pytorch: padding and scaled poolings, W2 distance, nine-point TV.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .errors import OptionError


@dataclass(frozen=True)
class Convention:
    """The constants of one program.

    Attributes
    ----------
    content, style : str
        The terms of one layer, as formulas for a person.
    content_weight, style_weight, tv_weight : float
        Defaults.
    style_layer_weight : float
        Default weight w_l of each style layer.
    content_scale : callable (N, M, sum P^2) -> float
    style_scale : callable (N, sum (A/M')^2) -> float
    style_losses : tuple of str
        Those that it can take, its own first.
    style_falloff : float
        By how much less each deeper style layer weighs, unless the layers' weights are given.
    tv_scale, tv_diagonal : float
        Factor of the total variation, and what diagonal neighbours count in it.
    padding : str or None
        In place of the weights' own.
    pooling_scales : dict of str to float
        What a pooling is multiplied by, where it is.
    """

    name: str
    content: str
    style: str
    content_weight: float
    style_weight: float
    tv_weight: float
    style_layer_weight: float
    content_scale: Callable[[int, float, float], float]
    style_scale: Callable[[int, float], float]
    style_losses: tuple[str, ...] = ("gram", "centred")
    style_falloff: float = 1.0
    tv_scale: float = 1.0
    tv_diagonal: float = 0.0
    padding: Literal["replicate-first"] | None = None
    pooling_scales: dict[str, float] = field(default_factory=dict)

    def formula(self) -> str:
        return f"content = {self.content}, style = {self.style}"


def _reciprocal(norm: float, numbers: float) -> float:
    """1 / norm; for features that are zero everywhere there is no relative distance, and the mean stands in for it."""
    return 1 / norm if norm > 0 else 1 / numbers


CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "relative",
            "sum (F-P)^2 / sum P^2",
            "sum (G/M - A/M')^2 / sum (A/M')^2",
            1.0,
            10.0,
            0.5,
            1.0,
            lambda n, m, p: _reciprocal(p, n * m),
            lambda n, a: _reciprocal(a, n * n),
            style_losses=("gram", "centred", "mean-std", "w2"),
        ),
        Convention(
            "gatys2016",
            "1/2 sum (F-P)^2",
            "1/(4 N^2) sum (G/M - A/M')^2",
            1.0,
            1e3,
            0.0,
            0.2,
            lambda n, m, p: 0.5,
            lambda n, a: 1 / (4 * n**2),
        ),
        Convention(
            "gatys-code",
            "1/(N M) sum (F-P)^2",
            "1/N^2 sum (G/M - A/M')^2",
            1.0,
            1e3,
            0.0,
            1.0,
            lambda n, m, p: 1 / (n * m),
            lambda n, a: 1 / n**2,
        ),
        Convention(
            "johnson",
            "1/(N M) sum (F-P)^2",
            "1/N^4 sum (G/M - A/M')^2",
            5.0,
            1e2,
            0.0,
            1.0,
            lambda n, m, p: 1 / (n * m),
            lambda n, a: 1 / n**4,
        ),
        Convention(
            "crowson",
            "1/(N M) sum (F-P)^2",
            "1/N W2(F, S)^2",
            0.015,
            1.0,
            2.0,
            0.2,
            lambda n, m, p: 1 / (n * m),
            lambda n, a: 1 / n,
            style_losses=("w2",),
            style_falloff=4.0,
            tv_scale=2 / 3,
            tv_diagonal=1 / 4,
            padding="replicate-first",
            pooling_scales={"average": 2.0, "l2": 0.78},
        ),
    )
}


def find(name: str) -> Convention:
    """The convention of that name; `OptionError` for any other."""
    if name not in CONVENTIONS:
        raise OptionError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {name!r}")
    return CONVENTIONS[name]
