"""From a published checkpoint to the project's own weights file.

What the network expects of a picture comes from the file's content where the content tells it, from the registry where
the file is one of those listed there, and from options otherwise. Whatever is known must agree; nothing is guessed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import OptionError, OutputError, WeightsError
from ..files import HDF5, check_kind, make_folder
from ..version import __version__
from . import layout, places
from .readers import Source, read_source
from .registry import Digests, Registry, VggEntry, default_registry, file_digests
from .storage import check_storage
from .weights import ChannelOrder, Preprocessing, Weights, shown

_Colour = tuple[float, float, float]

# Mean and std of the two families of training, by range, in the order R, G, B: Oxford's (and Keras'), torchvision's.
_USUAL: dict[float, tuple[_Colour, _Colour]] = {
    255.0: ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
    1.0: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Two statements of one mean or std may be rounded differently; relative to the range, and to the std.
_MEAN_TOLERANCE = 1e-4
_STD_TOLERANCE = 1e-3


def convert(
    source_path: str | Path,
    output_path: str | Path | None = None,
    storage: str = "float32",
    *,
    name: str | None = None,
    preprocessing: Preprocessing | None = None,
    registry: Registry | None = None,
) -> Weights:
    """Read a published checkpoint, whatever its container, and write it in our layout.

    Parameters
    ----------
    source_path : str or Path
        A file, or the folder of a TensorFlow.js model.
    output_path : str or Path, optional
        In a folder that exists. Default: the architecture's place in the cache, which is made if need be.
    storage : {"float32", "float16", "int8"}
        See `nstcore.pretrained.storage`.
    name : str, optional
        What the weights are called. Default: the registry's name for the file, else the architecture.
    preprocessing : Preprocessing, optional
        What the network expects; needed where neither the content nor the registry tells it, see
        `stated_preprocessing`.
    registry : Registry, optional
        Default: the one that the package carries.

    Returns
    -------
    weights : Weights
        As stored. Its provenance holds `source` (the file's name), `source_sha256` (of the bytes of every file that was
        read, one after the other; for TensorFlow.js model.json and the shards that hold convolutions, in the manifest's
        order), `source_url` (of a file that the registry knows), `container`, `licence`, `converter`, `storage` and
        `rounding`.

    Raises
    ------
    WeightsError
        If the source is missing, foreign, damaged or incomplete, differs from what the registry says of it, or nobody
        says what it expects of a picture.
    OptionError
        If there is no such storage, or `preprocessing` contradicts the content or the registry.
    OutputError
        If nothing can be written there, or the output is one of the source's files.
    """
    check_storage(storage)
    source = read_source(Path(source_path))
    digests = file_digests(source.files)
    entry = (registry or default_registry()).find(digests)
    if output_path is None:
        output_path = places.cached_path(source.architecture)
        make_folder(output_path.parent, places.WAY_OUT)
    return _store(source, digests, entry, Path(output_path), storage, name, preprocessing, None)


def convert_entry(
    entry: VggEntry, source_path: Path, output: Path, *, url: str | None = None, digests: Digests | None = None
) -> Weights:
    """Convert a file that must be that entry of the registry.

    Parameters
    ----------
    entry : VggEntry
    source_path, output : Path
    url : str, optional
        Where the file came from. Default: the entry's own address, if it has one.
    digests : Digests, optional
        Of the file, if they have been made already.

    Raises
    ------
    WeightsError
        As `convert`; also if the file is not the entry's.
    OutputError
        As `convert`.
    """
    source = None
    if digests is None:
        source = read_source(source_path)
        digests = file_digests(source.files)
    entry.files[0].check(digests, entry.name, source_path)
    return _store(source or read_source(source_path), digests, entry, output, "float32", None, None, url)


def stated_preprocessing(
    channel_order: ChannelOrder, range: float, mean: _Colour | None = None, std: _Colour | None = None
) -> Preprocessing:
    """Pre-processing as a person states it: `mean` and `std` in the order R, G, B whatever the channel order.

    Parameters
    ----------
    channel_order : {"rgb", "bgr"}
        Order of the network's input channels.
    range : {1, 255}
        What the network calls white.
    mean, std : tuple of three floats, optional
        Both or neither; in that range. Default for 255: Oxford's mean 123.68, 116.779, 103.939 and std 1; for 1:
        torchvision's mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225.

    Raises
    ------
    OptionError
        If a value is not one of these.
    """
    if (mean is None) != (std is None):
        raise OptionError("mean, std: expected both or neither, got one of them")
    if range not in _USUAL:
        raise OptionError(f"range: expected 1 or 255, got {range:g}")
    if mean is None or std is None:
        mean, std = _USUAL[range]
    step = -1 if channel_order == "bgr" else 1
    try:
        return Preprocessing(channel_order, range, mean[::step], std[::step])  # type: ignore[arg-type]
    except WeightsError as error:
        raise OptionError(str(error)) from error


def check_output(output: Path, sources: Iterable[Path]) -> None:
    """`OutputError` if the output is one of the source's files, or another file that holds no weights."""
    for file in sources:
        if os.path.exists(output) and os.path.samefile(file, output):
            raise OutputError(f"{shown(output)}: the output is the source itself; give another path with -o")
    check_kind(output, HDF5, "a weights file")


def _store(
    source: Source,
    digests: Digests,
    entry: VggEntry | None,
    output: Path,
    storage: str,
    name: str | None,
    stated: Preprocessing | None,
    url: str | None,
) -> Weights:
    check_output(output, source.files)
    what = shown(source.files[0])
    provenance = {
        "source": entry.files[0].file if entry else _source_name(source.files),
        "source_sha256": digests.sha256,
        "container": source.container,
        "licence": entry.licence if entry else source.licence,
        "converter": f"nstcore {__version__}",
    }
    if entry and (address := url or next(iter(entry.files[0].urls), None)):
        provenance["source_url"] = address
    try:
        if entry and entry.architecture != source.architecture:
            raise WeightsError(f"the registry calls it {entry.name}, {entry.architecture}; it is {source.architecture}")
        weights = Weights(
            name=name or (entry.name if entry else source.architecture),
            architecture=source.architecture,
            filters=source.filters,
            preprocessing=_agreed(source, entry, stated),
            padding=entry.padding if entry else source.padding,
            pooling=entry.pooling if entry else source.pooling,
            provenance=provenance,
        )
    except (OptionError, WeightsError) as error:
        raise type(error)(f"{what}: {error}") from error
    return layout.write_weights(output, weights, storage)


def _agreed(source: Source, entry: VggEntry | None, stated: Preprocessing | None) -> Preprocessing:
    """What is known of the pre-processing, once all who know it agree; the registry's numbers are the exact ones."""
    content, listed = source.preprocessing, entry.preprocessing if entry else None
    known = listed or content
    if known is None and stated is None:
        raise WeightsError(
            f"a {source.container} file does not tell what the network expects of a picture, and the registry does not "
            "know this one; state --channel-order rgb|bgr --range 1|255 [--mean R,G,B --std R,G,B]"
        )
    if content and listed and not same_preprocessing(content, listed):
        raise WeightsError(f"its content says {content.describe()}, the registry {listed.describe()}; not converted")
    if known and stated and not same_preprocessing(known, stated):
        says = "the registry" if listed else "its content"
        raise OptionError(f"{says} says {known.describe()}, the options {stated.describe()}; leave them out")
    return known or stated  # type: ignore[return-value]


def same_preprocessing(a: Preprocessing, b: Preprocessing) -> bool:
    """Whether both do the same to a picture, but for rounding; 0-1 and 0-255 are compared on one scale."""
    return a.channel_order == b.channel_order and all(
        math.isclose(m / a.range, n / b.range, rel_tol=0, abs_tol=_MEAN_TOLERANCE)
        and math.isclose(s / a.range, t / b.range, rel_tol=_STD_TOLERANCE)
        for m, n, s, t in zip(a.mean, b.mean, a.std, b.std, strict=True)
    )


def _source_name(files: tuple[Path, ...]) -> str:
    """The file's name, with its folder's where there are several: the path before it is the machine's own business."""
    first = files[0].resolve()
    name = f"{first.parent.name}/{first.name}" if len(files) > 1 else first.name
    return shown(name)
