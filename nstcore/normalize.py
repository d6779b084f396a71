"""The papers' normalised network: every filter's mean activation over pictures and positions is 1.

With a[l,k] the mean of ReLU output y[l,k] over all positions of all pictures, in the network as it came,

        w'[l,k,c] = w[l,k,c] * a[l-1,c] / a[l,k]        a = 1 for the picture itself, which is fed as before
        b'[l,k]   = b[l,k] / a[l,k]

gives y'[l,k] = y[l,k] / a[l,k] exactly, layer by layer: each input channel is multiplied by what its output was divided
by; ReLU and max, average and L2 pooling commute with a positive factor on a channel; and both borders, zeros and
replicated values, scale with the channel. So the network computes what it did, up to one factor per filter, and one
forward pass a picture through the network as it came is all that is needed.

References
----------
.. [1] Gatys, Ecker, Bethge, "Texture Synthesis Using Convolutional Neural Networks", NeurIPS 2015, section 2.
.. [2] Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import engines, images, vgg
from .engines import Engine
from .errors import OptionError, PictureError, WeightsError
from .images import Picture
from .pretrained import Weights
from .version import __version__

SIZE = 224  # long side in pixels: what the published networks were trained on

# A filter is dead below this share of its layer's mean activation. What such a filter lets through on a few pictures is
# chance, and brought up to 1 it would outweigh all others on the first picture that does excite it.
DEAD = 1e-3


@dataclass(frozen=True, eq=False)
class Normalized:
    """What came of `normalize`.

    Attributes
    ----------
    weights : Weights
        The normalised network.
    means : dict of str to ndarray of shape (K,), float64
        By ReLU, relu1_1 first: the mean activation of each filter in the network as it came.
    dead : dict of str to ndarray of int
        By ReLU: indices of the filters whose mean activation is at most `DEAD` of their layer's. They are divided by
        their layer's median, as a typical filter is: left alone, one that fires on a later picture would outweigh all
        others. Layers without any are not in it.
    pictures : int
        How many were measured.
    """

    weights: Weights
    means: dict[str, np.ndarray]
    dead: dict[str, np.ndarray]
    pictures: int

    @property
    def scales(self) -> dict[str, np.ndarray]:
        """What each filter's output was divided by: its mean, or its layer's median if dead; (K,) by ReLU."""
        return _scales(self.means, self.dead)


def normalize(
    weights: Weights,
    pictures: Iterable[Picture],
    *,
    size: int = SIZE,
    engine: Engine | None = None,
    on_picture: Callable[[int], None] | None = None,
    on_refused: Callable[[PictureError], None] | None = None,
) -> Normalized:
    """Rescale every filter so that its mean activation over the pictures is 1.

    Pictures are taken one at a time and let go again: an iterator over any number will do. The mean is over positions:
    a large picture weighs more than a small one.

    Parameters
    ----------
    weights : Weights
        Measured with their own pooling, which stays the default of the result.
    pictures : iterable of paths, PIL images or arrays
        As `images.as_pixels` takes them.
    size : int
        Long side in pixels that larger pictures are brought to; smaller ones are left as they are.
    engine : Engine, optional
        What computes. Default: the fastest in float32, which leaves the mean of a filter that fires at a few positions
        only uncertain by up to 5e-4 of itself; float64 brings that below 1e-5, for 1.5 times the time and memory.
    on_picture : callable (n) -> None, optional
        Called after the n-th measured picture, n = 1, 2, ...
    on_refused : callable (PictureError) -> None, optional
        Called for a picture that cannot be used, which is then passed over. Default: the error is raised.

    Returns
    -------
    Normalized
        Provenance is kept, and gains `normalized` (over what) and `normalized_from` (which weights).

    Raises
    ------
    PictureError
        If there is no usable picture, or one cannot be used and `on_refused` is not given.
    OptionError
        If the size is too small for the network.
    WeightsError
        If the network's activations are not finite.
    """
    relus = [vgg.find(weights.architecture, conv).output for conv in weights.filters]
    smallest = max(vgg.SMALLEST_SIDE, vgg.find(weights.architecture, relus[-1]).stride)
    if size < smallest:
        raise OptionError(f"size: expected at least {smallest} pixels for weights down to {relus[-1]}, got {size}")
    engine = engine or engines.create()
    network = engine.network(weights, relus, weights.pooling)
    sums = {relu: np.zeros(len(b)) for relu, (_, b) in zip(relus, weights.filters.values(), strict=True)}
    positions = dict.fromkeys(relus, 0)
    count = 0
    for picture in pictures:
        try:
            pixels = _prepared(picture, size, smallest)
        except PictureError as error:
            if on_refused is None:
                raise
            on_refused(error)
            continue
        network.forward(engine.array(pixels))
        for relu in relus:
            sums[relu] += network.features(relu).sum(axis=(1, 2), dtype=np.float64)
            positions[relu] += network.positions(relu)
        count += 1
        if on_picture is not None:
            on_picture(count)
    if not count:
        raise PictureError("pictures: expected at least one that can be used, got none")

    means = {relu: sums[relu] / positions[relu] for relu in relus}
    broken = next((relu for relu, a in means.items() if not np.isfinite(a).all()), None)
    if broken is not None:
        raise WeightsError(f"{broken}: its activations are not finite on these pictures; these weights cannot be used")
    dead = {relu: found for relu, a in means.items() if (found := np.flatnonzero(a <= DEAD * a.mean())).size}
    return Normalized(_rescaled(weights, _scales(means, dead), count, size), means, dead, count)


def _prepared(picture: Picture, size: int, smallest: int) -> np.ndarray:
    """Pixels (3, H, W) of the size at which they are measured."""
    pixels = images.as_pixels(picture)
    height, width = pixels.shape[1:]
    if max(height, width) > size:
        pixels = images.resize_pixels(pixels, images.fit((height, width), size))
        height, width = pixels.shape[1:]
    if min(height, width) < smallest:
        name = picture if isinstance(picture, str | Path) else "picture"
        raise PictureError(
            f"{name}: expected at least {smallest} pixels a side where the long side is at most {size}, "
            f"got {width}x{height}; leave it out or take a larger size"
        )
    return pixels


def _scales(means: dict[str, np.ndarray], dead: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    scales = {relu: a.copy() for relu, a in means.items()}
    for relu, indices in dead.items():
        live = np.delete(means[relu], indices)
        scales[relu][indices] = np.median(live) if live.size else 1
    return scales


def _rescaled(weights: Weights, scales: dict[str, np.ndarray], count: int, size: int) -> Weights:
    """The same network with the output of every filter divided by its scale, in the order of the data."""
    filters = {}
    below = np.ones(3)
    for (conv, (w, b)), scale in zip(weights.filters.items(), scales.values(), strict=True):
        factors = below / scale[:, None]  # (K, C)
        with np.errstate(over="ignore"):  # `Weights` refuses what is not finite, and says where
            filters[conv] = (w * factors[:, :, None, None]).astype(np.float32), (b / scale).astype(np.float32)
        below = scale
    plural = "s" if count != 1 else ""
    provenance = {
        **weights.provenance,
        "normalized": f"over {count} picture{plural}, long side at most {size}, {weights.pooling} pooling, "
        f"by nstcore {__version__}",
        "normalized_from": f"{weights.name}, stored as {weights.provenance.get('storage', 'float32')}, "
        f"sha256 {weights.sha256}",
    }
    name = f"{weights.name.removesuffix('-normalized')}-normalized"
    return replace(weights, name=name, filters=filters, provenance=provenance)
