"""tools/cuda_on_cpu: it does what CUDA does, and notices the mistakes of kernels, with the line of the .cu file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cuda_devices import ORDERS, unwritten

from nstcore.engines.cuda import on_cpu, on_cpu_build, source
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.precision import FLOAT16

HERE = Path(__file__).parent
BUGS = source.parse(HERE / "cuda_bugs.cu", "bugs")
VOCABULARY = source.parse(HERE / "cuda_vocabulary.cu", "vocabulary")
N = 64
needs_compiler = pytest.mark.skipif(on_cpu.problem() is not None, reason=on_cpu.problem() or "")


def line_of(name: str) -> str:
    """cuda_bugs.cu:17, from the comment // NAME."""
    lines = BUGS.text.splitlines()
    return f"cuda_bugs.cu:{next(i for i, line in enumerate(lines, 1) if line.endswith(f'// {name}'))}"


def launch(device, name: str, bug: int, block: int = N, grid: int = 1, shared: int = 0, numbers=()):
    """y of one kernel of cuda_bugs.cu; x is random."""
    rng = np.random.default_rng(5)
    kernel = device.kernel(BUGS, name, BUG=bug)
    y = unwritten(device, N * grid, np.int32 if kernel.parameters[-len(numbers) - 1].type == "int" else np.float32)
    x = device.to_device(rng.random(4 * N, np.float32))
    kernel(grid, block, *([x] if kernel.parameters[0].name == "x" else []), y, *numbers, shared=shared)
    return device.to_host(y)


def in_three_orders(name: str, bug: int, **launched) -> list[bytes]:
    return [launch(OnCpuDevice(order, threads=1), name, bug, **launched).tobytes() for order in ORDERS]


# ---- mistakes -------------------------------------------------------------------------------------------------------

ORDER_DEPENDENT = {
    "missing_barrier": {},
    "missing_second_barrier": {"numbers": (4,)},
    "refilled_too_early": {"numbers": (4,)},
    "race_of_blocks": {"grid": 3, "block": 1},
}


@needs_compiler
@pytest.mark.parametrize("name", ORDER_DEPENDENT)
def test_a_race_depends_on_the_order_of_the_threads(name):
    right, wrong = (in_three_orders(name, bug, **ORDER_DEPENDENT[name]) for bug in (0, 1))
    assert right[0] == right[1] == right[2]
    assert len(set(wrong)) > 1


UNWRITTEN = {
    "missing_wait": {"shared": 4 * N},
    "waits_for_too_few": {},
    "unwritten": {},
    "left_by_the_last_block": {"shared": 4 * N, "grid": 2},
}


@needs_compiler
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_nothing_wrote_is_nan(name, order):
    device = OnCpuDevice(order, threads=1)
    assert np.isfinite(launch(device, name, 0, **UNWRITTEN[name])).all()
    assert np.isnan(launch(device, name, 1, **UNWRITTEN[name])).any()


ERRORS = {
    "missing_commit": ({}, "still under way where the thread ends"),
    "misaligned_copy": ({}, "is not a multiple of the 16 bytes it copies"),
    "misaligned_source": ({}, "is not a multiple of the 16 bytes it copies"),
    "misaligned_matrix": ({"block": 32}, "is not a multiple of its 16 bytes"),
    "not_shared": ({}, "is not in shared memory"),
    "barrier_of_some": ({}, "__syncthreads: never reached by thread"),
    "two_barriers": ({}, "__syncthreads"),
    "early_exit": ({"numbers": (50,)}, "__syncthreads: never reached by thread"),
    "missing_lane": ({}, "__shfl_xor_sync: never reached by thread (33, 0, 0), which has ended"),
    "not_in_its_mask": ({"block": 32}, "the mask 0xfffffffe does not name the calling lane, 0"),
    "masks_differ": ({"block": 32}, "__shfl_sync"),
    "half_a_product": ({"block": 32}, "mma: never reached by thread"),
}


@needs_compiler
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_an_error_that_names_its_place(name, order):
    launched, message = ERRORS[name]
    device = OnCpuDevice(order)
    launch(device, name, 0, **launched)
    with pytest.raises(KernelError) as e:
        launch(device, name, 1, **launched)
    error = str(e.value)
    assert error.startswith(f"bugs {name}: "), error
    assert line_of(name) in error
    assert "block (0, 0, 0), thread (" in error
    assert message in error
    assert "\n" not in error
    launch(device, name, 0, **launched)  # and the next launch is not disturbed


@needs_compiler
def test_a_partial_warp_cannot_shuffle_with_a_full_mask():
    with pytest.raises(
        KernelError, match="never reached by lanes of the mask 0xffffffff, which the block does not have"
    ):
        launch(OnCpuDevice(), "missing_lane", 0, block=40)


@needs_compiler
def test_a_block_larger_than_its_launch_bounds_is_refused():
    launch(OnCpuDevice(), "bounded", 0)
    with pytest.raises(KernelError, match="bounded: 96 threads in a block, but __launch_bounds__ says at most 64"):
        launch(OnCpuDevice(), "bounded", 0, block=96)


@needs_compiler
def test_a_mistake_in_one_of_many_blocks_is_found():
    device = OnCpuDevice(threads=3)
    y = unwritten(device, 64 * N, np.float32)
    with pytest.raises(KernelError, match="early_exit"):
        device.kernel(BUGS, "early_exit", BUG=1)(64, N, y, N - 1)


# ---- orders, OS threads ---------------------------------------------------------------------------------------------


def sequence(order: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """When each thread of 4 blocks of 40 began, and when it went on after the barrier."""
    device = OnCpuDevice(order, threads=1, seed=seed)
    y = device.to_device(np.zeros(1 + 2 * 160, np.int32))
    device.kernel(VOCABULARY, "sequence", FLOAT16)(4, 40, y)
    begun, went_on = device.to_host(y)[1:].reshape(2, 4, 40)
    return begun, went_on


@needs_compiler
def test_orders_are_what_they_say():
    place = np.arange(4)[:, None] * 80 + np.arange(40)
    begun, went_on = sequence("ascending")
    assert (begun == place).all()
    assert (went_on == place + 40).all()
    begun, went_on = sequence("descending")
    assert (begun == place[::-1, ::-1]).all()
    assert (went_on == place[::-1, ::-1] + 40).all()


@needs_compiler
def test_random_order_shuffles_blocks_threads_and_barriers_and_can_be_repeated():
    begun, went_on = sequence("random", 1)
    again, other = sequence("random", 1), sequence("random", 2)
    assert (begun == again[0]).all()
    assert (went_on == again[1]).all()
    assert (begun != other[0]).any()
    assert (np.argsort(begun[0]) != np.argsort(went_on[0])).any()
    assert any(np.argsort(sequence("random", s)[0][:, 0]).tolist() != [0, 1, 2, 3] for s in range(3))
    assert sorted([*begun.ravel(), *went_on.ravel()]) == list(range(320))


@needs_compiler
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blocks", [1, 2, 97, 1000])
def test_every_block_runs_once_on_any_number_of_threads(order, blocks):
    for threads in (1, 2, 3):
        device = OnCpuDevice(order, threads=threads, seed=blocks)
        y = device.empty((blocks, 32), np.int32)
        device.kernel(VOCABULARY, "coordinates", FLOAT16)(blocks, 32, y)
        x = np.arange(32)
        assert (device.to_host(y) == np.arange(blocks)[:, None] * 1000 + x).all()


@needs_compiler
def test_several_python_threads_may_launch():
    devices = [OnCpuDevice(order) for order in ORDERS]
    found = {}

    def run(i):
        found[i] = [launch(devices[i % 3], "missing_second_barrier", 0, numbers=(4,)).tobytes() for _ in range(20)]

    workers = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({b for each in found.values() for b in each}) == 1


# ---- the device -----------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), TypeError, "expected 2 arguments, got 1"),
        (("y", 1.5), ValueError, "n: expected a whole number that fits int32, got 1.5"),
        (("y", 2**31), ValueError, "n: expected a whole number"),
        (("y", "y"), TypeError, "n: expected a number"),
        ((np.zeros(4, np.float32), 1), TypeError, "y: expected an array of cuda-on-cpu"),
        (("int", 1), TypeError, "y: expected a C-contiguous float32 array, got int32"),
        (("strided", 1), TypeError, "y: expected a C-contiguous float32 array, got float32 with strides"),
    ],
)
def test_arguments_of_a_launch_are_checked(arguments, error, message):
    device = OnCpuDevice()
    y = device.empty((4, 4), np.float32)
    arrays = {"y": y, "int": device.empty(4, np.int32), "strided": y[:, 1:2]}
    with pytest.raises(error, match=message):
        device.kernel(BUGS, "global_overrun", BUG=0)(1, 1, *(arrays[a] if isinstance(a, str) else a for a in arguments))


@needs_compiler
@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [((1, 65536), 1, 0), (0, 1, 0), (1, 1025, 0), (1, (1, 1, 65), 0), (1, 1, 232449), (1, 1, -1)],
)
def test_launches_that_no_gpu_would_take_are_refused(grid, block, shared):
    device = OnCpuDevice()
    with pytest.raises(ValueError, match="bugs global_overrun: expected"):
        device.kernel(BUGS, "global_overrun", BUG=0)(grid, block, device.empty(1, np.float32), 0, shared=shared)


@needs_compiler
def test_the_largest_launch_works():
    device = OnCpuDevice()
    y = device.empty(1024, np.float32)
    device.kernel(BUGS, "global_overrun", BUG=0)((1, 3, 2), (N, 8, 2), y, 16, shared=232448)
    assert (np.nan_to_num(device.to_host(y)) == (np.arange(1024) < 16)).all()


@needs_compiler
def test_arrays_are_aligned_nan_and_exact():
    device = OnCpuDevice()
    for shape, dtype in (((3, 5), np.float32), (7, np.float16), ((), np.float64), ((0, 4), np.uint16)):
        a = device.empty(shape, dtype)
        assert device.owns(a)
        assert a.shape == np.empty(shape).shape
        assert a.dtype == dtype
        assert a.nbytes == np.empty(shape, dtype).nbytes
        assert device.address(a) % 256 == 0 or not a.size
        assert np.isnan(device.to_host(a)).all() or dtype is np.uint16
    a = np.random.default_rng(0).random((4, 6), np.float32)
    there, other = device.to_device(a[:, ::2]), device.empty((4, 3), np.float32)
    device.copy(there, other)
    assert (device.to_host(other[1:3]) == a[1:3, ::2]).all()
    assert (device.to_host(other.reshape(3, 4)) == a[:, ::2].reshape(3, 4)).all()
    device.fill_bytes(other[1], 0)
    assert (device.to_host(other.ravel().view(np.uint32))[3:6] == 0).all()
    assert (device.to_host(other)[[0, 2, 3]] == a[[0, 2, 3], ::2]).all()


@needs_compiler
def test_only_whole_arrays_of_the_device_are_copied_and_filled():
    device = OnCpuDevice()
    a, host = device.empty((4, 4), np.float32), np.zeros((4, 1), np.float32)
    for part in (a[:, 1:2], host):
        with pytest.raises(TypeError, match="expected a C-contiguous array of cuda-on-cpu"):
            device.fill_bytes(part, 0)
        with pytest.raises(TypeError, match="expected a C-contiguous array of cuda-on-cpu"):
            device.copy(part, a[:1].reshape(4, 1))
    with pytest.raises(TypeError, match="copy: expected 16 of float32, got 4 of float32"):
        device.copy(a[0], a)
    with pytest.raises(TypeError, match="expected an array of cuda-on-cpu"):
        device.to_host(host)


@needs_compiler
@pytest.mark.parametrize(
    "misuse",
    [
        lambda a: a + 1,
        lambda a: 1 - a,
        lambda a: -a,
        lambda a: np.add(a, a),
        lambda a: np.ones(3, np.float32) * a,
        lambda a: np.sum(a),
        lambda a: np.concatenate([a, a]),
        lambda a: np.asarray(a),
        lambda a: a == 0,
        lambda a: bool(a),
        lambda a: list(a),
        lambda a: float(a[0]),
        lambda a: a[[0, 1]],
        lambda a: a.__setitem__(0, 1),
    ],
)
def test_arrays_of_the_device_do_no_arithmetic(misuse):
    with pytest.raises(TypeError):
        misuse(OnCpuDevice().to_device(np.ones(3, np.float32)))


@needs_compiler
def test_the_example_of_the_readme_does_what_it_says(tmp_path):
    text = (on_cpu_build.headers() / "README.md").read_text()
    kernel, script = (re.search(rf"```{kind}\n(.*?)```", text, re.S)[1] for kind in ("cuda", "python"))
    sentence = re.search(r"KernelError: (.*)", text)[1]
    (tmp_path / "step.py").write_text(script)

    def step(text: str, *arguments: str) -> str:
        (tmp_path / "reverse.cu").write_text(text)
        command = [sys.executable, "step.py", *arguments]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return (done.stdout or done.stderr).splitlines()[-1]

    assert step(kernel) == "[31. 30. 29. 28.]"
    without = kernel.replace("  __syncthreads();", "")
    assert [step(without, order) for order in ("ascending", "descending")] == ["[nan nan nan nan]", "[31. 30. 29. 28.]"]
    assert step(kernel.replace("__syn", "if (t < 16) __syn")).endswith(f"KernelError: {sentence}")
