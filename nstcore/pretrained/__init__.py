"""Weights: published checkpoints in, the project's own HDF5 out, and the one place that knows about file formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import NstcoreError, OutputError, WeightsError
from .convert import convert, stated_preprocessing
from .fast import FastWeights, fast_tensors, load_fast_weights
from .layout import read_weights, write_weights
from .places import (
    AUTO,
    DEFAULT_NETWORK,
    builtin_notice,
    builtin_path,
    cache_folder,
    cached_path,
    is_published,
    locate,
)
from .weights import Preprocessing, Weights

__all__ = [
    "FastWeights",
    "Preprocessing",
    "Weights",
    "builtin_notice",
    "builtin_path",
    "cache_folder",
    "convert",
    "fast_tensors",
    "load_fast_weights",
    "load_weights",
    "read_weights",
    "stated_preprocessing",
    "write_weights",
]


def load_weights(
    name_or_path: str | Path = AUTO,
    *,
    download: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    on_failure: Callable[[NstcoreError], None] | None = None,
) -> Weights:
    """Weights by name or from a file.

    Parameters
    ----------
    name_or_path : str or Path
        "auto" (the ImageNet VGG19 if it is in the cache, else the built-in filters), "builtin", a name of the registry
        (from the cache: "vgg19", "vgg16", "vgg19-torchvision", ...), or the path of a weights file.
    download : bool
        Whether a published network that is not in the cache is fetched first; for "auto" that is VGG19. Never where
        NSTCORE_OFFLINE is set.
    progress : callable, optional
        Called as progress(bytes so far, bytes in all or None) while it downloads.
    on_failure : callable, optional
        Called with the error when "auto" could not be fetched and the built-in filters are taken.

    Raises
    ------
    WeightsError
        If there is no such file, it is damaged or foreign, or its download fails.
    OutputError
        If what is downloaded cannot be written.
    """
    if download:
        _fetch_if_missing(name_or_path, progress, on_failure)
    return read_weights(locate(name_or_path))


def _fetch_if_missing(
    name_or_path: str | Path,
    progress: Callable[[int, int | None], None] | None,
    on_failure: Callable[[NstcoreError], None] | None,
) -> None:
    from .download import SHORT_TIMEOUT, TIMEOUT, fetch, offline

    name = DEFAULT_NETWORK if name_or_path == AUTO else str(name_or_path)
    if offline() or not (name_or_path == AUTO or is_published(name_or_path)) or cached_path(name).is_file():
        return
    try:
        fetch(name, timeout=SHORT_TIMEOUT if name_or_path == AUTO else TIMEOUT, progress=progress)
    except (OutputError, WeightsError) as error:
        if name_or_path != AUTO:
            raise
        if on_failure is not None:
            on_failure(error)
