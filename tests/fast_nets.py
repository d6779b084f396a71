"""Weights of the one-pass networks for tests: random ones of the published shapes."""

from __future__ import annotations

from functools import cache

import numpy as np

from nstcore.pretrained import FastWeights
from nstcore.pretrained.fast import fast_tensors

PROVENANCE = {"source": "tests", "source_sha256": "0" * 64, "licence": "none", "converter": "tests"}


@cache
def random_fast_weights(model: str, seed: int = 0) -> FastWeights:
    """Filters whose outputs are about as large as their inputs, whatever the depth; a network of its own for a seed."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in fast_tensors(model).items():
        terms = int(np.prod(shape[1:])) or 1
        if name.endswith("bias"):
            # Scales are about 1, shifts about 0
            mean, spread = (1.0, 0.1) if "scale" in name else (0.05, 0.05)
        else:
            gain = 1.0 if "scale" in name or "shift" in name or "project" in name else 2.0
            mean, spread = 0.0, np.sqrt(gain / terms)
        tensors[name] = (mean + spread * rng.standard_normal(shape)).astype(np.float32)
    return FastWeights(f"random-{model}", model, tensors, dict(PROVENANCE))
