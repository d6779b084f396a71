"""What the published weights show: engines against the book on real pictures."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from conftest import each_kernels

from nstcore import engines, images
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.objective import STYLE_LAYERS

TAPS = (*STYLE_LAYERS, "relu4_2")


@pytest.fixture(scope="module")
def photographed(vgg19, shared_images):
    """A photograph, and by pooling: the book's network, gradients for its taps, its features and its gradient."""
    pixels = images.as_pixels(shared_images / "content" / "tuebingen_neckarfront.jpg")
    pixels = images.resize_pixels(pixels, (93, 125))

    @functools.cache
    def book(pooling):
        network, rng = engines.create("reference", "float64").network(vgg19, TAPS, pooling), np.random.default_rng(0)
        network.forward(pixels)
        upstream = {tap: rng.standard_normal([len(network.features(tap))] * 2) for tap in TAPS}
        upstream = {tap: dG / np.linalg.norm(network.gram(tap)) for tap, dG in upstream.items()}
        features = {tap: network.features(tap).copy() for tap in TAPS}
        gradient = network.backward({tap: [TapGradient(dG)] for tap, dG in upstream.items()})
        return network, upstream, features, gradient.copy()

    return pixels, book


@pytest.mark.slow
@each_kernels
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_the_cpu_engine_equals_the_book_on_a_photograph(vgg19, photographed, pooling, kernels):
    """Features within 2e-5; the gradient within 1e-4 with ReLU and pooling decisions fixed, 5e-3 freely."""
    pixels = photographed[0]
    book, upstream, features, free = photographed[1](pooling)
    engine = engines.create("cpu", "float32")
    mine = engine.network(vgg19, TAPS, pooling)
    mine.forward(engine.array(pixels))
    found = {tap: mine.features(tap) for tap in TAPS}
    decisions = mine.decisions()
    gradient = mine.backward({tap: [TapGradient(dG.astype(np.float32))] for tap, dG in upstream.items()}).copy()
    for tap in TAPS:
        assert relative_error(found[tap], features[tap]) <= 2e-5, tap
    assert relative_error(gradient, free) <= 5e-3

    book.forward(pixels, decisions=decisions)
    fixed = book.backward({tap: [TapGradient(dG)] for tap, dG in upstream.items()})
    assert relative_error(gradient, fixed) <= 1e-4
