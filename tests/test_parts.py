"""A network in parts: computed one after another, they are the whole network."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from conftest import each_kernels
from test_engines import pixels_of

from nstcore import engines, vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cpu import library
from nstcore.errors import LayerError, ShapeError
from nstcore.vgg import Part

TAPS = ("conv1_1", "relu1_1", "pool1", "relu2_2", "conv3_1", "pool3", "relu4_1", "relu5_1")
CUTS = [cuts for n in range(5) for cuts in combinations((1, 2, 3, 4), n)]  # every subset of the poolings between blocks
POOLINGS, PADDINGS = ("max", "average", "l2"), ("zero", "replicate")


def parts_of(engine, weights, cuts, pooling, taps=TAPS):
    """The networks of the parts between those poolings, each with its taps."""
    found = []
    for last, following in pairwise((0, *cuts, None)):
        part = Part(last + 1, following)
        mine = [tap for tap in taps if part.first <= vgg.find(weights.architecture, tap).block <= (following or 9)]
        found.append(engine.network(weights, mine, pooling, part))
    return found


def forward(engine, networks, pixels):
    x = pixels
    for network in networks:
        network.forward(engine.array(x))
        if network.part.last is not None:
            x = network.features(f"pool{network.part.last}")


def backward(networks, gradients):
    above = None
    for network in reversed(networks):
        mine = {tap: gradients[tap] for tap in network.taps if tap in gradients}
        above = np.array(network.backward(mine, above))
    return above


def gradients_for(engine, networks, taps):
    """The same upstream gradients, whatever the parts: of a style loss, of the sums and of a content loss."""
    found, rng = {}, np.random.default_rng(3)
    for network, tap in [(part, tap) for part in networks for tap in part.taps if tap in taps]:
        N, *size = network.features(tap).shape
        dG = engine.array(rng.standard_normal((N, N)) / N**0.5)
        target = network.hold(tap, rng.standard_normal((N, *size)).astype(np.float32))
        found[tap] = [TapGradient(dG, 0.3 * rng.standard_normal(N), target, 1.5)]
    return found


def chained(engine, weights, cuts, pooling, size, taps=TAPS):
    """Features of the taps and the gradient with respect to the pixels."""
    networks = parts_of(engine, weights, cuts, pooling)
    forward(engine, networks, pixels_of(*size))
    features = {tap: network.features(tap) for network in networks for tap in network.taps}
    return features, backward(networks, gradients_for(engine, networks, taps))


def whole_and_parts(engine, weights, pooling, size, taps=TAPS, every=CUTS[1:]):
    features, gradient = chained(engine, weights, (), pooling, size, taps)
    for cuts in every:
        parts, part_gradient = chained(engine, weights, cuts, pooling, size, taps)
        assert parts.keys() == features.keys()
        for tap in features:
            np.testing.assert_array_equal(parts[tap], features[tap])
        yield part_gradient, gradient


@pytest.mark.parametrize(("pooling", "padding"), [*product(POOLINGS, PADDINGS)])
def test_any_parts_are_the_whole_network_to_the_bit_in_the_book(narrow, pooling, padding):
    engine, weights = engines.create("reference", "float64"), narrow(padding, 4)
    for of_parts, of_whole in whole_and_parts(engine, weights, pooling, (21, 31)):
        np.testing.assert_array_equal(of_parts, of_whole)


@pytest.mark.parametrize(("pooling", "padding"), [*product(POOLINGS, PADDINGS)])
def test_any_parts_are_the_whole_network_in_float64(narrow, pooling, padding):
    engine, weights = engines.create("cpu", "float64", threads=2), narrow(padding, 4)
    for of_parts, of_whole in whole_and_parts(engine, weights, pooling, (37, 50), every=CUTS[1::3]):
        assert relative_error(of_parts, of_whole) <= 1e-12


@each_kernels
@pytest.mark.parametrize(("pooling", "padding"), [*zip(POOLINGS, (*PADDINGS, "zero"), strict=True)])
def test_any_parts_are_the_whole_network_in_float32(narrow, kernels, pooling, padding):
    """The features to the bit; the gradient too, where no loss lies at a cut: there it is added in another order."""
    engine, weights = engines.create("cpu", threads=2), narrow(padding)
    every = [(3,), (2, 4), (1, 2, 3, 4)]
    for of_parts, of_whole in whole_and_parts(engine, weights, pooling, (37, 50), every=every):
        assert relative_error(of_parts, of_whole) <= 1e-6
    inside = [tap for tap in TAPS if not tap.startswith("pool")]
    for of_parts, of_whole in whole_and_parts(engine, weights, pooling, (37, 50), inside, every[1:]):
        np.testing.assert_array_equal(of_parts, of_whole)


def test_parts_of_the_published_widths_are_the_whole_network(random_vgg19):
    taps = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "pool4", "relu5_1")
    engine = engines.create("cpu")
    for of_parts, of_whole in whole_and_parts(engine, random_vgg19, "max", (37, 50), taps, [(2, 3)]):
        assert relative_error(of_parts, of_whole) <= 1e-6


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_without_what_comes_from_above_the_gradient_is_another(narrow, device):
    engine, weights = engines.create(device), narrow()
    networks = parts_of(engine, weights, (2,), "max")
    forward(engine, networks, pixels_of(37, 50))
    gradients = gradients_for(engine, networks, TAPS)
    mine = {tap: gradients[tap] for tap in networks[0].taps}
    alone = np.array(networks[0].backward(mine))
    networks[0].forward(engine.array(pixels_of(37, 50)))
    assert relative_error(alone, backward(networks, gradients)) > 0.01


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_part_without_taps_sends_back_what_comes_from_above(narrow, device):
    engine, weights = engines.create(device), narrow()
    networks = parts_of(engine, weights, (1, 3), "average", taps=["relu4_1"])
    assert [network.taps for network in networks] == [(), (), ("relu4_1",)]
    gradient = {}
    for cut in (networks, parts_of(engine, weights, (), "average", taps=["relu4_1"])):
        forward(engine, cut, pixels_of(37, 50))
        gradient[len(cut)] = backward(cut, gradients_for(engine, cut, ["relu4_1"]))
    np.testing.assert_array_equal(gradient[3], gradient[1])
    assert np.any(gradient[1])


@each_kernels
def test_windows_of_larger_arrays_go_in_as_their_copies_do(narrow, kernels):
    rng, network = np.random.default_rng(0), engines.create("cpu").network(narrow(), (), "max", Part(2, 3))
    x, above = rng.random((32, 40, 50)).astype(np.float32), rng.random((96, 9, 12)).astype(np.float32)
    window, above_window = x[:, 3:27, 7:34], above[:, 2:8, 5:11]
    network.forward(window)
    pool = network.features("pool3")
    assert pool.shape == above_window.shape
    gradient = network.backward({}, above_window).copy()
    network.forward(window.copy())
    np.testing.assert_array_equal(network.features("pool3"), pool)
    np.testing.assert_array_equal(network.backward({}, above_window.copy()), gradient)


def machines():
    """Every engine and kernels of this file, with float32 where there is a choice."""
    yield pytest.param("reference", None, id="reference")
    for kernels in (library.NUMPY, *library.INSTRUCTIONS):
        yield pytest.param("cpu", kernels, id=f"cpu-{kernels}")


each = pytest.mark.parametrize(("device", "kernels"), [*machines()])


@each
def test_windows_of_any_layer_that_is_computed_are_those_of_the_whole(narrow, device, kernels):
    network = engines.create(device).network(narrow(), ["conv2_1", "relu3_1"], "max", Part(1, 4))
    network.forward(pixels_of(50, 69))
    for layer in ("conv2_1", "relu2_2", "pool2", "relu3_1", "pool4"):
        whole = network.features(layer)
        _, H, W = whole.shape
        for rows, columns in (((0, H), (0, W)), ((1, H), (2, W)), ((H // 2, H // 2 + 1), (0, 1)), ((1, 3), (1, W - 1))):
            window = slice(*rows), slice(*columns)
            found = network.features(layer, window)
            np.testing.assert_array_equal(found, whole[:, *window])
            assert found.flags.c_contiguous
            assert found.flags.owndata


@each
def test_holding_features_is_keeping_them(narrow, device, kernels):
    engine = engines.create(device)
    network = engine.network(narrow(), ["conv2_1", "pool3"], "max")
    for tap, guided in product(network.taps, (False, True)):
        network.forward(pixels_of(37, 50, seed=1))
        features = network.features(tap)
        guide = network.guide(tap, np.random.default_rng(0).random(features.shape[1:])) if guided else None
        targets = network.keep(tap, guide), network.hold(tap, features, guide)
        norms = {network.squared_norm(target) for target in targets}
        assert {network.squared_distance(tap, target) for target in targets} == {0}
        network.forward(pixels_of(37, 50))
        distances = {network.squared_distance(tap, target) for target in targets}
        assert len(norms) == len(distances) == 1
        assert min(norms | distances) > 0
        gradients = []
        for target in targets:
            network.forward(pixels_of(37, 50))
            gradients.append(engine.numpy(network.backward({tap: [TapGradient(None, None, target, 2.0, guide)]})))
        np.testing.assert_array_equal(*gradients)


RECTANGLES = [
    (0, 20, 0, 37),
    (3, 17, 0, 37),
    (2, 20, 5, 30),
    (7, 8, 11, 12),
    (0, 20, 36, 37),
    (4, 19, 1, 36),
    (5, 5, 0, 9),
]


@pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
def test_statistics_of_a_rectangle_are_those_of_weights_of_1_inside_and_0_outside(narrow, kernels):
    weights, tap = narrow(), "relu2_1"
    found = []
    for threads in (1, 3):
        engine = engines.create("cpu", threads=threads)
        network = engine.network(weights, [tap], "max")
        network.forward(pixels_of(40, 74, seed=1))
        others = network.features(tap)
        network.forward(pixels_of(40, 74))
        numbers = []
        for top, bottom, left, right in RECTANGLES:
            w = np.zeros((20, 37))
            w[top:bottom, left:right] = 1
            guide = network.guide(tap, w)
            weighted = replace(guide, window=None)  # the same weights, position by position
            target = network.hold(tap, others, guide)
            pairs = [
                (network.gram(tap, guide).copy(), network.gram(tap, weighted).copy()),
                (network.sums(tap, guide), network.sums(tap, weighted)),
                (network.squared_norm(target), network.squared_norm(replace(target, guide=weighted))),
                (network.squared_distance(tap, target), network.squared_distance(tap, replace(target, guide=weighted))),
            ]
            for of_rectangle, of_weights in pairs:
                np.testing.assert_allclose(of_rectangle, of_weights, rtol=2e-6, atol=0)
            numbers += [of_rectangle for of_rectangle, _ in pairs]
        found.append(numbers)
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
def test_statistics_of_a_rectangle_read_nothing_else_and_need_no_memory(narrow, kernels):
    network, tap = engines.create("cpu").network(narrow(), ["relu2_1"], "max"), "relu2_1"
    network.forward(pixels_of(40, 74))
    whole = network.features(tap)
    w = np.zeros((20, 37))
    w[4:18, 3:33] = 1
    guide = network.guide(tap, w)
    target = network.keep(tap, guide)
    network.buffers[tap][:, w == 0] = target.P[:, w == 0] = np.nan
    inside = whole[:, 4:18, 3:33].reshape(len(whole), -1).astype(np.float64)
    assert relative_error(network.gram(tap, guide), inside @ inside.T) <= 2e-6
    assert relative_error(network.sums(tap, guide), inside.sum(axis=1)) <= 1e-6
    assert network.squared_norm(target) == pytest.approx((inside**2).sum(), rel=1e-6)
    assert network.squared_distance(tap, target) == 0
    assert network._extra is None


@pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
def test_weights_that_are_no_rectangle_are_taken_one_by_one(narrow, kernels):
    network = engines.create("cpu").network(narrow(), ["relu2_1"], "max")
    network.forward(pixels_of(16, 16))
    rectangle = np.zeros((8, 8))
    rectangle[2:5, 1:7] = 1
    hole, soft, two = (rectangle.copy() for _ in range(3))
    hole[3, 3], soft[3, 3], two[0, 0] = 0, 0.5, 1
    assert network.guide("relu2_1", rectangle).window is not None
    assert all(network.guide("relu2_1", w).window is None for w in (hole, soft, two, rectangle * 0.5))


@each_kernels
def test_the_plan_of_a_part_is_exact(narrow, kernels):
    import tracemalloc

    network = engines.create("cpu").network(narrow(), ["relu3_1"], "max", Part(3, 4))
    x = np.ones((64, 128, 96), np.float32)
    tracemalloc.start()
    try:
        network.forward(x)
        held, _ = tracemalloc.get_traced_memory()
        above = network.features("pool4")
        network.backward({}, above)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        network.forward(x)
        network.backward({}, above)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held == pytest.approx(network.bytes(128, 96) - network.filter_bytes, rel=0.01)
    assert peak - before < above.nbytes
    assert network.size_of("relu3_1", 128, 96) == 96 * 128 * 96
    assert network.shapes(128, 96)["pool4"] == above.shape == (64, 32, 24)


@each
def test_a_part_packs_its_own_filters_alone(narrow, device, kernels):
    engine, weights = engines.create(device), narrow()
    whole, *parts = (
        engine.network(weights, ["relu5_1"][: 1 - last], "max", part)
        for last, part in [(0, Part()), (1, Part(1, 2)), (1, Part(3, 4)), (0, Part(5))]
    )
    sizes = [part.memory(16, 16)["filters"] for part in parts]
    assert sum(sizes) == pytest.approx(whole.memory(16, 16)["filters"], abs=64 * len(parts))
    assert min(sizes) > 0


@each
def test_what_a_part_cannot_do_is_refused(narrow, device, kernels):
    engine, weights = engines.create(device), narrow()
    with pytest.raises(LayerError, match="relu1_1: expected one of blocks 2 to 3"):
        engine.network(weights, ["relu1_1"], "max", Part(2, 3))
    with pytest.raises(LayerError, match="at least one layer"):
        engine.network(weights, [], "max", Part(2))
    with pytest.raises(ShapeError, match="pool3"):
        engine.network(weights, [], "max", Part(2, 3)).forward(np.ones((32, 3, 9), np.float32))
    if kernels in library.INSTRUCTIONS:
        deepest = engine.network(weights, ["relu3_1"], "max", Part(3))
        deepest.forward(np.ones((64, 4, 4), np.float32))
        with pytest.raises(ValueError, match="above"):
            deepest.backward({}, np.ones((96, 4, 4), np.float32))
        other = deepest.hold("relu3_1", np.ones((96, 4, 5), np.float32))
        with pytest.raises(ValueError, match="target"):
            deepest.squared_distance("relu3_1", other)
        with pytest.raises(ValueError, match="target"):
            deepest.backward({"relu3_1": [TapGradient(target=other)]})
        with pytest.raises(ValueError, match="blocks"):
            deepest.forward(np.ones((32, 4, 4), np.float32))
