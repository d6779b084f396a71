"""Weights in memory: only what makes sense can be put together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import random_weights
from weights_files import refused

from nstcore import vgg
from nstcore.errors import LayerError
from nstcore.pretrained import Preprocessing, Weights


@pytest.fixture
def weights(monkeypatch) -> Weights:
    """A network of four small convolutions under the name of vgg19, so that a file has a few kilobytes."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


def test_taps_beyond_the_weights_are_refused():
    weights = random_weights(deepest="conv2_1")
    weights.require(["relu1_1", "conv2_1", "pool1"])
    for tap in ("conv2_2", "pool2", "relu5_1"):
        assert f"layer {tap}: the weights 'random' end at conv2_1" in refused(weights.require, [tap], error=LayerError)
    assert "no such layer" in refused(weights.require, ["relu3_9"], error=LayerError)


def test_describe_is_one_line(weights):
    line = weights.describe()
    assert line.isprintable()
    assert all(word in line for word in ("vgg19 to conv2_3", "BGR 0-255", "zero padding", "max pooling", "from random"))


def test_what_python_shows_of_weights_has_no_filters_in_it(weights):
    assert len(repr(weights)) < 600


def test_filters_are_put_in_the_order_of_the_data(weights):
    turned = dataclasses.replace(weights, filters=dict(reversed(weights.filters.items())))
    assert list(turned.filters) == list(weights.filters)
    assert turned.deepest == "conv2_3"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filters": {}}, "conv1_1: expected at least"),
        ({"architecture": "vgg18"}, "architecture: expected one of vgg16, vgg19"),
        ({"padding": "mirror"}, "padding: expected one of zero, replicate"),
        ({"pooling": "min"}, "pooling: expected one of max, average, l2"),
        ({"name": "two\nlines"}, "name: expected one line"),
        ({"name": ""}, "name: expected one line"),
        ({"provenance": {"Source!": "x"}}, "provenance: expected keys"),
        ({"provenance": {"source": 3}}, "provenance source: expected one line"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, change, words):
    assert words in refused(lambda: dataclasses.replace(weights, **change))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w, b: (w.astype(np.float64), b), "conv2_1/weight: expected float32 (6, 4, 3, 3), got float64"),
        (lambda w, b: (w[:5], b), "expected float32 (6, 4, 3, 3), got float32 (5, 4, 3, 3)"),
        (lambda w, b: (w, b[:, None]), "conv2_1/bias: expected float32 (6,), got float32 (6, 1)"),
        (lambda w, b: (w.tolist(), b), "got list"),
        (lambda w, b: (np.asfortranarray(w), b), "C-contiguous"),
        (lambda w, b: (w, np.full_like(b, np.nan)), "conv2_1/bias: expected finite numbers, found 6"),
    ],
)
def test_arrays_that_do_not_fit_the_network_are_refused(weights, spoil, words):
    filters = {**weights.filters, "conv2_1": spoil(*weights.filters["conv2_1"])}
    assert words in refused(lambda: dataclasses.replace(weights, filters=filters))


def test_a_hole_in_the_network_is_refused(weights):
    filters = {conv: arrays for conv, arrays in weights.filters.items() if conv != "conv2_1"}
    assert "conv2_1: missing, although conv2_2 is there" in refused(
        lambda: dataclasses.replace(weights, filters=filters)
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("rbg", 255.0, (0, 0, 0), (1, 1, 1)), "channel_order: expected one of rgb, bgr"),
        (("rgb", 2.0, (0, 0, 0), (1, 1, 1)), "range: expected one of 1.0, 255.0"),
        (("rgb", 1.0, (0, 0), (1, 1, 1)), "mean: expected three finite numbers"),
        (("rgb", 1.0, (0, 0, float("nan")), (1, 1, 1)), "mean: expected three finite numbers"),
        (("rgb", 1.0, (0, 0, 0), (1, 0, 1)), "std: expected three numbers above 0"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(fields, words):
    assert words in refused(lambda: Preprocessing(*fields))
