"""Where weights lie: the cache folder, and the built-in file that the package carries.

Nothing heavy is imported here, so that the command line can ask at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import WeightsError
from ..vgg import ARCHITECTURES

BUILTIN = "builtin"
AUTO = "auto"
DEFAULT_NETWORK = "vgg19"

# The smallest published file that the readers take.
DEFAULT_SOURCE = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
)

_PACKAGE = Path(__file__).resolve().parents[1]


def cache_folder() -> Path:
    """Folder of the converted weights; it need not exist.

    It is `weights` in NSTCORE_HOME, else in XDG_CACHE_HOME/nstcore, else in ~/.cache/nstcore.
    """
    if os.environ.get("NSTCORE_HOME"):
        home = Path(os.environ["NSTCORE_HOME"]).expanduser()
    elif os.environ.get("XDG_CACHE_HOME"):
        home = Path(os.environ["XDG_CACHE_HOME"]) / "nstcore"
    else:
        home = Path(os.path.expanduser("~")) / ".cache" / "nstcore"
    return home / "weights"


def cached_path(name: str) -> Path:
    """Where the weights of that name lie in the cache, once they have been put there."""
    return cache_folder() / f"{name}.h5"


def builtin_path() -> Path:
    """The built-in filters: inside an installed package, beside the package in a checkout.

    Raises
    ------
    WeightsError
        If the file is in neither place.
    """
    places = (_PACKAGE / "_weights" / "builtin.h5", _PACKAGE.parent / "weights" / "builtin.h5")
    for place in places:
        if place.is_file():
            return place
    raise WeightsError(f"built-in filters: expected {places[0]} or {places[1]}, found neither; install nstcore again")


def published_path(name: str) -> Path:
    """The converted file of a published network.

    Raises
    ------
    WeightsError
        If it is not in the cache, with the command that puts it there.
    """
    path = cached_path(name)
    if os.path.isfile(path):
        return path
    raise WeightsError(
        f"weights {name}: expected {path}, found no file; put it there with: python -m nstcore weights convert FILE"
    )


def locate(name_or_path: str | Path) -> Path:
    """The weights file that a name or a path stands for.

    Parameters
    ----------
    name_or_path : str or Path
        "auto" (the converted VGG19 if it is in the cache, else the built-in filters), "builtin", "vgg16", "vgg19", or a
        path. A file that is called like a name is reached as ./vgg19.

    Raises
    ------
    WeightsError
        If there is no such file.
    """
    if name_or_path == AUTO:
        cached = cached_path(DEFAULT_NETWORK)
        return cached if os.path.isfile(cached) else builtin_path()
    if name_or_path == BUILTIN:
        return builtin_path()
    if name_or_path in ARCHITECTURES:
        return published_path(str(name_or_path))
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and not os.path.lexists(path) and path.name == name_or_path and not path.suffix:
        names = ", ".join((AUTO, BUILTIN, *ARCHITECTURES))
        raise WeightsError(f"weights {name_or_path!r}: neither a file nor one of the names {names}")
    return path


def builtin_notice() -> str:
    """What it means that `auto` fell back to the built-in filters, and how to get the real ones; two lines of text."""
    return (
        "No ImageNet VGG19 in the cache: painting with the built-in filters. They were learned without labels from "
        "drawn pictures: colours and strokes of the style arrive, its larger forms less so.\n"
        f"For the picture of the literature, fetch {DEFAULT_SOURCE} and run: python -m nstcore weights convert FILE"
    )
