"""Keras HDF5: weight files and whole models, of every age, with and without the classifier.

    /block1_conv1/block1_conv1_W_1:0                  Keras 1, and the published VGG files
    /block1_conv1/block1_conv1/kernel:0               Keras 2 and tf.keras
    /block1_conv1/block1_conv1/kernel                 Keras 3, legacy format
    /model_weights/...                                any of these in a file that holds the model too

Only the convolutions are read, one at a time: the classifier (six sevenths of the file) is not touched.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from ... import vgg
from ...errors import WeightsError
from ...files import HDF5
from .. import hdf5
from . import keras
from .source import Source

NAME = "Keras HDF5"

_FLOATS = ("float32", "float16")


def recognise(path: Path) -> bool:
    """Whether it is a file that begins as HDF5 does."""
    return os.path.isfile(path) and hdf5.first_bytes(path, len(HDF5)) == HDF5


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, told apart by their layers.

    Raises
    ------
    WeightsError
        If the file is damaged, or is not one of these networks.
    """
    with hdf5.opened(path) as file:
        root = hdf5.child(file, "model_weights", h5py.Group) if hdf5.has(file, "model_weights") else file
        if "format" in file.attrs and not any(map(keras.is_convolution, root)):
            raise WeightsError(
                "expected a Keras file, found one in another format; an nstcore file needs no conversion"
            )
        architecture = keras.architecture_of(root)
        filters = {
            conv: _read_layer(hdf5.child(root, keras.keras_name(conv), h5py.Group), keras.keras_name(conv), shape)
            for conv, shape in vgg.convolutions(architecture).items()
        }
    return Source(
        container=NAME,
        architecture=architecture,
        filters=filters,
        preprocessing=keras.PREPROCESSING,
        padding="zero",
        pooling="max",
        licence=keras.LICENCE,
        files=(path,),
    )


def _read_layer(group: h5py.Group, layer: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    kernel = _find(group, (f"{layer}_W_1:0",), (layer, "kernel:0"), (layer, "kernel"))
    bias = _find(group, (f"{layer}_b_1:0",), (layer, "bias:0"), (layer, "bias"))
    weight = keras.filters_from_kernel(hdf5.read_plain(kernel, keras.kernel_shape(shape), _FLOATS))
    return weight, hdf5.read_plain(bias, shape[:1], _FLOATS).astype(np.float32)


def _find(group: h5py.Group, *candidates: tuple[str, ...]) -> h5py.Dataset:
    """The dataset at the first of these paths that is there."""
    for *folders, name in candidates:
        inside = group
        for folder in folders:
            if not hdf5.has(inside, folder):
                break
            inside = hdf5.child(inside, folder, h5py.Group)
        else:
            if hdf5.has(inside, name):
                return hdf5.child(inside, name, h5py.Dataset)
    expected = " or ".join("/".join(candidate) for candidate in candidates)
    raise WeightsError(f"{group.name}: expected {expected}, found neither")
