"""A small network in every container that is read."""

from __future__ import annotations

from pathlib import Path

import weights_torch_files as torch_files
from conftest import random_weights
from test_weights_convert import write_onnx
from weights_files import write_keras, write_tfjs
from weights_proto_files import write_caffe, write_matconvnet

from nstcore import vgg
from nstcore.pretrained import write_weights


def whole_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """By name: what a reader is given, and the file of it that is to be damaged.

    The network has four small convolutions under the name of vgg19, so that a file has a few kilobytes.
    """
    vgg.ARCHITECTURES["vgg19"] = ((1, 4), (3, 6))
    small = random_weights(deepest="conv2_3")
    state = torch_files.state_dict(small)
    found: dict[str, tuple[Path, Path]] = {}
    for storage in ("float32", "float16", "int8"):
        path = folder / f"{storage}.h5"
        write_weights(path, small, storage)
        found[f"nstcore {storage}"] = path, path
    for name, path in {
        "keras": write_keras(folder / "keras.h5", small),
        "torch zip": torch_files.write("zip", folder / "zip.pth", state),
        "torch legacy": torch_files.write("legacy", folder / "legacy.pth", state),
        "safetensors": torch_files.write("safetensors", folder / "model.safetensors", state),
        "matconvnet": write_matconvnet(folder / "packed.mat", small),
        "matconvnet, not packed": write_matconvnet(folder / "plain.mat", small, compressed=False),
        "caffe": write_caffe(folder / "vgg.caffemodel", small),
        "onnx": write_onnx(folder / "vgg.onnx", small),
    }.items():
        found[name] = path, path
    write_tfjs(folder / "tfjs", small)
    found["tfjs"] = folder / "tfjs", folder / "tfjs" / "model.json"
    return found
