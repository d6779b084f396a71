"""The stream that `torch.save` wrote until torch 1.6, and still does on request; torch itself is not needed.

Five pickles, then the storages [1]_:

    a magic number, the protocol (1001), the machine, the object, the keys of the storages
    for each key: numel (8 bytes), then the numbers; all little-endian

The pickles are a few kilobytes. Of the storages only the convolutions' are read: the classifier's, six sevenths of the
file, are stepped over.

References
----------
.. [1] PyTorch, torch/serialization.py, _legacy_save.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import WeightsError
from .. import hdf5
from ..weights import shown
from . import state_dict, torch_pickle
from .source import Source, opened

NAME = "torch legacy stream"

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_PICKLE_PROTOCOLS = (2, 3, 4, 5)


def recognise(path: Path) -> bool:
    """Whether it is a file that begins as a pickle does; what else it may be, `read` says."""
    if not os.path.isfile(path):
        return False
    head = hdf5.first_bytes(path, 2)
    return len(head) == 2 and head[0] == 0x80 and head[1] in _PICKLE_PROTOCOLS


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, or the beginning of one, told apart by names and shapes.

    Raises
    ------
    WeightsError
        If the file is damaged, names anything but tensors and ordered dictionaries, or is not one of these networks.
    """
    with tensors(path) as (named, read_tensor):
        return state_dict.assemble(NAME, path, named, read_tensor)


@contextmanager
def tensors(path: Path) -> Iterator[tuple[dict[str, torch_pickle.Tensor], Callable[[torch_pickle.Tensor], np.ndarray]]]:
    """The tensors of the stream by name, whatever network they are, and how to read the numbers of one.

    Raises
    ------
    WeightsError
        As `read`, but for the network.
    """
    with opened(path) as (file, size):
        machine = torch_pickle.Machine(BytesIO(file.read(torch_pickle.LARGEST_PICKLE)))
        if machine.load() != _MAGIC:
            raise WeightsError("expected a file written by torch.save, found another pickle")
        if machine.load() != _PROTOCOL:
            raise WeightsError(f"expected protocol {_PROTOCOL} of torch.save, found another")
        machine.load()  # the machine that wrote it; the storages are little-endian on every one
        named = torch_pickle.state_dict(machine.load())
        starts = _storages(file, size, machine.load(), machine)

        def read_tensor(tensor: torch_pickle.Tensor) -> np.ndarray:
            return torch_pickle.read_tensor(file, tensor, starts[tensor.storage.key], "<")

        yield named, read_tensor


def _storages(file: BinaryIO, size: int, keys: Any, machine: torch_pickle.Machine) -> dict[str, int]:
    """First byte of every storage, once it is sure that they fill the rest of the file."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsError("expected a list of the storages' keys behind the tensors")
    if sorted(keys) != sorted(machine.storages):
        raise WeightsError(f"expected the {len(machine.storages)} storages of the tensors, found {len(keys)} others")
    starts = {}
    position = machine.stream.tell()
    for key in keys:
        storage = machine.storages[key]
        file.seek(position)
        declared = int.from_bytes(file.read(8), "little")
        starts[key] = position + 8
        position += 8 + storage.numel * state_dict.ITEM_SIZES[storage.dtype]
        if position > size:
            raise WeightsError(f"expected at least {position} bytes, found {size}; the file is cut short")
        if declared != storage.numel:
            raise WeightsError(f"storage {shown(key)[:40]}: expected {storage.numel} numbers, found {declared}")
    if position != size:
        raise WeightsError(f"expected {position} bytes, found {size}; the file is damaged")
    return starts
