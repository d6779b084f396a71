"""What every reader shares: how a file is opened, and what is handed over, whatever the container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import WeightsError
from .. import hdf5
from ..weights import Padding, Pooling, Preprocessing, shown


@dataclass(frozen=True, eq=False)
class Source:
    """A published checkpoint as read: the filters in our layout and the conventions that its container implies.

    Parameters
    ----------
    container : str
        Its name for a person.
    architecture, filters, padding, pooling
        As in `nstcore.pretrained.weights.Weights`.
    preprocessing : Preprocessing or None
        Likewise; None where the content cannot tell it. It is never guessed from names or values.
    licence : str
        What is known of it.
    files : tuple of Path
        Every file that was read, in the order in which their bytes are hashed.
    """

    container: str
    architecture: str
    filters: dict[str, tuple[np.ndarray, np.ndarray]]
    preprocessing: Preprocessing | None
    padding: Padding
    pooling: Pooling
    licence: str
    files: tuple[Path, ...]


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file and its size; every `WeightsError` inside the block gets the path before it."""
    hdf5.first_bytes(path, 1)
    try:
        with path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except WeightsError as error:
        raise WeightsError(f"{shown(path)}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{shown(path)}: cannot be read: {error.strerror}") from error
