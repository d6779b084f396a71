"""Weights files and published checkpoints, as tests write, damage and compare them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from nstcore.errors import NstcoreError, WeightsError
from nstcore.pretrained import Weights, convert, hdf5
from nstcore.pretrained.weights import text_sha256

KERAS_STYLES = {
    "keras1": ("{0}/{0}_W_1:0", "{0}/{0}_b_1:0"),
    "keras2": ("{0}/{0}/kernel:0", "{0}/{0}/bias:0"),
    "keras3": ("{0}/{0}/kernel", "{0}/{0}/bias"),
    "model": ("model_weights/{0}/{0}/kernel:0", "model_weights/{0}/{0}/bias:0"),
}
QUANTISED = {"uint8": 255, "uint16": 65535}


def same(a: Weights, b: Weights) -> bool:
    facts = ("name", "architecture", "preprocessing", "padding", "pooling", "provenance", "sha256")
    arrays = zip(a.filters.values(), b.filters.values(), strict=True)
    return (
        all(getattr(a, fact) == getattr(b, fact) for fact in facts)
        and list(a.filters) == list(b.filters)
        and all(np.array_equal(x, y) for pair in arrays for x, y in zip(*pair, strict=True))
    )


def refused(call, *args, error: type[NstcoreError] = WeightsError) -> str:
    """The message, which must be one line that a terminal can show."""
    with pytest.raises(error) as caught:
        call(*args)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


def reseal(file: h5py.File) -> None:
    """Make the hash of the attributes fit again, as a forger would."""
    facts = {name: hdf5.attribute(file, name) for name in file.attrs if name != "attributes_sha256"}
    hdf5.set_attribute(file, "attributes_sha256", text_sha256(facts))


def replace_dataset(file: h5py.File, name: str, **options: object) -> h5py.Dataset:
    del file[name]
    return file.create_dataset(name, **options)


def datasets(path: Path) -> dict[str, bytes]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, o: found.update({name: o[...].tobytes()}) if isinstance(o, h5py.Dataset) else None)
    return found


def keras_layer(conv: str) -> str:
    return conv.replace("conv", "block").replace("_", "_conv")


def write_keras(path: Path, weights: Weights, style: str = "keras1", classifier: bool = True) -> Path:
    """As Keras writes it: HWIO kernels, a group for every layer (also those without weights), names as attributes."""
    kernel, bias = KERAS_STYLES[style]
    with h5py.File(path, "w") as file:
        root = file.require_group("model_weights") if style == "model" else file
        root.create_group("block1_pool")
        root.attrs["layer_names"] = [keras_layer(conv).encode() for conv in weights.filters]
        for conv, (w, b) in weights.filters.items():
            file[kernel.format(keras_layer(conv))] = w.transpose(2, 3, 1, 0)
            file[bias.format(keras_layer(conv))] = b
        if classifier:
            for layer in ("fc1", "fc2", "predictions"):
                file[kernel.format(layer)] = np.zeros((7, 5), np.float32)
                file[bias.format(layer)] = np.zeros(5, np.float32)
    return path


def write_tfjs(
    folder: Path, weights: Weights, stored: str = "float32", shard: int = 1000, classifier: bool = True
) -> dict[str, np.ndarray]:
    """As the converter of TensorFlow.js writes it; returns what each tensor decodes to, in Keras' shapes."""
    folder.mkdir(exist_ok=True)
    tensors: dict[str, np.ndarray] = {}
    for conv, (w, b) in weights.filters.items():
        tensors[f"{keras_layer(conv)}/kernel"] = w.transpose(2, 3, 1, 0)
        tensors[f"{keras_layer(conv)}/bias"] = b
    if classifier:
        tensors["fc1/kernel"] = np.zeros((40, 50), np.float32)
    entries, parts, decoded = [], [], {}
    for name, tensor in tensors.items():
        entry: dict[str, object] = {"name": name, "shape": list(tensor.shape), "dtype": "float32"}
        if stored in QUANTISED:
            low = float(tensor.min())
            scale = (float(tensor.max()) - low) / QUANTISED[stored] or 1.0
            q = np.rint((tensor.astype(float) - low) / scale).astype(stored)
            entry["quantization"] = {"dtype": stored, "original_dtype": "float32", "scale": scale, "min": low}
            decoded[name] = (q * np.float64(scale) + low).astype(np.float32)
        else:
            q = tensor.astype(stored)
            if stored == "float16":
                entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
            decoded[name] = q.astype(np.float32)
        entries.append(entry)
        parts.append(q.tobytes())
    blob = b"".join(parts)
    pieces = [blob[i : i + shard] for i in range(0, len(blob), shard)]
    paths = [f"group1-shard{i}of{len(pieces)}.bin" for i in range(1, len(pieces) + 1)]
    for path, piece in zip(paths, pieces, strict=True):
        (folder / path).write_bytes(piece)
    model = {"format": "layers-model", "weightsManifest": [{"paths": paths, "weights": entries}]}
    (folder / "model.json").write_text(json.dumps(model))
    return decoded


def edit_model(folder: Path, change) -> None:
    """Apply `change` to the parsed model.json."""
    model = json.loads((folder / "model.json").read_text())
    change(model)
    (folder / "model.json").write_text(json.dumps(model))


def conversion_refused(source: Path, error: type[NstcoreError] = WeightsError, **options) -> str:
    """The message of a refused conversion, which must be one line and leave nothing behind."""
    output = source.parent / "refused" / "out.h5"
    output.parent.mkdir(exist_ok=True)
    with pytest.raises(error) as caught:
        convert(source, output, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    assert list(output.parent.iterdir()) == []
    return message
