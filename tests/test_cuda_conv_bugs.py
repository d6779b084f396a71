"""The tests of the convolution kernels find the bugs that such kernels have; and sanitizers find none in the rungs.

A bug is planted in a rung's text: a barrier taken out, or an index one too far. What the thread orders and the book
cannot see, because nobody uses what was read or the memory beyond belongs to nobody, AddressSanitizer sees.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import source
from nstcore.engines.cuda.precision import FLOAT32

LADDER = ("01_naive", "02_shared_tile", "03_register_tile", "04_winograd")
BARRIER = "__syncthreads();  // "

# (rung, what stands there, what is planted)
BARRIERS = [
    ("02_shared_tile", BARRIER + "the tile is there", ""),
    ("03_register_tile", BARRIER + "this step is there, and the last one has been read", ""),
    ("04_winograd", BARRIER + "both factors are there", ""),
]
MORE_BARRIERS = [
    ("02_shared_tile", BARRIER + "everybody has read it", ""),
    ("03_register_tile", BARRIER + "the last step has been read", ""),
    ("04_winograd", BARRIER + "everybody has read them", ""),
    ("04_winograd", BARRIER + "the products of 16 tiles are there", ""),
    ("04_winograd", BARRIER + "they have been read", ""),
]
INDICES = [
    ("02_shared_tile", "left = blockIdx.x * SIDE - 1;", "left = blockIdx.x * SIDE;"),
    ("03_register_tile", "[threadIdx.x / 2] = ahead.a[i]", "[threadIdx.x / 2 + 1] = ahead.a[i]"),
    ("04_winograd", "[thread % BC][thread / BC] = d[i]", "[thread % BC][thread / BC + 1] = d[i]"),
]
MORE_INDICES = [
    ("01_naive", "q + tap % 3 - 1", "q + tap % 3"),
    ("02_shared_tile", "+ place % SIDE + s]", "+ place % SIDE + (s + 1) % 3]"),
    ("02_shared_tile", "row && c < in", "row && c + 1 < in"),
    ("03_register_tile", "c + k < in ?", "c + k + 1 < in ?"),
    ("03_register_tile", "if (position >= H * W)", "if (position + 1 >= H * W)"),
    ("04_winograd", "c0 + c < in ?", "c0 + c + 1 < in ?"),
    ("04_winograd", "clamp_to(q + i - 1, W)", "clamp_to(q + i - 1, W - 1)"),
    ("04_winograd", "const int next = 4 *", "const int next = 3 *"),
]
# Nothing that the book checks depends on these
UNSEEN = [
    ("01_naive", "k >= out ||", "k > out ||"),
    ("02_shared_tile", "min(CHANNELS, in - c0)", "min(CHANNELS, in - c0 + 1)"),
    ("03_register_tile", "if (position >= H * W)", "if (position > H * W)"),
    ("04_winograd", "c < in && (inside", "c <= in && (inside"),
]

SANITIZED = """
from pathlib import Path

from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from nstcore.engines.cuda import source
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.cuda.precision import FLOAT32

device = OnCpuDevice(order="random", build=BUILD)
for rung in RUNGS:
    if PLANTED:
        broken = source.parse(Path(PLANTED), "broken/01_planted")
        source.read = lambda name: broken
    for size in (Size(12, 8, 5, 6), Size(9, 13, 4, 5))[: 1 if BUILD == "tsan" else 2]:  # aligned, not aligned
        layer = Layer(size, FLOAT32)
        y = run_forward(layer, device, rung, not PLANTED, True)
        dx = run_backward(layer, device, rung, not PLANTED, "" if PLANTED else "SP", True)
        if not PLANTED:
            check_forward(layer, y, rung, True)
            check_backward(layer, dx, rung, True, "SP", True)
print("done")
"""


def plant(folder: Path, rung: str, right: str, wrong: str) -> Path:
    """A copy of a rung with one thing replaced."""
    text = source.read(f"conv3x3/{rung}").text
    assert text.count(right) == 1, f"{rung} has not one {right!r}"
    path = folder / "planted.cu"
    path.write_text(text.replace(right, wrong))
    return path


def sanitized(build: str, rungs: tuple[str, ...], planted: str = ""):
    return run_sanitized(build, f"RUNGS, PLANTED = {rungs!r}, {planted!r}\n" + textwrap.dedent(SANITIZED))


def is_caught(machine, monkeypatch, folder, rung, right, wrong) -> None:
    """Both passes of a layer with several blocks and steps, in three orders, against the book: one of them fails."""
    broken = source.parse(plant(folder, rung, right, wrong), "broken/01_planted")
    real = source.read
    monkeypatch.setattr(source, "read", lambda name: broken if name.startswith("conv3x3/") else real(name))
    layer = Layer(Size(20, 44, 12, 14), FLOAT32)

    def check() -> None:
        check_forward(layer, machine.check(lambda d: run_forward(layer, d, rung, False, False)), rung, False)
        check_forward(layer, machine.check(lambda d: run_forward(layer, d, rung, True, False)), rung, True)
        got = machine.check(lambda d: run_backward(layer, d, rung, losses="S"))
        check_backward(layer, got, rung, losses="S")

    with pytest.raises(AssertionError):
        check()


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "right", "wrong"), BARRIERS)
def test_a_missing_barrier_is_caught(unoptimised, monkeypatch, tmp_path, rung, right, wrong):
    is_caught(unoptimised, monkeypatch, tmp_path, rung, right, wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "right", "wrong"), INDICES)
def test_an_index_one_too_far_is_caught(unoptimised, monkeypatch, tmp_path, rung, right, wrong):
    is_caught(unoptimised, monkeypatch, tmp_path, rung, right, wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "right", "wrong"), MORE_BARRIERS + MORE_INDICES)
def test_more_bugs_are_caught(unoptimised, monkeypatch, tmp_path, rung, right, wrong):
    is_caught(unoptimised, monkeypatch, tmp_path, rung, right, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_rung_leaves_its_memory_or_races(build):
    done = sanitized(build, LADDER)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "right", "wrong"), UNSEEN)
def test_address_sanitizer_sees_what_is_read_or_written_beyond_the_end(tmp_path, rung, right, wrong):
    done = sanitized("asan", (rung,), str(plant(tmp_path, rung, right, wrong)))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "planted.cu:" in done.stderr or "conv3x3.cuh:" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "right", "wrong"), BARRIERS)
def test_thread_sanitizer_sees_a_missing_barrier(tmp_path, rung, right, wrong):
    done = sanitized("tsan", (rung,), str(plant(tmp_path, rung, right, wrong)))
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
