"""wgmma, which no GPU has run yet: conv3x3/07, and the layouts that it rests on, as the PTX ISA (9.0) has them."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import unwritten
from cuda_sanitized import run_sanitized

from nstcore.bench import Size as BenchSize
from nstcore.bench import rungs
from nstcore.bench.runs import Machine
from nstcore.engines.cuda import compile as compiling
from nstcore.engines.cuda import conv, nvrtc, source, tiles, variants
from nstcore.engines.cuda.conv import RUNGS
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.precision import BFLOAT16, FLOAT16, TF32, to_elements
from nstcore.errors import DeviceError

pytestmark = pytest.mark.slow

SHORT = "07_wgmma"
RUNG = RUNGS[SHORT].name
FORMS = [v for v in conv.variants() if v.rung == RUNG]
needs_nvrtc = pytest.mark.skipif(nvrtc.problem() is not None, reason=str(nvrtc.problem()))


@pytest.fixture
def hopper(machine):
    """Where 07 runs: the CPU's stand-in, or a GPU of sm_90."""
    if machine.devices[0].architecture != 90:
        pytest.skip(f"expected sm_90, got sm_{machine.devices[0].architecture}")
    return machine


# ---- layouts --------------------------------------------------------------------------------------------------------

PROBE = """// requires: sm_90a
#include "warpgroup_tiles.cuh"
extern "C" __global__ void describe(const int* at, int64_t* descriptors) {
  descriptors[threadIdx.x] = (int64_t)describe_rows((uint32_t)at[threadIdx.x]);
}
extern "C" __global__ void where(int* bytes) {
  bytes[blockIdx.x * 8 + threadIdx.x] = swizzled(blockIdx.x, threadIdx.x);
}

// One warpgroup, one product: C[64][TILE_N] = A[64][DEPTH] B[TILE_N][DEPTH]^T, in elements DEPTH step of the rows on
constexpr int DEPTH = 32 / (int)sizeof(element);
extern "C" __global__ void multiply_once(const element* A, const element* B, int step, float* C) {
  extern __shared__ __align__(1024) unsigned char tile[];
  for (int at = threadIdx.x; at < (64 + TILE_N) * DEPTH; at += 128) {
    const int row = at / DEPTH, k = DEPTH * step + at % DEPTH;
    unsigned char* to = tile + swizzled(row, k / PIECE) + k % PIECE * (int)sizeof(element);
    *reinterpret_cast<element*>(to) = row < 64 ? A[at] : B[at - 64 * DEPTH];
  }
  show_to_tensor_cores();
  __syncthreads();
  sums d;
  clear(d);
  hold_all(d);
  products_begin();
  const uint32_t at = shared_address(tile) + 32 * step;
  products(d[0], describe_rows(at), describe_rows(at + 64 * ROW_BYTES));
  products_commit();
  products_wait<0>();
  hold_all(d);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int j = 0; j < NJ; ++j)
    for (int e = 0; e < 4; ++e)
      C[(16 * warp + lane / 4 + e / 2 * 8) * TILE_N + 8 * j + lane % 4 * 2 + e % 2] = d[0][j][e];
}
"""


@pytest.fixture
def probe(tmp_path):
    file = tmp_path / "probe.cu"
    file.write_text(PROBE)
    return source.parse(file, "probe")


def test_a_descriptor_has_the_fields_of_the_ptx_isa(hopper, probe):
    """9.7.15.5.1.2.2: each field is a number of bytes, (x & 0x3FFFF) >> 4."""
    addresses = np.array([0, 1024, 1024 + 32, 0x3FC00, 0x40000 + 1024], np.int32)

    def run(device):
        found = unwritten(device, len(addresses), np.int64)
        device.kernel(probe, "describe", FLOAT16, TILE_N=64)(1, len(addresses), device.to_device(addresses), found)
        return device.to_host(found)

    for address, found in zip(addresses.tolist(), hopper.check(run).tolist(), strict=True):
        bits = found % 2**64
        assert bits & 0x3FFF == (address & 0x3FFFF) // 16
        assert bits >> 16 & 0x3FFF == 1  # not used
        assert (bits >> 32 & 0x3FFF) * 16 == 8 * 128  # from 8 rows to the next 8
        assert bits >> 49 & 7 == 0  # the pattern begins on a multiple of 1024
        assert bits >> 62 == 1  # 128-byte swizzling
        assert bits & (3 << 14 | 3 << 30 | 7 << 46 | 0x3FF << 52) == 0


def test_rows_are_permuted_as_swizzle_3_4_3_has_it(hopper, probe):
    """9.7.15.5.1.2.1.3: bits 4 to 6 of the byte's number by bits 7 to 9; it is its own inverse, and no banks meet."""

    def run(device):
        found = unwritten(device, (128, 8), np.int32)
        device.kernel(probe, "where", FLOAT16, TILE_N=64)(128, 8, found)
        return device.to_host(found)

    found = hopper.check(run)
    plain = np.arange(128 * 8).reshape(128, 8) * 16
    assert np.array_equal(found, plain ^ (plain >> 3 & 0x70))
    assert np.array_equal(found ^ (found >> 3 & 0x70), plain)
    for rows in (found // 16 % 8).reshape(-1, 8, 8):
        assert all(len(set(rows[:, piece])) == 8 for piece in range(8))  # what wgmma reads at once
        assert all(len(set(row)) == 8 for row in rows)  # what cp.async writes at once


@pytest.mark.parametrize("columns", [64, 128, 256])
@pytest.mark.parametrize("precision", [TF32, FLOAT16, BFLOAT16], ids=lambda p: p.name)
def test_one_product_leaves_every_sum_where_the_fragments_say(hopper, probe, precision, columns):
    """9.7.15.5.1.1.1. Whole numbers, so every sum is exact and none is like its neighbour's."""
    rng = np.random.default_rng(columns)
    depth = 32 // precision.dtype.itemsize
    A, B = rng.integers(-9, 9, (64, depth)), rng.integers(-9, 9, (columns, depth))
    for step in (0, 3):

        def run(device, step=step):
            a, b = (device.to_device(to_elements(m.astype(np.float32), precision)) for m in (A, B))
            C = unwritten(device, (64, columns), np.float32)
            kernel = device.kernel(probe, "multiply_once", precision, TILE_N=columns)
            kernel(1, 128, a, b, step, C, shared=(64 + columns) * 128)
            return device.to_host(C)

        assert np.array_equal(hopper.check(run), A @ B.T)


# ---- the convolution ------------------------------------------------------------------------------------------------

SIZES = [Size(1, 1, 1, 1), Size(8, 8, 3, 2), Size(40, 72, 5, 13), Size(17, 65, 5, 13), Size(64, 64, 9, 15)]
LAYERS = [
    *((FLOAT16, size) for size in SIZES),
    *((TF32, size) for size in (Size(4, 12, 3, 2), *SIZES[2:4])),
    (BFLOAT16, SIZES[2]),
]
LOSSES = (("SP", True), ("S", False), ("", False))


@pytest.mark.parametrize(("precision", "size"), LAYERS, ids=lambda value: getattr(value, "name", str(value)))
def test_forward_is_the_book_s_convolution_bias_and_relu(hopper, precision, size):
    layer = Layer(size, precision)
    for replicate, linear in ((False, True), (True, False)):
        got = hopper.check(lambda d, r=replicate, n=linear: run_forward(layer, d, SHORT, r, n))
        check_forward(layer, got, SHORT, replicate)


@pytest.mark.parametrize(("precision", "size"), LAYERS, ids=lambda value: getattr(value, "name", str(value)))
def test_backward_adds_what_the_losses_send_back_and_masks(hopper, precision, size):
    layer = Layer(size, precision)
    for losses, mask in LOSSES:
        got = hopper.check(lambda d, n=losses, m=mask: run_backward(layer, d, SHORT, False, n, m))
        check_backward(layer, got, SHORT, False, losses, mask)


def test_no_tile_changes_a_bit_and_each_is_right_at_its_edges(hopper, monkeypatch):
    # Forward, one position and 8 channels more than 128 x 256; backward, 8 channels less than 64
    layer = Layer(Size(56, 264, 3, 43), FLOAT16)
    results = []
    for tile in tiles.WARPGROUP_TILES:
        forced = replace(RUNGS[SHORT], launch=lambda p, tile=tile: tiles.wgmma_with(p, tile))
        monkeypatch.setitem(RUNGS, "forced", forced)
        both = [
            hopper.check(lambda d: run_forward(layer, d, "forced", False, True)),
            hopper.check(lambda d: run_backward(layer, d, "forced", False, "SP", True)),
        ]
        check_forward(layer, both[0], "forced", False)
        check_backward(layer, both[1], "forced", False, "SP", True)
        results.append(both)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_layer_gets_the_tile_with_which_the_busiest_multiprocessor_is_done_first():
    def tile(*shape: int) -> tuple[int, int]:
        defines = tiles.wgmma(tiles.Pass(*shape, FLOAT16)).defines
        return defines["TILE_M"], defines["TILE_N"]

    assert tile(256, 256, 128, 128) == (128, 256)
    assert tile(64, 64, 512, 512) == (128, 64)
    assert tile(512, 512, 32, 32) == (128, 64)
    assert tile(512, 513, 128, 128) == (128, 64)  # not aligned
    assert tiles.wgmma(tiles.Pass(12, 4, 8, 8, TF32)).defines["ALIGNED"] == 1
    assert tiles.wgmma(tiles.Pass(12, 4, 8, 8, FLOAT16)).defines["ALIGNED"] == 0


# ---- mistakes that the tests above would find ------------------------------------------------------------------------

BUGS = {
    "none": ("", ""),
    "no barrier between copies and products": ("    __syncthreads();  // for all threads;", "    // for"),
    "no wait for a chunk": ("    copy_async_wait<AHEAD - 1>();", "    "),
    "a chunk copied over one that is being multiplied": (
        "if (chunk + AHEAD < chunks) copy(stages + next)",
        "if (chunk + AHEAD < chunks) copy(stages + now)",
    ),
    "no wait for the products before": ("    products_wait<1>();", "    products_wait<2>();"),
    "no wait for the last products": ("  }\n  products_wait<0>();", "  }\n  products_wait<1>();"),
    "the tenth tap scaled before it is summed": ("      products_wait<0>();\n", ""),
}


def planted(folder, there: str, gone: str) -> source.Rung:
    """A copy of the rung and its headers with one change."""
    real = source.read(RUNG)
    files = {"planted.cu": real.text, **real.headers}
    assert sum(text.count(there) for text in files.values()) == 1 or not there
    for name, text in files.items():
        (folder / name).write_text(text.replace(there, gone) if there else text)
    return source.parse(folder / "planted.cu", RUNG)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows_in_the_numbers_or_in_their_order(stand_in, tmp_path, monkeypatch, bug):
    layer, rung, read = Layer(Size(72, 40, 3, 47), FLOAT16), planted(tmp_path, *BUGS[bug]), source.read
    monkeypatch.setattr(source, "read", lambda name: rung if name == RUNG else read(name))

    def sound():
        got = stand_in.check(lambda d: run_backward(layer, d, SHORT, False, "SP", True))
        check_backward(layer, got, SHORT, False, "SP", True)

    if bug == "none":
        sound()
    else:
        with pytest.raises((AssertionError, KernelError)):
            sound()


def small_layers() -> None:
    """What AddressSanitizer watches: a layer that ends inside a tile."""
    device, layer = OnCpuDevice(build="asan"), Layer(Size(24, 40, 3, 45), BFLOAT16)
    check_forward(layer, run_forward(layer, device, SHORT, True, True), SHORT, True)
    check_backward(layer, run_backward(layer, device, SHORT, False, "SP", True), SHORT, False, "SP", True)


def test_it_does_not_leave_its_memory():
    done = run_sanitized("asan", "from test_cuda_wgmma import small_layers\nsmall_layers()\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---- where it runs --------------------------------------------------------------------------------------------------


def test_it_is_never_a_default_and_another_gpu_is_refused_in_one_line(stand_in, monkeypatch):
    assert SHORT not in conv.PRODUCTION.values()
    assert not any(v.production for v in FORMS)
    device = stand_in.devices[0]
    for other in (80, 89, 100):
        monkeypatch.setattr(device, "architecture", other)
        with pytest.raises(DeviceError) as error:
            Layer(Size(8, 8, 2, 2), FLOAT16).kernel(device, SHORT)
        assert str(error.value) == (
            f"conv3x3/{SHORT}: expected a GPU of sm_90, got cuda-on-cpu (sm_{other}); take 06_tensor_core_16bit"
        )


def test_bench_leaves_it_out_on_another_gpu(stand_in, monkeypatch):
    """And goes on with the others."""
    device = stand_in.devices[0]
    machine, (wgmma,) = Machine(1, device), (rung for rung in rungs("conv", "cuda") if rung.name == SHORT)
    assert wgmma.refusal(size := BenchSize(4, 4, 8, 8), None, machine) is None
    monkeypatch.setattr(device, "architecture", 100)
    assert wgmma.refusal(size, None, machine) == "it needs a GPU of sm_90, this is sm_100"


def test_it_is_compiled_for_sm_90a_alone():
    assert RUNGS[SHORT].only == variants.own_architecture(source.read(RUNG)) == 90
    assert [a for a in (75, 80, 89, 90, 100) if FORMS[0].runs_on(a)] == [90]
    with pytest.raises(DeviceError, match=rf"^{RUNG}: expected a GPU of sm_90, got sm_100; take another rung$"):
        compiling.compile_rung(source.read(RUNG), 100, FORMS[0].options)


@pytest.fixture
def gpu_bench():
    """Not where a sanitizer imports this file: its process knows no tools."""
    import gpu_bench

    return gpu_bench


def test_a_gpu_check_tries_it_in_a_process_of_its_own_and_says_why_it_is_left_out(gpu_bench, stand_in, monkeypatch):
    device, asked = stand_in.devices[0], []

    def ends(returncode: int, stderr: str = ""):
        def run(command, **options):
            asked.append(command)
            if returncode == 124:
                raise subprocess.TimeoutExpired(command, options["timeout"])
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(subprocess, "run", run)
        return gpu_bench.unfit(device, SHORT, FLOAT16)

    assert gpu_bench.unfit(device, "06_tensor_core_16bit", FLOAT16) is None
    assert ends(0) is None
    assert ends(1, "a line\nnstcore: off from the book\n") == "it failed: nstcore: off from the book"
    assert ends(-9) == "it failed: exit code -9"
    assert ends(124) == f"not done after {gpu_bench.TRIAL} s"
    assert {"bench", "--rung", SHORT, "--device", "cuda-on-cpu"} <= set(asked[0])
    monkeypatch.setattr(device, "architecture", 100)
    assert ends(0) == "for sm_90 alone, this is sm_100"
    assert len(asked) == 4


def test_a_gpu_check_finds_it_fit(gpu_bench, stand_in):
    assert gpu_bench.unfit(stand_in.devices[0], SHORT, FLOAT16) is None


@needs_nvrtc
@pytest.mark.parametrize(
    "form",
    [v for v in FORMS if v.precision is FLOAT16 or (v.precision is TF32 and v.defines["TILE_N"] == 256)],
    ids=str,
)
def test_every_form_compiles_without_spills_and_without_waits_that_nobody_asked_for(form):
    """Where the compiler cannot follow the sums' registers it waits after every product, and says so."""
    rung, options = source.read(RUNG), [f"--define-macro={name}={value}" for name, value in form.options.items()]
    cubin, log = nvrtc.find().compile(rung.text, f"{RUNG}.cu", rung.headers, "90a", [*compiling.OPTIONS, *options])
    assert cubin.startswith(b"\x7fELF")
    assert "wgmma" not in log, log
    for name, taken in nvrtc.resources(log).items():
        assert (taken.spill_stores, taken.spill_loads, taken.stack) == (0, 0, 0), name
    assert form.shared + 1024 <= 227 * 1024  # of sm_90; the system takes 1 KB of each block
    if form.defines["ALIGNED"] and form.defines["TILE_N"] <= 128:
        assert 2 * (form.shared + 1024) <= 228 * 1024
