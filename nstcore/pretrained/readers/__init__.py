"""One reader per container; this table is where another one is added.

A container is recognised from its bytes, never from the end of its name. A reader is a module with three things:

    NAME : str                          for a person
    recognise(path) -> bool             looks at the first bytes, or at what a folder holds
    read(path) -> Source                the filters in our layout, and the conventions that the content tells

The module's name is the `container` of `weights/registry.toml`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import WeightsError
from .. import hdf5
from ..weights import shown
from . import caffe, keras_h5, matconvnet, onnx, safetensors, tfjs, torch_legacy, torch_zip
from .source import Source

__all__ = ["READERS", "Reader", "Source", "read_source"]


@dataclass(frozen=True)
class Reader:
    """How one container is recognised and read; `key` is the module's name, `name` is for a person."""

    key: str
    name: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path], Source]


# The first that recognises the file reads it. Unmistakable beginnings come first, protobuf, which has none, last.
_MODULES = (keras_h5, torch_legacy, torch_zip, matconvnet, safetensors, tfjs, onnx, caffe)
READERS = tuple(Reader(m.__name__.rpartition(".")[2], m.NAME, m.recognise, m.read) for m in _MODULES)


def read_source(path: Path) -> Source:
    """Read a published checkpoint, whatever its container.

    Raises
    ------
    WeightsError
        If it is missing, in no container known here, or damaged.
    """
    reader = next((reader for reader in READERS if reader.recognise(path)), None)
    if reader is not None:
        return reader.read(path)
    known = ", ".join(reader.name for reader in READERS)
    if os.path.isdir(path):
        raise WeightsError(f"{shown(path)}: expected one of {known}; found a folder without model.json")
    head = hdf5.first_bytes(path, 8)
    raise WeightsError(
        f"{shown(path)}: expected one of {known}; found a file that begins with {head.hex(' ') or 'nothing'}"
    )
