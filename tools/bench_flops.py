"""The work of one step, counted: floating-point operations of the direct form, and of Winograd's.

A multiply-add counts as two. The transforms of Winograd's form are additions and multiplications by constants; they are
not counted, which is what makes the sum a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from nstcore import vgg
from nstcore.objective import CONTENT_LAYERS, STYLE_LAYERS


@dataclass(frozen=True)
class Work:
    """Operations of one step, both passes.

    Attributes
    ----------
    direct : int
        All convolutions in direct form, conv1_1 among them.
    first : int
        conv1_1 alone, which has too few channels for Winograd.
    winograd : int
        The products of F(4x4, 3x3) of all others.
    gram, gram_gradient : int
        G = F F^T, its symmetric half, and dF = (dG + dG^T) F at every style layer.
    """

    direct: int
    first: int
    winograd: int
    gram: int
    gram_gradient: int

    @property
    def limit(self) -> int:
        """What has to be multiplied at least by a program that uses F(4x4, 3x3)."""
        return self.first + self.winograd + self.gram + self.gram_gradient


def convolution(step: vgg.Step, height: int, width: int) -> tuple[int, int]:
    """(direct, Winograd) operations of one pass of a convolution for a picture of height x width.

    One tile of 4x4 outputs takes 36 multiply-adds per channel pair instead of 144; a tile that hangs over the edge is
    counted whole. conv1_1 counts as direct in both.
    """
    h, w, pairs = height // step.stride, width // step.stride, step.in_channels * step.out_channels
    direct = 2 * 9 * pairs * h * w
    return direct, direct if step.in_channels == 3 else 2 * 36 * pairs * -(-h // 4) * -(-w // 4)


def work(architecture: str, height: int, width: int) -> Work:
    """Of one step with the default layers."""
    direct = first = winograd = gram = gram_gradient = 0
    for step in vgg.steps_for(architecture, CONTENT_LAYERS + STYLE_LAYERS):
        if step.kind != "conv":
            continue
        one, fast = convolution(step, height, width)
        direct += 2 * one
        if step.in_channels == 3:
            first += 2 * one
        else:
            winograd += 2 * fast
        if step.output in STYLE_LAYERS:
            N, h, w = vgg.shape(architecture, step.output, height, width)
            gram += N * (N + 1) * h * w
            gram_gradient += 2 * N * N * h * w
    return Work(direct, first, winograd, gram, gram_gradient)
