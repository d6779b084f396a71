"""What a network sees in a picture: feature maps, Gram matrices, the filters of conv1_1, and what drives a channel.

How strong a channel is, is its root mean square over the positions, sqrt(1/M sum_m F[i, m]^2): the root of its entry on
the diagonal of G/M, so the strongest channels are those that the style loss listens to most.

Numbers become grey. Where none is negative (after a ReLU), black is 0; else 0 is the middle, and black as far below as
white is above. White is what only a hundredth of the numbers exceed: a few are so large that beside them the rest would
be black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import engines, images, vgg
from ..engines import Engine, Network
from ..errors import OptionError
from ..images import Picture
from ..objective import STYLE_LAYERS
from ..pretrained import Weights, load_weights
from ..transfer import made_with
from ..transfer.record import named
from .study import Panel, Study, recorded

CHANNELS = 24
SCALES = ("own", "common")
FIRST = "conv1_1"
_SHOWN = 0.99  # of the numbers are told apart; those above are white


def features(
    picture: Picture,
    layer: str = "relu3_1",
    channels: int = CHANNELS,
    *,
    scale: str = "own",
    size: int | str = 256,
    weights: str | Path | Weights = "auto",
    pooling: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
) -> Study:
    """The feature maps of a layer's strongest channels.

    Parameters
    ----------
    picture : path, PIL image or array
        Transparent parts are white.
    layer : str
    channels : int
        How many maps, the strongest first; all of them if there are no more.
    scale : {"own", "common"}
        Whether each map has a white of its own, or all that are shown have one.
    size : int or str
        Of the picture, as for `nstcore.stylize`.
    weights, pooling, device, dtype, threads, engine
        As for `nstcore.stylize`.

    Returns
    -------
    Study
        A panel (3, H_l, W_l) for each channel, at the layer's own size, with the numbers "strength" (root mean square)
        and "largest", in the network's unit of activation.

    Raises
    ------
    UsageError
        If something that was given cannot be used.
    """
    if scale not in SCALES:
        raise OptionError(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}")
    seen = _see(picture, (layer,), size, weights, pooling, device, dtype, threads, engine)
    F = seen.network.features(layer)  # (N, H_l, W_l)
    strength, order = _strongest(F, channels)
    signed, white = bool((F < 0).any()), _white(F[order])
    panels = []
    for i in order:
        shown = _grey(F[i], _white(F[i]) if scale == "own" else white, signed)
        numbers = {"strength": float(strength[i]), "largest": float(np.abs(F[i]).max())}
        panels.append(Panel(f"channel {i}", shown, numbers))
    return seen.study("features", panels, {"layer": layer, "scale": scale})


def grams(
    picture: Picture,
    layers: Sequence[str] = STYLE_LAYERS,
    *,
    size: int | str = 256,
    weights: str | Path | Weights = "auto",
    pooling: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
) -> Study:
    """The Gram matrices G/M of some layers as pictures, channels in the network's order.

    What is shown is the square root of each entry, with its sign, so that both channels of a pair count once.

    Parameters
    ----------
    layers : sequence of str
    picture, size, weights, pooling, device, dtype, threads, engine
        As for `features`.

    Returns
    -------
    Study
        A panel (3, N, N) for each layer, with the numbers "channels" (N) and "largest" (entry of G/M; square of the
        network's unit of activation).

    Raises
    ------
    UsageError
        If something that was given cannot be used.
    """
    if not layers:
        raise OptionError("layers: expected at least one layer, got none")
    seen = _see(picture, layers, size, weights, pooling, device, dtype, threads, engine)
    panels = []
    for layer in layers:
        G = seen.engine.numpy(seen.network.gram(layer)).astype(np.float64) / seen.network.positions(layer)
        root = np.sign(G) * np.sqrt(np.abs(G))
        shown = _grey(root, _white(root), bool((G < 0).any()))
        panels.append(Panel(layer, shown, {"channels": len(G), "largest": float(np.abs(G).max())}))
    return seen.study("grams", panels, {"layers": list(layers)})


def filters(weights: str | Path | Weights = "auto", layer: str = FIRST) -> Study:
    """The filters of conv1_1 as patches of colour: what is added to grey, each with a scale of its own.

    They are shown as they act on RGB in [0, 1]: in that order of channels, and times range/std of the network's
    pre-processing.

    Parameters
    ----------
    weights : str, path or Weights
    layer : str
        conv1_1, or relu1_1, which is the same filters.

    Returns
    -------
    Study
        A panel (3, 3, 3) for each filter, with its "largest" weight.

    Raises
    ------
    OptionError
        For another layer: its filters read the channels below, which have no colours.
    """
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    if vgg.find(loaded.architecture, layer).name != FIRST:
        raise OptionError(
            f"layer: expected {FIRST}, whose filters read colours, got {layer}, whose filters read the channels below; "
            f"take {FIRST}, or look at the patches that drive the channels of {layer}"
        )
    w, _ = loaded.filters[FIRST]  # (K, 3, 3, 3) in the network's order of channels
    facts = loaded.preprocessing
    w = w * (facts.range / np.asarray(facts.std)).reshape(1, 3, 1, 1)
    if facts.channel_order == "bgr":
        w = w[:, ::-1]
    panels = []
    for i, patch in enumerate(w):
        largest = float(np.abs(patch).max())
        panels.append(Panel(f"filter {i}", 0.5 + 0.5 * patch / (largest or 1.0), {"largest": largest}))
    record = {"study": "filters", "layer": FIRST, "weights": {"name": loaded.name, "sha256": loaded.sha256}}
    return Study("filters", None, panels, recorded(record, panels))


def patches(
    picture: Picture,
    layer: str = "relu3_1",
    channels: int = CHANNELS,
    *,
    size: int | str = 256,
    weights: str | Path | Weights = "auto",
    pooling: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
) -> Study:
    """What of the picture drives each of a layer's strongest channels most: the receptive field of its largest value.

    Parameters
    ----------
    picture, layer, channels, size, weights, pooling, device, dtype, threads, engine
        As for `features`.

    Returns
    -------
    Study
        A panel (3, R, R) for each channel, R the side of the receptive field; white beyond the picture's border. With
        the numbers "largest" (the activation there), "row" and "column" (of the field's middle, in pixels).

    Raises
    ------
    UsageError
        If something that was given cannot be used.
    """
    seen = _see(picture, (layer,), size, weights, pooling, device, dtype, threads, engine)
    F = seen.network.features(layer)
    side, stride = vgg.receptive_field(seen.weights.architecture, layer)
    reach = (side - stride) // 2
    beyond = np.pad(seen.pixels, ((0, 0), (reach, reach), (reach, reach)), constant_values=1.0)
    panels = []
    for i in _strongest(F, channels)[1]:
        row, column = (int(n) * stride for n in np.unravel_index(F[i].argmax(), F[i].shape))
        field = beyond[:, row : row + side, column : column + side]
        numbers = {"largest": float(F[i].max()), "row": row + stride // 2, "column": column + stride // 2}
        panels.append(Panel(f"channel {i}", field.copy(), numbers))
    return seen.study("patches", panels, {"layer": layer})


@dataclass(frozen=True)
class _Seen:
    """A picture that has gone through the network."""

    picture: Picture
    pixels: np.ndarray  # (3, H, W)
    weights: Weights
    engine: Engine
    network: Network

    def study(self, name: str, panels: list[Panel], facts: dict[str, Any]) -> Study:
        height, width = self.pixels.shape[1:]
        facts = {
            "study": name,
            "content": named(self.picture),
            **facts,
            "size": {"height": height, "width": width},
            "pooling": self.network.pooling,
            **made_with(self.weights, self.engine),
        }
        return Study(name, self.pixels, panels, recorded(facts, panels))


def _see(
    picture: Picture,
    layers: Sequence[str],
    size: int | str,
    weights: str | Path | Weights,
    pooling: str | None,
    device: str,
    dtype: str | None,
    threads: int | None,
    engine: Engine | None,
) -> _Seen:
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    engine = engine or engines.create(device, dtype, threads)
    network = engine.network(loaded, layers, loaded.pooling if pooling is None else pooling)
    whole = images.as_pixels(picture)
    pixels = images.resize_pixels(whole, images.target_size((whole.shape[1], whole.shape[2]), size))
    network.shapes(*pixels.shape[1:])  # refuses a picture that is too small
    network.forward(engine.array(pixels))
    return _Seen(picture, pixels, loaded, engine, network)


def _strongest(F: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every channel's root mean square, and the numbers of the strongest, the strongest first."""
    if count < 1:
        raise OptionError(f"channels: expected 1 or more, got {count}")
    strength = np.sqrt(np.square(F, dtype=np.float64).mean(axis=(1, 2)))
    return strength, np.argsort(-strength, kind="stable")[:count]


def _white(values: np.ndarray) -> float:
    """What a hundredth of the numbers exceed; the largest, where those are all that is not 0."""
    sizes = np.abs(values)
    return float(np.quantile(sizes, _SHOWN)) or float(sizes.max())


def _grey(values: np.ndarray, white: float, signed: bool) -> np.ndarray:
    """Numbers (H, W) as grey (3, H, W): from 0, or -white, to white."""
    part = values / (white or 1.0)
    part = 0.5 + 0.5 * part if signed else part
    return np.repeat(np.clip(part, 0, 1)[None], 3, axis=0).astype(np.float32)
