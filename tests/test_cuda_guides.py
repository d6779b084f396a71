"""Guides, sums and several losses at one tap in the cuda engine, against the book in float64."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

from nstcore import engines
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.errors import ShapeError

each_device = pytest.mark.parametrize("device", ["cuda-on-cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
PRECISIONS = ["float32", "tf32", "float16", pytest.param("bfloat16", marks=pytest.mark.slow)]
TAPS = ("conv1_1", "relu1_1", "pool1", "relu2_1")
PIXELS = np.ascontiguousarray(smooth_picture(21, 26).transpose(2, 0, 1).astype(np.float32))


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv2_1", padding="replicate-first")


def soft(height, width, seed=0):
    """A guide's weights with soft edges: 0 in one corner, the largest, above 1, in another."""
    rows, columns = np.mgrid[0:height, 0:width]
    slope = (rows + columns) / (height + width) - 0.3 + 0.01 * np.random.default_rng(seed).random((height, width))
    return 5 * np.clip(slope, 0, None).astype(np.float32)


def kinds(engine, network, tap, target, size=1.0, scale=1.0):
    """Losses at a tap of every kind, the guided ones first; `size` of the guides' weights, `scale` of the gradients."""
    N, height, width = network.features(tap).shape
    rng = np.random.default_rng(len(tap) + N)
    dG = [scale * rng.standard_normal((N, N)) / N for _ in range(3)]
    ds = [scale * rng.standard_normal(N) for _ in range(3)]
    guides = [network.guide(tap, size * soft(height, width, seed)) for seed in (0, 1)]
    return [
        TapGradient(engine.array(dG[0]), ds[0], target, scale, guides[0]),
        TapGradient(ds=ds[1], guide=guides[1]),
        *([] if size != 1 else [TapGradient(engine.array(dG[1]), ds[2]), TapGradient(engine.array(dG[2]))]),
    ]


def evaluated(device, precision, weights, size=1.0, scale=1.0, decisions=None):
    """Statistics of the first tap of every kind, and the gradient of all losses at all taps."""
    engine = engines.create(device, precision)
    network = engine.network(weights, TAPS, "max")

    def forward(pixels, i):
        network.forward(engine.array(pixels), **({} if decisions is None else {"decisions": decisions[i]}))

    forward(PIXELS[:, :, ::-1].copy(), 0)
    first = network.decisions()
    targets, norms = {}, {}
    for tap in TAPS:
        guide = network.guide(tap, size * soft(*network.features(tap).shape[1:]))
        targets[tap] = network.keep(tap, guide)
        norms[tap] = network.squared_norm(targets[tap])
    forward(PIXELS, 1)
    losses = {tap: kinds(engine, network, tap, targets[tap], size, scale) for tap in TAPS}
    return {
        "grams": {tap: engine.numpy(network.gram(tap, losses[tap][0].guide)) for tap in TAPS},
        "sums": {tap: network.sums(tap, losses[tap][0].guide) for tap in TAPS},
        "all sums": {tap: network.sums(tap) for tap in TAPS},
        "distances": {tap: network.squared_distance(tap, targets[tap]) for tap in TAPS},
        "norms": norms,
        "decisions": (first, network.decisions()),
        "gradient": engine.numpy(network.backward(losses)),
    }


@each_device
@pytest.mark.parametrize("precision", PRECISIONS)
def test_guided_statistics_and_gradients_are_the_books(weights, device, precision):
    mine = evaluated(device, precision, weights)
    book = evaluated("reference", "float64", weights, decisions=mine["decisions"])
    unit = engines.create(device, precision).elements.unit
    features, gradients = max(2e-5, 4 * unit), max(1e-4, 10 * unit)  # as the conformance suite
    for tap in TAPS:
        assert relative_error(mine["grams"][tap], book["grams"][tap]) <= 2 * features, tap
        assert relative_error(mine["sums"][tap], book["sums"][tap]) <= 2 * features, tap
        assert relative_error(mine["all sums"][tap], book["all sums"][tap]) <= 2 * features, tap
        assert mine["distances"][tap] == pytest.approx(book["distances"][tap], rel=10 * features)
        assert mine["norms"][tap] == pytest.approx(book["norms"][tap], rel=2 * features)
    assert relative_error(mine["gradient"], book["gradient"]) <= gradients


@each_device
@pytest.mark.parametrize("size", [2.0**-40, 2.0**40])
def test_float16_gradients_do_not_depend_on_the_size_of_a_guides_weights(weights, device, size):
    """Features times such weights, or what they send back without them, are beyond what float16 can hold."""
    usual = evaluated(device, "float16", weights, size=2.0, scale=0.5)
    other = evaluated(device, "float16", weights, size=size, scale=1 / size)
    assert np.isfinite(usual["gradient"]).all()
    np.testing.assert_array_equal(other["gradient"], usual["gradient"])
    for tap in TAPS:
        np.testing.assert_array_equal(other["grams"][tap] / size, usual["grams"][tap] / 2)


@each_device
@pytest.mark.parametrize("kind", ["sums", "guided sums", "guided Gram", "guided content"])
def test_float16_gradients_do_not_depend_on_the_size_of_any_loss(weights, device, kind):
    engine = engines.create(device, "float16")
    network = engine.network(weights, ["relu1_1"], "max")
    rng, found = np.random.default_rng(0), []
    dG, ds = rng.standard_normal((64, 64)), rng.standard_normal(64)
    guide = None if kind == "sums" else network.guide("relu1_1", soft(21, 26))
    for size in (1.0, 2.0**-50, 2.0**50):
        network.forward(engine.array(PIXELS[:, ::-1].copy()))
        target = network.keep("relu1_1", guide)
        network.forward(engine.array(PIXELS))
        loss = {
            "sums": {"ds": size * ds},
            "guided sums": {"ds": size * ds},
            "guided Gram": {"dG": engine.array(size * dG)},
            "guided content": {"target": target, "scale": size},
        }[kind]
        found.append(engine.numpy(network.backward({"relu1_1": [TapGradient(**loss, guide=guide)]})) / size)
    assert np.abs(found[0]).max() > 0
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@each_device
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_guide_of_ones_gives_the_bits_without_a_guide(weights, device, precision):
    engine = engines.create(device, precision)
    network = engine.network(weights, TAPS, "max")
    network.forward(engine.array(PIXELS[:, ::-1].copy()))
    target = {tap: network.keep(tap) for tap in TAPS}
    network.forward(engine.array(PIXELS))
    for tap in TAPS:
        ones = network.guide(tap, np.ones(network.features(tap).shape[1:]))
        guided = network.gram(tap, ones)
        np.testing.assert_array_equal(engine.numpy(network.gram(tap)), engine.numpy(guided))
        np.testing.assert_array_equal(network.sums(tap), network.sums(tap, ones))
        everywhere = type(target[tap])(target[tap].P, ones)
        assert network.squared_distance(tap, target[tap]) == network.squared_distance(tap, everywhere)


@each_device
def test_every_guide_has_a_gram_matrix_of_its_own(weights, device):
    """A loss may leave its gradient in the matrix's place while another guide's is computed."""
    engine = engines.create(device, "float32")
    network = engine.network(weights, ["relu1_1"], "max")
    network.forward(engine.array(PIXELS))
    guides = [network.guide("relu1_1", soft(21, 26, seed)) for seed in (0, 1)]
    grams = [network.gram("relu1_1", guide) for guide in (*guides, None)]
    held = [engine.numpy(G) for G in grams]
    for guide, G in zip((*guides, None), held, strict=True):
        np.testing.assert_array_equal(engine.numpy(network.gram("relu1_1", guide)), G)
    assert not np.array_equal(held[0], held[1])


@each_device
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_pixels_that_no_guided_position_sees_have_no_gradient(weights, device, precision):
    engine = engines.create(device, precision)
    network = engine.network(weights, ["relu1_1"], "max")
    network.forward(engine.array(PIXELS))
    w = np.zeros((21, 26), np.float32)
    w[:, :8] = 1e-6
    dG, ds = engine.array(np.eye(64)), np.ones(64)
    gradient = engine.numpy(network.backward({"relu1_1": [TapGradient(dG, ds, guide=network.guide("relu1_1", w))]}))
    assert not gradient[:, :, 9:].any()  # a convolution reaches one pixel further
    assert gradient[:, :, :9].all()


@each_device
def test_guides_take_memory_once_and_a_new_size_wants_new_ones(weights, device, monkeypatch):
    engine = engines.create(device, "float32")
    network = engine.network(weights, ["relu1_1", "relu2_1"], "max")
    pixels, taken = engine.array(PIXELS), []
    empty = engine.device.empty

    def counting(shape, dtype):
        a = empty(shape, dtype)
        taken.append(a.nbytes)
        return a

    network.forward(pixels)
    guides = {"relu1_1": network.guide("relu1_1", soft(21, 26)), "relu2_1": network.guide("relu2_1", soft(10, 13))}
    monkeypatch.setattr(engine.device, "empty", counting)

    def step():
        taken.clear()
        network.forward(pixels)
        grams = {tap: network.gram(tap, guide) for tap, guide in guides.items()}
        network.backward({tap: [TapGradient(G, guide=guides[tap])] for tap, G in grams.items()})

    step()
    assert max(taken) == 64 * 21 * 26 * 4
    assert sum(taken) - max(taken) < 2**12  # tables
    step()
    assert not taken
    network.forward(engine.array(PIXELS[:, :20, :20]))
    with pytest.raises(ShapeError, match="guide: expected weights of the 400 positions of relu1_1, got 546"):
        network.gram("relu1_1", guides["relu1_1"])
