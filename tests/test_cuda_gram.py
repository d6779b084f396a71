"""Gram matrices and their gradient (kernels/cuda/gram) against the book in float64."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from cuda_devices import elements, floats, notices, plant, unwritten
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import gram
from nstcore.engines.cuda.gram import Grams, gram_backward
from nstcore.engines.cuda.precision import FLOAT32, PRECISIONS, from_elements, to_elements
from nstcore.ops import content_loss
from nstcore.ops import gram as book
from nstcore.ops.relu import relu_backward

U = 2.0**-24  # largest relative error of one float32 operation
SMALLEST = 2.0**-14  # float16's smallest normal number: below it, rounding errors shrink no further

FORMS = [(short, name) for short, rung in gram.RUNGS.items() for name in rung.precisions]
each_form = pytest.mark.parametrize(
    ("rung", "precision"),
    [
        pytest.param(r, PRECISIONS[p], marks=() if gram.PRODUCTION[p] == r or r == "01_naive" else pytest.mark.slow)
        for r, p in FORMS
    ],
    ids=map(str, FORMS),
)
FIRST = [(short, rung.precisions[0]) for short, rung in gram.RUNGS.items()]
each_rung = pytest.mark.parametrize(("rung", "precision"), [(r, PRECISIONS[p]) for r, p in FIRST], ids=gram.RUNGS)
SHAPES = [(1, 1), (3, 5), (64, 35), (65, 129), (130, 67), (8, 4099)]  # (N, M)
LARGE = [(513, 35), (65, 67 * 131), (128, 2049), (1, 9000)]


def rounding(rung: str) -> float:
    """Of one addition: a tensor core may cut off what does not fit."""
    return 2 * U if "tensor" in rung else U


def features(N: int, M: int, precision, seed: int = 0) -> np.ndarray:
    """(M, N) float64, all of them elements, some below zero and some zero."""
    a = np.random.default_rng(seed).standard_normal((M, N))
    a[np.abs(a) < 0.1] = 0
    return from_elements(to_elements(a, precision), precision).astype(np.float64)


def grams(device, matrices: list[np.ndarray], precision, rung: str | None) -> list[np.ndarray]:
    """G of every F (M, N), all at once."""
    compute = Grams(device, precision, [F.shape[::-1] for F in matrices], rung)
    out = [unwritten(device, (F.shape[1],) * 2, np.float32) for F in matrices]
    partials = unwritten(device, max(compute.partial_floats, 1), np.float32)
    compute([elements(device, F, precision) for F in matrices], partials, out)
    return [device.to_host(G) for G in out]


def check_forward(machine, N, M, rung, precision):
    F = features(N, M, precision)
    G = machine.check(lambda device: tuple(grams(device, [F], precision, rung)))
    # Every product and addition of a piece, and G's own rounding
    operations = 2 if rung == "01_naive" else min(M, gram.LONGEST) + 2
    tolerance = operations * rounding(rung) * (np.abs(F).T @ np.abs(F))
    assert np.all(np.abs(G - book.gram_forward(F.T)) <= tolerance)
    assert np.array_equal(G, G.T)


@each_form
@pytest.mark.parametrize(("N", "M"), SHAPES)
def test_the_gram_matrix_is_the_books_and_exactly_symmetric(machine, N, M, rung, precision):
    check_forward(machine, N, M, rung, precision)


@pytest.mark.slow
@each_form
@pytest.mark.parametrize(("N", "M"), LARGE)
def test_large_gram_matrices_are_the_books(machine, N, M, rung, precision):
    check_forward(machine, N, M, rung, precision)


@each_rung
def test_many_layers_at_once_give_the_bits_of_one_at_a_time(machine, rung, precision):
    matrices = [
        features(N, M, precision, seed)
        for seed, (N, M) in enumerate([(64, 300), (65, 40), (3, 2500), (64, 300), (128, 1)])
    ]
    together = machine.check(lambda device: tuple(grams(device, matrices, precision, rung)))
    for F, G in zip(matrices, together, strict=True):
        (alone,) = grams(machine.devices[0], [F], precision, rung)
        assert alone.tobytes() == G.tobytes()


def traced(device, matrices: list[np.ndarray], precision, rung: str) -> list[np.ndarray]:
    """G of every F, and what is left of traces."""
    compute = Grams(device, precision, [F.shape[::-1] for F in matrices], rung, traced=True)
    out = [unwritten(device, (F.shape[1],) * 2, np.float32) for F in matrices]
    partials = unwritten(device, compute.partial_floats, np.float32)
    whole = [unwritten(device, (trace.size + 2,), np.float64) for trace in compute.traces]
    compute.traces = [a[:-2] for a in whole]
    compute([elements(device, F, precision) for F in matrices], partials, out)
    return [device.to_host(a) for a in (*out, *whole)]


def check_traces(machine, rung, precision):
    matrices = [features(N, M, precision, seed) for seed, (N, M) in enumerate([(65, 40), (3, 300), (64, 9)])]
    found = machine.check(lambda device: tuple(traced(device, matrices, precision, rung)))
    for F, G, parts in zip(matrices, found[:3], found[3:], strict=True):
        (plain,) = grams(machine.devices[0], [F], precision, rung)
        assert plain.tobytes() == G.tobytes()
        exact = np.diag(G).astype(np.float64)
        sums = [exact[k : k + gram.PATCH].sum() for k in range(0, exact.size, gram.PATCH)]
        np.testing.assert_allclose(parts[:-2], sums, rtol=1e-15)
        assert np.isnan(parts[-2:]).all()


@pytest.mark.parametrize(("rung", "precision"), [("02_shared_tile", "float32"), ("03_tensor_core", "float16")])
def test_the_parts_of_a_trace_are_sums_along_the_diagonal(machine, rung, precision):
    check_traces(machine, rung, PRECISIONS[precision])


def test_a_rung_without_traces_refuses_them(machine):
    with pytest.raises(ValueError, match="traced: expected False for gram/01_naive, which leaves none, got True"):
        Grams(machine.devices[0], FLOAT32, [(4, 4)], "01_naive", traced=True)


@each_rung
def test_permuted_channels_give_the_permuted_matrix_bit_for_bit(machine, rung, precision):
    F = features(67, 300, precision)
    order = np.random.default_rng(1).permutation(67)
    G = machine.check(lambda device: tuple(grams(device, [F], precision, rung)))
    permuted = machine.check(lambda device: tuple(grams(device, [F[:, order]], precision, rung)))
    assert permuted.tobytes() == G[np.ix_(order, order)].tobytes()


def test_the_same_object_takes_other_arrays(machine):
    device = machine.devices[0]
    compute = Grams(device, FLOAT32, [(5, 40)])
    partials = unwritten(device, compute.partial_floats, np.float32)
    kept = []  # at other addresses
    for seed in (0, 1, 0):
        F = features(5, 40, FLOAT32, seed)
        kept += [elements(device, F), unwritten(device, (5, 5), np.float32)]
        for _ in range(2):
            device.fill_bytes(kept[-1], 255)
            compute([kept[-2]], partials, [kept[-1]])
            assert np.allclose(device.to_host(kept[-1]), F.T @ F, rtol=0, atol=1e-4)


def test_pieces_fill_a_large_gpu_but_are_neither_short_nor_long():
    vgg_at_512 = [(64, 512**2), (128, 256**2), (256, 128**2), (512, 64**2), (512, 32**2)]
    for N, M in [*vgg_at_512, (64, 2048**2), (512, 7), (1, 1)]:
        tiles = -(-N // 64) * (-(-N // 64) + 1) // 2
        count, length = gram.pieces(M, tiles)
        assert (count - 1) * length < M <= count * length
        assert length <= gram.LONGEST
        assert length % gram.GRAIN == 0
        assert count * tiles >= min(0.9 * gram.BLOCKS, tiles * (M // gram.SHORTEST))
        # What a piece writes against what it reads: at most 64 floats a channel for at least 128
        assert count == 1 or length >= gram.SHORTEST


def test_arrays_that_a_table_could_not_check_are_refused(machine):
    device = machine.devices[0]
    compute = Grams(device, FLOAT32, [(4, 6)])
    F, G = unwritten(device, (6, 4), np.float32), unwritten(device, (4, 4), np.float32)
    partials = unwritten(device, compute.partial_floats, np.float32)
    with pytest.raises(TypeError, match="features: expected arrays of"):
        compute([np.zeros((6, 4), np.float32)], partials, [G])
    with pytest.raises(
        ValueError, match=r"features: expected a C-contiguous float32 array \(6, 4\), got float32 \(4, 6\)"
    ):
        compute([F.reshape(4, 6)], partials, [G])
    with pytest.raises(ValueError, match=r"features: expected a C-contiguous float32 array \(6, 4\)"):
        compute([unwritten(device, (6, 8), np.float32)[:, ::2]], partials, [G])
    with pytest.raises(ValueError, match="out: expected a C-contiguous float32 array"):
        compute([F], partials, [unwritten(device, (4, 4), np.float16)])
    with pytest.raises(ValueError, match="features: expected 1 arrays, got 2"):
        compute([F, F], partials, [G])
    with pytest.raises(ValueError, match=f"partials: expected at least {compute.partial_floats} floats, got 4"):
        compute([F], partials[:4], [G])
    with pytest.raises(ValueError, match="shapes: expected at least one"):
        Grams(device, FLOAT32, [])
    with pytest.raises(ValueError, match=r"g: expected 24 elements for N = 4 and M = 6, got 16"):
        gram_backward(device, FLOAT32, F, None, 1.0, F, 1.0, True, False, G)


# ---- backward --------------------------------------------------------------------------------------------------------


def check_backward(machine, N, M, rung, precision, *, style=True, content=True, mask=True, add=True):
    F, P, g = (features(N, M, precision, seed) for seed in range(3))
    S = features(N, N, precision, 3)
    S = np.triu(S) + np.triu(S, 1).T
    style_scale, content_scale = 0.37, -1.6

    def run(device):
        out = elements(device, g, precision) if add else unwritten(device, (M, N), precision.dtype)
        f, s, p = (elements(device, a, precision) for a in (F, S, P))
        losses = s if style else None, style_scale, p if content else None, content_scale
        gram_backward(device, precision, f, *losses, mask, add, out, rung=rung)
        return floats(device, out, precision)

    found = machine.check(run)
    style_scale, content_scale = float(np.float32(style_scale)) * style, float(np.float32(content_scale)) * content
    more = style_scale * book.gram_backward(S / 2, F.T).T + content_loss.content_backward(F, P, content_scale / 2)
    expected = (relu_backward(more, F) if mask else more) + g * add
    # Every product and addition of the sum, its scale; a difference, its scale; both added to each other and to g
    style_size, content_size = abs(style_scale) * np.abs(F) @ np.abs(S), abs(content_scale) * (np.abs(F) + np.abs(P))
    off = rounding(rung) * ((N + 4) * style_size + 5 * content_size + add * np.abs(g))
    element = precision.unit * np.maximum(np.abs(expected), SMALLEST)
    assert np.all(np.abs(found - expected) <= (1 + precision.unit) * off + element)


@each_form
@pytest.mark.parametrize(("N", "M"), [(1, 1), (3, 70), (65, 67), (72, 33)])
def test_the_gradient_is_the_books(machine, N, M, rung, precision):
    check_backward(machine, N, M, rung, precision)


@each_rung
@pytest.mark.parametrize("add", [False, True], ids=["new", "add"])
@pytest.mark.parametrize("mask", [False, True], ids=["all", "mask"])
@pytest.mark.parametrize(("style", "content"), [(True, False), (False, True), (False, False)])
def test_each_part_of_the_gradient_may_be_missing(machine, rung, precision, style, content, mask, add):
    for N in (7, 8):
        check_backward(machine, N, 5, rung, precision, style=style, content=content, mask=mask, add=add)


@pytest.mark.slow
@each_form
@pytest.mark.parametrize(("N", "M"), [(513, 67), (64, 2049), (128, 131)])
def test_large_gradients_are_the_books(machine, N, M, rung, precision):
    for mask, add in itertools.product([False, True], repeat=2):
        check_backward(machine, N, M, rung, precision, mask=mask, add=add)


def test_a_rung_without_the_precision_is_refused(machine, monkeypatch):
    only = dataclasses.replace(gram.RUNGS["02_shared_tile"], precisions=("float32",))
    monkeypatch.setitem(gram.RUNGS, "02_shared_tile", only)
    with pytest.raises(ValueError, match="gram/02_shared_tile: expected float32, got float16"):
        Grams(machine.devices[0], PRECISIONS["float16"], [(4, 4)], "02_shared_tile")


# ---- what these tests would notice -----------------------------------------------------------------------------------

BARRIER = "__syncthreads();  // one is enough", "// one is enough"
BUGS = {
    "nothing": ("// op:", "// op:"),
    "no barrier after gram_partial's operands are written": BARRIER,
    "a position too many in every piece": ("begin + length;", "begin + length + 1;"),
    "sums that are not written": ("j < 8; j += 4)\n      *(float4*)(to", "j < 4; j += 4)\n      *(float4*)(to"),
}


OF_TRACES = {
    "nothing": ("// op:", "// op:"),
    "patches beside the diagonal": ("trace && row == column &&", "trace &&"),
    "a row in place of the diagonal": ("part += sums[k][k]", "part += sums[0][k]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", OF_TRACES)
def test_a_bug_planted_in_a_trace_is_caught(unoptimised, monkeypatch, bug):
    plant(monkeypatch, "gram/02_shared_tile", *OF_TRACES[bug])
    notices(bug, lambda: check_traces(unoptimised, "02_shared_tile", FLOAT32))


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(unoptimised, monkeypatch, bug):
    plant(monkeypatch, "gram/02_shared_tile", *BUGS[bug])
    notices(bug, lambda: check_forward(unoptimised, 70, 300, "02_shared_tile", FLOAT32))


SANITIZED = """
import numpy as np
from nstcore.engines.cuda import gram
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS

device = OnCpuDevice(build=BUILD)
for short, rung in gram.RUNGS.items():
    precision = PRECISIONS[rung.precisions[0]]
    # A tile beside the diagonal makes many blocks of gram_sum: too slow under ThreadSanitizer
    wide = 65 if BUILD == "asan" else 17
    for N, M in ((wide, 20), (8, 150)):
        compute = gram.Grams(device, precision, [(N, M)], short)
        F, P, g = (device.to_device(np.ones((M, N), precision.dtype)) for _ in range(3))
        S, G = device.to_device(np.ones((N, N), precision.dtype)), device.empty((N, N), np.float32)
        compute([F], device.empty(max(compute.partial_floats, 1), np.float32), [G])
        gram.gram_backward(device, precision, F, S, 1.0, P, 1.0, True, True, g, rung=short)
        assert np.all(device.to_host(G) == M)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_rung_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


PLANTED = """
import dataclasses
from nstcore.engines.cuda import source

read = source.read
def broken(name):
    rung = read(name)
    return dataclasses.replace(rung, text=rung.text.replace(*BUG)) if name == "gram/02_shared_tile" else rung
source.read = broken
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "bug", "said"),
    [
        ("asan", ("&& c < width", "&& c <= width"), "AddressSanitizer: heap-buffer-overflow"),
        ("tsan", BARRIER, "ThreadSanitizer: data race"),
    ],
)
def test_a_sanitizer_names_the_line_of_a_planted_bug(build, bug, said):
    done = run_sanitized(build, f"BUG = {bug!r}\n{PLANTED}{SANITIZED}")
    assert done.returncode != 0
    assert said in done.stderr
    assert "02_shared_tile.cu:" in done.stderr
