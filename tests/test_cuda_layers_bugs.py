"""The tests of the layers' kernels find the bugs that such kernels have; and sanitizers find none in the rungs."""

from __future__ import annotations

import dataclasses

import pytest
from cuda_devices import plant
from cuda_sanitized import run_sanitized
from test_cuda_layers import (
    Conv,
    check_conv,
    check_depthwise,
    check_instance_norm,
    check_maxima,
    check_sizes,
    check_statistics,
    run_conv,
)

from nstcore.engines.cuda import source

pytestmark = pytest.mark.slow

BARRIER = "__syncthreads();  // "
# What each rung is checked with: small layers in which every index matters
SIXTEEN = Conv(9, 20, 6, 20, stride=2, activation="relu6")


def convolves(rung, form=None):
    return lambda machine: check_conv(SIXTEEN, machine.check(lambda device: run_conv(device, SIXTEEN, rung, form)))


def normalises(machine):
    check_statistics(machine, (3, 41, 53))
    check_instance_norm(machine, (3, 41, 53))


CHECKS = {
    "conv/01_naive": convolves("01_naive"),
    "conv/02_register_tile": convolves("02_register_tile", (2, 8)),
    "conv/03_split_sum": convolves("03_split_sum"),
    "depthwise/01_direct": lambda machine: check_depthwise(machine, Conv(8, 8, 5, 7, stride=2, padding="zero")),
    "instance_norm/01_two_stage": normalises,
    "maxima/01_direct": lambda machine: check_maxima(machine, (4, 5, 7)),
    "resize/01_direct": lambda machine: check_sizes(machine, 4, (5, 9)),
}
# (rung, what stands there, what is planted)
BUGS = [
    ("conv/01_naive", "% S - left", "% S + 1 - left"),
    ("conv/02_register_tile", BARRIER + "the places are there, and the last channels have been read", ""),
    ("conv/02_register_tile", BARRIER + "these channels are there", ""),
    ("conv/02_register_tile", "& (columns - 1))) * stride;", "& (columns - 1)));"),
    ("conv/02_register_tile", "if (quad < some) tile", "if (quad + 1 < some) tile"),
    ("conv/03_split_sum", BARRIER + "all parts are there", ""),
    ("conv/03_split_sum", "part = 1; part < WARPS", "part = 2; part < WARPS"),
    ("depthwise/01_direct", "p * stride + r - top", "p + r - top"),
    ("depthwise/01_direct", "(r * S + s) * C", "(s * S + r) * C"),
    ("instance_norm/01_two_stage", BARRIER + "the sums of twice as many rows are there", ""),
    ("instance_norm/01_two_stage", "2 * half < lane.rows", "4 * half < lane.rows"),
    ("instance_norm/01_two_stage", "min(begin + length, M);", "min(begin + length, M - 1);"),
    ("maxima/01_direct", "H - 1), column", "H - 2), column"),
    ("resize/01_direct", "* n - count;", "* n;"),
]
# What is written there belongs to nobody, so the book cannot see it
UNSEEN = [
    ("conv/02_register_tile", "if (p < P && q < Q) finish", "if (p <= P && q < Q) finish"),
    ("depthwise/01_direct", "if (q >= Q) return;", "if (q > Q) return;"),
]
# In kernels/cuda/layers.cuh, seen by a rung that includes it
SHARED_BUGS = [
    ("back < n ? back : 2 * (n - 1) - back", "back < n ? back : 2 * n - 1 - back"),
    ("row / enlarged * W + column / enlarged", "row / enlarged * W + column"),
    ("v > 6.f ? 6.f : v", "v"),
]


@pytest.mark.parametrize("rung", CHECKS)
def test_what_the_bugs_are_planted_in_passes_without_them(stand_in, rung):
    CHECKS[rung](stand_in)


@pytest.mark.parametrize(("rung", "there", "planted"), BUGS)
def test_a_planted_bug_is_caught(stand_in, monkeypatch, rung, there, planted):
    plant(monkeypatch, rung, there, planted)
    with pytest.raises(AssertionError):
        CHECKS[rung](stand_in)


@pytest.mark.parametrize(("there", "planted"), SHARED_BUGS)
def test_a_bug_in_what_they_share_is_caught(stand_in, monkeypatch, there, planted):
    name = "conv/01_naive"
    sound = source.read(name)
    text = sound.headers["layers.cuh"]
    assert text.count(there) == 1
    broken = dataclasses.replace(sound, headers=sound.headers | {"layers.cuh": text.replace(there, planted)})
    monkeypatch.setattr(source, "read", lambda asked: broken)
    case = Conv(2, 3, 3, 4, 5, 5, upsample=2, activation="relu6")
    with pytest.raises(AssertionError):
        check_conv(case, stand_in.check(lambda device: 40 * run_conv(device, case, "01_naive") / 40))


SANITIZED = """
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from cuda_devices import Machine
from test_cuda_layers import Conv, check_conv, check_depthwise, check_instance_norm, check_maxima, check_sizes, run_conv

device = OnCpuDevice(order="random", build=BUILD)
machine = Machine([device])
cases = Conv(5, 9, 3, 4, stride=2, activation="relu6"), Conv(8, 12, 2, 3, 1, 1)  # by elements, by 16 bytes
for case in cases[: 1 if BUILD == "tsan" else 2]:
    for rung, form in (("02_register_tile", (2, 8)), ("03_split_sum", None)):
        check_conv(case, run_conv(device, case, rung, form))
    check_instance_norm(machine, (case.C, 3, 5), "relu", True)
    if BUILD == "asan":  # in the others no thread waits for another, and each writes its own
        check_conv(case, run_conv(device, case, "01_naive"))
        check_depthwise(machine, Conv(case.C, case.C, 3, 5, stride=2))
        check_maxima(machine, (case.C, 3, 5))
        check_sizes(machine, case.C, (5, 4))
print("done")
"""
PLANTED = """
import dataclasses

from cuda_devices import Machine
from nstcore.engines.cuda import source
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from test_cuda_layers_bugs import CHECKS

sound = source.read(RUNG)
assert sound.text.count(THERE) == 1
broken = dataclasses.replace(sound, text=sound.text.replace(THERE, WRONG))
source.read = lambda name: broken
CHECKS[RUNG](Machine([OnCpuDevice(build=BUILD)]))
"""


@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_kernel_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize(("rung", "there", "planted"), UNSEEN)
def test_address_sanitizer_sees_what_is_written_beyond_the_end(rung, there, planted):
    done = run_sanitized("asan", f"RUNG, THERE, WRONG = {rung!r}, {there!r}, {planted!r}\n{PLANTED}")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
