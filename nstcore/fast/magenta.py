"""The fast arbitrary network of Ghiasi et al. 2017, as Magenta published it.

Two networks. The first sees the style, and says it in 100 numbers s (MobileNetV2 [2]_, its mean over positions, one
fully connected layer). The second, an encoder, five residual blocks and a decoder, paints the content; behind each of
its convolutions but the first three stands a conditional instance normalisation [3]_, whose scale and shift are what
two fully connected layers make of s:

        y[c] = scale[c] (x[c] - mean x[c]) / sqrt(var x[c] + epsilon) + shift[c]
        scale = Ws s + bs,  shift = Wt s + bt

So a style is a point in a space of 100 dimensions, and between two points lie blends of their styles.

References
----------
.. [1] Ghiasi, Lee, Kudlur, Dumoulin, Shlens, "Exploring the structure of a real-time, arbitrary neural artistic
   stylization network", BMVC 2017.
.. [2] Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
.. [3] Dumoulin, Shlens, Kudlur, "A Learned Representation for Artistic Style", ICLR 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops.conv import same_amounts
from ..pretrained.fast.models import BLOCKS, RESIDUALS, STYLE_NUMBERS, Block
from .network import FastNetwork

EPSILON = 1e-5


class MagentaNetwork(FastNetwork):
    """Style prediction and transfer; a look is the 100 numbers."""

    grid = 4
    style_side = 256
    look_length = STYLE_NUMBERS

    # -- style prediction ------------------------------------------------------------------------------------------

    def _look(self, x: Any) -> np.ndarray:
        x = self._same(x, "prediction/stem", 2)
        for number, block in enumerate(BLOCKS, 1):
            x = self._block(x, f"prediction/block{number}", block)
        x = self._conv(x, "prediction/head", activation="relu6")
        return self._vector(self._linear(self.layers.global_average(x), "prediction/style"))

    def _same(self, x: Any, name: str, stride: int) -> Any:
        """3x3, with TensorFlow's border "SAME", ReLU6; depthwise where the filters are."""
        _, H, W = self.layers.shape(x)
        convolve = self.layers.depthwise if self.weights.tensors[f"{name}/weight"].ndim == 3 else self.layers.conv
        amounts = same_amounts(H, W, 3, 3, stride)
        return convolve(x, self.filters[name], stride=stride, amounts=amounts, activation="relu6")

    def _block(self, x: Any, name: str, block: Block) -> Any:
        """Inverted residual: to many channels, each by itself, back to few."""
        y = self._conv(x, f"{name}/expand", activation="relu6") if block.expand else x
        y = self._conv(self._same(y, f"{name}/depthwise", block.stride), f"{name}/project")
        return self.layers.add(y, x) if block.sums else y

    # -- transfer --------------------------------------------------------------------------------------------------

    def _paint(self, x: Any, look: np.ndarray) -> Any:
        s = self._maps(look)
        reflected: dict[str, Any] = {"padding": "reflect"}
        x = self._conv(x, "transfer/contract1", activation="relu", **reflected)
        x = self._conv(x, "transfer/contract2", activation="relu", stride=2, **reflected)
        x = self._conv(x, "transfer/contract3", activation="relu", stride=2, **reflected)
        for number in range(1, RESIDUALS + 1):
            name = f"transfer/residual{number}"
            y = self._normed(self._conv(x, f"{name}/conv1", **reflected), f"{name}/conv1", s, activation="relu")
            x = self._normed(self._conv(y, f"{name}/conv2", **reflected), f"{name}/conv2", s, plus=x)
        for number, upsample, activation in ((1, 2, "relu"), (2, 2, "relu"), (3, 1, "sigmoid")):
            name = f"transfer/expand{number}"
            x = self._normed(self._conv(x, name, upsample=upsample, **reflected), name, s, activation=activation)
        return x

    def _normed(self, x: Any, name: str, s: Any, **how: Any) -> Any:
        """Conditional instance normalisation."""
        scale, shift = (self._linear(s, f"{name}/{what}") for what in ("scale", "shift"))
        return self.layers.instance_norm(x, scale, shift, EPSILON, **how)
