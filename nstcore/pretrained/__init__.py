"""Weights: published checkpoints in, the project's own HDF5 out, and the one place that knows about file formats."""

from __future__ import annotations

from pathlib import Path

from .convert import convert
from .layout import read_weights, write_weights
from .places import AUTO, builtin_notice, builtin_path, cache_folder, locate
from .weights import Preprocessing, Weights

__all__ = [
    "Preprocessing",
    "Weights",
    "builtin_notice",
    "builtin_path",
    "cache_folder",
    "convert",
    "load_weights",
    "read_weights",
    "write_weights",
]


def load_weights(name_or_path: str | Path = AUTO) -> Weights:
    """Weights by name or from a file.

    Parameters
    ----------
    name_or_path : str or Path
        "auto" (the ImageNet VGG19 if it is in the cache, else the built-in filters), "builtin", "vgg16" or "vgg19"
        (from the cache), or the path of a weights file.

    Raises
    ------
    WeightsError
        If there is no such file, or it is damaged or foreign.
    """
    return read_weights(locate(name_or_path))
