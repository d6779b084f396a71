"""What the project's HDF5 files have in common: one format attribute, facts sealed by a hash, hashed datasets.

    /            attributes: format, format_version, the facts, sha256 (of the content),
                 attributes_sha256 (of all others)
    datasets     attribute: sha256

The same content gives the same bytes, and a file is either whole or not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ..errors import OutputError, WeightsError
from ..files import replacing
from . import hdf5
from .weights import PROVENANCE, array_sha256, shown, text_sha256

INTEGRITY = ("format", "format_version", "sha256", "attributes_sha256")

# Object headers and chunk indices of HDF5 1.10 carry checksums, those of the default (oldest) version do not.
_HDF5_VERSION = ("v110", "v110")


def check_provenance(provenance: Mapping[str, str], taken: Iterable[str]) -> None:
    """`WeightsError` unless a file's provenance is complete, and no key of it is one of the facts `taken`."""
    for key in PROVENANCE:
        if key not in provenance:
            raise WeightsError(f"provenance: expected {', '.join(PROVENANCE)}; {key} is missing")
    reserved = [key for key in provenance if key in (*taken, *INTEGRITY)]
    if reserved:
        raise WeightsError(f"provenance: {reserved[0]} is not provenance but a fact of the layout; take another key")


@contextmanager
def written(path: str | Path) -> Iterator[h5py.File]:
    """A new file, moved to its place when the block ends well; `OutputError` if it cannot be written."""
    path = Path(path)
    with replacing(path) as part:
        try:
            with h5py.File(part, "w", libver=_HDF5_VERSION) as file:
                yield file
        except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
            reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())[:200]
            raise OutputError(f"{shown(path)}: cannot be written: {shown(reason)}; choose another place") from error


def write_facts(file: h5py.File, format: str, version: int, facts: Mapping[str, object]) -> None:
    """The root attributes, and their hash."""
    every = {"format": format, "format_version": version, **facts}
    for name, value in {**every, "attributes_sha256": text_sha256(every)}.items():
        hdf5.set_attribute(file, name, value)


def write_dataset(group: h5py.Group, name: str, data: np.ndarray) -> None:
    """An array with its hash; bytes are compressed, everything else lies as it is."""
    if data.dtype == np.int8:
        dataset = hdf5.write_gzip(group, name, data)
    else:
        dataset = group.create_dataset(name, data=data.astype(data.dtype.newbyteorder("<"), copy=False))
    hdf5.set_attribute(dataset, "sha256", array_sha256(data))


def format_of(file: h5py.File) -> str:
    """Which of our formats it says it is.

    Raises
    ------
    WeightsError
        If it says nothing.
    """
    if "format" not in file.attrs:
        raise WeightsError(
            "expected the attribute format of a weights file, found none; "
            "a published checkpoint must be converted first: python -m nstcore weights convert FILE"
        )
    return str(hdf5.attribute(file, "format"))


def read_facts(file: h5py.File, format: str, version: int, kinds: Mapping[str, type]) -> dict[str, object]:
    """The root attributes, once they are complete, of the right kind and equal to their hash.

    Parameters
    ----------
    file : h5py.File
    format : str
    version : int
    kinds : mapping of str to type
        The facts that must be there; any other is text.
    """
    format_of(file)
    for name, expected in (("format", format), ("format_version", version)):
        found = hdf5.attribute(file, name)
        if found != expected:
            raise WeightsError(f"attribute {name}: expected {expected}, found {shown(str(found))}")
    kinds = {**kinds, "attributes_sha256": str}
    facts: dict[str, object] = {}
    for name in (*kinds, *file.attrs):
        facts[name] = hdf5.attribute(file, name)
        kind = kinds.get(name, int if name == "format_version" else str)
        if not isinstance(facts[name], kind):
            raise WeightsError(f"attribute {shown(name)}: expected {kind.__name__}, found {type(facts[name]).__name__}")
    sealed = text_sha256({name: value for name, value in facts.items() if name != "attributes_sha256"})
    if facts["attributes_sha256"] != sealed:
        raise WeightsError("attribute attributes_sha256: does not fit the other attributes; one of them was changed")
    return facts


def fitting(dataset: h5py.Dataset, array: np.ndarray) -> np.ndarray:
    """The array that was read of a dataset, once it is sure that its hash fits."""
    if array_sha256(array) != hdf5.attribute(dataset, "sha256"):
        raise WeightsError(f"{dataset.name}: its data does not fit its sha256; fetch or convert the file again")
    return array
