"""The convolution that copies a rectangle of positions once for its nine taps: kernels/cuda/conv3x3/09."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import plant, unwritten
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import conv, source, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS
from nstcore.engines.cuda.nvrtc import Resources
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS, Precision
from nstcore.engines.cuda.tiles import Choice, Pass
from nstcore.errors import DeviceError

SHORT = "09_halo_tile"
RUNG = RUNGS[SHORT].name
TF32, FLOAT16, BFLOAT16 = (PRECISIONS[name] for name in ("tf32", "float16", "bfloat16"))
SLOW = pytest.mark.slow
# One of everything; aligned and not; a chunk and a bit of the next; as many positions and channels as a tile has, and
# one more or less; pictures of one row and of one column
SIZES = [
    Size(1, 1, 1, 1),
    Size(3, 2, 1, 37),
    Size(8, 8, 17, 2),
    Size(40, 72, 5, 18),
    Size(17, 65, 17, 33),
    Size(64, 64, 16, 16),
]
LOSSES = (("SP", True), ("S", False), ("P", True), ("", False))


@pytest.fixture(params=["tf32", "float16"])
def precision(request) -> Precision:
    return PRECISIONS[request.param]


@pytest.fixture
def forced(monkeypatch):
    """Puts a rung into the table that takes one tile for every layer; gives its name."""

    def with_tile(tile: tiles.Tile, aligned: bool = True) -> str:
        def launch(p: Pass) -> tiles.Launch:
            found = Choice(tile, rung=tiles.HALO_TILE).launch(p)
            return replace(found, defines=found.defines | {"ALIGNED": int(aligned and p.aligned)})

        name = f"{tile}, {aligned}"
        monkeypatch.setitem(RUNGS, name, replace(RUNGS[SHORT], launch=launch))
        return name

    return with_tile


# ---- against the book -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_is_the_book_s_convolution_bias_and_relu(machine, precision, size):
    layer = Layer(size, precision)
    for replicate, linear in ((False, True), (True, False)):
        got = machine.check(lambda d, r=replicate, n=linear: run_forward(layer, d, SHORT, r, n))
        check_forward(layer, got, SHORT, replicate)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_backward_adds_what_the_losses_send_back_and_masks(machine, precision, size):
    layer = Layer(size, precision)
    for losses, mask in LOSSES:
        got = machine.check(lambda d, n=losses, m=mask: run_backward(layer, d, SHORT, False, n, m))
        check_backward(layer, got, SHORT, False, losses, mask)


def test_backward_of_a_replicated_border_agrees_with_the_book(machine):
    layer = Layer(Size(8, 16, 5, 17), TF32)
    got = machine.check(lambda d: run_backward(layer, d, SHORT, True, "SP", True))
    check_backward(layer, got, SHORT, True, "SP", True)


@SLOW
def test_bfloat16_both_ways(machine):
    layer = Layer(Size(40, 72, 5, 18), BFLOAT16)
    check_forward(layer, machine.check(lambda d: run_forward(layer, d, SHORT, True, True)), SHORT, True)
    got = machine.check(lambda d: run_backward(layer, d, SHORT, False, "SP", True))
    check_backward(layer, got, SHORT, False, "SP", True)


@SLOW
def test_no_tile_and_no_alignment_changes_a_bit_and_each_is_right_at_its_edges(machine, forced):
    """A line, a column and 8 channels more than a tile has; several tiles each way."""
    layer, results = Layer(Size(72, 136, 17, 18), TF32), []
    for tile, aligned in [*((tile, True) for tile in tiles.HALO_TILES), ((256, 64), False)]:
        rung = forced(tile, aligned)
        y = machine.check(lambda d, r=rung: run_forward(layer, d, r, False, True))
        dx = machine.check(lambda d, r=rung: run_backward(layer, d, r, False, "SP", True))
        check_forward(layer, y, rung, False)
        check_backward(layer, dx, rung, False, "SP", True)
        results.append((y, dx))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_picture_beyond_the_first_of_many_blocks_is_read_where_it_lies(machine):
    """One position and channel is not zero, so that any other that is read instead shows."""
    layer = Layer(Size(40, 136, 21, 35), TF32)
    layer.x[:], layer.b[:] = 0, 0
    layer.x[37, 17, 31] = 1
    got = machine.check(lambda d: run_forward(layer, d, SHORT, False, True))
    check_forward(layer, got, SHORT, False)
    assert 0 < np.count_nonzero(got[1]) <= 9 * 136


# ---- shared memory --------------------------------------------------------------------------------------------------

PROBE = """// requires: sm_80
#include "common.cuh"
// Instead of reading 8x8 matrices: which row this lane names
template <bool TRANSPOSE>
__device__ __forceinline__ void note_row(uint32_t (&r)[4], const void* row) {
  r[0] = (uint32_t)(size_t)row;
}
#define load_matrix_x4 note_row
#include "09_halo_tile.cu"

// [line][column][step][lane]: the byte of the halo at which it reads
extern "C" __global__ void read_from(int* bytes) {
  extern __shared__ __align__(128) unsigned char halo[];
  for (int line = 0; line < ROWS + 2; ++line)
    for (int column = 0; column < 3; ++column)
      for (int step = 0; step < 2; ++step) {
        uint32_t a[4];
        load_a(a, halo + line * LINE_BYTES, column, step);
        bytes[((line * 3 + column) * 2 + step) * 32 + threadIdx.x] = (int)(a[0] - (uint32_t)(size_t)halo);
      }
}

// The halo as it is in shared memory
extern "C" __global__ void fill(const element* x, element* found, int H, int W) {
  extern __shared__ __align__(128) unsigned char halo[];
  Rectangle place(TILE_N, W);
  place.top = place.left = 1;
  CopiedHalo{x, CHUNK, H, W, 0, place}.copy(halo, 0);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  for (int i = threadIdx.x; i < HALO * CHUNK; i += THREADS) found[i] = reinterpret_cast<element*>(halo)[i];
}
"""


def test_neither_copies_nor_fragments_of_any_tap_meet_in_a_bank_and_fragments_read_what_the_copies_wrote(
    machine, tmp_path
):
    (tmp_path / "09_halo_tile.cu").write_text(source.read(RUNG).text)
    for header in ("halo_tile.cuh", "warp_tiles.cuh", "conv3x3.cuh"):
        (tmp_path / header).write_text(source.read(RUNG).headers[header])
    (tmp_path / "probe.cu").write_text(PROBE)
    probe = source.parse(tmp_path / "probe.cu", "probe")
    defines = {"TILE_M": 128, "TILE_N": 64}
    lines, columns, chunk = 10, 18, 16
    x = np.arange(lines * columns * chunk, dtype=np.float32)  # all of them fit: no border

    def run(device):
        bytes_read = unwritten(device, (lines, 3, 2, 32), np.int32)
        halo = unwritten(device, x.shape, np.float32)
        kernels = (device.kernel(probe, name, TF32, **defines) for name in ("read_from", "fill"))
        read_from, fill = kernels
        read_from(1, 32, bytes_read, shared=64 * lines * columns)
        fill(1, 64, device.to_device(x), halo, lines, columns, shared=64 * lines * columns)
        return device.to_host(bytes_read), device.to_host(halo)

    at, halo = machine.check(run)
    # Fragments: four times one piece of 16 bytes of 8 rows
    for rows in (at // 16 % 8).reshape(-1, 8):
        assert len(set(rows)) == 8
    line, column, step, lane = np.indices(at.shape)
    position, piece = line * columns + column + lane % 16, 2 * step + lane // 16
    assert np.array_equal(halo[at // 4], (position * chunk + piece * 4).astype(np.float32))
    # Copies: neighbouring threads copy neighbouring pieces, 8 threads of 16 bytes at a time
    where = np.empty(x.size, int)
    where[halo.astype(int)] = np.arange(x.size)
    assert np.array_equal(halo[where], x)  # each value once
    for pieces in (where[::4] // 4 % 8).reshape(-1, 8):
        assert len(set(pieces)) == 8


# ---- which layers ---------------------------------------------------------------------------------------------------


def test_it_is_no_default_and_the_rule_would_take_it_where_it_has_enough_blocks():
    assert SHORT not in PRODUCTION.values()
    assert not any(v.production for v in conv.variants() if v.rung == RUNG)
    for precision in (TF32, FLOAT16):
        large, narrow = Pass(256, 256, 128, 128, precision), Pass(64, 64, 512, 512, precision)
        few, odd = Pass(512, 512, 32, 32, precision), Pass(513, 512, 128, 128, precision)
        assert tiles.with_halo(large) == Choice((256, 128), rung=tiles.HALO_TILE)
        assert tiles.with_halo(narrow) == Choice((256, 64), rung=tiles.HALO_TILE)
        for p in (few, odd):
            assert tiles.with_halo(p) == tiles.predicted(p)
        for p in (large, narrow, few, odd):
            assert not tiles.predicted(p).rung
    # Of 8 channels a chunk of 32 would be mostly zeros
    assert not tiles.with_halo(Pass(8, 64, 512, 512, FLOAT16)).rung


def test_every_form_that_a_layer_can_get_is_among_the_variants_that_are_checked():
    checked = {(v.rung, v.precision, *v.defines.items()) for v in conv.variants()}
    for precision in (TF32, FLOAT16, BFLOAT16):
        for channels in (8, 64, 100, 512, 513):
            launch = RUNGS[SHORT].launch(Pass(channels, 2 * channels, 40, 64, precision))
            assert (RUNG, precision, *launch.defines.items()) in checked
        for tile in tiles.HALO_TILES:
            launch = Choice(tile, rung=tiles.HALO_TILE).launch(Pass(64, 64, 40, 64, precision))
            assert (RUNG, precision, *launch.defines.items()) in checked


def test_a_block_fits_into_the_shared_memory_of_any_gpu_since_sm_80_and_two_small_ones_on_large_gpus():
    for v in conv.variants():
        if v.rung == RUNG:
            assert v.shared <= 99 * 1024  # of a block on sm_86 and sm_89
            small = v.defines["TILE_M"] * v.defines["TILE_N"] <= 128 * 128
            assert not small or 2 * (v.shared + 1024) <= 164 * 1024  # of sm_80; the system takes 1 KB of each


LAYER = {"architecture": 90, "precision": "tf32", "inputs": 64, "outputs": 72, "positions": 300}
ENTRY = LAYER | {"parts": 1, "rung": RUNG, "pooled": False}


@pytest.fixture
def table(tiles_json):
    """Writes kernels/tiles.json, elsewhere."""
    return lambda *layers: tiles_json({"layers": layers})


def test_a_measured_layer_is_computed_by_it_and_any_other_as_before(table, stand_in):
    layer, device, default = Layer(Size(64, 72, 15, 20), TF32), stand_in.devices[0], PRODUCTION["tf32"]
    usual = [run_forward(layer, device, default, False, True), run_backward(layer, device, default, False, "SP", True)]
    mine = run_forward(layer, device, SHORT, False, True)
    assert not np.array_equal(mine, usual[0])  # it adds in another order
    table(ENTRY | {"tile": [256, 64]})
    assert np.array_equal(run_forward(layer, device, default, False, True), mine)
    assert np.array_equal(run_backward(layer, device, default, False, "SP", True), usual[1])  # from 72 to 64


@pytest.mark.parametrize(
    "entry",
    [
        {"tile": [64, 64]},
        {"tile": [256, 64], "parts": 2},
        {"tile": [256, 64], "rung": None},
        {"tile": [128, 128], "rung": SHORT},
    ],
    ids=str,
)
def test_a_table_that_asks_for_what_there_is_not_is_refused_in_one_line(table, entry):
    table(ENTRY | entry)
    with pytest.raises(DeviceError, match=r"^[^\n]*: expected what tools/tune_tiles.py writes, got [^\n]*$"):
        tiles.chosen(Pass(64, 72, 15, 20, TF32))


# ---- mistakes that the tests above would find ------------------------------------------------------------------------

PLANTED = Size(24, 40, 18, 19)
BUGS = {
    "no barrier between the copies of others and their fragments": ("    __syncthreads();  // what", "    // what"),
    "no wait for a step": ("    copy_async_wait<0>();\n    __syncthreads();", "    __syncthreads();"),
    "one rectangle for all": ("chunk % 2 * HALO_BYTES", "0 * HALO_BYTES"),
    "one stage for all": ("step % 2 * STAGE_BYTES", "0 * STAGE_BYTES"),
    "a fragment that is not read": ("i = next ? MI + next - 1 : 0", "i = next ? MI + next : 0"),
    "the tenth tap off the center": ("halo_of(step) + LINE_BYTES, 1,", "halo_of(step) + LINE_BYTES, 0,"),
    "the tenth tap scaled a step late": ("step + 1 == of_style", "step == of_style"),
    "a column too far": ("(unsigned)column < (unsigned)W", "(unsigned)column <= (unsigned)W"),
}


@SLOW
@pytest.mark.parametrize("bug", ["none", *BUGS])
def test_a_planted_bug_shows_in_the_numbers_or_in_their_order(unoptimised, monkeypatch, bug):
    layer = Layer(PLANTED, TF32)

    def sound():
        got = unoptimised.check(lambda d: run_backward(layer, d, SHORT, False, "SP", True))
        check_backward(layer, got, SHORT, False, "SP", True)

    if bug == "none":
        sound()
        return
    plant(monkeypatch, RUNG, *BUGS[bug])
    with pytest.raises((AssertionError, KernelError)):
        sound()


def small_layers(build: str) -> None:
    """What a sanitizer watches: layers that end inside a tile; one whose elements are copied one by one."""
    device = OnCpuDevice(build=build)
    layers = [Layer(Size(24, 40, 3, 17), TF32)]
    if build == "asan":  # ThreadSanitizer would see nothing else in it
        layers.append(Layer(Size(3, 5, 4, 17), BFLOAT16))
    for layer in layers:
        check_forward(layer, run_forward(layer, device, SHORT, True, True), SHORT, True)
        check_backward(layer, run_backward(layer, device, SHORT, False, "SP", True), SHORT, False, "SP", True)


@SLOW
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_it_does_not_leave_its_memory_or_race(build):
    done = run_sanitized(build, "from test_cuda_halo_tile import small_layers\nsmall_layers(BUILD)\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---- what is predicted ----------------------------------------------------------------------------------------------


def test_operands_from_the_cache_are_a_rectangle_and_nine_taps_a_chunk():
    """conv3_2 of 512 x 512 in float16: 64 x 2 tiles, 8 chunks of 32 channels, on paper."""
    import predict_launches
    import predict_times

    paper = predict_launches.Recorder(90, 132, "a GPU on paper")
    layer = conv.Convolution(paper, FLOAT16, SHORT, 256, 256, 128, 128, False)
    x, y = (paper.empty((128, 128, 256), np.float16) for _ in range(2))
    layer.forward(x, paper.empty((256, 9, 256), np.float16), paper.empty(256, np.float32), None, y)
    (launch,) = paper.launches
    work = predict_times.work_of(launch)
    assert (launch.rung, launch.blocks) == (RUNG, 128)
    assert work.cached == 128 * 8 * (18 * 18 + 9 * 128) * 64 + y.nbytes + 4 * 256
    assert work.operations == work.issued == 2 * 9 * 256 * 256 * 128 * 128


@SLOW
def test_the_tables_beside_the_other_rungs_have_every_whole_sum_and_leave_the_ladder_as_it_is(monkeypatch):
    import predict_rungs
    import predict_steps
    import predict_times
    from bench_common import random_vgg19

    monkeypatch.setattr(predict_times, "resources_of", lambda *_: Resources(220, 0, 0, 0, 0))
    weights, ladder = random_vgg19(), dict(RUNGS)
    step = predict_steps.step_of(weights, 256, "float16", predict_times.Gpu())
    _, steps, _, layers = predict_rungs.beside(weights, [step])
    assert ladder == RUNGS
    assert float(steps.splitlines()[-1].split("|")[-2]) > 1  # times as fast by the rule
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in layers.splitlines()[2:]]
    whole = [r for r in step.rows if r.prediction.launch.kernel in ("conv3x3_forward", "conv3x3_backward")]
    assert len(rows) == len(whole) > 10
    assert {row[4] for row in rows} == {"06", "10"}
    assert {row[-1] for row in rows} == {"06", "09"}
    for row in rows:
        us, megabytes, us_by_09, megabytes_by_09 = (float(row[i]) for i in (5, 6, 10, 11))
        if row[-1] == "09":
            assert us_by_09 < us
            assert megabytes_by_09 < megabytes
        else:  # the rule knows nothing of what an epilogue moves
            assert us < 1.05 * us_by_09


def test_the_table_of_what_is_compiled_has_it_without_spills():
    """Made from these sources: tests/test_cuda_ladder.py."""
    import bench
    import compile_kernels

    text = compile_kernels.written(bench.README, "compile")
    rows = [line for line in text.splitlines() if line.startswith(f"| {RUNG} ")]
    assert len(rows) == 2, "python tools/compile_kernels.py --write"
    assert all(row.endswith("| 0 |") for row in rows)
