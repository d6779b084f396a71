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
from ..errors import WeightsError
from . import hdf5, sealed
from .storage import STORAGES, check_storage, decode, encode, rounding
from .weights import PROVENANCE, Preprocessing, Weights, present_convolutions, shown

FORMAT = "nstcore-weights"
FAST_FORMAT = "nstcore-fast-weights"  # of `fast_layout`
FORMAT_VERSION = 1

_TEXT = ("name", "architecture", "channel_order", "padding", "pooling", "storage", "rounding", "sha256", *PROVENANCE)
_CONVENTIONS = ("name", "architecture", "channel_order", "range", "mean", "std", "padding", "pooling")


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
    sealed.check_provenance(weights.provenance, _CONVENTIONS)
    with sealed.written(path) as file:
        return _write(file, weights, storage)


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
            provenance={k: str(v) for k, v in sorted(facts.items()) if k not in (*_CONVENTIONS, *sealed.INTEGRITY)},
        )
        if weights.sha256 != facts["sha256"]:
            raise WeightsError(f"attribute sha256: expected {weights.sha256} for this content, found {facts['sha256']}")
        return weights


def _write(file: h5py.File, weights: Weights, storage: str) -> Weights:
    filters: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    worst = 0.0
    for conv, (weight, bias) in weights.filters.items():
        packed, scale = encode(weight, storage, f"{conv}/weight")
        filters[conv] = decode(packed, scale), bias
        if storage != "float32":
            worst = max(worst, rounding(weight, filters[conv][0]))
        group = file.create_group(conv)
        sealed.write_dataset(group, "weight", packed)
        sealed.write_dataset(group, "bias", bias)
        if scale is not None:
            sealed.write_dataset(group, "scale", scale)
    provenance = {**weights.provenance, "storage": storage, "rounding": f"{worst:.3g}"}
    stored = replace(weights, filters=filters, provenance=dict(sorted(provenance.items())))
    sealed.write_facts(file, FORMAT, FORMAT_VERSION, _facts(stored))
    return stored


def _facts(weights: Weights) -> dict[str, object]:
    """Every fact, in the order in which they are written."""
    pre = weights.preprocessing
    return {
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


def _read_facts(file: h5py.File) -> dict[str, object]:
    """The root attributes, once they are complete, of the right kind and equal to their hash."""
    if sealed.format_of(file) == FAST_FORMAT:
        raise WeightsError(
            "expected weights of a VGG, found those of a feed-forward network; they are for: "
            "python -m nstcore fast --weights FILE"
        )
    kinds: dict[str, type] = {**dict.fromkeys(_TEXT, str), "range": float, "mean": tuple, "std": tuple}
    facts = sealed.read_facts(file, FORMAT, FORMAT_VERSION, kinds)
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
        arrays[name] = sealed.fitting(dataset, array)
    weight = decode(arrays["weight"], arrays.get("scale"))
    return weight, arrays["bias"].astype(np.float32, copy=False)
