"""AdaIN's encoder and decoder out of the two torch files of pytorch-AdaIN [1]_, by our names.

Both are a Sequential whose children are numbered, a padding layer before and a ReLU behind every convolution:

    vgg_normalised.pth    0: a 1x1 convolution of the colours; 2: conv1_1, 5: conv1_2, 9: conv2_1, ... 29: conv4_1
    decoder.pth           1, 5, 8, 11, 14, 18, 21, 25, 28: from 512 channels to the picture's 3

The colours' convolution M p + m is folded into conv1_1, in float64:

    w'[k,c,r,s] = sum_j w[k,j,r,s] M[j,c]        b'[k] = b[k] + sum_{j,r,s} w[k,j,r,s] m[j]

which is exact, because the border is reflected: a reflected position of M p + m is that of p, under the same map.

References
----------
.. [1] naoto0804/pytorch-AdaIN, net.py; the files are those of its release v0.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import WeightsError
from ..fast.models import ENCODER_END, fast_tensors
from ..weights import shown
from . import state_dict, torch_legacy, torch_zip

ENCODER_FILE = "vgg_normalised.pth"
DECODER_FILE = "decoder.pth"

_COLOURS = 0
_ENCODER = (2, 5, 9, 12, 16, 19, 22, 25, 29)
_DECODER = (1, 5, 8, 11, 14, 18, 21, 25, 28)


def read(encoder: Path, decoder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the network by our names, float32.

    Raises
    ------
    WeightsError
        If a file is damaged, names anything but tensors and ordered dictionaries, or is not the published one.
    """
    layers = [name.removesuffix("/weight") for name in fast_tensors("adain") if name.endswith("/weight")]
    ours = [name for name in layers if name.startswith("encoder/")]
    tensors = _numbered(encoder, dict(zip(_ENCODER, ours, strict=True)), colours=True)
    ours = [name for name in layers if name.startswith("decoder/")]
    return {**tensors, **_numbered(decoder, dict(zip(_DECODER, ours, strict=True)), colours=False)}


def fold(
    weight: np.ndarray, bias: np.ndarray, colours: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One convolution that does what a pointwise one and another behind it do, where the border is reflected.

    Parameters
    ----------
    weight, bias : ndarray of shape (K, J, R, S) and (K,)
        The convolution behind.
    colours, offset : ndarray of shape (J, C, 1, 1) and (J,)
        The pointwise one, colours p + offset.

    Returns
    -------
    weight, bias : ndarray of shape (K, C, R, S) and (K,), float64
    """
    w, M, m = (array.astype(np.float64) for array in (weight, colours[:, :, 0, 0], offset))
    return np.einsum("kjrs,jc->kcrs", w, M), bias + np.einsum("kjrs,j->k", w, m)


def _numbered(path: Path, layers: Mapping[int, str], *, colours: bool) -> dict[str, np.ndarray]:
    """The layers of a Sequential that have these numbers; with colours, child 0 is folded into the first one."""
    reader = next((reader for reader in (torch_legacy, torch_zip) if reader.recognise(path)), None)
    if reader is None:
        raise WeightsError(f"{shown(path)}: expected a file written by torch.save, found another, or none")
    shapes = fast_tensors("adain")
    expected: dict[str, tuple[int, ...]] = {}
    for number, name in layers.items():
        expected[f"{number}.weight"], expected[f"{number}.bias"] = shapes[f"{name}/weight"], shapes[f"{name}/bias"]
    if colours:
        expected[f"{_COLOURS}.weight"], expected[f"{_COLOURS}.bias"] = (3, 3, 1, 1), (3,)
    with reader.tensors(path) as (named, read_tensor):
        last = f"{max(layers)}.weight"
        foreign = [name for name in named if name not in expected]
        if foreign and not colours:  # the encoder's file goes on after its end
            raise WeightsError(f"{shown(foreign[0])[:80]}: expected the decoder of AdaIN, which ends with {last}")
        try:
            for name, shape in expected.items():
                state_dict.check(name, named.get(name), shape)
        except WeightsError as error:
            part = f"the encoder of AdaIN up to {ENCODER_END}" if colours else "the decoder of AdaIN"
            raise WeightsError(f"not {part}: {error}") from error
        return _renamed(layers, {name: read_tensor(named[name]) for name in expected}, colours)


def _renamed(layers: Mapping[int, str], arrays: Mapping[str, np.ndarray], colours: bool) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for number, name in layers.items():
        weight, bias = arrays[f"{number}.weight"], arrays[f"{number}.bias"]
        if colours and number == min(layers):
            weight, bias = fold(weight, bias, arrays[f"{_COLOURS}.weight"], arrays[f"{_COLOURS}.bias"])
        for part, array in (("weight", weight), ("bias", bias)):
            tensors[f"{name}/{part}"] = np.ascontiguousarray(array, np.float32)  # what was folded is rounded here, once
    return tensors
