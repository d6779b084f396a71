"""From a published checkpoint to the project's own weights file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import OutputError, WeightsError
from ..version import __version__
from . import layout, places
from .readers import read_source
from .storage import check_storage
from .weights import Weights, shown

_BLOCK = 1 << 20


def convert(
    source_path: str | Path, output_path: str | Path | None = None, storage: str = "float32", *, name: str | None = None
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
        What the weights are called. Default: the architecture.

    Returns
    -------
    weights : Weights
        As stored. Its provenance holds `source` (the file's name), `source_sha256` (of the bytes of every file that was
        read, one after the other; for TensorFlow.js model.json and the shards that hold convolutions, in the manifest's
        order), `container`, `licence`, `converter`, `storage` and `rounding`.

    Raises
    ------
    WeightsError
        If the source is missing, foreign, damaged or incomplete.
    OptionError
        If there is no such storage.
    OutputError
        If nothing can be written there, or the output is one of the source's files.
    """
    check_storage(storage)
    source = read_source(Path(source_path))
    if output_path is None:
        output = places.cached_path(source.architecture)
        _make_folder(output.parent)
    else:
        output = Path(output_path)
    for file in source.files:
        if os.path.exists(output) and os.path.samefile(file, output):
            raise OutputError(f"{shown(output)}: the output is the source itself; give another path with -o")
    try:
        weights = Weights(
            name=name or source.architecture,
            architecture=source.architecture,
            filters=source.filters,
            preprocessing=source.preprocessing,
            padding=source.padding,
            pooling=source.pooling,
            provenance={
                "source": _source_name(source.files),
                "source_sha256": files_sha256(source.files),
                "container": source.container,
                "licence": source.licence,
                "converter": f"nstcore {__version__}",
            },
        )
    except WeightsError as error:
        raise WeightsError(f"{shown(source_path)}: {error}") from error
    return layout.write_weights(output, weights, storage)


def files_sha256(files: Iterable[Path]) -> str:
    """SHA-256 of the bytes of the files, one after the other: what `cat FILE... | sha256sum` prints."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise WeightsError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _source_name(files: tuple[Path, ...]) -> str:
    """The file's name, with its folder's where there are several: the path before it is the machine's own business."""
    first = files[0].resolve()
    name = f"{first.parent.name}/{first.name}" if len(files) > 1 else first.name
    return shown(name)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{shown(folder)}: the cache folder cannot be made: {error.strerror}") from error
