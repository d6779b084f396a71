"""Weights of the feed-forward networks: the published files in, the project's own HDF5 out.

models     which tensors each network has
weights    FastWeights, the tensors in memory
layout     the HDF5 file
convert    from published files, known by their hashes, to FastWeights
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import WeightsError
from ..weights import shown
from .models import MODELS, fast_tensors
from .weights import FastWeights

__all__ = ["MODELS", "FastWeights", "fast_tensors", "load_fast_weights"]


def load_fast_weights(
    name_or_path: str | Path = "magenta",
    *,
    download: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> FastWeights:
    """Weights of a feed-forward network, by name or from files.

    Parameters
    ----------
    name_or_path : str or Path
        A name of the registry (from the cache: "magenta", "magenta-fp16", "adain"), a file that was converted, or
        published files: their folder, or one of the two with the other beside it. Those are read as they are, and
        nothing is written.
    download : bool
        Whether a published network that is not in the cache is fetched first. Never where NSTCORE_OFFLINE is set.
    progress : callable, optional
        Called as progress(bytes so far, bytes in all or None) while it downloads.

    Raises
    ------
    WeightsError
        If there is no such file, it is damaged, or of another network, or its download fails.
    OutputError
        If what is downloaded cannot be written.
    """
    from .. import places
    from .convert import find_source, read_published
    from .layout import read_fast_weights

    if places.is_fast(name_or_path):
        name = str(name_or_path)
        if download:
            _fetch_if_missing(name, progress)
        return read_fast_weights(places.published_path(name))
    path = Path(name_or_path)
    if name_or_path in (places.AUTO, places.BUILTIN) or places.is_published(name_or_path):
        raise WeightsError(
            f"weights {name_or_path}: expected weights of a feed-forward network ({' or '.join(MODELS)}), these are of "
            f"a VGG; they are for: python -m nstcore run --weights {name_or_path}"
        )
    if isinstance(name_or_path, str) and not os.path.lexists(path) and path.name == name_or_path and not path.suffix:
        raise WeightsError(
            f"weights {name_or_path!r}: neither a file or folder nor one of the names {', '.join(MODELS)}, "
            "nor another of: python -m nstcore weights list"
        )
    source = find_source(path)
    if source is None and path.is_dir():
        raise WeightsError(
            f"{shown(path)}: expected a folder with the published files of a feed-forward network (two .tflite files, "
            "or vgg_normalised.pth and decoder.pth), found neither"
        )
    return read_fast_weights(path) if source is None else read_published(source)


def _fetch_if_missing(name: str, progress: Callable[[int, int | None], None] | None) -> None:
    from .. import download, places
    from ..registry import default_registry

    if not download.offline() and not places.cached_path(name).is_file() and default_registry().named(name).published:
        download.fetch(name, progress=progress)
