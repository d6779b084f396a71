"""The GPU's losses and their gradients against the book in float64, in three thread orders and all precisions."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_devices import notices, plant
from cuda_sanitized import run_sanitized

from nstcore import ops
from nstcore.engines.cuda import losses, source, vectors
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS, from_elements, to_elements
from nstcore.errors import ShapeError

SIZES = [1, 2, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 8193, 3 * 67 * 131]
LARGE = pytest.param(3 * 256 * 257, marks=pytest.mark.slow)
SIDES = [1, 2, 31, 32, 33, 64, 130, pytest.param(513, marks=pytest.mark.slow)]
PICTURES = [(1, 1, 1), (3, 1, 7), (3, 7, 1), (1, 8, 32), (2, 9, 33), (3, 67, 131)]
each_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=lambda p: p.name)
UNIT = 2.0**-24  # of float32: the largest relative error of one operation
GUARD = 16  # elements of NaN behind every array: nothing may read or write them


def guarded(device, a):
    """A copy on the device with NaN behind it; and the array of both."""
    a = np.asarray(a)
    whole = np.full(a.size + GUARD, 255, np.uint8).repeat(a.itemsize).view(a.dtype)
    whole[: a.size] = a.reshape(-1)
    held = device.to_device(whole)
    return held[: a.size].reshape(a.shape), held


def values(shape, precision=FLOAT32, seed=0):
    """Numbers that are elements already: the elements, and what they hold in float64."""
    held = to_elements(np.random.default_rng(seed).standard_normal(shape), precision)
    return held, from_elements(held, precision).astype(np.float64)


def sum_error(precision):
    """Of a sum of squares of differences: the additions of one load, the difference (twice), the weight, the square."""
    return (16 // precision.dtype.itemsize + 4) * UNIT


@each_precision
@pytest.mark.parametrize("size", [*SIZES, LARGE])
def test_squared_distances_and_norms_agree_with_the_book(machine, size, precision):
    (F, f), (P, p) = (values(size, precision, seed) for seed in (0, 1))

    def run(device):
        mine = Losses(device, precision)
        a, b = guarded(device, F)[0], guarded(device, P)[0]
        return np.array([mine.squared_distance(a, b), mine.squared_distance(a, None), mine.squared_distance(a, a)])

    distance, norm, nothing = machine.check(run)
    for got, exact in ((distance, ops.content_forward(f, p, 1.0)), (norm, np.sum(f * f))):
        assert abs(got - exact) <= sum_error(precision) * exact
    assert nothing == 0


@each_precision
@pytest.mark.parametrize(("N", "M"), [(1, 1), (1, 2049), (3, 67), (8, 33), (64, 131)])
def test_weighted_squared_distances_agree_with_the_book(machine, N, M, precision):
    (F, f), (P, p), (w, weights) = values((M, N), precision), values((M, N), precision, 1), values(M, seed=2)
    w, weights = abs(w), abs(weights)

    def run(device):
        a, b, c = (guarded(device, x)[0] for x in (F, P, w))
        mine = Losses(device, precision)
        return np.array([mine.squared_distance(a, b, c), mine.squared_distance(a, None, c)])

    distance, norm = machine.check(run)
    for got, exact in (
        (distance, ops.content_forward(f.T, p.T, 1.0, weights)),
        (norm, ops.content_forward(f.T, np.zeros_like(f.T), 1.0, weights)),
    ):
        assert abs(got - exact) <= sum_error(precision) * exact


@each_precision
def test_squared_distances_of_whole_numbers_are_exact(machine, precision):
    rng = np.random.default_rng(0)
    F, P = rng.integers(-8, 9, (2, 37, 41, 5)).astype(np.float32)

    def run(device):
        a, b = (guarded(device, to_elements(x, precision))[0] for x in (F, P))
        return np.array(Losses(device, precision).squared_distance(a, b))

    assert machine.check(run) == ops.content_forward(F, P, 1.0)


@pytest.mark.parametrize("size", [1, 257, 5000])
def test_sums_of_float32_arrays_are_those_of_any_precision(machine, size):
    a, exact = values(size)
    for precision in PRECISIONS.values():

        def run(device, precision=precision):
            return np.array(Losses(device, precision).squared_sum(guarded(device, a)[0]))

        squares = machine.check(run)
        assert abs(squares - np.sum(exact**2)) <= sum_error(FLOAT32) * np.sum(exact**2)


def matrices(N):
    G, A = (values((N, N), seed=seed)[0] for seed in (0, 1))
    return np.float32(50) * (G + G.T), np.float32(80) * (A + A.T)


@pytest.mark.parametrize("N", SIDES)
def test_the_style_loss_and_its_gradient_agree_with_the_book(machine, N):
    (G, A), M, M_style, scale = matrices(N), 300, 481, 0.7

    def run(device):
        held, whole = guarded(device, G)
        loss, dG = Losses(device, FLOAT32).style(held, M, guarded(device, A)[0], M_style, scale)
        assert device.address(dG) == device.address(held)
        assert np.isnan(device.to_host(whole)[-GUARD:]).all()
        return np.array(loss), device.to_host(dG)

    loss, dG = machine.check(run)
    g, a = G.astype(np.float64), A.astype(np.float64)
    exact = ops.style_forward(g, M, a, M_style, scale)
    d, rounded = abs(g / M - a / M_style), UNIT * (abs(g / M) + abs(a / M_style))  # each quotient is rounded
    assert abs(loss - exact) <= scale * np.sum(2.01 * d * (rounded + 2 * UNIT * d) + rounded**2)
    factor = 2 * scale / M
    assert np.all(abs(dG - ops.style_backward(g, M, a, M_style, scale)) <= 1.01 * factor * (rounded + 3 * UNIT * d))
    np.testing.assert_array_equal(dG, dG.T)


def test_a_picture_with_the_statistics_of_the_style_has_no_style_loss(machine):
    G, _ = matrices(37)

    def run(device):
        loss, dG = Losses(device, FLOAT32).style(device.to_device(G), 300, device.to_device(G), 300, 0.7)
        return np.array(loss), device.to_host(dG)

    loss, dG = machine.check(run)
    assert loss == 0
    assert not dG.any()


def moments(N, M=70):
    """G (N, N) float32 and s (N,) of features, one channel of which does not vary; and a target of each kind."""
    F, P = (abs(np.random.default_rng(seed).standard_normal((N, M))) for seed in (2, 3))
    F[N // 2] = 1
    second, mean = P @ P.T / M, P.mean(axis=1)
    targets = {
        "centred": (ops.covariance_forward(second, mean),),
        "mean-std": (mean, ops.standard_deviations(second, mean, 1e-4), 1e-4),
    }
    return (F @ F.T).astype(np.float32), F.sum(axis=1), targets


BOOK = {
    "centred": (ops.centred_forward, ops.centred_backward),
    "mean-std": (ops.mean_std_forward, ops.mean_std_backward),
}


def check_moments_loss(machine, kind, N, scale=0.7, M=70):
    G, s, targets = moments(N)
    (C, *rest), (forward, backward) = targets[kind], BOOK[kind]
    target = (C, *rest[:1], scale, *rest[1:])

    def run(device):
        held, whole = guarded(device, G)
        loss = Losses(device, FLOAT32).moments_loss(kind, M, *targets[kind])
        number, dG, ds = loss(held, guarded(device, s)[0], scale)
        assert device.address(dG) == device.address(held)
        assert np.isnan(device.to_host(whole)[-GUARD:]).all()
        assert ds.factor == 1
        return np.array(number), device.to_host(dG), device.to_host(ds.array)

    number, dG, ds = machine.check(run)
    second, mean = G.astype(np.float64) / M, s / M
    assert number == pytest.approx(forward(second, mean, *target), rel=1e-12)
    largest = abs(second).max()
    for mine, exact in zip((dG, ds), backward(second, mean, *target), strict=True):
        # Rounded once; before that, differences of numbers of the size of `second` have a few roundings of a double
        off = UNIT * abs(exact / M) + 1e-14 * scale * largest * N / M
        assert np.all(abs(mine - exact / M) <= off)


@pytest.mark.parametrize("N", SIDES)
@pytest.mark.parametrize("kind", BOOK)
def test_losses_of_means_and_covariances_agree_with_the_book(machine, kind, N):
    check_moments_loss(machine, kind, N)


@pytest.mark.parametrize("variance", [0.0, -1e-3, 1e-3])
def test_a_channel_that_does_not_vary_has_no_gradient_of_its_deviation(machine, variance):
    """Whatever rounding made of its variance; without an epsilon, too."""
    mean, std = np.array([3.0, 5.0]), np.array([1.0, 2.0])
    G, s = np.diag([9 + variance, 26]).astype(np.float32), np.array([3.0, 5.0])

    def run(device):
        loss = Losses(device, FLOAT32).moments_loss("mean-std", 1, mean, std, 0.0)
        number, dG, ds = loss(device.to_device(G), device.to_device(s), 1.0)
        return np.array(number), device.to_host(dG), device.to_host(ds.array)

    number, dG, ds = machine.check(run)
    target = mean, std, 1.0, 0.0
    second = G.astype(np.float64)
    assert number == pytest.approx(ops.mean_std_forward(second, s, *target), rel=1e-12)
    expected = ops.mean_std_backward(second, s, *target)
    np.testing.assert_allclose(dG, expected[0], rtol=1e-6)
    np.testing.assert_allclose(ds, expected[1], rtol=1e-6)
    assert (dG[0, 0] != 0) == (variance > 0)


@each_precision
@pytest.mark.parametrize("N", SIDES)
def test_the_packed_style_gradient_is_the_rounded_sum_with_its_transpose(machine, N, precision):
    dG, factor = values((N, N))[0], 2.0**-3  # not symmetric: no Gram's gradient, but a mistake would show

    def run(device):
        S, whole = guarded(
            device, np.full((N, N), 255, np.uint8).repeat(4).view(precision.dtype)[: N * N].reshape(N, N)
        )
        Losses(device, precision).pack_style(guarded(device, dG)[0], factor, S)
        return device.to_host(S), device.to_host(whole)[-GUARD:]

    S, behind = machine.check(run)
    assert S.tobytes() == to_elements(np.float32(factor) * (dG + dG.T), precision).tobytes()
    assert behind.tobytes() == b"\xff" * behind.nbytes


@pytest.mark.parametrize("diagonal", [0.0, 0.7])
@pytest.mark.parametrize("shape", [*PICTURES, pytest.param((3, 256, 257), marks=pytest.mark.slow)], ids=str)
def test_total_variation_and_its_gradient_agree_with_the_book(machine, shape, diagonal):
    (x, exact_x), (before, _), scale = values(shape), values(shape, seed=1), 0.3

    def run(device):
        gradient, whole = guarded(device, before)
        loss = Losses(device, FLOAT32).total_variation(guarded(device, x)[0], scale, gradient, diagonal)
        assert np.isnan(device.to_host(whole)[-GUARD:]).all()
        return np.array(loss), device.to_host(gradient)

    loss, gradient = machine.check(run)
    exact = ops.total_variation_forward(exact_x, scale, diagonal)
    # A difference (twice), its square, an addition; its weight, rounded and multiplied, another addition
    assert abs(loss - exact) <= 8 * UNIT * exact
    # Eight differences of at most |x| + |x'| each, added up, times the weights and the factor, added to what was there
    most = 2 * scale * (8 + 8 * diagonal) * abs(exact_x).max()
    added = before + ops.total_variation_backward(exact_x, scale, diagonal)
    assert np.all(abs(gradient - added) <= UNIT * (14 * most + abs(before)))


@pytest.mark.parametrize("diagonal", [0.0, 0.5])
def test_total_variation_of_whole_numbers_is_exact(machine, diagonal):
    x = np.random.default_rng(0).integers(-8, 9, (3, 40, 70)).astype(np.float32)

    def run(device):
        gradient = device.to_device(np.ones_like(x))
        loss = Losses(device, FLOAT32).total_variation(guarded(device, x)[0], 0.5, gradient, diagonal)
        return np.array(loss), device.to_host(gradient)

    loss, gradient = machine.check(run)
    assert loss == ops.total_variation_forward(x, 0.5, diagonal)
    np.testing.assert_array_equal(gradient, 1 + ops.total_variation_backward(x, 0.5, diagonal))


def test_nan_shows_in_every_loss(machine):
    bad = np.ones((2, 40, 40), np.float32)
    bad[1, 39, 39] = np.nan

    def run(device):
        mine, held = Losses(device, FLOAT32), guarded(device, bad)[0]
        G, A = guarded(device, bad[1])[0], guarded(device, bad[0])[0]
        found = [mine.squared_distance(held, None), mine.squared_sum(held)]
        found.append(mine.total_variation(held, 1.0, guarded(device, np.zeros_like(bad))[0]))
        found.append(mine.style(G, 1, A, 1, 1.0)[0])
        one, s = np.ones(40), bad[1, 39].astype(np.float64)
        for kind, target in (("centred", (bad[0],)), ("mean-std", (one, one, 1e-4))):
            found += [mine.moments_loss(kind, 1, *target)(guarded(device, bad[0])[0], s, 1.0)[0]]
            found += [mine.moments_loss(kind, 1, *target)(guarded(device, bad[1])[0], one, 1.0)[0]]
        return np.array(found)

    assert np.isnan(machine.check(run)).all()


def test_arrays_that_do_not_fit_together_are_refused_in_one_line(machine):
    device = machine.devices[0]
    mine = Losses(device, FLOAT32)
    a, b, square = (device.to_device(np.zeros(s, np.float32)) for s in ((2, 3, 4), (2, 4, 3), (5, 5)))
    centred = mine.moments_loss("centred", 1, np.zeros((5, 5)))
    for call, message in (
        (lambda: mine.squared_distance(a, b), r"P: expected the shape of F \(2, 3, 4\), got \(2, 4, 3\)"),
        (lambda: mine.squared_distance(a, None, square), r"w: expected a weight for each position of F \(2, 3, 4\)"),
        (lambda: mine.style(square, 1, a, 1, 1.0), "G: expected a square matrix"),
        (lambda: mine.style(a, 1, a, 1, 1.0), "G: expected a square matrix"),
        (lambda: mine.pack_style(square, 1.0, a), "dG: expected a square matrix"),
        (lambda: centred(a, np.zeros(5), 1.0), "G: expected a square matrix"),
        (lambda: centred(square, np.zeros(4), 1.0), r"s: expected \(5,\) for G \(5, 5\), got \(4,\)"),
        (lambda: mine.total_variation(a, 1.0, b), r"expected two arrays \(C, H, W\)"),
        (lambda: mine.total_variation(square, 1.0, square), r"expected two arrays \(C, H, W\)"),
    ):
        with pytest.raises(ShapeError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="expected an array of"):
        mine.squared_sum(np.zeros(3, np.float32))


WARPS_WRITE = "if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;\n"
BUGS = {
    "nothing": ("reduce.cuh", "", ""),
    "no barrier after the warps' sums are written": ("reduce.cuh", f"{WARPS_WRITE}  __syncthreads();\n", WARPS_WRITE),
    "an index one too far": ("reduce.cuh", "to[e] = e < left ?", "to[e] = e <= left ?"),
    "a warp that is left out": ("reduce.cuh", "w < WARPS; ++w) sum", "w < WARPS - 1; ++w) sum"),
    "a piece of another's place": ("reduce.cuh", "pieces[1 + blockIdx.x]", "pieces[blockIdx.x]"),
    "blocks that overlap": ("reduce.cuh", "(piece) * THREADS", "(piece) * (THREADS - 1)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_planted_in_the_reduction_is_caught(unoptimised, tmp_path, bug):
    read, (file, there, planted) = source.read(losses.CONTENT), BUGS[bug]
    for name, text in ({"broken.cu": read.text} | read.headers).items():
        assert name != file or there in text
        (tmp_path / name).write_text(text.replace(there, planted) if name == file and there else text)
    rung = read if bug == "nothing" else source.parse(tmp_path / "broken.cu", "broken/01_planted")
    x = (np.arange(2001) % 7).astype(np.float32)

    def run(device):
        pieces = device.to_device(np.full(3, np.nan))
        kernel = device.kernel(rung, "squared_distance", THREADS=vectors.THREADS)
        kernel(2, vectors.THREADS, guarded(device, x)[0], None, None, pieces, x.size, 1)
        return device.to_host(pieces)

    def sound():
        count, *sums = unoptimised.check(run)
        return (count, sum(sums)) == (2, np.sum(x * x))

    if bug == "nothing":
        assert sound()
    else:
        with pytest.raises(AssertionError):
            assert sound()


OF_MOMENTS = {
    "nothing": ("// op:", "// op:"),
    "a mean that is not taken away": ("G[at] / M - mean * other - target", "G[at] / M - target"),
    "a gradient of half the size": ("-4 * scale * product", "-2 * scale * product"),
    "a sign": ("2 * scale * off - 2 * dC", "2 * scale * off + 2 * dC"),
    "a row that is added twice": ("    product = block_sum(product);", "    product = block_sum(product + product);"),
    "a diagonal alone that is written": ("if (j != i) row[j] = 0.f;", ""),
    "a row too long": ("row[j] = 0.f;", "row[j + 1] = 0.f;"),
    "a deviation in place of a variance": ("scale * deviation / sigma", "scale * deviation"),
    "an epsilon that is left out": ("(C < 0 ? 0 : C) + eps", "(C < 0 ? 0 : C)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", OF_MOMENTS)
def test_a_bug_planted_in_a_loss_of_moments_is_caught(unoptimised, monkeypatch, bug):
    plant(monkeypatch, losses.STYLE, *OF_MOMENTS[bug])

    def check():
        for kind in BOOK:
            check_moments_loss(unoptimised, kind, 33)

    notices(bug, check)


SANITIZED = """
import numpy as np
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS

device = OnCpuDevice(build=BUILD)
some = slice(1 if BUILD == "tsan" else None)  # where threads wait does not depend on the precision
for precision in (PRECISIONS["float32"], PRECISIONS["float16"])[some]:
    mine = Losses(device, precision)
    for N in (33, 3, 1)[some]:
        G, A, x, dx = (device.to_device(np.ones((1, N, N), np.float32)) for _ in range(4))
        F, P, S = (device.to_device(np.ones((N, N), precision.dtype)) for _ in range(3))
        mine.squared_distance(F, P), mine.squared_sum(G), mine.total_variation(x, 1.0, dx, 0.5)
        mine.squared_distance(F, P, device.to_device(np.ones(N, np.float32))), mine.multiply(G, 2.0)
        _, dG = mine.style(G.reshape(N, N), 3, A.reshape(N, N), 4, 1.0)
        mine.pack_style(dG, 1.0, S)
        n = min(N, 5) if BUILD == "tsan" else N  # as many blocks, each like the next
        one, zeros, dG = np.ones(n), np.zeros((n, n)), dG[:n].ravel()[: n * n].reshape(n, n)
        for kind, target in (("centred", (zeros,)), ("mean-std", (one, one, 1e-4))):
            mine.moments_loss(kind, 3, *target)(dG, device.to_device(one), 1.0)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_loss_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
