"""The project's own weights file: HDF5, described dataset by dataset in `weights/README.md`.

    /                    attributes: format, format_version, name, architecture, channel_order, range, mean, std,
                         padding, pooling, source, source_sha256, licence, converter, storage, rounding, sha256,
                         attributes_sha256, and any further provenance
    /convX_Y/weight      (K, C, 3, 3) float32, float16 or int8      attribute: sha256
    /convX_Y/bias        (K,) float32                               attribute: sha256
    /convX_Y/scale       (K,) float32, with int8 weights only       attribute: sha256

A file is either whole or not there, and the same weights give the same bytes. Reading is strict: what is not described
above is refused, and shapes are held against the architecture's table before anything is allocated.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from .. import vgg
from ..errors import OutputError, WeightsError
from ..files import replacing
from . import hdf5
from .storage import STORAGES, check_storage, decode, encode, rounding
from .weights import (
    PROVENANCE,
    Preprocessing,
    Weights,
    array_sha256,
    present_convolutions,
    shown,
    text_sha256,
)

FORMAT = "nstcore-weights"
FORMAT_VERSION = 1

# Object headers and chunk indices of HDF5 1.10 carry checksums, those of the default (oldest) version do not.
_HDF5_VERSION = ("v110", "v110")

_TEXT = ("name", "architecture", "channel_order", "padding", "pooling", "storage", "rounding", "sha256", *PROVENANCE)
_CONVENTIONS = ("name", "architecture", "channel_order", "range", "mean", "std", "padding", "pooling")
_INTEGRITY = ("format", "format_version", "sha256", "attributes_sha256")


def write_weights(path: str | Path, weights: Weights, storage: str = "float32") -> Weights:
    """Write a weights file: beside its place first, then moved there in one step.

    Parameters
    ----------
    path : str or Path
        In a folder that exists. A file that is there already is replaced once the new one is whole.
    weights : Weights
        With the provenance that every file states: source, source_sha256, licence, converter.
    storage : {"float32", "float16", "int8"}
        See `nstcore.pretrained.storage` for what each costs.

    Returns
    -------
    stored : Weights
        What `read_weights` will give: the filters as rounded, the provenance with `storage` and `rounding`, the largest
        error relative to the largest value of its filter.

    Raises
    ------
    WeightsError
        If provenance is missing, or float16 cannot hold a value.
    OptionError
        If there is no such storage.
    OutputError
        If nothing can be written there; nothing is left behind then.
    """
    check_storage(storage)
    for key in PROVENANCE:
        if key not in weights.provenance:
            raise WeightsError(f"provenance: expected {', '.join(PROVENANCE)}; {key} is missing")
    reserved = [key for key in weights.provenance if key in (*_CONVENTIONS, *_INTEGRITY)]
    if reserved:
        raise WeightsError(f"provenance: {reserved[0]} is not provenance but a fact of the layout; take another key")

    path = Path(path)
    with replacing(path) as part:
        try:
            return _write(part, weights, storage)
        except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
            reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())[:200]
            raise OutputError(f"{shown(path)}: cannot be written: {shown(reason)}; choose another place") from error


def read_weights(path: str | Path) -> Weights:
    """Read a weights file, and check all of it.

    Raises
    ------
    WeightsError
        If it is missing, no HDF5, not of this layout, incomplete, or differs from any of its hashes.
    """
    path = Path(path)
    with hdf5.opened(path) as file:
        facts = _read_facts(file)
        architecture = str(facts["architecture"])
        storage = str(facts["storage"])
        present = present_convolutions(architecture, file)
        shapes = vgg.convolutions(architecture)
        weights = Weights(
            name=str(facts["name"]),
            architecture=architecture,
            filters={conv: _read_filters(file, conv, shapes[conv], storage) for conv in present},
            preprocessing=Preprocessing(*(facts[name] for name in ("channel_order", "range", "mean", "std"))),  # type: ignore[arg-type]
            padding=facts["padding"],  # type: ignore[arg-type]
            pooling=facts["pooling"],  # type: ignore[arg-type]
            provenance={k: str(v) for k, v in sorted(facts.items()) if k not in (*_CONVENTIONS, *_INTEGRITY)},
        )
        if weights.sha256 != facts["sha256"]:
            raise WeightsError(f"attribute sha256: expected {weights.sha256} for this content, found {facts['sha256']}")
        return weights


def _write(path: Path, weights: Weights, storage: str) -> Weights:
    filters: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    worst = 0.0
    with h5py.File(path, "w", libver=_HDF5_VERSION) as file:
        for conv, (weight, bias) in weights.filters.items():
            packed, scale = encode(weight, storage, f"{conv}/weight")
            filters[conv] = decode(packed, scale), bias
            if storage != "float32":
                worst = max(worst, rounding(weight, filters[conv][0]))
            group = file.create_group(conv)
            _write_dataset(group, "weight", packed)
            _write_dataset(group, "bias", bias)
            if scale is not None:
                _write_dataset(group, "scale", scale)
        provenance = {**weights.provenance, "storage": storage, "rounding": f"{worst:.3g}"}
        stored = replace(weights, filters=filters, provenance=dict(sorted(provenance.items())))
        for name, value in _attributes(stored).items():
            hdf5.set_attribute(file, name, value)
    return stored


def _attributes(weights: Weights) -> dict[str, object]:
    """Every root attribute, in the order in which they are written."""
    pre = weights.preprocessing
    facts: dict[str, object] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": weights.name,
        "architecture": weights.architecture,
        "channel_order": pre.channel_order,
        "range": pre.range,
        "mean": pre.mean,
        "std": pre.std,
        "padding": weights.padding,
        "pooling": weights.pooling,
        **weights.provenance,
        "sha256": weights.sha256,
    }
    return {**facts, "attributes_sha256": text_sha256(facts)}


def _write_dataset(group: h5py.Group, name: str, data: np.ndarray) -> None:
    if data.dtype == STORAGES["int8"]:
        dataset = hdf5.write_gzip(group, name, data)
    else:
        dataset = group.create_dataset(name, data=data.astype(data.dtype.newbyteorder("<"), copy=False))
    hdf5.set_attribute(dataset, "sha256", array_sha256(data))


def _read_facts(file: h5py.File) -> dict[str, object]:
    """The root attributes, once they are complete, of the right kind and equal to their hash."""
    if "format" not in file.attrs:
        raise WeightsError(
            f"expected the attribute format={FORMAT}, found none; "
            "a published checkpoint must be converted first: python -m nstcore weights convert FILE"
        )
    for name, expected in (("format", FORMAT), ("format_version", FORMAT_VERSION)):
        found = hdf5.attribute(file, name)
        if found != expected:
            raise WeightsError(f"attribute {name}: expected {expected}, found {shown(str(found))}")
    kinds = {**dict.fromkeys(_TEXT, str), "range": float, "mean": tuple, "std": tuple, "attributes_sha256": str}
    facts: dict[str, object] = {}
    for name in (*kinds, *file.attrs):
        facts[name] = hdf5.attribute(file, name)
        kind = kinds.get(name, int if name == "format_version" else str)
        if not isinstance(facts[name], kind):
            raise WeightsError(f"attribute {shown(name)}: expected {kind.__name__}, found {type(facts[name]).__name__}")
    expected = text_sha256({name: value for name, value in facts.items() if name != "attributes_sha256"})
    if facts["attributes_sha256"] != expected:
        raise WeightsError("attribute attributes_sha256: does not fit the other attributes; one of them was changed")
    for name, choices in (("architecture", vgg.ARCHITECTURES), ("storage", STORAGES)):
        if facts[name] not in choices:
            raise WeightsError(f"attribute {name}: expected one of {', '.join(choices)}, found {facts[name]}")
    return facts


def _read_filters(file: h5py.File, conv: str, shape: tuple[int, ...], storage: str) -> tuple[np.ndarray, np.ndarray]:
    group = hdf5.child(file, conv, h5py.Group)
    expected = ("weight", "bias", "scale") if storage == "int8" else ("weight", "bias")
    foreign = next((name for name in group if name not in expected), None)
    if foreign is not None:
        raise WeightsError(f"/{conv}/{shown(foreign)}: expected only {', '.join(expected)} here")
    arrays = {}
    for name in expected:
        dataset = hdf5.child(group, name, h5py.Dataset)
        if name != "weight":
            array = hdf5.read_plain(dataset, shape[:1], ["float32"])
        elif storage == "int8":
            array = hdf5.read_gzip(dataset, shape, storage)
        else:
            array = hdf5.read_plain(dataset, shape, [storage])
        if array_sha256(array) != hdf5.attribute(dataset, "sha256"):
            raise WeightsError(f"/{conv}/{name}: its data does not fit its sha256; fetch or convert the file again")
        arrays[name] = array
    weight = decode(arrays["weight"], arrays.get("scale"))
    return weight, arrays["bias"].astype(np.float32, copy=False)
