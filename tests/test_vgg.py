"""The table of layers and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from hypothesis import given
from hypothesis import strategies as st

from nstcore import engines, vgg
from nstcore.errors import LayerError, OptionError, ShapeError


@pytest.mark.parametrize(("architecture", "count"), [("vgg16", 13), ("vgg19", 16)])
def test_the_networks_have_the_papers_number_of_convolutions(architecture, count):
    assert len(vgg.convolutions(architecture)) == count


def test_vgg19_has_the_published_number_of_parameters():
    shapes = vgg.convolutions("vgg19").values()
    assert sum(int(np.prod(s)) + s[0] for s in shapes) == 20_024_384


def test_nothing_beyond_the_deepest_tap_is_needed():
    assert [s.name for s in vgg.steps_for("vgg19", ["relu1_2", "conv2_1"])] == [
        "conv1_1",
        "conv1_2",
        "pool1",
        "conv2_1",
    ]


@given(st.integers(16, 300), st.integers(16, 300))
def test_shapes_follow_from_the_table_for_any_size(height, width):
    channels, h, w = vgg.shape("vgg19", "relu5_1", height, width)
    assert channels == 512
    for _ in range(4):
        height, width = height // 2, width // 2
    assert (h, w) == (height, width)


@pytest.mark.parametrize("layer", ["relu1_1", "conv2_1", "pool2", "relu3_4", "relu4_2"])
def test_the_receptive_field_is_what_a_position_really_sees(layer):
    """Change one pixel: exactly the positions whose field holds it may change."""
    size, stride = vgg.receptive_field("vgg19", layer)
    reach = (size - stride) // 2
    weights = random_weights(deepest="conv4_2", pooling="average")
    network = engines.create("reference").network(weights, [layer], "average")
    pixels = smooth_picture(144, 16).transpose(2, 0, 1).copy()
    network.forward(pixels)
    before = network.features(layer)
    row = 70
    pixels[:, row] += 0.1
    network.forward(pixels)
    changed = np.flatnonzero((network.features(layer) != before).any(axis=(0, 2)))
    positions = np.arange(before.shape[1])
    sees = positions[(positions * stride - reach <= row) & (row <= positions * stride + stride - 1 + reach)]
    np.testing.assert_array_equal(changed, sees)


@pytest.mark.parametrize("name", ["relu6_1", "conv1_3", "pool6", "relu4", "Relu4_2", "", "fc6"])
def test_an_unknown_layer_is_named(name):
    with pytest.raises(LayerError, match="layer"):
        vgg.find("vgg19", name)


def test_vgg16_lacks_the_fourth_convolution_of_a_block():
    with pytest.raises(LayerError, match="vgg16 has no such layer"):
        vgg.find("vgg16", "relu3_4")


def test_a_picture_that_is_too_small_is_refused_with_the_least_size():
    with pytest.raises(ShapeError, match="at least 16x16"):
        vgg.shape("vgg19", "relu1_1", 15, 100)
    with pytest.raises(ShapeError, match="at least 32"):
        vgg.shape("vgg19", "pool5", 31, 100)


def test_no_taps_and_unknown_architectures_are_refused():
    with pytest.raises(LayerError, match="at least one layer"):
        vgg.steps_for("vgg19", [])
    with pytest.raises(OptionError, match="vgg16, vgg19"):
        vgg.steps("vgg11")
