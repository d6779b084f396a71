"""From the published files of a feed-forward network to `FastWeights`, and to the project's own file.

Each network is published as two files, which are found together: in one folder, or one beside the other. Both are known
by their hashes where the registry has them; files that it does not know are taken where their content is the network,
and the provenance says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import WeightsError
from ...files import make_folder
from ...version import __version__
from .. import hdf5, places
from ..convert import check_output
from ..readers import adain, magenta, tflite
from ..registry import Digests, Entry, Registry, default_registry, file_digests
from ..weights import shown
from .layout import write_fast_weights
from .weights import FastWeights

UNKNOWN = "not one that the registry knows"

# The words of the published names by which the one file is found beside the other.
_SISTERS = ("prediction", "transfer")


@dataclass(frozen=True)
class _Reader:
    """How the published files of a model are read, both of them in the registry's order."""

    container: str
    read: Callable[[Path, Path], dict[str, np.ndarray]]


_READERS = {
    "magenta": _Reader(tflite.NAME, magenta.read),
    "adain": _Reader("torch state dicts", adain.read),
}


@dataclass(frozen=True)
class FastSource:
    """Published files that were found: of which model, and in the order in which the registry lists them."""

    model: str
    files: tuple[Path, Path]


def find_source(path: Path) -> FastSource | None:
    """The published files that a path stands for; None if it stands for none of a feed-forward network.

    Parameters
    ----------
    path : Path
        The folder that holds both files, or one of them, with the other one beside it.

    Raises
    ------
    WeightsError
        If one of the two is missing, or there are too many.
    """
    if os.path.isdir(path):
        if models := sorted(file for file in path.glob(f"*{tflite.SUFFIX}") if file.is_file()):
            if len(models) != 2:
                found = ", ".join(shown(file.name) for file in models[:4])
                raise WeightsError(
                    f"{shown(path)}: expected two {tflite.SUFFIX} files, prediction and transfer, found {len(models)} "
                    f"({found}); give one of them instead, the other one is found beside it"
                )
            return FastSource("magenta", magenta.roles((models[0], models[1])))
        pair = path / adain.ENCODER_FILE, path / adain.DECODER_FILE
        return FastSource("adain", pair) if pair[1].is_file() and _beside(*pair) else None
    if path.suffix == tflite.SUFFIX or tflite.recognise(path):
        hdf5.first_bytes(path, 1)  # if it is there at all
        return FastSource("magenta", magenta.roles((path, _sister(path))))
    if path.name == adain.DECODER_FILE and path.is_file():
        encoder = path.with_name(adain.ENCODER_FILE)
        return FastSource("adain", (_beside(encoder, path), path))
    return None


def read_published(source: FastSource, registry: Registry | None = None) -> FastWeights:
    """The weights of published files; nothing is written.

    Raises
    ------
    WeightsError
        If a file is missing, damaged, or not the network's.
    """
    tensors = _READERS[source.model].read(*source.files)
    digests = [file_digests([file]) for file in source.files]
    entry = (registry or default_registry()).find_fast(source.model, digests)
    return _assembled(source, tensors, entry, None)


def convert_fast(
    source_path: str | Path,
    output_path: str | Path | None = None,
    *,
    name: str | None = None,
    registry: Registry | None = None,
) -> FastWeights:
    """Read published files, and write them in our layout.

    Parameters
    ----------
    source_path : str or Path
        Their folder, or one of them, with the other one beside it.
    output_path : str or Path, optional
        In a folder that exists. Default: the model's place in the cache, which is made if need be.
    name : str, optional
        What the weights are called. Default: the registry's name for the files, else the model's.
    registry : Registry, optional
        Default: the one that the package carries.

    Raises
    ------
    WeightsError
        If a file is missing, damaged, or not the network's.
    OutputError
        If nothing can be written there, or the output is one of the files.
    """
    source = find_source(Path(source_path))
    if source is None:
        raise WeightsError(f"{shown(source_path)}: expected the published files of magenta or adain, found none")
    weights = read_published(source, registry)
    if name is not None:
        weights = FastWeights(name, weights.model, weights.tensors, weights.provenance)
    if output_path is None:
        output_path = places.cached_path(source.model)
        make_folder(output_path.parent, places.WAY_OUT)
    check_output(Path(output_path), source.files)
    write_fast_weights(output_path, weights)
    return weights


def convert_fast_entry(
    entry: Entry, files: Sequence[Path], output: Path, *, urls: Sequence[str] = (), digests: Sequence[Digests]
) -> FastWeights:
    """Convert files that must be those of an entry of the registry.

    Parameters
    ----------
    entry : Entry
    files : sequence of Path
        In the entry's order.
    output : Path
    urls : sequence of str
        Where they came from. Default: the entry's own addresses.
    digests : sequence of Digests
        Of the files.

    Raises
    ------
    WeightsError
        If a file is not the entry's, or not the network's.
    OutputError
        If nothing can be written there.
    """
    for published, path, found in zip(entry.files, files, digests, strict=True):
        published.check(found, entry.name, path.name)
    source = FastSource(entry.kind, (files[0], files[1]))
    weights = _assembled(source, _READERS[source.model].read(*source.files), entry, urls)
    check_output(output, source.files)
    write_fast_weights(output, weights)
    return weights


def _assembled(
    source: FastSource, tensors: dict[str, np.ndarray], entry: Entry | None, urls: Sequence[str] | None
) -> FastWeights:
    names = [file.file for file in entry.files] if entry else [shown(file.name) for file in source.files]
    provenance = {
        "source": ", ".join(names),
        "source_sha256": file_digests(source.files).sha256,
        "container": _READERS[source.model].container,
        "licence": entry.licence if entry else f"not known: {UNKNOWN}",
        "converter": f"nstcore {__version__}",
    }
    if entry:
        addresses = urls or [url for file in entry.files for url in file.urls[:1]]
        provenance |= {"source_url": ", ".join(addresses)} if addresses else {}
    else:
        provenance["registry"] = UNKNOWN
    try:
        return FastWeights(entry.name if entry else source.model, source.model, tensors, provenance)
    except WeightsError as error:
        raise WeightsError(f"{shown(source.files[0])}: {error}") from error


def _sister(path: Path) -> Path:
    """The other one of the two files of TensorFlow Lite, by its name."""
    for word, other in (_SISTERS, _SISTERS[::-1]):
        if word in path.name:
            return _beside(path.with_name(path.name.replace(word, other)), path)
    raise WeightsError(
        f"{shown(path)}: expected {' or '.join(_SISTERS)} in its name, by which the other file is found beside it; "
        "give the folder that holds only these two"
    )


def _beside(path: Path, given: Path) -> Path:
    if not path.is_file():
        raise WeightsError(
            f"{shown(given)}: expected {shown(path.name)} beside it, found no such file; the network is both files"
        )
    return path
