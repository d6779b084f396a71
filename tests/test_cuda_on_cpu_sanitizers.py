"""Planted bugs under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer; and kernels without bugs."""

from __future__ import annotations

import pytest
from cuda_sanitized import run_sanitized
from test_cuda_on_cpu import line_of, needs_compiler

pytestmark = [pytest.mark.slow, needs_compiler]

RUN = """
import numpy as np
from nstcore.engines.cuda.precision import FLOAT16
from test_cuda_on_cpu import N, VOCABULARY, BUGS, OnCpuDevice, unwritten

device = OnCpuDevice(ORDER, BUILD)

def run(name, bug, size=N, block=N, grid=1, shared=0, numbers=(), inputs=N):
    kernel = device.kernel(BUGS, name, BUG=bug)
    kind = kernel.parameters[-1 - len(numbers)].type
    y = unwritten(device, size, np.int32 if kind == "int" else np.float32)
    x = [device.to_device(np.ones(inputs, np.float32))] if kernel.parameters[0].name == "x" else []
    kernel(grid, block, *x, y, *numbers, shared=shared)
    return device.to_host(y)
"""
MEMORY = {
    "global_overrun": ({"size": 70, "grid": 2, "numbers": (70,)}, "heap-buffer-overflow"),
    "static_overrun": ({}, "use-after-poison"),
    "dynamic_overrun": ({"shared": 64}, "heap-buffer-overflow"),
    "copied_overrun": ({}, "heap-buffer-overflow"),
    "register_overrun": ({"numbers": (4,)}, "runtime error: load of address"),
    "undefined_shift": ({"numbers": (31,)}, "runtime error: shift exponent 32 is too large"),
    "overflow": ({"numbers": (65536,)}, "runtime error: signed integer overflow"),
    "misaligned_vector": ({"inputs": 4 * 64 + 4}, "runtime error: member access within misaligned address"),
}
RACES = {
    "missing_barrier": {},
    "missing_second_barrier": {"numbers": (4,), "inputs": 4 * 64},
    "refilled_too_early": {"numbers": (4,), "inputs": 4 * 64},
    "race_of_blocks": {"grid": 3, "block": 1, "size": 3},
    "shuffle_as_barrier": {"block": 32},
}
OTHERS = {
    "missing_wait": {"shared": 4 * 64},
    "missing_commit": {},
    "waits_for_too_few": {"inputs": 2 * 64},
    "misaligned_copy": {"inputs": 4 * 64},
    "misaligned_source": {"inputs": 4 * 64},
    "misaligned_matrix": {"block": 32, "inputs": 128},
    "not_shared": {},
    "barrier_of_some": {},
    "two_barriers": {},
    "early_exit": {"numbers": (50,)},
    "missing_lane": {},
    "not_in_its_mask": {"block": 32},
    "masks_differ": {"block": 32},
    "half_a_product": {"block": 32},
    "unwritten": {},
    "left_by_the_last_block": {"shared": 4 * 64, "grid": 2, "size": 2 * 64},
    "bounded": {},
}
ALL = {**{name: launched for name, (launched, _) in MEMORY.items()}, **RACES, **OTHERS}


def call(name: str, bug: int) -> str:
    return f"run({name!r}, {bug}, **{ALL[name]!r})\n"


@pytest.mark.parametrize("order", ["ascending", "random"])
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_kernels_without_bugs_pass(build, order):
    script = f"ORDER = {order!r}\n{RUN}" + "".join(call(name, 0) for name in ALL) + "print('done')"
    done = run_sanitized(build, script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("name", MEMORY)
def test_what_lies_outside_or_is_undefined_is_noticed(name):
    done = run_sanitized("asan", f"ORDER = 'ascending'\n{RUN}{call(name, 1)}")
    assert done.returncode != 0
    assert MEMORY[name][1] in done.stderr
    assert line_of(name) in done.stderr


@pytest.mark.parametrize("name", RACES)
def test_races_are_noticed(name):
    """In a second launch, too, whose fibers ThreadSanitizer knows from the first."""
    done = run_sanitized("tsan", f"ORDER = 'ascending'\n{RUN}{call(name, 0)}print('first')\n{call(name, 1)}")
    assert done.stdout == "first\n"
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
    assert "cuda_bugs.cu:" in done.stderr


@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_errors_of_kernels_are_exceptions_there_too(build):
    script = f"""
ORDER = "ascending"
{RUN}
from test_cuda_on_cpu import KernelError
for name in ("early_exit", "two_barriers", "masks_differ", "missing_commit"):
    launched = {ALL!r}[name]
    try:
        run(name, 1, **launched)
    except KernelError as e:
        print(name)
    run(name, 0, **launched)
"""
    done = run_sanitized(build, script)
    expected = "early_exit\ntwo_barriers\nmasks_differ\nmissing_commit\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
