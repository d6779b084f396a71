"""Filters of the native kernels, packed once: each pass in the order in which its kernel reads them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...pretrained.weights import Weights
from ...vgg import Step
from .arena import Arena
from .library import Crew, Library


def plan_filters(library: Library, weights: Weights, steps: Iterable[Step]) -> Arena:
    """Of every convolution NAME:bias, NAME:forward, NAME:backward and, where its border needs it, NAME:plain."""
    arena = Arena()
    for step in steps:
        if step.kind != "conv":
            continue
        C, K = step.in_channels, step.out_channels
        arena.add(f"{step.name}:bias", (K,), np.float32)
        if C == 3:
            arena.add(f"{step.name}:forward", (27, K), np.float32)
            arena.add(f"{step.name}:backward", (K, 32), np.float32)
            continue
        transformed, turned = (36 if library.transformed(*pair) else 9 for pair in ((C, K), (K, C)))
        arena.add(f"{step.name}:forward", (transformed, C, K), np.float32)
        arena.add(f"{step.name}:backward", (turned, K, C), np.float32)
        if weights.padding_of(step.name) == "replicate" and turned == 36:
            arena.add(f"{step.name}:plain", (9, K, C), np.float32)
    return arena


def pack_filters(library: Library, crew: Crew, weights: Weights, steps: Iterable[Step]) -> dict[str, np.ndarray]:
    """What `plan_filters` names."""
    steps, team = tuple(steps), crew.pointer
    packed = plan_filters(library, weights, steps).allocate()
    for step in steps:
        if step.kind != "conv":
            continue
        w, b = (np.ascontiguousarray(a, np.float32) for a in weights.filters[step.name])
        C, K = step.in_channels, step.out_channels
        forward, backward = packed[f"{step.name}:forward"], packed[f"{step.name}:backward"]
        packed[f"{step.name}:bias"][...] = b
        if C == 3:
            rows = np.ascontiguousarray(w.transpose(1, 2, 3, 0).reshape(27, K))
            library.pack_first(rows, K, forward, backward)
            continue
        pack = {36: library.pack_transformed, 9: library.pack_plain}
        pack[len(forward)](team, w, K, C, 0, forward)
        pack[len(backward)](team, w, C, K, 1, backward)
        if f"{step.name}:plain" in packed:
            library.pack_plain(team, w, C, K, 1, packed[f"{step.name}:plain"])
    return packed
