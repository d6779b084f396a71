"""The native kernels by themselves: each against the book, for every instruction set, on awkward shapes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, random_weights, smooth_picture
from test_engines import pixels_of, run

import nstcore
from nstcore import engines, ops, vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cpu import CpuEngine, library
from nstcore.engines.cpu.arena import Arena

CB = 16
each_instructions = pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
# Of one convolution of white noise, relative (L2). F(4x4, 3x3) multiplies a rounding of 6e-8 by some ten, the sum over
# 512 channels by as much again at worst; an error of logic is of order 1.
BOUND = 6e-6
SIZES = [(1, 1), (2, 3), (4, 4), (5, 3), (9, 22), (3, 70), (23, 25)]


@pytest.fixture
def native(kernels):
    """The library of one instruction set (the fixture `chosen_kernels` has skipped where it is not there)."""
    return library.choose(kernels)[0]


def aligned(*shape, fill=np.nan):
    """An array as the kernels want it; NaN shows whatever is read before it is written."""
    arena = Arena()
    arena.add("a", shape, np.float32)
    a = arena.allocate()["a"]
    a.fill(fill)
    return a


def blocked(x):
    """(C, H, W) to (C/16, H, W, 16)."""
    C, H, W = x.shape
    out = aligned(C // CB, H, W, CB)
    out[...] = x.reshape(C // CB, CB, H, W).transpose(0, 2, 3, 1)
    return out


def plain(x):
    """And back."""
    return x.transpose(0, 3, 1, 2).reshape(-1, *x.shape[1:3])


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pack(native, crew, w, turned):
    """Filters and, for the backward pass, plain ones, as the network packs them."""
    out, into = (w.shape[1], w.shape[0]) if turned else w.shape[:2]
    transformed = native.transformed(into, out)
    filters, untransformed = aligned(36 if transformed else 9, into, out), aligned(9, into, out)
    (native.pack_transformed if transformed else native.pack_plain)(crew.pointer, w, out, into, turned, filters)
    native.pack_plain(crew.pointer, w, out, into, turned, untransformed)
    return filters, untransformed


@each_instructions
@pytest.mark.parametrize("channels", [(32, 64), (64, 32), (128, 96), (288, 32), (512, 64)])
@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_a_convolution_equals_the_book(native, kernels, channels, padding):
    C, K = channels
    w, b = random(K, C, 3, 3, seed=1) / np.float32(3 * np.sqrt(C)), aligned(K)
    b[...] = random(K, seed=2)
    for size, threads in zip(SIZES, [1, 2, 3, 1, 2, 3, 2], strict=True):
        crew = library.Crew(native, threads)
        filters, _ = pack(native, crew, w, False)
        H, W = size
        x = random(C, H, W, seed=3)
        conv = library.Convolution(C, K, H, W, padding == "replicate", filters.ctypes.data, None)
        linear, y, pooled = aligned(K // CB, H, W, CB), aligned(K // CB, H, W, CB), aligned(K // CB, H // 2, W // 2, CB)
        work = aligned(native.conv_work(conv, 0, crew.threads))
        native.conv_forward(crew.pointer, conv, blocked(x), b, linear, y, pooled, library.POOLINGS["max"], work)
        expected = ops.conv_forward(x.astype(np.float64), w.astype(np.float64), b.astype(np.float64), padding)
        assert relative_error(plain(linear), expected) <= BOUND
        np.testing.assert_array_equal(plain(y), np.maximum(plain(linear), 0))
        if min(size) > 1:
            np.testing.assert_array_equal(plain(pooled), ops.pool_forward(plain(y), "max")[0])


@each_instructions
@pytest.mark.parametrize("channels", [(32, 64), (64, 32), (96, 128), (32, 288), (64, 512)])
@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_a_backward_pass_takes_the_losses_and_the_mask_along(native, kernels, channels, padding):
    """dx = mask * (conv_backward(dy) + (dG + dG^T) F + ds + 2 scale (F - P) + extra), written over F."""
    C, K = channels
    w = random(K, C, 3, 3, seed=1) / np.float32(3 * np.sqrt(K))
    for size, threads in zip(SIZES, [1, 2, 3, 1, 2, 3, 2], strict=True):
        crew = library.Crew(native, threads)
        filters, untransformed = pack(native, crew, w, True)
        H, W = size
        dy, F, P, dG = random(K, H, W), random(C, H, W, seed=4), random(C, H, W, seed=5), random(C, C, seed=6)
        dG /= np.float32(C)
        S, target, x = aligned(C, C), blocked(P), blocked(F)
        ds, extra = aligned(C), random(C, H, W, seed=8)
        ds[...] = random(C, seed=7)
        kept = blocked(extra)
        native.pack_style(crew.pointer, dG, C, S)
        replicate = padding == "replicate"
        conv = library.Convolution(
            K, C, H, W, replicate, filters.ctypes.data, untransformed.ctypes.data if replicate else None
        )
        tap = library.Tap(S.ctypes.data, target.ctypes.data, 0.25, ds.ctypes.data, kept.ctypes.data)
        native.conv_backward(
            crew.pointer, conv, blocked(dy), x, True, tap, aligned(native.conv_work(conv, 1, crew.threads))
        )
        matrix, wide = F.reshape(C, -1).astype(np.float64), dG.astype(np.float64)
        losses = ops.moments_backward(wide, ds.astype(np.float64), matrix)
        losses += ops.content_backward(matrix, P.reshape(C, -1).astype(np.float64), 0.25) + extra.reshape(C, -1)
        expected = ops.conv_backward(dy.astype(np.float64), w.astype(np.float64), padding) + losses.reshape(F.shape)
        assert relative_error(plain(x), np.where(F > 0, expected, 0)) <= BOUND


@each_instructions
@pytest.mark.parametrize("shape", [(32, 1), (64, 130), (64, 4097), (128, 300), (256, 129), (288, 77), (512, 1025)])
def test_a_gram_matrix_equals_the_book_and_is_symmetric(native, kernels, shape):
    crew = library.Crew(native, 2)
    C, M = shape
    F, G = random(C, 1, M), np.full((C, C), np.nan, np.float32)
    native.gram(crew.pointer, blocked(F), C, M, G, aligned(native.gram_work(C)))
    assert relative_error(G, ops.gram_forward(F.reshape(C, M).astype(np.float64))) <= 2e-6
    np.testing.assert_array_equal(G, G.T)


@each_instructions
@pytest.mark.parametrize("shape", [(32, 1), (64, 130), (32, 4097), (288, 77)])
@pytest.mark.parametrize("guided", [False, True])
def test_statistics_and_gradients_under_a_guide_equal_the_book(native, kernels, shape, guided):
    C, M = shape
    F, P, g, ds, dG = (random(*s, seed=i) for i, s in enumerate([(C, M), (C, M), (C, M), (C,), (C, C)]))
    w = np.random.default_rng(0).random(M).astype(np.float32) if guided else None
    wide_F, wide_P, wide_g, wide_ds, wide_dG = (a.astype(np.float64) for a in (F, P, g, ds, dG / np.float32(C)))
    wide_w = None if w is None else w.astype(np.float64)
    expected_G, expected_s = ops.moments_forward(wide_F, wide_w)
    expected = wide_g + ops.moments_backward(wide_dG, wide_ds, wide_F, wide_w)
    expected += ops.content_backward(wide_F, wide_P, 0.25, wide_w)
    x, kept = (blocked(a.reshape(C, 1, M)) for a in (F, P))
    S, packed = aligned(C, C), aligned(C)
    packed[...] = ds
    found = []
    for crew in (library.Crew(native, threads) for threads in (1, 2, 3)):
        s, out = (ctypes.c_double * C)(), blocked(g.reshape(C, 1, M))
        native.sums(crew.pointer, x, w, C, M, s)
        distance = native.squared_distance(crew.pointer, x, kept, w, C, M)
        native.pack_style(crew.pointer, dG / np.float32(C), C, S)
        tap = library.Tap(S.ctypes.data, kept.ctypes.data, 0.25, packed.ctypes.data, None)
        native.tap_gradient(crew.pointer, x, w, out, True, False, C, M, tap, aligned(native.tap_work(C, crew.threads)))
        found.append((np.array(s), distance, out))
    sums, distance, out = found[0]
    # Of white noise the sum is much smaller than its terms
    assert np.abs(sums - expected_s).max() <= 1e-6 * np.sqrt(M)
    assert distance == pytest.approx(ops.content_forward(wide_F, wide_P, 1.0, wide_w), rel=1e-6)
    assert relative_error(plain(out).reshape(C, M), expected) <= BOUND
    for other in found[1:]:
        for mine, its in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(mine, its)
    if guided:
        weighted, G = aligned(C // CB, 1, M, CB), aligned(C, C)
        native.weigh(crew.pointer, x, np.sqrt(w), C, M, weighted)
        native.gram(crew.pointer, weighted, C, M, G, aligned(native.gram_work(C)))
        assert relative_error(G, expected_G) <= 2e-6


@each_instructions
def test_losses_of_small_arrays_equal_the_book(kernels):
    engine = CpuEngine(threads=2)
    G, A = random(64, 64), random(64, 64, seed=1)
    loss, dG = engine.style_term(G.copy(), 7, A, 5, 0.5)
    assert loss == pytest.approx(ops.style_forward(G.astype(np.float64), 7, A.astype(np.float64), 5, 0.5), rel=1e-6)
    assert relative_error(dG, ops.style_backward(G.astype(np.float64), 7, A.astype(np.float64), 5, 0.5)) <= 1e-6
    for size in ((37, 50), (1, 1), (2, 3), (1, 40), (40, 1)):
        for diagonal in (0.0, 0.7):
            x, gradient = random(3, *size, seed=2), random(3, *size, seed=3)
            options = x.astype(np.float64), 0.3, diagonal
            expected = gradient + ops.total_variation_backward(*options)
            loss = engine.total_variation(x, 0.3, gradient, diagonal)
            assert loss == pytest.approx(ops.total_variation_forward(*options), rel=1e-6)
            assert relative_error(gradient, expected) <= 1e-6


@each_instructions
@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_the_bits_do_not_depend_on_the_number_of_threads(kernels, padding):
    weights = random_weights(deepest="conv4_2", padding=padding)
    taps = ("relu1_1", "pool1", "relu2_1", "relu3_1", "relu4_1", "relu4_2")
    one, *others = (run("cpu", "float32", weights, "max", (37, 50), taps, threads=n) for n in (1, 2, 3, 7))
    for other in others:
        np.testing.assert_array_equal(one["gradient"], other["gradient"])
        for statistic in ("grams", "guided grams", "sums", "guided sums"):
            assert all(np.array_equal(one[statistic][tap], other[statistic][tap]) for tap in taps)
        assert one["distances"] == other["distances"]


@each_instructions
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_painting_does_not_depend_on_the_number_of_threads(kernels, optimizer):
    weights = random_weights(deepest="conv3_1")
    content, style = smooth_picture(48, 40, 1), smooth_picture(40, 48, 2)
    layers = {"content_layers": ("relu3_1",), "style_layers": ("relu1_1", "relu2_1")}
    options = {"weights": weights, "size": 48, "iterations": 12, "optimizer": optimizer, **layers}
    one, *others = (nstcore.stylize(content, style, threads=n, **options) for n in (1, 2, 3))
    for other in others:
        np.testing.assert_array_equal(one.image, other.image)
        assert one.losses == other.losses


@pytest.mark.parametrize("kernels", ["avx2"])
def test_every_instruction_set_gives_nearly_the_same(random_vgg19, kernels):
    results = []
    for instructions in library.available():
        engine = CpuEngine(threads=1, kernels=instructions)
        network = engine.network(random_vgg19, ["relu5_1"], "max")
        network.forward(pixels_of(37, 50))
        results.append(network.features("relu5_1"))
    assert all(relative_error(r, results[0]) <= 1e-5 for r in results)


@each_instructions
def test_features_are_refused_once_their_gradient_has_overwritten_them(kernels):
    weights = random_weights(deepest="conv2_1")
    engine = CpuEngine(threads=1)
    network = engine.network(weights, ["relu2_1"], "max")
    with pytest.raises(RuntimeError, match="call forward first"):
        network.gram("relu2_1")
    network.forward(pixels_of(20, 30))
    before = network.features("relu2_1")
    network.backward({"relu2_1": [TapGradient(engine.array(np.eye(128)))]})
    for statistic in (network.gram, network.sums, network.keep, network.features):
        with pytest.raises(RuntimeError, match="backward overwrites them"):
            statistic("relu2_1")
    network.forward(pixels_of(20, 30))
    np.testing.assert_array_equal(network.features("relu2_1"), before)


@each_instructions
def test_a_broken_pixel_is_not_hidden_by_a_relu_or_a_pooling(kernels):
    """One NaN must reach every loss: a run that has gone wrong must not look like one that has not."""
    network = CpuEngine(threads=2).network(random_weights(deepest="conv3_1"), ["relu1_1", "relu3_1"], "max")
    pixels = pixels_of(32, 32)
    pixels[1, 13, 17] = np.nan
    network.forward(pixels)
    assert np.isnan(network.gram("relu1_1")).any()
    assert np.isnan(network.sums("relu1_1")).any()
    assert np.isnan(network.squared_norm(network.keep("relu1_1")))


def test_a_network_of_an_unusual_width_is_computed_in_numpy(monkeypatch):
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (1, 12)))
    network = CpuEngine().network(random_weights(deepest="conv2_1"), ["relu2_1"], "max")
    network.forward(pixels_of(20, 30))
    assert network.features("relu2_1").shape == (12, 10, 15)


def test_two_threads_of_a_program_may_use_one_engine_at_a_time_each_with_its_network():
    weights, engine = random_weights(deepest="conv3_1"), engines.create("cpu", threads=2)
    expected = run("cpu", "float32", weights, "max", (37, 50), ("relu3_1",))["features"]["relu3_1"]
    wrong = []

    def work():
        network = engine.network(weights, ["relu3_1"], "max")
        for _ in range(20):
            network.forward(pixels_of(37, 50))
            if not np.array_equal(network.features("relu3_1"), expected):
                wrong.append(True)

    others = [threading.Thread(target=work) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_child_computes_without_its_parents_threads():
    code = """
import os, sys
sys.path.insert(0, "tests")
import numpy as np
from conftest import random_weights
from test_engines import pixels_of
from nstcore.engines.cpu import CpuEngine
network = CpuEngine(threads=2).network(random_weights(deepest="conv2_1"), ["relu2_1"], "max")
network.forward(pixels_of(20, 30))
expected = network.features("relu2_1")
child = os.fork()
if child == 0:
    network.forward(pixels_of(20, 30))
    os._exit(0 if np.array_equal(network.features("relu2_1"), expected) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == 0
