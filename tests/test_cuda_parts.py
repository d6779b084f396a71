"""A network in parts on the cuda engine: one after another they are the whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

from nstcore import vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine, loss_scale
from nstcore.engines.cuda.moments import RECTANGLES, Moments, _rectangle, make_guide
from nstcore.engines.cuda.network import CudaNetwork
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import FLOAT32
from nstcore.errors import LayerError, ShapeError
from nstcore.vgg import Part

needs_compiler = pytest.mark.skipif(problem() is not None, reason=str(problem()))
TAPS = ("relu1_1", "conv2_1", "relu2_1", "relu3_1", "relu4_1")
PIXELS = np.ascontiguousarray(smooth_picture(37, 46).transpose(2, 0, 1), np.float32)
CUTS = [(1,), (2,), (1, 3), (1, 2, 3)]
SIXTEEN = [pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "bfloat16")]


@pytest.fixture
def weights(monkeypatch):
    """Four blocks of a few channels, one border replicated."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 16), (1, 24), (1, 16)))
    return random_weights(deepest="conv4_1", padding="replicate")


def numbers(shape) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def parts_of(engine, weights, cuts, pooling="max", taps=TAPS):
    """The networks of the parts between those poolings, each with its taps."""
    found = []
    for last, following in pairwise((0, *cuts, None)):
        mine = [tap for tap in taps if last < vgg.find(weights.architecture, tap).block <= (following or 9)]
        found.append(engine.network(weights, mine, pooling, Part(last + 1, following)))
    return found


def forward(engine, networks, pixels=PIXELS):
    x = engine.array(pixels)
    for network in networks:
        network.forward(x)
        if network.part.last is not None:
            x = engine.array(network.features(f"pool{network.part.last}"))


def backward(networks, gradients):
    above = None
    for network in reversed(networks):
        above = network.backward({tap: gradients[tap] for tap in network.taps}, above)
    return above


def losses(engine, networks, size=1.0):
    """Of every kind at every tap, the same whatever the parts."""
    found, rng = {}, np.random.default_rng(3)
    for network, tap in ((n, tap) for n in networks for tap in n.taps):
        N, H, W = network.features(tap).shape
        target = network.hold(tap, rng.standard_normal((N, H, W)))
        guide = network.guide(tap, rng.random((H, W)))
        dG = [engine.array(size * rng.standard_normal((N, N)) / N) for _ in range(2)]
        ds = size * rng.standard_normal(N)
        found[tap] = [TapGradient(dG[0], None, target, size), TapGradient(dG[1], ds, guide=guide)]
    return found


def evaluated(engine, networks, size=1.0):
    """Features and Gram matrices by tap, and the gradient at the pixels."""
    forward(engine, networks)
    statistics = {tap: (n.features(tap), engine.numpy(n.gram(tap))) for n in networks for tap in n.taps}
    return statistics, engine.numpy(backward(networks, losses(engine, networks, size)))


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "tf32", *SIXTEEN])
@pytest.mark.parametrize("cuts", [CUTS[0], *(pytest.param(c, marks=pytest.mark.slow) for c in CUTS[1:])], ids=str)
def test_parts_one_after_another_are_the_whole_network(weights, cuts, precision):
    """To the last bit: a number that leaves a part comes back as the same element. float16's scales are another part's
    own, so there what is too small for it may differ."""
    engine = CudaEngine(OnCpuDevice(), precision)
    statistics, gradient = evaluated(engine, parts_of(engine, weights, ()))
    again, mine = evaluated(engine, parts_of(engine, weights, cuts))
    for tap in TAPS:
        for a, b in zip(again[tap], statistics[tap], strict=True):
            np.testing.assert_array_equal(a, b)
    if precision == "float16":
        assert relative_error(mine, gradient) <= engine.elements.unit
    else:
        np.testing.assert_array_equal(mine, gradient)


@needs_compiler
@pytest.mark.parametrize("pooling", ["average", "l2"])
def test_other_poolings_have_parts_too(weights, pooling):
    engine = CudaEngine(OnCpuDevice(), "float32")
    whole, mine = (evaluated(engine, parts_of(engine, weights, cuts, pooling))[1] for cuts in ((), (1, 2)))
    np.testing.assert_array_equal(mine, whole)


@needs_compiler
def test_a_gradient_from_above_that_is_left_out_shows(weights, monkeypatch):
    engine = CudaEngine(OnCpuDevice(), "float32")
    whole = evaluated(engine, parts_of(engine, weights, ()))[1]
    sound = CudaNetwork.backward
    monkeypatch.setattr(CudaNetwork, "backward", lambda self, gradients, above=None: sound(self, gradients))
    assert relative_error(evaluated(engine, parts_of(engine, weights, (2,)))[1], whole) > 1e-3


@needs_compiler
def test_a_part_without_taps_hands_on_what_it_gets(weights):
    """And what comes from above is added to what the losses send back from the pooling itself."""
    engine = CudaEngine(OnCpuDevice(), "float32")
    taps = ("pool2", "relu4_1")
    whole = evaluated_at(engine, weights, (), taps)
    for cuts, bound in (((2,), 1e-5), ((1, 2, 3), 1e-5)):  # one rounding more where both meet
        assert relative_error(evaluated_at(engine, weights, cuts, taps), whole) <= bound


def evaluated_at(engine, weights, cuts, taps):
    networks = parts_of(engine, weights, cuts, taps=taps)
    return evaluated(engine, networks)[1]


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_target_that_is_held_is_one_that_was_kept(weights, precision):
    engine = CudaEngine(OnCpuDevice(), precision)
    network = engine.network(weights, ("relu2_1",), "max", Part(1, 2))
    network.forward(engine.array(PIXELS[:, ::-1].copy()))
    guide = network.guide("relu2_1", np.random.default_rng(0).random((18, 23)))
    P = network.features("relu2_1")
    kept, held = network.keep("relu2_1", guide), network.hold("relu2_1", P, guide)
    assert network.squared_distance("relu2_1", held) == 0
    assert network.squared_norm(held) == network.squared_norm(kept)
    found = []
    for target in (kept, held):
        network.forward(engine.array(PIXELS))
        assert network.squared_distance("relu2_1", target) > 0
        found.append(engine.numpy(network.backward({"relu2_1": [TapGradient(None, None, target, 0.5, guide)]})))
    np.testing.assert_array_equal(*found)
    with pytest.raises(ShapeError, match=r"P: expected features \(16, H, W\) of relu2_1, got \(18, 23, 16\)"):
        network.hold("relu2_1", P.transpose(1, 2, 0))


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_rectangle_guides_as_any_weights_do_and_is_sent_once(weights, precision, monkeypatch):
    device = OnCpuDevice()
    engine = CudaEngine(device, precision)
    network = engine.network(weights, ("relu2_1",), "max", Part(1, 2))
    w, P = np.zeros((18, 23)), np.random.default_rng(1).random((16, 18, 23))
    w[3:17, 2:20] = 1
    sent: list[tuple[int, ...]] = []
    to_device = device.to_device
    monkeypatch.setattr(device, "to_device", lambda a: sent.append(a.shape) or to_device(a))
    found = []
    for guide in (make_guide(device, "relu2_1", w, 16), *(network.guide("relu2_1", w) for _ in range(2))):
        network.forward(engine.array(PIXELS))
        target = network.hold("relu2_1", P, guide)
        numbers = network.squared_distance("relu2_1", target), network.squared_norm(target), guide.most, guide.squares
        G = network.gram("relu2_1", guide)
        terms = [TapGradient(G, network.sums("relu2_1", guide), target, 0.5, guide)]
        found.append((numbers, engine.numpy(G), network.sums("relu2_1", guide), guide))
        found[-1] += (engine.numpy(network.backward({"relu2_1": terms})),)
    assert sent.count((18 * 23,)) == 3, "w and its root for the first, one array for the others"
    assert found[1][3].G is not found[2][3].G, "a Gram matrix of its own"
    for other in found[1:]:
        assert other[0] == found[0][0]
        for i in (1, 2, 4):
            np.testing.assert_array_equal(other[i], found[0][i])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (np.pad(np.ones((2, 3)), ((1, 2), (0, 4))), (1, 3, 0, 3)),
        (np.ones((1, 5)), (0, 1, 0, 5)),
        (np.zeros((3, 3)), None),
        (np.full((2, 2), 0.5), None),
        (np.eye(3), None),
        (np.array([[1.0, np.nan], [1.0, 1.0]]), None),
    ],
)
def test_rectangles_are_told_from_other_weights(weights, expected):
    assert _rectangle(weights) == expected


@needs_compiler
def test_only_the_last_rectangles_are_remembered():
    moments = Moments(OnCpuDevice(), FLOAT32)
    for rows in range(1, 2 * RECTANGLES):
        w = np.pad(np.ones((rows, 3)), ((0, 2 * RECTANGLES - rows), (0, 1)))
        assert moments.guide("relu1_1", w, 8).squares == 3 * rows
    assert len(moments._rectangles) == RECTANGLES


@needs_compiler
def test_windows_of_features_are_cut_from_all(weights):
    engine = CudaEngine(OnCpuDevice(), "float32")
    network = engine.network(weights, ("conv2_1",), "max", Part(1, 2))
    network.forward(engine.array(PIXELS))
    for layer in ("pool2", "conv2_1", "relu1_1", "pool1", "relu1_2", "conv2_2"):
        every = network.features(layer)
        for window in (slice(2, 7), slice(3, None)), (slice(-4, None), slice(None, -2)), (slice(5, 4), slice(3)):
            np.testing.assert_array_equal(network.features(layer, window), every[:, *window])
    with pytest.raises(LayerError, match=r"relu3_1: .* among the taps"):
        network.features("relu3_1")


@needs_compiler
@pytest.mark.parametrize("part", [Part(1, 2), Part(2, 3), Part(3, None)], ids=str)
def test_the_plan_of_a_part_is_exact(weights, part, monkeypatch):
    device = OnCpuDevice()
    taken: list[int] = []
    empty = device.empty
    monkeypatch.setattr(device, "empty", lambda shape, dtype: (a := empty(shape, dtype), taken.append(a.nbytes))[0])
    engine = CudaEngine(device, "float32")
    taken.clear()
    taps = [tap for tap in TAPS if part.first <= int(tap[4]) <= (part.last or 9)]
    network = engine.network(weights, taps, "max", part)
    assert sum(taken) == network.filter_bytes
    size = 21, 26
    x = engine.array(numbers((network.steps[0].in_channels, *size)))

    def step():
        taken.clear()
        network.forward(x)
        if part.last:
            network.features(f"pool{part.last}", (slice(1, 4), slice(1, 5)))
        network.backward({tap: [TapGradient(dG)] for tap, dG in network.grams(taps).items()})

    step()
    assert max(taken) == network.bytes(*size) - network.filter_bytes
    assert sum(taken) - max(taken) < 2**16  # tables and partial sums
    step()
    assert not taken


@needs_compiler
def test_buffers_of_a_part_share_no_memory_while_they_live(weights):
    """Sizes odd and even, twice: every number is computed from what this evaluation wrote."""
    engine = CudaEngine(OnCpuDevice(), "float32")
    networks = parts_of(engine, weights, (2,))
    first = evaluated(engine, networks)[1]
    small = np.ascontiguousarray(PIXELS[:, :33, :24])
    forward(engine, networks, small)
    np.testing.assert_array_equal(evaluated(engine, networks)[1], first)


@needs_compiler
def test_what_a_part_cannot_take_is_refused_in_one_line(weights):
    engine = CudaEngine(OnCpuDevice(), "float32")
    below, top = parts_of(engine, weights, (2,))
    with pytest.raises(ShapeError, match=r"expected \(16, H, W\), .* got \(3, 37, 46\)"):
        top.forward(engine.array(PIXELS))
    forward(engine, (below, top))
    with pytest.raises(ShapeError, match=r"above: expected a gradient \(16, 9, 11\)"):
        below.backward({}, engine.array(np.zeros((16, 11, 9))))
    with pytest.raises(ShapeError, match=r"above: .* ends in relu4_1"):
        top.backward({}, engine.array(np.zeros((16, 4, 5))))


@needs_compiler
def test_every_step_of_a_part_is_watched_once(weights):
    engine = CudaEngine(OnCpuDevice(), "float32")
    network = engine.network(weights, ("relu3_1",), "max", Part(2, 3))
    seen: list[tuple[str, str]] = []
    network.watch(lambda layer, way, _: seen.append((layer, way)))
    network.forward(engine.array(numbers((8, 12, 14))))
    network.backward({}, engine.array(numbers((24, 3, 3))))
    names = ["conv2_1", "conv2_2", "pool2", "conv3_1", "pool3"]
    assert seen == [(name, "forward") for name in names] + [(name, "backward") for name in reversed(names)]


# ---- float16 --------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("size", [1e-12, 1e-4, 1e6])
def test_float16_parts_do_not_depend_on_the_size_of_the_gradient(weights, size):
    """In a lower part, what comes from above decides on the loss scale where its own losses are small."""
    engine = CudaEngine(OnCpuDevice(), "float16")
    taps = ("relu3_1", "relu4_1")
    found = [evaluated(engine, parts_of(engine, weights, (1, 2), taps=taps), s)[1] for s in (1.0, size)]
    assert np.isfinite(found[1]).all()
    assert relative_error(found[1] / size, found[0]) <= 4 * engine.elements.unit


@needs_compiler
@pytest.mark.slow
def test_a_part_whose_gradient_overflows_is_computed_again(weights, monkeypatch):
    engine = CudaEngine(OnCpuDevice(), "float16")
    networks = parts_of(engine, weights, (2,))
    usual = evaluated(engine, networks)[1]
    monkeypatch.setattr(loss_scale, "ATTEMPTS", (-17, -11))
    again = evaluated(engine, parts_of(engine, weights, (2,)))[1]
    assert np.isfinite(again).all()
    assert relative_error(again, usual) <= 4 * engine.elements.unit
