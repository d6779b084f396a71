"""Weights in memory: filters by name, and the facts without which they cannot be used.

A published checkpoint is more than its filters. Fed with the wrong channel order, range or mean it still answers, only
worse, so the pre-processing travels with the filters and is known nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from .. import vgg
from ..errors import LayerError, WeightsError

ChannelOrder = Literal["rgb", "bgr"]
Padding = Literal["zero", "replicate", "replicate-first"]
Pooling = Literal["max", "average", "l2"]

RANGES = (1.0, 255.0)

# Provenance that every file states; more may follow.
PROVENANCE = ("source", "source_sha256", "licence", "converter")

_PROVENANCE_KEY = re.compile(r"[a-z][a-z0-9_]{0,62}")
_LONGEST_TEXT = 4096


@dataclass(frozen=True)
class Preprocessing:
    """What the network expects of a picture.

        x[c] = (range * pixels[order[c]] - mean[c]) / std[c]        pixels: RGB in [0, 1]

    Parameters
    ----------
    channel_order : {"rgb", "bgr"}
        Order of the network's input channels.
    range : float
        What the network calls white: 1 or 255.
    mean, std : tuple of three floats
        In the network's channel order and range.

    Raises
    ------
    WeightsError
        If a value is not one of these.
    """

    channel_order: ChannelOrder
    range: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        _one_of("channel_order", self.channel_order, get_args(ChannelOrder))
        _one_of("range", self.range, RANGES)
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise WeightsError(f"{name}: expected three finite numbers, got {values}")
            object.__setattr__(self, name, values)
        object.__setattr__(self, "range", float(self.range))
        if min(self.std) <= 0:
            raise WeightsError(f"std: expected three numbers above 0, got {self.std}")

    def describe(self) -> str:
        """One line for a person."""
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"{self.channel_order.upper()} 0-{self.range:g}, mean {mean}, std {std}"


@dataclass(frozen=True, eq=False)
class Weights:
    """The convolutions of one network from conv1_1 on, without holes; they may end before the network does.

    Parameters
    ----------
    name : str
        What a person calls them: vgg19, builtin.
    architecture : str
        A key of `nstcore.vgg.ARCHITECTURES`.
    filters : dict of str to (weight, bias)
        By convolution name: weight of shape (K, C, 3, 3) and bias of shape (K,), both float32 and C-contiguous,
        y[k,p,q] = bias[k] + sum_{c,r,s} weight[k,c,r,s] x[c,p+r-1,q+s-1].
    preprocessing : Preprocessing
    padding : {"zero", "replicate", "replicate-first"}
        What the convolutions see beyond the border: zeros, the nearest value, or that in the first one only.
    pooling : {"max", "average", "l2"}
        The default when painting with these filters.
    provenance : dict of str to str
        Where they come from. A file states at least source, source_sha256, licence and converter.

    Raises
    ------
    WeightsError
        If a convolution is missing or foreign, or an array has another shape or type, or is not finite.
    """

    name: str
    architecture: str
    filters: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    preprocessing: Preprocessing
    padding: Padding
    pooling: Pooling
    provenance: dict[str, str]

    def __post_init__(self) -> None:
        check_text("name", self.name)
        _one_of("architecture", self.architecture, tuple(vgg.ARCHITECTURES))
        _one_of("padding", self.padding, get_args(Padding))
        _one_of("pooling", self.pooling, get_args(Pooling))
        check_provenance(self.provenance)
        present = present_convolutions(self.architecture, self.filters)
        shapes = vgg.convolutions(self.architecture)
        for conv in present:
            weight, bias = self.filters[conv]
            check_array(f"{conv}/weight", weight, shapes[conv])
            check_array(f"{conv}/bias", bias, shapes[conv][:1])
        # in the order of the data, whatever order they came in
        object.__setattr__(self, "filters", {conv: self.filters[conv] for conv in present})

    @property
    def deepest(self) -> str:
        """Name of the last convolution present."""
        return next(reversed(self.filters))

    def padding_of(self, conv: str) -> str:
        """What one convolution sees beyond the border: "zero" or "replicate"."""
        if self.padding == "replicate-first":
            return "replicate" if conv == next(iter(self.filters)) else "zero"
        return self.padding

    def with_pooling_scaled(self, scale: float) -> Weights:
        """The same network with the output of every pooling multiplied by `scale`.

        A convolution is linear, so the factor goes into the filters that read the pooling; a loss on the pooling itself
        sees it as it was.
        """
        steps = vgg.steps(self.architecture)
        after = {step.name for below, step in pairwise(steps) if below.kind == "pool"}
        filters = {conv: (w * np.float32(scale) if conv in after else w, b) for conv, (w, b) in self.filters.items()}
        return replace(self, filters=filters)

    @cached_property
    def sha256(self) -> str:
        """Hash over everything that the picture depends on: filters, architecture, pre-processing, padding, pooling.

        Name and provenance do not enter: the same network from two containers has the same hash. It is the SHA-256 of
        the compact JSON text, keys sorted, of these facts, each array standing there as the SHA-256 of its float32
        little-endian bytes in C order.
        """
        facts = {
            "architecture": self.architecture,
            "channel_order": self.preprocessing.channel_order,
            "range": self.preprocessing.range,
            "mean": self.preprocessing.mean,
            "std": self.preprocessing.std,
            "padding": self.padding,
            "pooling": self.pooling,
            "filters": {conv: [array_sha256(a) for a in arrays] for conv, arrays in self.filters.items()},
        }
        return text_sha256(facts)

    def describe(self) -> str:
        """One line for a person."""
        source = self.provenance.get("source")
        return (
            f"{self.name}: {self.architecture} to {self.deepest} ({len(self.filters)} convolutions), "
            f"{self.preprocessing.describe()}, {self.padding} padding, {self.pooling} pooling, "
            f"{f'from {source}, ' if source else ''}sha256 {self.sha256[:16]}"
        )

    def require(self, taps: Iterable[str]) -> None:
        """Refuse taps that these weights do not reach.

        Parameters
        ----------
        taps : iterable of str
            Layer names, as relu4_2, conv4_2 or pool4.

        Raises
        ------
        LayerError
            If the network has no such layer, or the weights end before it.
        """
        for tap in taps:
            for step in vgg.steps_for(self.architecture, [tap]):
                if step.kind == "conv" and step.name not in self.filters:
                    raise LayerError(
                        f"layer {tap}: the weights {self.name!r} end at {self.deepest}; "
                        f"take a layer up to there, or weights of the whole {self.architecture}"
                    )


def present_convolutions(architecture: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of the data, once it is sure that they are a beginning of the network without holes.

    Raises
    ------
    WeightsError
        If there are none, one is foreign to the network, or one is missing before another.
    """
    given = set(names)
    every = tuple(vgg.convolutions(architecture))
    foreign = sorted(given.difference(every))
    if foreign:
        raise WeightsError(f"{shown(foreign[0])}: expected only convolutions of {architecture}, as {every[0]}")
    present = tuple(conv for conv in every if conv in given)
    if not present:
        raise WeightsError(f"{every[0]}: expected at least this convolution of {architecture}, found none")
    hole = next((conv for conv, expected in zip(present, every, strict=False) if conv != expected), None)
    if hole is not None:
        missing = every[present.index(hole)]
        raise WeightsError(f"{missing}: missing, although {hole} is there; the convolutions must follow without holes")
    return present


def check_text(what: str, text: object) -> str:
    """`text`, once it is sure that it is one line that a terminal can show."""
    if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= _LONGEST_TEXT:
        raise WeightsError(f"{what}: expected one line of plain text, got {shown(repr(text)[:80])}")
    return text


def check_provenance(provenance: Mapping[str, str]) -> None:
    """`WeightsError` unless every key is a plain word and every text one line."""
    for key, text in provenance.items():
        if not isinstance(key, str) or not _PROVENANCE_KEY.fullmatch(key):
            raise WeightsError(f"provenance: expected keys of a-z, 0-9 and _, got {key!r}")
        check_text(f"provenance {key}", text)


def shown(path: str | Path) -> str:
    """A path or a foreign name as it may stand in a one-line message."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of the elements in C order, little-endian."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()


def text_sha256(facts: Mapping[str, object]) -> str:
    """SHA-256 of the facts as compact JSON with sorted keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _one_of(what: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise WeightsError(f"{what}: expected one of {', '.join(map(str, choices))}, got {shown(repr(value)[:80])}")


def check_array(what: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """`WeightsError` unless it is a float32 array of this shape, C-contiguous and finite."""
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float32:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise WeightsError(f"{what}: expected float32 {shape}, got {got}")
    if not array.flags.c_contiguous:
        raise WeightsError(f"{what}: expected a C-contiguous array, got strides {array.strides}")
    if not np.isfinite(array).all():
        raise WeightsError(
            f"{what}: expected finite numbers, found {np.count_nonzero(~np.isfinite(array))} that are not"
        )
