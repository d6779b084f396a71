"""Convolutions and Gram matrices on tensor cores: kernels/cuda/conv3x3/05 and 06, gram/03."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import elements, floats, unwritten
from cuda_sanitized import run_sanitized

from nstcore import ops
from nstcore.engines.cuda import conv, source, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS, Launch, Pass
from nstcore.engines.cuda.gram import Grams, gram_backward
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS, Precision, from_elements, to_elements

TF32 = PRECISIONS["tf32"]
TILES = tuple(tiles.TILES)
# One of everything; aligned and not; a chunk that holds several taps, one that ends inside a tap; as many positions and
# channels as a tile has, and one more or less
SIZES = [
    Size(1, 1, 1, 1),
    Size(3, 2, 1, 5),
    Size(8, 8, 3, 2),
    Size(8, 64, 8, 8),
    Size(40, 72, 5, 13),
    Size(17, 65, 5, 13),
    Size(33, 31, 16, 8),
    Size(64, 64, 9, 7),
]
LARGE = [
    Size(1, 513, 3, 3),
    Size(513, 1, 2, 5),
    Size(513, 513, 1, 1),
    Size(512, 512, 4, 4),
    Size(129, 65, 11, 12),
    Size(7, 24, 67, 131),
]
LOSSES = (("SP", True), ("S", False), ("P", True), ("", False))


@pytest.fixture(params=["tf32", "float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def precision(request) -> Precision:
    return PRECISIONS[request.param]


@pytest.fixture
def forced(monkeypatch, precision):
    """Puts a rung into the table that takes one tile for every layer; gives its name."""

    def with_tile(m: int, n: int, aligned: bool = True) -> str:
        def launch(p: Pass) -> Launch:
            grid = -(-p.positions // m) * -(-p.outputs // n)
            defines = {"TILE_M": m, "TILE_N": n, "STAGES": 3, "ALIGNED": int(aligned and p.aligned)}
            return Launch((grid,), 128, defines, 3 * (m + n) * 64)

        name = f"{m}x{n}, {aligned}"
        monkeypatch.setitem(RUNGS, name, replace(RUNGS[PRODUCTION[precision.name]], launch=launch))
        return name

    return with_tile


# ---- convolution ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_is_the_book_s_convolution_bias_and_relu(machine, precision, size):
    layer, rung = Layer(size, precision), PRODUCTION[precision.name]
    for replicate, linear in ((False, True), (True, False)):
        got = machine.check(lambda d, r=replicate, n=linear: run_forward(layer, d, rung, r, n))
        check_forward(layer, got, rung, replicate)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_backward_adds_what_the_losses_send_back_and_masks(machine, precision, size):
    layer, rung = Layer(size, precision), PRODUCTION[precision.name]
    for losses, mask in LOSSES:
        got = machine.check(lambda d, n=losses, m=mask: run_backward(layer, d, rung, False, n, m))
        check_backward(layer, got, rung, False, losses, mask)


@pytest.mark.slow
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_is_right_at_its_edges(machine, precision, forced, tile):
    # Forward, one position and 8 channels more than 128 x 128; backward, 8 channels less than 64
    layer, rung = Layer(Size(56, 136, 3, 43), precision), forced(*tile)
    check_forward(layer, machine.check(lambda d: run_forward(layer, d, rung, False, True)), rung, False)
    check_backward(
        layer, machine.check(lambda d: run_backward(layer, d, rung, False, "SP", True)), rung, False, "SP", True
    )


def test_neither_tile_nor_alignment_changes_a_bit(machine, precision, forced):
    layer = Layer(Size(40, 72, 5, 13), precision)
    rungs = [forced(*tile) for tile in TILES] + [forced(64, 64, aligned=False)]
    first, *others = (machine.check(lambda d, r=r: run_backward(layer, d, r, False, "SP", True)) for r in rungs)
    for other in others:
        assert np.array_equal(first, other)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"], indirect=True)
@pytest.mark.parametrize("size", LARGE, ids=str)
def test_large_layers_both_ways(machine, precision, size):
    layer, rung = Layer(size, precision), PRODUCTION[precision.name]
    check_forward(layer, machine.check(lambda d: run_forward(layer, d, rung, True, True)), rung, True)
    check_backward(
        layer, machine.check(lambda d: run_backward(layer, d, rung, False, "SP", True)), rung, False, "SP", True
    )


# ---- which tile -----------------------------------------------------------------------------------------------------


def test_small_layers_get_small_tiles_and_large_ones_large_tiles():
    def tile(*shape: int) -> tuple[int, int]:
        return tiles.predicted(Pass(*shape, TF32)).tile

    assert tile(512, 512, 128, 128) == (128, 128)
    assert tile(64, 64, 512, 512) == (128, 64)  # a tile of 128 channels would be half empty
    assert tile(8, 512, 16, 16) == (64, 64)  # 8 blocks of 128 x 128 would leave most multiprocessors idle
    assert tile(512, 513, 128, 128) == (64, 64)  # not aligned: more to keep in registers


def test_every_tile_that_a_layer_can_get_is_among_the_variants_that_are_checked():
    checked = {(v.rung, v.precision, *v.defines.items()) for v in conv.variants()}
    for C, side, name in itertools.product((1, 3, 8, 64, 128, 512), (1, 16, 64, 300, 1024), ("tf32", "bfloat16")):
        rung, precision = RUNGS[PRODUCTION[name]], PRECISIONS[name]
        launch = rung.launch(Pass(C, 2 * C, side, side, precision))
        assert (rung.name, precision, *launch.defines.items()) in checked


def test_two_blocks_fit_into_the_shared_memory_of_any_gpu_since_sm_80():
    per_block = 1024  # what the system takes of each
    tensor = [v for v in conv.variants() if "tensor_core" in v.rung]
    assert tensor
    for variant in tensor:
        assert 2 * (variant.shared + per_block) <= 100 * 1024  # of sm_86 and sm_89


# ---- Gram matrices --------------------------------------------------------------------------------------------------

# (N, M) of the layers of one launch: one position, less than a chunk, several chunks, several pieces
GRAMS = [
    [(1, 1)],
    [(8, 5), (64, 33), (72, 129)],
    [(3, 17), (65, 64), (130, 31)],
    [(64, 5000)],
    [(9, 4100), (128, 300)],
]


def mma_rounding(terms: int, precision: Precision) -> float:
    """Of a sum of `terms` products by one mma after the other, relative to the sum of absolute products.

    The products are exact in float32. A tensor core cuts what one mma adds to no fewer than 24 bits of the largest, and
    the result to 24 bits.
    """
    depth = 8 if precision is TF32 else 16
    return (-(-terms // depth) + 1) * ((depth + 1) * 2.0**-24 + 2.0**-23)


@pytest.mark.parametrize("shapes", GRAMS, ids=str)
def test_gram_matrices_of_all_layers_in_one_launch(machine, precision, shapes):
    rng = np.random.default_rng(1)
    features = [to_elements(rng.standard_normal((M, N)), precision) for N, M in shapes]

    def run(device):
        grams = Grams(device, precision, shapes, "03_tensor_core")
        partials = unwritten(device, grams.partial_floats, np.float32)
        out = [unwritten(device, (N, N), np.float32) for N, _ in shapes]
        grams([device.to_device(F) for F in features], partials, out)
        return tuple(device.to_host(G) for G in out)

    found = machine.check(run)
    for F, G, (_, M) in zip(features, found if len(shapes) > 1 else [found], shapes, strict=True):
        F = from_elements(F, precision).astype(np.float64)
        # pieces are added in double; then one rounding to float32
        rounding = (mma_rounding(M, precision) + 2.0**-24) * ops.gram_forward(np.abs(F).T)
        assert np.all(np.abs(G - ops.gram_forward(F.T)) <= rounding)
        assert np.array_equal(G, G.T)


@pytest.mark.parametrize("shape", [(1, 1), (8, 15), (65, 72), (72, 65), (136, 3), (31, 128)], ids=str)
def test_gram_backward_adds_masks_and_takes_content(machine, precision, shape):
    N, M = shape
    rng = np.random.default_rng(2)

    def numbers(*shape: int) -> np.ndarray:
        return from_elements(to_elements(rng.standard_normal(shape), precision), precision).astype(np.float64)

    F, P, old, S = numbers(M, N), numbers(M, N), numbers(M, N), numbers(N, N)
    S = np.triu(S) + np.triu(S, 1).T
    for style, content, mask, add in itertools.product((0.0, 0.375), (0.0, 0.25), (False, True), (False, True)):

        def run(device, style=style, content=content, mask=mask, add=add):
            g = elements(device, old, precision) if add else unwritten(device, F.shape, precision.dtype)
            x, matrix, target = (elements(device, a, precision) for a in (F, S, P))
            wanted = (matrix if style else None, style, target if content else None, content, mask, add, g)
            gram_backward(device, precision, x, *wanted, rung="03_tensor_core")
            return floats(device, g, precision)

        # S = dG + dG^T
        more = style * ops.gram_backward(S / 2, F.T).T + ops.content_backward(F, P, content / 2)
        wanted = more * (F > 0 if mask else 1) + (old if add else 0)
        sent = style * np.abs(F) @ np.abs(S) + content * (np.abs(F) + np.abs(P))
        rounding = (mma_rounding(N, precision) + 4 * 2.0**-24) * (sent + np.abs(old))
        stored = precision.unit * (np.abs(wanted) + rounding) + (2.0**-25 if precision.name == "float16" else 0)
        assert np.all(np.abs(machine.check(run) - wanted) <= rounding + stored)


# ---- shared memory --------------------------------------------------------------------------------------------------

PROBE = """\
#include "tensor_tiles.cuh"
extern "C" __global__ void where(int* bytes) {
  bytes[blockIdx.x * 4 + threadIdx.x] = swizzled(blockIdx.x, threadIdx.x);
}
"""


def test_neither_ldmatrix_nor_the_copies_meet_in_a_bank(machine, tmp_path):
    file = tmp_path / "probe.cu"
    file.write_text(PROBE)
    probe = source.parse(file, "probe")

    def run(device):
        found = unwritten(device, (128, 4), np.int32)
        device.kernel(probe, "where", TF32)(128, 4, found)
        return device.to_host(found)

    at = machine.check(run)
    assert sorted(at.ravel()) == list(range(0, 128 * 64, 16))  # every piece has a place of its own
    banks = at // 16 % 8  # 4 of them each; the 16 bytes of 8 lanes go at once
    for rows in banks.reshape(-1, 8, 4):  # ldmatrix: one piece of 8 rows
        assert all(len(set(rows[:, piece])) == 8 for piece in range(4))
    for two in banks.reshape(-1, 8):  # cp.async: the pieces of 2 rows
        assert len(set(two)) == 8


# ---- mistakes that the tests above would find ------------------------------------------------------------------------

RUNG = "conv3x3/05_tensor_core_tf32"
PLANTED = Size(24, 40, 3, 25)
# (what stands in one of the files, what shall stand there)
BUGS = {
    "none": ("", ""),
    "no barrier between the copies of others and their fragments": (
        "    __syncthreads();                // for all threads\n",
        "",
    ),
    "no barrier before the first fragments": ("  __syncthreads();\n\n  constexpr int LAST", "\n  constexpr int LAST"),
    "no wait for a chunk": ("    copy_async_wait<STAGES - 2>();  //", "    //"),
    "a wait for one chunk less": (
        "    copy_async_wait<STAGES - 2>();  //",
        "    copy_async_wait<STAGES - 1>();  //",
    ),
    "a chunk copied over the one that is read": ("now ? now - STAGE_BYTES : LAST", "now"),
    "no __syncwarp before a warp's results are read": (
        "    __syncwarp();\n    f(16 * (i",
        "    f(16 * (i",
    ),
    "a column too far": ("(unsigned)column < (unsigned)W", "(unsigned)column <= (unsigned)W"),
    "the tenth tap scaled a chunk late": ("chunk + 1 == scaled", "chunk == scaled"),
}
OUT_OF_BOUNDS = {
    "a row of the picture too far": ("(unsigned)row < (unsigned)H", "(unsigned)row <= (unsigned)H"),
    "a position too far": ("position < (unsigned)H", "position <= (unsigned)H"),
}


def plant(folder, there: str, gone: str) -> str:
    """A copy of the rung and its headers with one change; its path."""
    real = source.read(RUNG)
    files = {"planted.cu": real.text, **real.headers}
    assert sum(text.count(there) for text in files.values()) == 1 or not there
    for name, text in files.items():
        (folder / name).write_text(text.replace(there, gone) if there else text)
    return str(folder / "planted.cu")


def read_planted(path: str, patch: pytest.MonkeyPatch) -> None:
    """Makes it the rung that `Convolution` launches."""
    planted, read = source.parse(Path(path), RUNG), source.read
    patch.setattr(source, "read", lambda name: planted if name == RUNG else read(name))


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows_in_the_numbers_or_in_their_order(unoptimised, tmp_path, monkeypatch, bug):
    layer, rung = Layer(PLANTED, TF32), PRODUCTION["tf32"]
    read_planted(plant(tmp_path, *BUGS[bug]), monkeypatch)

    def sound():
        got = unoptimised.check(lambda d: run_backward(layer, d, rung, False, "SP", True))
        check_backward(layer, got, rung, False, "SP", True)

    if bug == "none":
        sound()
    else:
        with pytest.raises((AssertionError, KernelError)):
            sound()


def small_layers(build: str, planted: str | None = None) -> None:
    """What a sanitizer watches: layers that end inside a tile; or one such layer with a planted rung."""
    device = OnCpuDevice(build=build)
    convolutions = [("tf32", PLANTED)]
    grams = [("bfloat16", 72, 50)]
    if build == "asan" and not planted:  # what is copied element by element; it takes no other turns
        convolutions += [("bfloat16", Size(3, 5, 4, 17))]
        grams += [("tf32", 5, 33)]
    with pytest.MonkeyPatch.context() as patch:
        if planted:
            read_planted(planted, patch)
        for name, size in convolutions:
            layer, rung = Layer(size, PRECISIONS[name]), PRODUCTION[name]
            check_forward(layer, run_forward(layer, device, rung, True, True), rung, True)
            check_backward(layer, run_backward(layer, device, rung, False, "SP", True), rung, False, "SP", True)
    for name, N, M in [] if planted else grams:
        precision = PRECISIONS[name]
        F, S = (device.to_device(to_elements(np.ones(shape), precision)) for shape in ((M, N), (N, N)))
        every = Grams(device, precision, [(N, M)], "03_tensor_core")
        G, g = unwritten(device, (N, N), np.float32), unwritten(device, (M, N), F.dtype)
        every([F], unwritten(device, every.partial_floats, np.float32), [G])
        gram_backward(device, precision, F, S, 1.0, F, 1.0, True, False, g, rung="03_tensor_core")
        assert np.all(device.to_host(G) == M)
        assert np.all(floats(device, g, precision) == N)


def sanitized(build: str, planted: str | None = None):
    call = f"small_layers(BUILD, {planted!r})"
    return run_sanitized(build, f"from test_cuda_tensor_cores import small_layers\n{call}\nprint('done')")


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_tensor_core_kernel_leaves_its_memory_or_races(build):
    done = sanitized(build)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("bug", OUT_OF_BOUNDS)
def test_an_index_one_too_far_is_found_with_its_line(tmp_path, bug):
    done = sanitized("asan", plant(tmp_path, *OUT_OF_BOUNDS[bug]))
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert str(tmp_path) in done.stderr
