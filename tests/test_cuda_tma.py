"""Bulk tensor copies, which no GPU has run yet: what the CPU's stand-in makes of them, and conv3x3/11."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import Machine, unwritten

from nstcore.bench import Size as BenchSize
from nstcore.bench import rungs
from nstcore.bench.runs import Machine as BenchMachine
from nstcore.engines.cuda import boxes, conv, nvrtc, source, tiles, variants
from nstcore.engines.cuda import compile as compiling
from nstcore.engines.cuda.boxes import TensorMap, gpu_argument
from nstcore.engines.cuda.conv import RUNGS
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.precision import BFLOAT16, FLOAT16, TF32
from nstcore.errors import DeviceError

SHORT = "11_tma_wgmma"
RUNG = RUNGS[SHORT].name
FORMS = [v for v in conv.variants() if v.rung == RUNG]
TIGHT = [v for v in FORMS if v.precision is TF32 and (v.defines["TILE_M"], v.defines["TILE_N"]) == (256, 64)]
needs_nvrtc = pytest.mark.skipif(nvrtc.problem() is not None, reason=str(nvrtc.problem()))
SLOW = pytest.mark.slow


@pytest.fixture
def hopper(machine):
    """Where 11 runs: the CPU's stand-in, or a GPU of sm_90."""
    if machine.devices[0].architecture != 90:
        pytest.skip(f"expected sm_90, got sm_{machine.devices[0].architecture}")
    return machine


# ---- one box --------------------------------------------------------------------------------------------------------

PROBE = """// requires: sm_90a
#include "bulk_copies.cuh"
constexpr int BYTES = 3 * 4 * 128, SIZE = BYTES / (int)sizeof(element);

// The boxes from row `first` on and from the row after it, as they are in shared memory, one after the other
extern "C" __global__ void boxes(const __grid_constant__ tensor_map x, element* found, int first, int i1, int i0,
                                 int bug) {
  extern __shared__ __align__(1024) unsigned char tile[];
  mbarrier* full = reinterpret_cast<mbarrier*>(tile + 2048);
  if (threadIdx.x == 0) {
    if (bug != 1) barrier_init(full, bug == 2 ? 2 : 1);
    if (bug == 3) barrier_init(full, 1);
    if (bug != 13) show_to_tensor_cores();
  }
  __syncthreads();
  for (int n = 0; n < 2; ++n) {
    if (threadIdx.x == 0) {
      barrier_expect(full, bug == 4 ? BYTES - 16 : bug == 5 ? BYTES + 16 : BYTES);
      if (bug == 6) barrier_arrive(full);
      copy_box(tile + (bug == 7 ? 128 : bug == 8 ? 1024 : 0), x, first + n, i1, i0, full);
    }
    if (bug != 9) barrier_wait(full, bug == 10 ? n ^ 1 : bug == 11 ? 0 : n);
    for (int i = threadIdx.x; i < SIZE; i += 64) found[n * SIZE + i] = reinterpret_cast<element*>(tile)[i];
    if (bug != 12) __syncthreads();
  }
}
"""
MISTAKES = {
    1: "no barrier_init",
    2: "barrier_wait: its phase never ends: 1 of 2 arrivals and 1536 bytes are missing",
    3: "is a barrier already",
    4: "copy_box: 16 bytes more than its barrier expects",
    5: "barrier_wait: its phase never ends: 0 of 1 arrivals and 16 bytes are missing",
    6: "barrier_arrive: all of 1 arrivals were there, 1536 bytes were still to come",
    7: "does not begin on 1024 bytes",
    8: "and its 1536 bytes are not in shared memory",
    9: "all of 1 arrivals were there",  # before the second box
    10: "all of 1 arrivals were there",
    11: "copy_box: still under way where the block ends: no barrier_wait for it",
    13: "copy_box: no fence between barrier_init of",
}


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    file = tmp_path_factory.mktemp("probe") / "probe.cu"
    file.write_text(PROBE)
    return source.parse(file, "probe")


def copied(device, probe, at=(0, 0, 0), bug: int = 0, precision=FLOAT16):
    """Two boxes of three times four rows of 128 bytes of numbered elements, of which an array's row has 8 more."""
    item = precision.dtype.itemsize
    numbers, box = np.dtype(f"u{item}"), (3, 4, 128 // item)
    shape = 5, 6, box[2] + 8
    x = device.to_device((1 + np.arange(np.prod(shape), dtype=numbers)).reshape(shape).view(precision.dtype))
    found = unwritten(device, (2, *box), precision.dtype)
    kernel = device.kernel(probe, "boxes", precision)
    kernel(1, 64, TensorMap(x, box), found, *at, bug, shared=2048 + 8)
    return device.to_host(found).view(numbers)


@pytest.mark.parametrize("precision", [TF32, FLOAT16], ids=lambda p: p.name)
@pytest.mark.parametrize("at", [(0, 0, 0), (1, 2, 8), (-1, -2, 64), (3, 4, -8), (9, 0, 0)], ids=str)
def test_a_box_is_there_permuted_with_zeros_for_what_is_outside(hopper, probe, precision, at):
    """Pieces of 16 bytes by exclusive-or of bits 4 to 6 of their place with bits 7 to 9."""
    found, item = hopper.check(lambda d: copied(d, probe, at, precision=precision)), precision.dtype.itemsize
    box, wide = (3, 4, 128 // item), 128 // item + 8
    x = np.pad(1 + np.arange(5 * 6 * wide).reshape(5, 6, wide), 128)
    place = np.arange(np.prod(box)) * item
    for n in range(2):
        begin = [128 + i for i in (at[0] + n, *at[1:])]
        wanted = x[tuple(slice(i, i + side) for i, side in zip(begin, box, strict=True))].ravel()
        assert np.array_equal(found[n].ravel()[(place ^ place >> 3 & 0x70) // item], wanted)


@pytest.mark.parametrize("bug", MISTAKES)
def test_a_mistake_with_a_barrier_or_a_box_is_an_error_that_names_its_place(stand_in, probe, bug):
    for device in stand_in.devices:
        with pytest.raises(KernelError, match=r"probe\.cu:\d+: block \(0, 0, 0\), thread \(") as error:
            copied(device, probe, bug=bug)
        assert MISTAKES[bug] in str(error.value)
        assert np.array_equal(copied(device, probe), copied(device, probe))  # the next launch is not disturbed


def test_a_box_copied_over_one_that_others_read_shows(stand_in, probe):
    right, *wrong = copied(stand_in.devices[0], probe), *(copied(d, probe, bug=12) for d in stand_in.devices)
    assert not all(np.array_equal(right, other) for other in wrong)


# ---- tensor maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("item", "kind"), [(2, 1), (4, 2)])  # CU_TENSOR_MAP_DATA_TYPE_UINT16, _UINT32
def test_the_driver_is_asked_for_the_array_and_the_box_the_fastest_dimension_first(monkeypatch, item, kind):
    asked = []

    def encode(to, *arguments):
        assert to.value % 64 == 0
        ctypes.memset(to, 0xA5, 128)
        asked.extend(a if isinstance(a, int) else getattr(a, "value", None) or list(a) for a in arguments)
        return 0

    monkeypatch.setattr(boxes, "_encode", lambda: encode)
    there, box = SimpleNamespace(shape=(5, 7, 72), itemsize=item, data=SimpleNamespace(ptr=4096)), (18, 8, 128 // item)
    found = gpu_argument(TensorMap(there, box))
    assert (found.shape, found.itemsize, found.tobytes()) == ((), 128, b"\xa5" * 128)
    # Type, rank; ...; no interleave, SWIZZLE_128B, L2_PROMOTION_L2_128B, zeros outside
    sides = [72, 7, 5], [72 * item, 7 * 72 * item], [128 // item, 8, 18], [1, 1, 1]
    assert asked == [kind, 3, 4096, *sides, 0, 3, 2, 0]
    assert gpu_argument(TensorMap(None)).tobytes() == bytes(128)
    monkeypatch.setattr(boxes, "_encode", lambda: lambda *_: 1)
    with pytest.raises(DeviceError, match=r"^NVIDIA's driver: expected a tensor map of .*, got error 1; take another"):
        TensorMap(there, box).encoded(4096)


def test_an_old_driver_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with pytest.raises(DeviceError, match=r"^NVIDIA's driver: expected one of CUDA 12 or later, .*; update it, or"):
        boxes._encode.__wrapped__()


@pytest.mark.parametrize(
    ("shape", "box"),
    [((5, 6, 70), (3, 4, 64)), ((30, 72), (3, 4, 64)), ((5, 6, 72), (3, 4, 32)), ((5, 6, 72), (3, 257, 64))],
    ids=str,
)
def test_a_map_that_the_copies_cannot_follow_is_refused_before_the_launch(stand_in, probe, shape, box):
    device = stand_in.devices[0]
    x, found = device.empty(shape, np.float16), device.empty(4, np.float16)
    with pytest.raises(ValueError, match=r"^probe boxes: x: expected "):
        device.kernel(probe, "boxes", FLOAT16)(1, 64, TensorMap(x, box), found, 0, 0, 0, 0, shared=2056)
    with pytest.raises(TypeError, match=r"^probe boxes: x: expected a TensorMap"):
        device.kernel(probe, "boxes", FLOAT16)(1, 64, x, found, 0, 0, 0, 0, shared=2056)


# ---- the convolution ------------------------------------------------------------------------------------------------

SIZES = [Size(8, 8, 1, 1), Size(8, 16, 3, 9), Size(72, 40, 5, 13), Size(64, 64, 16, 8)]
OTHERS = [(FLOAT16, Size(136, 72, 17, 18)), (BFLOAT16, Size(40, 72, 5, 13))]
OTHERS += [(TF32, size) for size in (Size(4, 12, 3, 9), Size(72, 40, 5, 13))]
LAYERS = [(FLOAT16, size) for size in SIZES]
LAYERS += [pytest.param(*layer, marks=SLOW) for layer in OTHERS]  # other forms take the stand-in's compiler long
LOSSES = (("SP", True), ("S", False), ("P", True), ("", False))


@pytest.fixture
def forced(monkeypatch):
    """Puts a rung into the table that takes one tile for every layer; gives its name."""

    def with_tile(tile: tiles.Tile) -> str:
        name = f"11, {tile}"
        monkeypatch.setitem(RUNGS, name, replace(RUNGS[SHORT], launch=lambda p: tiles.boxes_with(p, tile)))
        return name

    return with_tile


@pytest.mark.parametrize(("precision", "size"), LAYERS, ids=lambda value: getattr(value, "name", str(value)))
def test_forward_is_the_book_s_convolution_bias_and_relu(hopper, precision, size):
    layer = Layer(size, precision)
    for linear in (True, False):
        got = hopper.check(lambda d, n=linear: run_forward(layer, d, SHORT, False, n))
        check_forward(layer, got, SHORT, False)


@pytest.mark.parametrize(("precision", "size"), LAYERS, ids=lambda value: getattr(value, "name", str(value)))
def test_backward_adds_what_the_losses_send_back_and_masks(hopper, precision, size):
    layer = Layer(size, precision)
    for losses, mask in LOSSES:
        got = hopper.check(lambda d, n=losses, m=mask: run_backward(layer, d, SHORT, False, n, m))
        check_backward(layer, got, SHORT, False, losses, mask)


@SLOW
def test_no_tile_changes_a_bit_and_each_is_right_at_its_edges(hopper, forced):
    """A row, a column and 8 channels more than the largest tiles have; backward, 8 channels more than a chunk."""
    layer, results = Layer(Size(72, 136, 33, 9), FLOAT16), []
    for tile in tiles.BOX_TILES:
        rung = forced(tile)
        y = hopper.check(lambda d, r=rung: run_forward(layer, d, r, False, True))
        dx = hopper.check(lambda d, r=rung: run_backward(layer, d, r, False, "SP", True))
        check_forward(layer, y, rung, False)
        check_backward(layer, dx, rung, False, "SP", True)
        results.append((y, dx))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_layer_gets_the_tile_with_which_the_busiest_multiprocessor_is_done_first():
    def tile(*shape: int) -> tuple[int, int]:
        defines = tiles.boxes(tiles.Pass(*shape, FLOAT16)).defines
        return defines["TILE_M"], defines["TILE_N"]

    assert tile(256, 256, 128, 128) == (256, 128)
    assert tile(64, 64, 512, 512) == (256, 64)
    assert tile(512, 512, 64, 64) == (256, 64)
    assert tile(512, 256, 64, 64) == (128, 64)
    assert tile(512, 512, 32, 32) == (128, 64)
    layer = tiles.Pass(64, 64, 32, 32, FLOAT16)
    assert tiles.boxes(layer).rung is None
    assert tiles.boxes(replace(layer, outputs=60, precision=TF32)).rung is None
    for other in (replace(layer, replicate=True), replace(layer, outputs=60)):
        assert tiles.boxes(other) == replace(tiles.wgmma(other), rung=tiles.WGMMA)


# ---- mistakes that the tests above would find ------------------------------------------------------------------------

PRODUCTS = "        products_wait<1>();  // those before\n"
ARRIVE = "if ({}threadIdx.x % 32 == 0) barrier_arrive({}.empty + {}.now);"
BUGS = {
    "none": ("", ""),
    "no wait for a box of positions": ("      positions.wait();\n", ""),
    "no wait for filters": ("        filters.wait();\n", ""),
    "no wait for an empty stage": ("    barrier_wait(empty + now, parity ^ 1);\n", ""),
    "the wrong phase of a full stage": ("barrier_wait(full + now, parity)", "barrier_wait(full + now, parity ^ 1)"),
    "the wrong phase of an empty stage": ("empty + now, parity ^ 1", "empty + now, parity"),
    "a phase for all rounds": ("now = 0, parity ^= 1", "now = 0"),
    "too few bytes expected": ("(full + now, BYTES)", "(full + now, BYTES - 1024)"),
    "too many bytes expected": ("(full + now, BYTES)", "(full + now, BYTES + 1024)"),
    "a warp too few to leave a stage": ("stage, CONSUMERS / 32)", "stage, CONSUMERS / 32 - 1)"),
    "a warp too many to leave a stage": ("stage, CONSUMERS / 32)", "stage, CONSUMERS / 32 + 1)"),
    "filters left while they are multiplied": ("filters.leave_last();", ARRIVE.format("", "filters", "filters")),
    "positions left while they are multiplied": (
        "if (row == first) positions.leave_last();",
        ARRIVE.format("row == first + count - 1 && ", "positions", "positions"),
    ),
    "no wait for the products before": (PRODUCTS, PRODUCTS.replace("<1>", "<2>")),
    "no wait for the last products": ("    products_wait<0>();\n    hold_all", "    products_wait<1>();\n    hold_all"),
    "the tenth tap scaled before it is summed": ("        products_wait<0>();\n", ""),
    "barriers that others do not see": ("  __syncthreads();\n\n  if (", "\n  if ("),
    "no fence after the making of barriers": ("    show_to_tensor_cores();", "    "),
    "results over products that others wait for": ("  __syncthreads();  // all products", "  // all products"),
    "the tenth tap off the center": ("first = center ? 1 : 0", "first = center ? 0 : 0"),
    "a box a column off": ("left + column - 1, c)", "left + column, c)"),
    "filters of another tap": ("3 * row + column, c)", "3 * column + row, c)"),
}


def planted(folder, there: str, gone: str) -> source.Rung:
    """A copy of the rung with one change."""
    text = source.read(RUNG).text
    assert text.count(there) == 1 or not there
    (folder / "planted.cu").write_text(text.replace(there, gone) if there else text)
    for name, header in source.read(RUNG).headers.items():
        (folder / name).write_text(header)
    return source.parse(folder / "planted.cu", RUNG)


@SLOW
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows_in_the_numbers_or_in_their_order(unoptimised, tmp_path, monkeypatch, bug):
    """Both rings go round twice, and the last box lies where results pass. Compiled without optimisation: less time."""
    layer, rung, read = Layer(Size(72, 72, 9, 9), FLOAT16), planted(tmp_path, *BUGS[bug]), source.read
    monkeypatch.setattr(source, "read", lambda name: rung if name == RUNG else read(name))
    debug = Machine([OnCpuDevice(d.order, "debug") for d in unoptimised.devices])

    def sound():
        got = debug.check(lambda d: run_backward(layer, d, SHORT, False, "SP", True))
        check_backward(layer, got, SHORT, False, "SP", True)

    if bug == "none":
        sound()
    else:
        with pytest.raises((AssertionError, KernelError)):
            sound()


# ---- where it runs --------------------------------------------------------------------------------------------------


def test_it_is_never_a_default_and_another_gpu_is_refused_in_one_line(stand_in, monkeypatch):
    assert SHORT not in conv.PRODUCTION.values()
    assert not any(v.production for v in FORMS)
    device = stand_in.devices[0]
    monkeypatch.setattr(device, "architecture", 100)
    with pytest.raises(DeviceError) as error:
        Layer(Size(8, 8, 2, 2), FLOAT16).kernel(device, SHORT)
    assert str(error.value) == (
        f"conv3x3/{SHORT}: expected a GPU of sm_90, got cuda-on-cpu (sm_100); take 06_tensor_core_16bit"
    )


@SLOW
@pytest.mark.parametrize(
    ("size", "replicate", "by_07"),
    [
        (Size(8, 8, 3, 5), False, (False, False)),
        (Size(8, 8, 3, 5), True, (True, False)),
        (Size(8, 12, 3, 5), False, (True, True)),
    ],
    ids=["boxes", "a border", "channels"],
)
def test_07_computes_the_passes_that_boxes_cannot_and_no_others(stand_in, monkeypatch, size, replicate, by_07):
    layer, device = Layer(size, FLOAT16), stand_in.devices[0]
    check_forward(layer, run_forward(layer, device, SHORT, replicate, True), SHORT, replicate)
    check_backward(layer, run_backward(layer, device, SHORT, replicate, "SP", True), SHORT, replicate, "SP", True)
    named, run = {}, device.kernel
    monkeypatch.setattr(device, "kernel", lambda name, function, *_, **__: named.update({function: name}) or run)
    layer.kernel(device, SHORT, replicate)
    for function, other in zip(("conv3x3_forward", "conv3x3_backward"), by_07, strict=True):
        assert named[function] == (tiles.WGMMA if other else RUNG)


def test_bench_leaves_it_out_where_it_cannot_run(stand_in, monkeypatch):
    device = stand_in.devices[0]
    machine, (tma,) = BenchMachine(1, device), (rung for rung in rungs("conv", "cuda") if rung.name == SHORT)
    assert tma.refusal(size := BenchSize(4, 4, 8, 8), None, machine) is None
    assert tma.refusal(BenchSize(4, 4, 12, 8), "tf32", machine) is None
    assert tma.refusal(BenchSize(4, 4, 12, 8), "float16", machine) == "it needs channels that are multiples of 8"
    monkeypatch.setattr(device, "architecture", 100)
    assert tma.refusal(size, None, machine) == "it needs a GPU of sm_90, this is sm_100"


@SLOW
def test_a_gpu_check_finds_it_fit(stand_in):
    import gpu_bench

    assert gpu_bench.unfit(stand_in.devices[0], SHORT, FLOAT16) is None


def test_operands_from_the_cache_are_three_boxes_and_nine_taps_of_filters_a_chunk():
    """conv3_2 of 512 x 512 in float16: 64 x 2 tiles, 4 chunks of 64 channels, on paper; F counts once."""
    import predict_launches
    import predict_times

    paper = predict_launches.Recorder(90, 132, "a GPU on paper")
    layer = conv.Convolution(paper, FLOAT16, SHORT, 256, 256, 128, 128, False)
    x, y = (paper.empty((128, 128, 256), np.float16) for _ in range(2))
    w, S = (paper.empty((256, taps, 256), np.float16) for taps in (9, 1))
    layer.forward(x, w, paper.empty(256, np.float32), None, y)
    layer.backward(y, w, None, x, S, 1.0, None, 0.0, True, paper.empty(x.shape, np.float16))
    forward, backward = map(predict_times.work_of, paper.launches)
    assert (paper.launches[0].rung, paper.launches[0].blocks) == (RUNG, 128)
    chunk, tap = (3 * 34 * 8 + 9 * 128) * 128, (34 * 8 + 128) * 128
    assert forward.cached == 128 * 4 * chunk + y.nbytes + 4 * 256
    assert backward.cached == 128 * 4 * (chunk + tap) + 2 * y.nbytes
    assert forward.operations == forward.issued == 2 * 9 * 256 * 256 * 128 * 128
    assert (forward.unit, backward.bytes) == ("wgmma", 3 * x.nbytes + w.nbytes + S.nbytes)


@needs_nvrtc
@SLOW
@pytest.mark.parametrize("form", [v for v in FORMS if v.precision is FLOAT16 or v in TIGHT], ids=str)
def test_every_form_compiles_for_sm_90a_without_spills_and_without_waits_that_nobody_asked_for(form):
    """A tensor map that was copied would be on the stack, too, where no copy may read it."""
    assert RUNGS[SHORT].only == variants.own_architecture(source.read(RUNG)) == 90
    rung, options = source.read(RUNG), [f"--define-macro={name}={value}" for name, value in form.options.items()]
    cubin, log = nvrtc.find().compile(rung.text, f"{RUNG}.cu", rung.headers, "90a", [*compiling.OPTIONS, *options])
    assert cubin.startswith(b"\x7fELF")
    assert "wgmma" not in log, log
    two = form.defines["TILE_M"] * form.defines["TILE_N"] <= 128 * 128
    for name, taken in nvrtc.resources(log).items():
        assert (taken.spill_stores, taken.spill_loads, taken.stack) == (0, 0, 0), name
        warps = 9 * (1 + two)  # of blocks on a multiprocessor, spread over its four parts
        assert -(-warps // 4) * 32 * taken.registers <= 65536 // 4
    assert (1 + two) * (form.shared + 1024) <= 228 * 1024  # of sm_90; the system takes 1 KB of each block
