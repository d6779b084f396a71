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
WAY_OUT = "set NSTCORE_HOME to one that can"  # of a cache folder that cannot be made

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


def data_path(name: str, what: str | None = None) -> Path:
    """A file that the package carries: inside an installed package, beside the package in a checkout.

    Raises
    ------
    WeightsError
        If it is in neither place; `what` is what the message calls it.
    """
    places = (_PACKAGE / "_weights" / name, _PACKAGE.parent / "weights" / name)
    for place in places:
        if place.is_file():
            return place
    raise WeightsError(f"{what or name}: expected {places[0]} or {places[1]}, found neither; install nstcore again")


def builtin_path() -> Path:
    """The built-in filters; `WeightsError` if the package has lost them."""
    return data_path("builtin.h5", "built-in filters")


def published_path(name: str) -> Path:
    """The converted file of a published network.

    Raises
    ------
    WeightsError
        If it is not in the cache, with the commands that put it there.
    """
    path = cached_path(name)
    if os.path.isfile(path):
        return path
    ways = f"python -m nstcore weights get {name}, or python -m nstcore weights convert FILE"
    if is_fast(name):  # `convert` puts its files where those of its model lie
        convert = f"python -m nstcore weights convert {'FOLDER' if _kind(name) == name else 'FOLDER -o DST.h5'}"
        ways = f"python -m nstcore weights get {name} [--from FOLDER], or {convert}"
    raise WeightsError(f"weights {name}: expected {path}, found no file; put it there with: {ways}")


def locate(name_or_path: str | Path) -> Path:
    """The weights file that a name or a path stands for.

    Parameters
    ----------
    name_or_path : str or Path
        "auto" (the converted VGG19 if it is in the cache, else the built-in filters), "builtin", a name of the registry
        ("vgg19", "vgg16", "vgg19-torchvision", ...), or a path. A file that is called like a name is reached as
        ./vgg19.

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
    if is_published(name_or_path):
        return published_path(str(name_or_path))
    if is_fast(name_or_path):
        raise WeightsError(
            f"weights {name_or_path}: expected weights of a VGG, these are of a feed-forward network; they are for: "
            f"python -m nstcore fast --weights {name_or_path}"
        )
    if isinstance(name_or_path, str) and "://" in name_or_path and not os.path.lexists(name_or_path):
        raise WeightsError(
            f"weights {name_or_path}: expected a file or a name, got an address; fetch it, or take it as a mirror: "
            "python -m nstcore weights get NAME --from URL"
        )
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and not os.path.lexists(path) and path.name == name_or_path and not path.suffix:
        names = ", ".join((AUTO, BUILTIN, *ARCHITECTURES))
        raise WeightsError(
            f"weights {name_or_path!r}: neither a file nor one of the names {names}, "
            "nor another of: python -m nstcore weights list"
        )
    return path


def is_published(name_or_path: str | Path) -> bool:
    """Whether it is a name of the registry that stands for a VGG, not a path."""
    return name_or_path in ARCHITECTURES or _kind(name_or_path) == "vgg"


def is_fast(name_or_path: str | Path) -> bool:
    """Whether it is a name of the registry that stands for a feed-forward network, not a path."""
    return _kind(name_or_path) not in (None, "vgg")


def _kind(name_or_path: str | Path) -> str | None:
    """The kind of the registry's entry of that name; None if there is none."""
    if not isinstance(name_or_path, str) or Path(name_or_path).name != name_or_path:
        return None
    from .registry import default_registry

    entry = default_registry().entries.get(name_or_path)
    return entry.kind if entry else None


def builtin_notice(reason: str | None = None) -> str:
    """What it means that `auto` fell back to the built-in filters, and how to get the real ones; lines of text.

    `reason` is why they could not be fetched, if that was tried.
    """
    tried = f" ({reason})" if reason else ""
    return (
        f"No ImageNet VGG19 in the cache{tried}: painting with the built-in filters. They were learned without labels "
        "from drawn pictures: colours and strokes of the style arrive, its larger forms less so.\n"
        f"For the picture of the literature: python -m nstcore weights get {DEFAULT_NETWORK}, or with a published file "
        "at hand: python -m nstcore weights convert FILE"
    )
