"""One-pass networks: looks, blends, sizes, what a pass takes, and every engine against the book."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from conftest import each_kernels, smooth_picture
from fast_nets import random_fast_weights

from nstcore import engines, fast
from nstcore.engines import operations
from nstcore.engines.base import Engine
from nstcore.errors import OptionError, ShapeError
from nstcore.transfer import one_pass

MODELS = tuple(fast.MODELS)
SIZES = {"magenta": [(40, 52), (37, 43), (9, 64), (5, 3), (1, 1)], "adain": [(24, 16), (17, 9), (3, 1)]}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.ascontiguousarray(smooth_picture(height, width, seed).transpose(2, 0, 1))


def network(model: str, device: str = "reference", dtype: str = "float64") -> fast.FastNetwork:
    return fast.network(random_fast_weights(model), engines.create(device, dtype, 2 if device == "cpu" else None))


# -- looks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_look_is_a_vector_that_depends_on_the_picture(model):
    net = network(model)
    a, b = (net.look(picture(40, 33, seed)) for seed in (0, 1))
    assert a.shape == b.shape == (net.look_length,)
    assert a.dtype == np.float64
    assert not np.allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_blends_are_weighted_means_and_only_shares_count(model):
    net = network(model)
    a, b = (net.look(picture(40, 33, seed)) for seed in (0, 1))
    np.testing.assert_allclose(fast.blended([a, b], [1, 3]), 0.25 * a + 0.75 * b, rtol=1e-12)
    np.testing.assert_allclose(fast.blended([a, b], [2, 6]), fast.blended([a, b], [1, 3]), rtol=1e-15)
    np.testing.assert_array_equal(fast.blended([a, b], [5, 0]), a)
    np.testing.assert_allclose(fast.blended([a, a], [1, 2]), a, rtol=1e-15)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1]])
def test_blends_that_are_none_are_refused(weights):
    with pytest.raises(OptionError, match=r"style_blend: expected .* got"):
        fast.blended([np.zeros(3), np.ones(3)], weights)


def test_the_hundred_numbers_reach_every_normalisation_of_magentas_network():
    """With another look every channel of every normalisation is scaled and shifted otherwise."""
    net = network("magenta")
    x = picture(40, 36)
    base = np.linspace(-1, 1, net.look_length)
    painted = net.paint(x, base)
    moved = [net.paint(x, base + 0.5 * np.eye(net.look_length)[i]) for i in (0, 50, 99)]
    assert min(np.abs(painted - other).max() for other in moved) > 1e-4


def test_adain_gives_features_the_moments_of_the_look():
    """Before the decoder, every channel has exactly the mean and the deviation that the look asks for."""
    net = network("adain")
    look = net.look(picture(64, 48, 1))
    mean, std = np.split(look, 2)
    seen = {}
    normalise = net.layers.instance_norm

    def watched(x, *arguments, **how):
        seen["t"] = normalise(x, *arguments, **how)
        return seen["t"]

    net.layers.instance_norm = watched
    net.paint(picture(64, 64), look)
    t = seen["t"]
    np.testing.assert_allclose(t.mean(axis=(1, 2)), mean, atol=1e-9)
    active = mean > 0.05  # a channel that is off in the content has no deviation to scale
    found = t.std(axis=(1, 2))[active]
    assert active.sum() > 100
    assert np.median(np.abs(found / std[active] - 1)) < 1e-3


def test_adain_in_the_contents_own_look_decodes_the_contents_own_features():
    net = network("adain")
    x = picture(32, 40)
    own = net.paint(x, net.look(x))
    identity = net.layers.instance_norm
    net.layers.instance_norm = lambda x, *_, **__: x
    np.testing.assert_allclose(net.paint(x, net.look(x)), own, atol=1e-9)
    net.layers.instance_norm = identity


# -- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "size"), [(model, size) for model in MODELS for size in SIZES[model]])
def test_a_picture_of_any_size_keeps_it(model, size):
    net = network(model)
    painted = net.paint(picture(*size), net.look(picture(30, 30, 1)))
    assert painted.shape == (3, *size)
    assert np.isfinite(painted).all()
    assert painted.min() >= 0
    assert painted.max() <= 1


@pytest.mark.parametrize("model", MODELS)
def test_beyond_the_grid_a_picture_is_continued_by_its_reflection(model):
    net = network(model)
    look = net.look(picture(30, 30, 1))
    x = picture(29, 34)
    bottom, right = -29 % net.grid, -34 % net.grid
    whole = net.paint(np.pad(x, ((0, 0), (0, bottom), (0, right)), mode="reflect"), look)
    np.testing.assert_array_equal(net.paint(x, look), whole[:, :29, :34])


@pytest.mark.parametrize("bad", [np.zeros((3, 4)), np.zeros((4, 5, 6)), np.zeros((3, 0, 5))])
def test_what_is_no_picture_is_refused(bad):
    net = network("magenta")
    for call in (net.look, lambda x: net.paint(x, np.zeros(100))):
        with pytest.raises(ShapeError, match="pixels: expected a picture"):
            call(bad)


# -- engines --------------------------------------------------------------------------------------------------------


def assert_near(mine: np.ndarray, book: np.ndarray, bound: float) -> None:
    assert np.abs(mine - book).max() <= bound


@each_kernels
@pytest.mark.parametrize("model", MODELS)
def test_the_cpu_paints_what_the_book_paints(model, kernels):
    """1e-4 is what the issue of a picture allows; a level of 8 bits is 40 times as much."""
    book, mine = network(model), network(model, "cpu", "float32")
    for size in SIZES[model][:2]:
        style, x = picture(35, 38, 1), picture(*size)
        look = book.look(style)
        assert_near(mine.look(style) / np.abs(look).max(), look / np.abs(look).max(), 1e-5)
        assert_near(mine.paint(x, look), book.paint(x, look), 1e-4)


@each_kernels
def test_the_published_network_on_the_cpu_is_the_books(magenta, kernels):
    book, mine = (fast.network(magenta, engines.create(*key)) for key in (("reference", "float64"), ("cpu", "float32")))
    style, x = picture(65, 64, 1), picture(61, 70)
    look = book.look(style)
    assert_near(mine.look(style), look, 1e-4)
    assert_near(mine.paint(x, look), book.paint(x, look), 1e-4)


@pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("cuda-on-cpu", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("model", MODELS)
def test_the_gpu_paints_what_the_book_paints(model, device):
    book, mine = network(model), network(model, device, "float32")
    style, x = picture(35, 38, 1), picture(*SIZES[model][1])
    look = book.look(style)
    assert_near(mine.look(style) / np.abs(look).max(), look / np.abs(look).max(), 1e-5)
    assert_near(mine.paint(x, look), book.paint(x, look), 1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_the_bits_do_not_depend_on_the_number_of_threads(model):
    weights = random_fast_weights(model)
    painted = []
    for threads in (1, 2, 3):
        net = fast.network(weights, engines.create("cpu", "float32", threads))
        painted.append(net.paint(picture(33, 50), net.look(picture(40, 40, 1))))
    np.testing.assert_array_equal(painted[0], painted[1])
    np.testing.assert_array_equal(painted[0], painted[2])


# -- what a pass takes ----------------------------------------------------------------------------------------------


class Multiplied(operations.BookOperations):
    """The book, which notes how many products each convolution really takes."""

    def __init__(self) -> None:
        super().__init__(np.dtype(np.float64))
        self.found: list[int] = []

    def conv(self, x, filters, **how):
        y = super().conv(x, filters, **how)
        self.found.append(filters.w[0].size * y.size)
        return y


@pytest.mark.parametrize("model", MODELS)
def test_usage_counts_the_products_of_every_convolution(model):
    book = Multiplied()
    net = fast.MODELS[model](random_fast_weights(model), book)
    usage = net.usage(24, 40)
    net.paint(picture(24, 40), np.zeros(net.look_length))
    # The fully connected layers, which `usage` goes through as well, are among both
    assert usage.multiplications == book.found
    double = net.usage(48, 80)
    assert 3.9 < sum(double.multiplications) / sum(usage.multiplications) <= 4
    assert 3.9 < double.numbers / usage.numbers < 4.01


@pytest.mark.parametrize("model", MODELS)
def test_the_share_of_the_work_grows_to_one(model):
    net = network(model, "cpu", "float32")
    shares: list[float] = []
    net.paint(picture(32, 32), np.zeros(net.look_length), shares.append)
    assert len(shares) > 5
    assert all(a < b for a, b in pairwise(shares))
    assert shares[-1] == 1
    net.paint(picture(32, 32), np.zeros(net.look_length))
    assert len(shares) == len(set(shares)), "a later pass without it tells nobody"


@each_kernels
def test_a_pass_takes_no_more_memory_than_was_said_and_not_much_less(kernels):
    size = (160, 224)
    engine = engines.create("cpu", "float32", 2)
    net = fast.network(random_fast_weights("magenta"), engine)
    x, look = picture(*size).astype(np.float32), np.zeros(net.look_length)
    net.paint(x, look)  # what is kept between pictures
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    net.paint(x, look)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = one_pass.memory(net, engine, size)
    assert 0.3 * said <= peak - before <= said


class Small(Engine):
    """An engine with hardly any memory."""

    dtype = np.dtype(np.float32)

    def __init__(self, free: int | None) -> None:
        self.free = free

    def describe(self) -> str:
        return "small"

    def network(self, *_):
        raise NotImplementedError

    def memory(self) -> int | None:
        return self.free


def test_a_size_that_does_not_fit_is_refused_with_one_that_does():
    size = (3000, 4000)
    net = fast.network(random_fast_weights("magenta"), Small(None))
    need = one_pass.memory(net, Small(None), size)
    one_pass.check_memory(net, Small(None), size)
    one_pass.check_memory(net, Small(need), size)
    with pytest.raises(OptionError, match=r"size: one pass at 4000x3000 takes .* take --size \d+ or less") as caught:
        one_pass.check_memory(net, Small(need // 4), size)
    offered = int(str(caught.value).split("--size ")[1].split()[0])
    assert 1800 < offered < 2000
    one_pass.check_memory(net, Small(need // 4), (round(offered * 0.75), offered))
