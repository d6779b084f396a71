"""The project's own file of a feed-forward network: HDF5, described in `weights/README.md`.

    /                         attributes: format, format_version, name, model, source, source_sha256, licence,
                              converter, sha256, attributes_sha256, and any further provenance
    /prediction/stem/weight   and every other tensor of `fast_tensors(model)`: float32      attribute: sha256

Reading is strict: what is not described above is refused, and shapes are held against the model's table before anything
is allocated.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ...errors import WeightsError
from .. import hdf5, sealed
from ..layout import FAST_FORMAT, FORMAT, read_weights
from ..weights import PROVENANCE, Weights, shown
from .models import MODELS, fast_tensors
from .weights import FastWeights

FORMAT_VERSION = 1

_CONVENTIONS = ("name", "model")


def write_fast_weights(path: str | Path, weights: FastWeights) -> None:
    """Write a file: beside its place first, then moved there in one step.

    Parameters
    ----------
    path : str or Path
        In a folder that exists. A file that is there already is replaced once the new one is whole.
    weights : FastWeights
        With the provenance that every file states: source, source_sha256, licence, converter.

    Raises
    ------
    WeightsError
        If provenance is missing.
    OutputError
        If nothing can be written there; nothing is left behind then.
    """
    sealed.check_provenance(weights.provenance, _CONVENTIONS)
    with sealed.written(path) as file:
        for name, array in weights.tensors.items():
            layer, _, part = name.rpartition("/")
            sealed.write_dataset(file.require_group(layer), part, array)
        provenance = dict(sorted(weights.provenance.items()))
        facts = {"name": weights.name, "model": weights.model, **provenance, "sha256": weights.sha256}
        sealed.write_facts(file, FAST_FORMAT, FORMAT_VERSION, facts)


def read_fast_weights(path: str | Path) -> FastWeights:
    """Read a file, and check all of it.

    Raises
    ------
    WeightsError
        If it is missing, no HDF5, not of this layout, incomplete, or differs from any of its hashes.
    """
    with hdf5.opened(Path(path)) as file:
        if sealed.format_of(file) == FORMAT:
            raise WeightsError(
                f"expected weights of a feed-forward network ({' or '.join(MODELS)}), found those of a VGG; "
                "they are for: python -m nstcore run --weights FILE"
            )
        kinds = dict.fromkeys((*_CONVENTIONS, *PROVENANCE, "sha256"), str)
        facts = sealed.read_facts(file, FAST_FORMAT, FORMAT_VERSION, kinds)
        model = str(facts["model"])
        weights = FastWeights(
            name=str(facts["name"]),
            model=model,
            tensors=_read_tensors(file, model),
            provenance={k: str(v) for k, v in sorted(facts.items()) if k not in (*_CONVENTIONS, *sealed.INTEGRITY)},
        )
        if weights.sha256 != facts["sha256"]:
            raise WeightsError(f"attribute sha256: expected {weights.sha256} for this content, found {facts['sha256']}")
        return weights


def read_any(path: Path) -> Weights | FastWeights:
    """A file of either kind, as its format attribute says."""
    with hdf5.opened(path) as file:
        fast = sealed.format_of(file) == FAST_FORMAT
    return read_fast_weights(path) if fast else read_weights(path)


def _read_tensors(file: h5py.File, model: str) -> dict[str, np.ndarray]:
    shapes = fast_tensors(model)
    members: dict[str, set[str]] = {}  # of every group, by its path
    for name in shapes:
        *groups, last = name.split("/")
        for depth, part in enumerate((*groups, last)):
            members.setdefault("/".join(groups[:depth]), set()).add(part)
    # a group stands behind the one that it lies in
    opened: dict[str, h5py.Group] = {"": file}
    for where, expected in members.items():
        above, _, last = where.rpartition("/")
        group = opened[where] = hdf5.child(opened[above], last, h5py.Group) if where else file
        foreign = next((name for name in group if name not in expected), None)
        if foreign is not None:
            raise WeightsError(f"{group.name.rstrip('/')}/{shown(foreign)}: expected only the tensors of {model}")
    tensors = {}
    for name, shape in shapes.items():
        above, _, last = name.rpartition("/")
        dataset = hdf5.child(opened[above], last, h5py.Dataset)
        array = sealed.fitting(dataset, hdf5.read_plain(dataset, shape, ["float32"]))
        tensors[name] = array.astype(np.float32, copy=False)
    return tensors
