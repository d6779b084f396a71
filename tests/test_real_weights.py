"""What the published weights show: engines against the book on real pictures."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import each_kernels

from nstcore import engines, images
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.objective import STYLE_LAYERS

TAPS = (*STYLE_LAYERS, "relu4_2")


@pytest.mark.slow
@each_kernels
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_the_cpu_engine_equals_the_book_on_a_photograph(vgg19, shared_images, pooling, kernels):
    """Features within 2e-5; the gradient within 1e-4 with ReLU and pooling decisions fixed, 5e-3 freely."""
    pixels = images.as_pixels(shared_images / "content" / "tuebingen_neckarfront.jpg")
    pixels = images.resize_pixels(pixels, (93, 125))
    rng = np.random.default_rng(0)
    results = {}
    for key, device, dtype in [("mine", "cpu", "float32"), ("book", "reference", "float64")]:
        engine = engines.create(device, dtype)
        network = engine.network(vgg19, TAPS, pooling)
        network.forward(engine.array(pixels))
        results[key] = (engine, network)
    _, mine = results["mine"]
    _, book = results["book"]
    upstream = {tap: rng.standard_normal([len(book.features(tap))] * 2) for tap in TAPS}
    upstream = {tap: dG / np.linalg.norm(book.gram(tap)) for tap, dG in upstream.items()}
    found = {tap: mine.features(tap) for tap in TAPS}
    decisions = mine.decisions()
    gradient = mine.backward({tap: [TapGradient(dG.astype(np.float32))] for tap, dG in upstream.items()}).copy()

    free = book.backward({tap: [TapGradient(dG)] for tap, dG in upstream.items()})
    for tap in TAPS:
        assert relative_error(found[tap], book.features(tap)) <= 2e-5, tap
    assert relative_error(gradient, free) <= 5e-3

    book.forward(pixels, decisions=decisions)
    fixed = book.backward({tap: [TapGradient(dG)] for tap, dG in upstream.items()})
    assert relative_error(gradient, fixed) <= 1e-4
