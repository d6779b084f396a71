"""AdaIN: the two files of torch are one network, the colours' convolution folded into the first one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import weights_torch_files as torch_files
from conftest import random_weights
from weights_files import refused

from nstcore import ops
from nstcore.pretrained import load_fast_weights
from nstcore.pretrained.readers import adain


@pytest.fixture(scope="module")
def state_dicts() -> tuple[dict, dict]:
    """Random weights in the form of the two published files."""
    random = np.random.default_rng(5)
    vgg = torch_files.state_dict(random_weights(deepest="conv4_1"), "padded")
    vgg["0.weight"] += random.standard_normal((3, 3, 1, 1)).astype("f4")  # any map of the colours
    for number, (K, C) in {32: (512, 512), 35: (512, 512)}.items():  # the file goes on
        vgg |= {f"{number}.weight": torch_files.Zeros((K, C, 3, 3)), f"{number}.bias": torch_files.Zeros((K,))}
    channels = (512, 256, 256, 256, 256, 128, 128, 64, 64, 3)
    decoder = {}
    for number, C, K in zip((1, 5, 8, 11, 14, 18, 21, 25, 28), channels, channels[1:], strict=False):
        decoder[f"{number}.weight"] = random.standard_normal((K, C, 3, 3), np.float32)
        decoder[f"{number}.bias"] = random.standard_normal(K, np.float32)
    return vgg, decoder


def write_adain(folder: Path, state_dicts: tuple[dict, dict], container: str = "zip") -> list[Path]:
    folder.mkdir(exist_ok=True)
    names = ("vgg_normalised.pth", "decoder.pth")
    return [torch_files.write(container, folder / n, s) for n, s in zip(names, state_dicts, strict=True)]


@pytest.mark.parametrize("container", torch_files.TORCH)
def test_the_two_files_of_adain_are_one_network(tmp_path, state_dicts, container):
    paths = write_adain(tmp_path / "files", state_dicts, container)
    weights = load_fast_weights(paths[1])
    vgg, decoder = state_dicts
    assert (weights.name, weights.model) == ("adain", "adain")
    for n, number in enumerate((1, 5, 8, 11, 14, 18, 21, 25, 28), 1):
        assert np.array_equal(weights.tensors[f"decoder/conv{n}/weight"], decoder[f"{number}.weight"])
        assert np.array_equal(weights.tensors[f"decoder/conv{n}/bias"], decoder[f"{number}.bias"])
    for conv, number in (("conv1_2", 5), ("conv2_1", 9), ("conv3_1", 16), ("conv4_1", 29)):
        assert np.array_equal(weights.tensors[f"encoder/{conv}/weight"], vgg[f"{number}.weight"])
    folded = adain.fold(*(vgg[f"{name}"] for name in ("2.weight", "2.bias", "0.weight", "0.bias")))
    for part, expected in zip(("weight", "bias"), folded, strict=True):
        assert np.array_equal(weights.tensors[f"encoder/conv1_1/{part}"], expected.astype(np.float32))


def test_the_folded_convolution_is_both_where_the_border_is_reflected(state_dicts):
    vgg, _ = state_dicts
    w, b, colours, offset = (vgg[name].astype(float) for name in ("2.weight", "2.bias", "0.weight", "0.bias"))
    p = np.random.default_rng(1).random((3, 7, 9))
    apart = ops.conv_forward(ops.conv_forward(p, colours, offset, amounts=((0, 0), (0, 0))), w, b, "reflect")
    at_once = ops.conv_forward(p, *adain.fold(w, b, colours, offset), "reflect")
    assert np.abs(at_once - apart).max() < 1e-12 * np.abs(apart).max()


def test_files_of_torch_that_are_not_adain_are_refused(tmp_path, state_dicts):
    _, decoder = state_dicts
    (tmp_path / "alone").mkdir()
    encoder, path = write_adain(tmp_path, state_dicts)
    shutil.copy(path, tmp_path / "alone" / "decoder.pth")
    assert "expected vgg_normalised.pth beside it" in refused(load_fast_weights, tmp_path / "alone")
    for changed, words in (
        (decoder | {"31.weight": decoder["28.weight"]}, "31.weight: expected the decoder of AdaIN"),
        ({k: v for k, v in decoder.items() if k != "5.bias"}, "not the decoder of AdaIN: 5.bias: missing"),
        (decoder | {"28.bias": decoder["1.bias"]}, "not the decoder of AdaIN: 28.bias: expected"),
    ):
        torch_files.write("zip", path, changed)
        assert words in refused(load_fast_weights, tmp_path)
    path.write_text("text")
    assert "decoder.pth: expected a file written by torch.save" in refused(load_fast_weights, tmp_path)
    torch_files.write("zip", encoder, torch_files.state_dict(random_weights(deepest="conv1_2"), "bare"))
    assert "not the encoder of AdaIN up to conv4_1: 2.weight: expected" in refused(load_fast_weights, tmp_path)
