"""TensorFlow.js layers model: `model.json` and the binary shards that it names.

The manifest lists groups; the shards of a group, one after the other, are the bytes of its tensors, one after the
other, with no regard for the borders. Tensors may be quantised, one scale and minimum each [1]_:

    w = q * scale + min        q uint8 or uint16, computed in float64, kept as float32
    w = q                      q float16

Only the shards that hold convolutions are needed: a copy may leave out those of the classifier.

References
----------
.. [1] TensorFlow.js, tfjs-core/src/io/types.ts (WeightsManifestEntry) and io_utils.ts (decodeWeights).
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ... import vgg
from ...errors import WeightsError
from .. import hdf5
from ..weights import shown
from . import keras
from .source import Source

NAME = "TensorFlow.js layers model"

_LARGEST_JSON = 64 << 20  # bytes; the real one has 40 thousand
_LARGEST_SIDE = 1 << 31
# Bytes of one element. A tensor of strings has no fixed size, so nothing after one could be found.
_ITEM_SIZES = {"float32": 4, "int32": 4, "uint8": 1, "uint16": 2, "float16": 2, "bool": 1, "complex64": 8}
_QUANTISED = ("uint8", "uint16", "float16")


@dataclass(frozen=True)
class Tensor:
    """One entry of the manifest; `start` is its first byte within the group's shards."""

    name: str
    shape: tuple[int, ...]
    stored: str  # the type of its bytes
    quantised: bool
    scale: float
    minimum: float
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _ITEM_SIZES[self.stored]

    @property
    def end(self) -> int:
        return self.start + self.nbytes

    @property
    def layer(self) -> str:
        """block1_conv1 of block1_conv1/kernel."""
        return self.name.split("/")[-2] if "/" in self.name else ""

    @property
    def key(self) -> str:
        """block1_conv1/kernel, whatever scopes stand before it."""
        return f"{self.layer}/{self.name.rsplit('/', 1)[-1].removesuffix(':0')}"


@dataclass(frozen=True)
class Group:
    """Shards by name, and the tensors that lie in them one after the other."""

    paths: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @property
    def convolutions(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in self.tensors if keras.is_convolution(tensor.layer))


@dataclass(frozen=True)
class Shard:
    """A shard's file, and its first byte and the one after its last within the group."""

    path: Path
    start: int
    end: int


def recognise(path: Path) -> bool:
    """Whether it is a folder with a `model.json`, or a file that begins as a JSON object does."""
    if os.path.isdir(path):
        return os.path.isfile(path / "model.json")
    return os.path.isfile(path) and hdf5.first_bytes(path, 64).lstrip().startswith(b"{")


def read(path: Path) -> Source:
    """Read VGG16 or VGG19, told apart by their layers.

    Parameters
    ----------
    path : Path
        `model.json`, or its folder.

    Returns
    -------
    Source
        Its `files` are model.json and the shards that hold convolutions, in the manifest's order.

    Raises
    ------
    WeightsError
        If the JSON is malformed, a shard is missing, lies outside the folder or has the wrong size, or it is not one
        of these networks.
    """
    model = path / "model.json" if os.path.isdir(path) else path
    try:
        groups = _groups(_load_json(model))
        architecture = _check_convolutions(groups)
        files = [model]
        arrays: dict[str, np.ndarray] = {}
        for group in groups:
            if group.convolutions:
                shards = _needed_shards(model.parent, group)
                files += [shard.path for shard in shards]
                for tensor in group.convolutions:
                    array = _decode(tensor, _read_bytes(shards, tensor))
                    arrays[tensor.key] = keras.filters_from_kernel(array) if array.ndim == 4 else array
    except WeightsError as error:
        raise WeightsError(f"{shown(model)}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{shown(model)}: cannot be read: {error.strerror}") from error
    layers = {conv: keras.keras_name(conv) for conv in vgg.convolutions(architecture)}
    return Source(
        container=NAME,
        architecture=architecture,
        filters={conv: (arrays[f"{layer}/kernel"], arrays[f"{layer}/bias"]) for conv, layer in layers.items()},
        preprocessing=keras.PREPROCESSING,
        padding="zero",
        pooling="max",
        licence=keras.LICENCE,
        files=tuple(files),
    )


def _load_json(model: Path) -> dict[str, Any]:
    hdf5.first_bytes(model, 1)  # a regular file, and readable
    if model.stat().st_size > _LARGEST_JSON:
        raise WeightsError(f"expected a few kilobytes of JSON, found {model.stat().st_size} bytes")
    try:
        content = json.loads(model.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"not readable as JSON: {shown(str(error))[:200]}") from error
    return _typed(content, dict, "the file")


def _groups(content: dict[str, Any]) -> list[Group]:
    if content.get("format", "layers-model") != "layers-model":
        raise WeightsError(f"format: expected layers-model, found {shown(repr(content['format'])[:80])}")
    groups = []
    for entry in _typed(content.get("weightsManifest"), list, "weightsManifest"):
        _typed(entry, dict, "weightsManifest entry")
        paths = tuple(_typed(path, str, "shard path") for path in _typed(entry.get("paths"), list, "paths"))
        groups.append(Group(paths, tuple(_tensors(_typed(entry.get("weights"), list, "weights")))))
    return groups


def _tensors(entries: list[Any]) -> Iterator[Tensor]:
    start = 0
    for entry in entries:
        _typed(entry, dict, "weights entry")
        name = _typed(entry.get("name"), str, "tensor name")
        shape = tuple(
            _typed(side, int, f"{name}: shape") for side in _typed(entry.get("shape"), list, f"{name}: shape")
        )
        if len(shape) > 8 or not all(0 <= side < _LARGEST_SIDE for side in shape):
            raise WeightsError(f"{shown(name)}: shape: expected up to 8 sides from 0 to 2^31, found {str(shape)[:80]}")
        stored, scale, minimum = _typed(entry.get("dtype"), str, f"{name}: dtype"), 1.0, 0.0
        quantised = "quantization" in entry
        if quantised:
            how = _typed(entry["quantization"], dict, f"{name}: quantization")
            stored = _typed(how.get("dtype"), str, f"{name}: quantization dtype")
            if stored not in _QUANTISED:
                raise WeightsError(f"{shown(name)}: quantised: expected {', '.join(_QUANTISED)}, found {shown(stored)}")
            if stored != "float16":
                scale, minimum = (_number(how.get(key), f"{name}: {key}") for key in ("scale", "min"))
        if stored not in _ITEM_SIZES:
            raise WeightsError(f"{shown(name)}: dtype: expected one of {', '.join(_ITEM_SIZES)}, found {shown(stored)}")
        tensor = Tensor(name, shape, stored, quantised, scale, minimum, start)
        start = tensor.end
        yield tensor


def _check_convolutions(groups: list[Group]) -> str:
    """The architecture, once it is sure that every convolution is there once, with the right shape and type."""
    convolutions = [tensor for group in groups for tensor in group.convolutions]
    architecture = keras.architecture_of(tensor.layer for tensor in convolutions)
    expected: dict[str, tuple[int, ...]] = {}
    for conv, shape in vgg.convolutions(architecture).items():
        expected[f"{keras.keras_name(conv)}/kernel"] = keras.kernel_shape(shape)
        expected[f"{keras.keras_name(conv)}/bias"] = shape[:1]
    count = Counter(tensor.key for tensor in convolutions)
    for key in expected:
        if count[key] != 1:
            raise WeightsError(f"{key}: expected once in the manifest, found {count[key]} times")
    for tensor in convolutions:
        if tensor.key not in expected:
            raise WeightsError(f"{shown(tensor.name)}: expected only kernel and bias of a convolution")
        if tensor.shape != expected[tensor.key]:
            raise WeightsError(f"{tensor.key}: expected shape {expected[tensor.key]}, found {tensor.shape}")
        if not tensor.quantised and tensor.stored != "float32":
            raise WeightsError(f"{tensor.key}: expected float32 or a quantised type, found {tensor.stored}")
    return architecture


def _needed_shards(folder: Path, group: Group) -> list[Shard]:
    """The group's shards up to the end of its last convolution, their sizes checked as far as can be."""
    needed = max(tensor.end for tensor in group.convolutions)
    total = group.tensors[-1].end
    files = [_inside(folder, path) for path in group.paths]
    shards: list[Shard] = []
    for name, file in zip(group.paths, files, strict=True):
        start = shards[-1].end if shards else 0
        if start >= needed:
            break
        if not os.path.isfile(file):
            raise WeightsError(f"shard {name}: missing or not a file; it holds convolutions")
        shards.append(Shard(file, start, start + file.stat().st_size))
    rest = files[len(shards) :]
    have = shards[-1].end if shards else 0
    if all(map(os.path.isfile, rest)):
        have += sum(file.stat().st_size for file in rest)
        if have != total:
            raise WeightsError(
                f"shards: expected {total} bytes in all, found {have}; one of them is cut short or foreign"
            )
    elif len({shard.end - shard.start for shard in shards}) > 1:
        # The sum cannot be checked; a shard cut short would shift all that follows it. The converter cuts equal ones.
        raise WeightsError("shards: expected all but the last of one size; one of them is cut short or foreign")
    elif have < needed:
        raise WeightsError(f"shards: expected at least {needed} bytes, found {have}; one of them is cut short")
    return shards


def _inside(folder: Path, path: str) -> Path:
    """The file of a shard, which must lie in the model's folder or below."""
    parts = PurePosixPath(path)
    if not path.isprintable() or not parts.parts or parts.is_absolute() or ".." in parts.parts or {*"\\:"} & {*path}:
        raise WeightsError(f"shard {shown(path)}: expected a path inside the model's folder")
    return folder / parts


def _read_bytes(shards: list[Shard], tensor: Tensor) -> bytearray:
    out = bytearray(tensor.nbytes)
    view = memoryview(out)
    for shard in shards:
        first, last = max(tensor.start, shard.start), min(tensor.end, shard.end)
        if first < last:
            with shard.path.open("rb") as file:
                file.seek(first - shard.start)
                if file.readinto(view[first - tensor.start : last - tensor.start]) != last - first:
                    raise WeightsError(f"shard {shown(shard.path.name)}: became shorter while it was read")
    return out


def _decode(tensor: Tensor, raw: bytearray) -> np.ndarray:
    array = np.frombuffer(raw, np.dtype(tensor.stored).newbyteorder("<")).reshape(tensor.shape)
    if tensor.stored in ("uint8", "uint16"):
        # every value that q can have, decoded once
        q = np.arange(np.iinfo(array.dtype).max + 1, dtype=np.float64)
        with np.errstate(over="ignore"):  # what is not finite is refused where the weights are put together
            return (q * tensor.scale + tensor.minimum).astype(np.float32)[array]
    return array.astype(np.float32)


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {dict: "an object", list: "a list", str: "text", int: "a whole number"}
        raise WeightsError(f"{shown(what)}: expected {names[kind]}, found {shown(repr(value)[:80])}")
    return value


def _number(value: Any, what: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise WeightsError(f"{shown(what)}: expected a finite number, found {shown(repr(value)[:80])}")
    return number
