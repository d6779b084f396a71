"""The conformance suite: every engine against the book in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import each_kernels, random_weights, smooth_picture

from nstcore import engines
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cpu import library
from nstcore.engines.cpu.arena import Arena
from nstcore.engines.cpu.team import Team
from nstcore.engines.cpu.winograd import FREQUENCIES, WinogradConv, plan_scratch, rotate_filters, transform_filters
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.errors import DeviceError, LayerError, OptionError, ShapeError
from nstcore.ops import block_mean_backward, block_mean_forward, conv_backward, conv_forward

# Rounding one number to an element of the precision
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53} | {p.name: p.unit for p in PRECISIONS.values()}
# engine, precision, kernels of the cpu engine, bound on features, bound on gradients with the decisions fixed
# (relative, L2). A float32 rounding is 6e-8; some twenty steps and sums of thousands of terms lie between pixels and
# their gradient. Where features and filters are rounded to fewer bits, that alone counts: each layer adds about one
# rounding of its own, at random.
MACHINES = [
    ("reference", "float32", None, 5e-6, 1e-5),
    ("cpu", "float64", None, 1e-13, 1e-12),
    ("cpu", "float32", "numpy", 2e-5, 1e-4),
    *(("cpu", "float32", instructions, 2e-5, 1e-4) for instructions in library.INSTRUCTIONS),
]
for _device in ("cuda-on-cpu", "cuda"):
    MACHINES.append((_device, "float32", None, 2e-5, 1e-4))
    MACHINES += [(_device, name, None, 4 * UNIT[name], 10 * UNIT[name]) for name in ("tf32", "float16", "bfloat16")]


def _marks(device, dtype):
    """Tensor cores take the stand-in long; their kernels have quicker tests of their own."""
    slow = [pytest.mark.slow] if device == "cuda-on-cpu" and dtype != "float32" else []
    return [pytest.mark.gpu] if device == "cuda" else slow


MACHINE_NAMES = ["-".join(filter(None, machine[:3])) for machine in MACHINES]
each_machine = pytest.mark.parametrize(
    ("device", "dtype", "kernels", "features", "gradients"),
    [pytest.param(*m, marks=_marks(*m[:2])) for m in MACHINES],
    ids=MACHINE_NAMES,
)
SHALLOW = ("conv1_1", "relu1_1", "pool1", "relu2_1", "conv2_2", "relu3_1")
DEEP = ("relu1_1", "relu2_1", "conv3_2", "relu4_2", "pool4", "relu5_1")
SIZES = [(16, 16), (37, 50), (21, 67)]


def pixels_of(height, width, seed=0):
    return np.ascontiguousarray(smooth_picture(height, width, seed).transpose(2, 0, 1).astype(np.float32))


def guide_for(network, tap):
    """A region with a soft edge: weights 0 in a good part of the tap's positions, of mean 1/2 in the rest."""
    _, height, width = network.features(tap).shape
    rng = np.random.default_rng(height)
    return network.guide(tap, rng.random((height, width)) * (np.arange(width) >= 0.3 * width))


def gradients_for(network, engine, taps, targets):
    """The same upstream gradients for every engine: at each tap a style loss of the whole picture and one of a region;
    at the deepest content losses, two of the whole picture and one of a region, and a loss of the sums.
    """
    rng = np.random.default_rng(5)
    found = {}
    for tap in taps:
        N = network.features(tap).shape[0]
        guide = guide_for(network, tap)
        dG, dG_guided = (engine.array(rng.standard_normal((N, N)) / N**0.5) for _ in range(2))
        ds, ds_guided = 0.3 * rng.standard_normal((2, N))
        found[tap] = [TapGradient(dG_guided, ds_guided, guide=guide), TapGradient(dG)]
    whole, region = targets
    found[taps[-1]] += [TapGradient(ds=ds, target=whole, scale=2.0), TapGradient(target=region, scale=3.0, guide=guide)]
    found[taps[-1]].append(TapGradient(target=whole, scale=1.0))
    return found


def run(device, dtype, weights, pooling, size, taps=SHALLOW, decisions=None, threads=None):
    """Features, statistics, distances and gradient of one machine."""
    engine = engines.create(device, dtype, threads)
    network = engine.network(weights, taps, pooling)
    extra = {} if decisions is None else {"decisions": decisions[0]}
    network.forward(engine.array(pixels_of(*size, seed=1)), **extra)
    first = network.decisions()
    targets = network.keep(taps[-1]), network.keep(taps[-1], guide_for(network, taps[-1]))
    extra = {} if decisions is None else {"decisions": decisions[1]}
    network.forward(engine.array(pixels_of(*size)), **extra)
    guides = {tap: guide_for(network, tap) for tap in taps}
    return {
        "features": {tap: network.features(tap) for tap in taps},
        "grams": {tap: engine.numpy(network.gram(tap)) for tap in taps},
        "guided grams": {tap: engine.numpy(network.gram(tap, guides[tap])) for tap in taps},
        "sums": {tap: network.sums(tap) for tap in taps},
        "guided sums": {tap: network.sums(tap, guides[tap]) for tap in taps},
        "distances": [network.squared_distance(taps[-1], target) for target in targets],
        "norms": [network.squared_norm(target) for target in targets],
        "decisions": (first, network.decisions()),
        "gradient": engine.numpy(network.backward(gradients_for(network, engine, taps, targets))),
    }


# Every size, and every padding
BORDERS = [("zero", size) for size in SIZES] + [("replicate", size) for size in SIZES[:2]]
BORDERS.append(("replicate-first", SIZES[2]))
POOLINGS = ("max", "average", "l2")


def cases():
    """Every machine with every border and every pooling; tensor cores, which take the stand-in long, with two borders
    of each pooling, one of them of zeros.
    """
    for machine, name in zip(MACHINES, MACHINE_NAMES, strict=True):
        marks = _marks(*machine[:2])
        for (i, border), (j, pooling) in product(enumerate(BORDERS), enumerate(POOLINGS)):
            if pytest.mark.slow not in marks or j == (i + i // 3) % 3:
                case = f"{name}-{pooling}-{border[0]}-{border[1]}"
                yield pytest.param(*machine, pooling, *border, marks=marks, id=case)


@pytest.mark.parametrize(
    ("device", "dtype", "kernels", "features", "gradients", "pooling", "padding", "size"), [*cases()]
)
def test_an_engine_equals_the_book(device, dtype, kernels, features, gradients, pooling, padding, size):
    weights = random_weights(deepest="conv3_1", padding=padding)
    if pooling == "l2" and dtype in PRECISIONS and dtype != "float32":
        # x/y has a kink at 0: where all four values are of the size of a rounding, their direction is anything. The
        # share of such windows is of the order of a rounding, and so is the square of the error that they make
        gradients = 2 * UNIT[dtype] ** 0.5
    compare(device, dtype, features, gradients, weights, pooling, size, SHALLOW)


@each_machine
def test_an_engine_equals_the_book_down_to_the_last_layer(random_vgg19, device, dtype, kernels, features, gradients):
    compare(device, dtype, features, gradients, random_vgg19, "max", (37, 50), DEEP)


def compare(device, dtype, features, gradients, weights, pooling, size, taps):
    mine = run(device, dtype, weights, pooling, size, taps)
    book = run("reference", "float64", weights, pooling, size, taps, decisions=mine["decisions"])
    for tap in taps:
        assert mine["features"][tap].shape == book["features"][tap].shape
        assert relative_error(mine["features"][tap], book["features"][tap]) <= features, tap
        for statistic in ("grams", "guided grams", "sums", "guided sums"):
            assert relative_error(mine[statistic][tap], book[statistic][tap]) <= 2 * features, (statistic, tap)
    distance = {"float64": 1e-10, "float32": 1e-4}.get(dtype, 10 * features)
    assert mine["distances"] == pytest.approx(book["distances"], rel=distance)
    assert mine["norms"] == pytest.approx(book["norms"], rel=2 * features)
    assert relative_error(mine["gradient"], book["gradient"]) <= gradients


def test_every_loss_that_the_suite_sends_back_shows_in_the_gradient():
    """Left out, each would be seen: it is far above every bound."""
    engine = engines.create("reference", "float64")
    network = engine.network(random_weights(deepest="conv3_1"), SHALLOW, "max")
    network.forward(pixels_of(16, 16, seed=1))
    targets = network.keep(SHALLOW[-1]), network.keep(SHALLOW[-1], guide_for(network, SHALLOW[-1]))
    network.forward(pixels_of(16, 16))
    every = gradients_for(network, engine, SHALLOW, targets)
    whole = network.backward(every)
    for tap, given in every.items():
        for i, gradient in enumerate(given):
            for part in (name for name in ("dG", "ds", "target", "guide") if getattr(gradient, name) is not None):
                fewer = [*given[:i], replace(gradient, **{part: None}), *given[i + 1 :]]
                assert relative_error(network.backward(every | {tap: fewer}), whole) > 0.01, (tap, i, part)


@each_kernels
def test_a_guide_costs_memory_only_where_there_is_one(kernels):
    network = engines.create("cpu").network(random_weights(deepest="conv2_1"), ["relu1_1", "relu2_1"], "max")
    pixels = pixels_of(40, 48)
    network.forward(pixels)
    without = network.bytes(40, 48)
    G, s = network.gram("relu2_1").copy(), network.sums("relu2_1")
    everywhere = network.guide("relu2_1", np.ones((20, 24)))
    assert relative_error(network.gram("relu2_1", everywhere), G) <= 1e-6
    assert relative_error(network.sums("relu2_1", everywhere), s) <= 1e-6
    extra = 0 if kernels == library.NUMPY else network.features("relu2_1").nbytes
    assert network.bytes(40, 48, ["relu2_1"]) == without + extra


@pytest.mark.parametrize("k", [1, 4, 50])
@each_machine
def test_block_means_and_their_gradient_are_the_books(device, dtype, kernels, features, gradients, k):
    engine = engines.create(device, dtype)
    x, before = pixels_of(37, 42), pixels_of(37, 42, seed=1) - 0.5
    y, gradient = engine.block_mean(engine.array(x), k), engine.array(before)
    small = engine.numpy(y)
    engine.add_block_mean_gradient(y, k, gradient)
    found = engine.numpy(gradient)
    assert small.dtype == found.dtype == engine.dtype
    # Pixels are float32 or float64 in every precision; a sum of k rows of k has at most 2 k roundings
    unit, wide = UNIT[engine.dtype.name], x.astype(np.float64)
    means = block_mean_forward(wide, k)
    assert small.shape == means.shape
    assert np.all(np.abs(small - means) <= 2.01 * k * unit * block_mean_forward(np.abs(wide), k))
    added = block_mean_backward(small.astype(np.float64), k, x.shape)
    assert np.all(np.abs(found - (before + added)) <= 1.01 * unit * (2 * np.abs(added) + np.abs(before + added)))


@each_kernels
def test_decisions_of_an_engine_are_the_books_but_for_near_ties(random_vgg19, kernels):
    mine = run("cpu", "float32", random_vgg19, "max", (37, 50), DEEP)["decisions"][1]
    book = run("reference", "float64", random_vgg19, "max", (37, 50), DEEP)["decisions"][1]
    assert mine.keys() == book.keys()
    assert all(mine[name].dtype == book[name].dtype and mine[name].shape == book[name].shape for name in mine)
    differing = sum(int((mine[name] != book[name]).sum()) for name in mine)
    assert differing <= 1e-3 * sum(d.size for d in book.values())


@pytest.fixture(scope="module")
def whole_vgg16():
    return random_weights("vgg16", deepest="conv5_3")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "tap",
    [
        *("conv1_1", "relu1_1", "pool1", "conv2_2", "relu2_2", "pool3"),
        *(pytest.param(tap, marks=pytest.mark.slow) for tap in ("relu5_3", "pool5")),
    ],
)
def test_any_layer_can_be_the_only_tap(whole_vgg16, tap, dtype):
    mine = run("cpu", dtype, whole_vgg16, "max", (33, 40), [tap])
    book = run("reference", "float64", whole_vgg16, "max", (33, 40), [tap], decisions=mine["decisions"])
    assert relative_error(mine["features"][tap], book["features"][tap]) <= (1e-12 if dtype == "float64" else 2e-5)
    assert relative_error(mine["gradient"], book["gradient"]) <= (1e-11 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3), (9, 22), (3, 70)])
@pytest.mark.parametrize("channels", [(1, 1), (5, 7), (16, 3)])
@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_winograd_equals_the_direct_convolution(size, channels, padding, threads):
    rng = np.random.default_rng(0)
    (height, width), (C, K) = size, channels
    x, w, b = rng.standard_normal((C, height, width)), rng.standard_normal((K, C, 3, 3)), rng.standard_normal(K)
    team, dtype = Team(threads), np.dtype(np.float64)
    conv = WinogradConv(C, K, height, width, dtype, team)
    arena = Arena()
    plan_scratch([conv], arena, dtype)
    work = arena.allocate()
    for buffer in work.values():
        buffer.fill(np.nan)  # whatever is read before it is written shows
    y = np.full((height, width, K), np.nan)
    conv(np.ascontiguousarray(x.transpose(1, 2, 0)), transform_filters(w, dtype), y, work, b, padding)
    assert relative_error(y.transpose(2, 0, 1), conv_forward(x, w, b, padding)) <= 1e-13


def test_winograd_backward_is_the_forward_with_turned_filters():
    rng = np.random.default_rng(0)
    dy, w = rng.standard_normal((7, 9, 11)), rng.standard_normal((7, 5, 3, 3))
    assert relative_error(conv_forward(dy, rotate_filters(w)), conv_backward(dy, w)) <= 1e-13


def test_winograd_needs_a_quarter_of_the_multiplications():
    """36 per tile of 4x4 outputs and channel pair, where the direct form takes 16 * 9."""
    U = transform_filters(np.ones((1, 1, 3, 3)), np.dtype(np.float64))
    assert U.size == FREQUENCIES == 36
    assert 16 * 9 / U.size == 4


@each_machine
def test_the_same_picture_gives_the_same_bits(device, dtype, kernels, features, gradients):
    weights = random_weights(deepest="conv3_1")
    first, second = (run(device, dtype, weights, "max", (37, 50), threads=2) for _ in range(2))
    np.testing.assert_array_equal(first["gradient"], second["gradient"])
    assert first["distances"] == second["distances"]
    for tap in SHALLOW:
        np.testing.assert_array_equal(first["guided sums"][tap], second["guided sums"][tap])


@each_kernels
def test_a_network_takes_pictures_of_different_sizes_in_turn(kernels):
    weights = random_weights(deepest="conv2_1")
    engine = engines.create("cpu")
    network = engine.network(weights, ["relu2_1"], "max")
    expected = {}
    for size in [(20, 30), (33, 17)]:
        network.forward(engine.array(pixels_of(*size)))
        expected[size] = network.features("relu2_1")
    for size in [(20, 30), (33, 17)]:
        network.forward(engine.array(pixels_of(*size)))
        np.testing.assert_array_equal(network.features("relu2_1"), expected[size])


@each_kernels
def test_the_plan_is_exact_and_nothing_large_is_allocated_in_the_loop(kernels):
    import tracemalloc

    weights = random_weights(deepest="conv3_1")
    engine = engines.create("cpu")
    network = engine.network(weights, ["relu3_1"], "max")
    pixels = engine.array(pixels_of(128, 128))
    tracemalloc.start()
    try:
        network.forward(pixels)
        held, _ = tracemalloc.get_traced_memory()
        assert held == pytest.approx(network.bytes(128, 128) - network.filter_bytes, rel=0.01)
        dG = {"relu3_1": [TapGradient(engine.array(np.eye(256)))]}
        network.backward(dG)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        network.forward(pixels)
        network.backward(dG)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    smallest_layer = 256 * 32 * 32 * 4
    assert peak - before < smallest_layer


def test_engines_and_taps_that_do_not_exist_are_refused():
    with pytest.raises(DeviceError, match="auto, cpu, cuda, cuda-on-cpu, reference"):
        engines.create("tpu")
    with pytest.raises(DeviceError, match="float32, float64, tf32"):
        engines.create("cpu", "int8")
    for device in ("cpu", "reference"):
        with pytest.raises(DeviceError, match="takes a GPU"):
            engines.create(device, "tf32")
    with pytest.raises(OptionError, match="threads"):
        engines.create("cpu", threads=0)
    engine, weights = engines.create("cpu"), random_weights(deepest="conv2_1")
    with pytest.raises(OptionError, match="max, average, l2"):
        engine.network(weights, ["relu1_1"], "median")
    with pytest.raises(LayerError):
        engine.network(weights, ["relu9_1"], "max")
    with pytest.raises(LayerError, match="conv2_1"):
        engine.network(weights, ["relu3_1"], "max")
    with pytest.raises(ShapeError, match="16x16"):
        engine.network(weights, ["relu1_1"], "max").forward(np.zeros((3, 15, 20), np.float32))
