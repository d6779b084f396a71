"""The filters of a network on the device, each pass in the order in which its kernels read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...pretrained.weights import Weights
from ...vgg import Step
from .conv import RUNGS, ConvRung
from .device import Array, Device
from .pixels import PREPARED, turned_filters
from .precision import Precision


class Packed(dict[str, Array]):
    """Arrays by name, for as long as a network has them.

    Attributes
    ----------
    source : list of ndarray
        What they were made of: while these live, nothing else has their places in memory.
    """

    source: list[np.ndarray]


def pack(steps: Sequence[Step], weights: Weights, rung: ConvRung, precision: Precision, device: Device) -> Packed:
    """Arrays of the device by name, for each convolution of `steps`: "conv1_2:bias", "..:forward", "..:backward"; and
    "..:plain", the turned filters for the replicated border, which may be the same array as "..:backward".

    The same weights lie on a device once, however many networks read them."""
    names = [step.name for step in steps if step.kind == "conv"]
    source = [a for name in names for a in weights.filters[name]]
    borders = tuple(weights.padding_of(name) for name in names)
    key = rung.name, precision.name, borders, *map(id, source)
    found = device.packed.get(key)
    if found is None:
        found = device.packed[key] = Packed(_pack(steps, weights, rung, precision, device))
        found.source = source
    return found


def _pack(steps: Sequence[Step], weights: Weights, rung: ConvRung, precision: Precision, device: Device) -> dict:
    packed: dict[str, Array] = {}
    for step in steps:
        if step.kind != "conv":
            continue
        w, b = (np.ascontiguousarray(a, np.float32) for a in weights.filters[step.name])
        packed[f"{step.name}:bias"] = device.to_device(b)
        if step.in_channels == 3:
            packed[f"{step.name}:backward"] = device.to_device(turned_filters(w))
            w = np.pad(w, ((0, 0), (0, PREPARED - 3), (0, 0), (0, 0)))
            packed[f"{step.name}:forward"] = device.to_device(rung.filters(w, precision))
            continue
        packed[f"{step.name}:forward"] = device.to_device(rung.filters(w, precision))
        turned = rung.turned(w, precision)
        backward = packed[f"{step.name}:backward"] = device.to_device(turned)
        if weights.padding_of(step.name) == "replicate":
            plain = RUNGS["01_naive"].turned(w, precision)
            same = np.array_equal(plain, turned)
            packed[f"{step.name}:plain"] = backward if same else device.to_device(plain)
    return packed


def inputs(step: Step) -> int:
    """Channels of what a convolution reads."""
    return PREPARED if step.in_channels == 3 else step.in_channels


def size(packed: dict[str, Array]) -> int:
    """Bytes of them; an array that has two names is counted once."""
    return sum(a.nbytes for a in {id(a): a for a in packed.values()}.values())
