"""The GPU's side of the CUDA engine: through a CuPy that only keeps books where there is no GPU, and on one where there
is."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cupy import FakeArray, Memory, Transposed, fake_cupy

from nstcore.engines.cuda import CudaEngine, gpu, nvrtc, source
from nstcore.engines.cuda.precision import BFLOAT16, FLOAT16, PRECISIONS, TF32
from nstcore.errors import DeviceError

KERNEL = """
// Tells what it was given.
extern "C" __global__ void told(const float* x, const float* nothing, double* out,
                                int i, unsigned u, int64_t l, float f, double d) {
  extern __shared__ float far[];
  far[u] = x[i];
  const double found[] = {nothing == nullptr, (double)i, (double)u, (double)l, f, d, far[u]};
  for (int n = 0; n < 7; ++n) out[n] = found[n];
}
"""
needs_nvrtc = pytest.mark.skipif(nvrtc.problem() is not None, reason=str(nvrtc.problem()))


@pytest.fixture(autouse=True)
def fresh():
    """What was found out about one CuPy says nothing about another."""
    gpu._problem.cache_clear()
    yield
    gpu._problem.cache_clear()


@pytest.fixture
def rung(tmp_path):
    path = tmp_path / "01_told.cu"
    path.write_text('#include "common.cuh"\n' + KERNEL)
    return source.parse(path, "tests/01_told")


@pytest.fixture
def install(monkeypatch):
    def put(**facts):
        cupy = fake_cupy(**facts)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return cupy

    return put


@pytest.fixture
def cupy(install):
    return install()


@pytest.fixture
def device(cupy):
    if nvrtc.problem():
        pytest.skip(nvrtc.problem())
    return gpu.GpuDevice()


# -- what is missing ---------------------------------------------------------------------------------------------------


def refused(*words):
    """The one line that `problem` and a device's construction give."""
    line = gpu.problem()
    assert line is not None
    assert "\n" not in line
    for word in words:
        assert word in line
    with pytest.raises(DeviceError) as error:
        gpu.GpuDevice()
    assert str(error.value) == f"device cuda: {line}"


@pytest.mark.parametrize(
    ("driver", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13"), ("14.1", "cuda13"), (None, "cuda13")]
)
def test_without_cupy_the_extra_that_fits_the_driver_is_named(monkeypatch, tmp_path, driver, extra):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    if driver:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '| NVIDIA-SMI 580.1   Driver Version: 580.1   CUDA Version: {driver} |'\n")
        tool.chmod(0o755)
    refused("CuPy is not installed", f'pip install "nstcore[{extra}]"')


def test_a_cupy_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('====\\nlibcudart.so.13: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    refused("CuPy cannot be imported (libcudart.so.13: cannot open shared object file)", "pip install")


def test_without_a_gpu_cupys_reason_is_told(install):
    install(why="cudaErrorNoDevice: no CUDA-capable device is detected")
    refused("CuPy 14.2.0 finds no NVIDIA GPU (cudaErrorNoDevice", "update NVIDIA's driver, or use --device cpu")


def test_without_a_gpu_or_a_reason_the_way_out_is_told(install):
    install(gpus=0)
    refused("CuPy 14.2.0 finds no NVIDIA GPU; install", "--device cpu")


@pytest.mark.parametrize(
    ("driver", "way"),
    [
        (12080, 'the driver for 12: pip uninstall cupy-cuda13x, pip install "nstcore[cuda12]", or use --device cpu'),
        (11080, "install or update NVIDIA's driver"),
        (0, "install or update NVIDIA's driver"),
    ],
)
def test_a_cupy_for_a_later_cuda_than_the_drivers_says_which_one_to_install(install, driver, way):
    install(why="cudaErrorInsufficientDriver: CUDA driver version is insufficient", driver=driver)
    refused("CuPy 14.2.0 finds no NVIDIA GPU (cudaErrorInsufficientDriver", way)


@pytest.mark.parametrize(("driver", "package"), [(12080, "nvidia-cuda-nvrtc-cu12"), (13000, "nvidia-cuda-nvrtc")])
def test_without_nvrtc_the_package_that_fits_the_driver_is_named(install, monkeypatch, driver, package):
    monkeypatch.setattr(nvrtc, "places", lambda major: [])
    install(driver=driver)
    refused("NVRTC", "not found")
    assert gpu.problem().endswith(f"pip install {package}")


@needs_nvrtc
def test_gpus_before_turing_are_refused(install):
    install(architecture="70")
    refused("NVIDIA H200: expected a GPU of sm_75 or later, got sm_70", "--device cpu")


@needs_nvrtc
def test_a_gpu_that_the_compiler_does_not_know_is_refused(install):
    install(architecture="990")
    refused("does not know sm_990", "pip install --upgrade nvidia-cuda-nvrtc")


@needs_nvrtc
@pytest.mark.parametrize("index", [-1, 1])
def test_a_gpu_that_is_not_there_is_refused(cupy, index):
    with pytest.raises(DeviceError, match=f"GPU {index}: expected a number from 0 to 0"):
        gpu.GpuDevice(index)


def test_a_gpu_runs_cubins_of_the_latest_older_member_of_its_family():
    assert gpu._target(90, (75, 80, 90, 100)) == 90
    assert gpu._target(89, (75, 80, 86, 90)) == 86
    assert gpu._target(121, (90, 100, 120)) == 120
    assert gpu._target(110, (90, 100, 120)) is None


def test_the_real_cupy_says_that_there_is_no_gpu(monkeypatch):
    """Where CuPy is installed and a GPU is not: the fake's behaviour is CuPy's own."""
    real = pytest.importorskip("cupy", reason="CuPy is not installed")
    if real.cuda.is_available():
        pytest.skip("there is a GPU")
    refused(f"CuPy {real.__version__} finds no NVIDIA GPU (cudaError")
    assert issubclass(real.cuda.memory.OutOfMemoryError, MemoryError)
    function = real.RawModule(path="nothing.cubin").get_function  # lazy: an error only when something is taken out
    with pytest.raises(RuntimeError, match="cudaError"):
        function("told").compile()


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_device_tells_what_it_is(device):
    assert (device.kind, device.name) == ("cuda", "NVIDIA H200")
    assert (device.architecture, device.processors, device.shared_bytes) == (90, 132, 232448)


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=list(PRECISIONS))
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (0, 3), ()])
def test_arrays_come_back_as_they_went(device, precision, shape):
    a = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(precision.dtype)
    there = device.to_device(a)
    assert device.owns(there)
    assert (there.shape, there.dtype) == (a.shape, a.dtype)
    back = device.to_host(there)
    assert back.tobytes() == a.tobytes()
    assert (back.shape, back.dtype) == (a.shape, a.dtype)


def test_a_view_goes_as_what_it_shows(device):
    a = np.arange(12.0).reshape(3, 4).T
    np.testing.assert_array_equal(device.to_host(device.to_device(a)), a)


def test_bytes_are_filled_and_copied(device):
    a, b = device.empty((2, 3), np.float32), device.empty(6, np.float32)
    device.fill_bytes(a, 255)
    assert np.isnan(device.to_host(a)).all()
    device.fill_bytes(b, 0)
    device.copy(b, a)
    assert not device.to_host(a).any()
    with pytest.raises(ValueError, match="one dtype and size"):
        device.copy(a, device.empty(5, np.float32))
    with pytest.raises(ValueError, match="one dtype and size"):
        device.copy(a, device.empty(6, np.int32))


def test_arrays_of_others_and_turned_ones_are_refused(device):
    turned = Transposed((2, 3), np.float32, Memory(24))
    elsewhere = FakeArray((2, 3), np.float32, Memory(24))
    elsewhere.data.device_id = 1
    for a, reason in [(np.zeros(3), "an array of NVIDIA H200"), (turned, "C-contiguous"), (elsewhere, "an array of")]:
        for use in (device.to_host, lambda a: device.fill_bytes(a, 0), lambda a: device.copy(a, a)):
            with pytest.raises(TypeError, match=reason):
                use(a)


def test_free_memory_is_the_gpus_and_what_is_held_for_arrays_to_come(install):
    install(free=5_000_000)
    device = gpu.GpuDevice()
    assert device.free_bytes() == 5_001_000
    assert CudaEngine.memory(SimpleNamespace(device=device, _most=None)) == 5_001_000
    assert CudaEngine.memory(SimpleNamespace(device=device, _most=1000)) == 1000


def test_too_little_memory_is_a_memory_error_with_figures(install, rung):
    if nvrtc.problem():
        pytest.skip(nvrtc.problem())
    install(free=10_000_000)
    device = gpu.GpuDevice()
    message = "NVIDIA H200: expected 40 MB more, got 10 MB free of 20 MB; take a smaller size"
    with pytest.raises(MemoryError, match=message):
        device.empty((10_000_000,), np.float32)


@needs_nvrtc
def test_another_gpu_than_the_current_one_has_its_own_memory_and_clock(install):
    install(gpus=2)
    device = gpu.GpuDevice(1)
    assert (device.held_bytes, device.free_bytes()) == (3001, (1 << 30) + 1001)
    assert device.seconds(lambda: None) == 0.002


# -- launches ----------------------------------------------------------------------------------------------------------


def launch(device, rung, precision=TF32, shared=0, **defines):
    x, out = device.to_device(np.arange(8, dtype=np.float32)), device.empty(7, np.float64)
    kernel = device.kernel(rung, "told", precision, **defines)
    kernel((2, 3), 32, x, None, out, -5, 4_000_000_000, -(2**40), 0.1, 0.1, shared=shared)
    return x, out


def test_every_argument_has_exactly_the_bytes_that_the_kernel_reads(device, cupy, rung):
    x, out = launch(device, rung)
    ((name, grid, block, arguments, shared, stream),) = cupy.launches
    assert (name, grid, block, shared) == ("told", (2, 3, 1), (32, 1, 1), 0)
    assert stream is device.stream
    expected = [
        *(np.uintp(x.data.ptr), np.uintp(0), np.uintp(out.data.ptr)),
        *(np.int32(-5), np.uint32(4_000_000_000), np.int64(-(2**40)), np.float32(0.1), np.float64(0.1)),
    ]
    assert [type(a) for a in arguments] == [type(e) for e in expected]
    assert [a.tobytes() for a in arguments] == [e.tobytes() for e in expected]


def test_the_cubin_is_for_this_gpu_and_its_driver(install, monkeypatch, rung):
    if nvrtc.problem():
        pytest.skip(nvrtc.problem())
    asked = []
    real = gpu.compile_rung

    def spy(rung, architecture, defines, *, cuda):
        asked.append((architecture, defines, cuda))
        return real(rung, architecture, defines, cuda=cuda)

    monkeypatch.setattr(gpu, "compile_rung", spy)
    install(architecture="89", driver=12090)
    launch(gpu.GpuDevice(), rung, BFLOAT16, TILE=3)
    assert asked == [(89, {"PRECISION": "BFLOAT16", "TILE": "3"}, 12)]


def test_a_kernel_asks_for_more_than_48_kb_of_shared_memory_once(device, cupy, rung):
    launch(device, rung, shared=48 * 1024)
    function = device.kernel(rung, "told", TF32)._function
    assert function.max_dynamic_shared_size_bytes == 48 * 1024
    launch(device, rung, shared=100_000)
    assert function.max_dynamic_shared_size_bytes == 232448
    with pytest.raises(ValueError, match=r"told: expected at most 232448 bytes .* on NVIDIA H200, got 232449"):
        launch(device, rung, shared=232449)


def test_what_one_device_asks_for_takes_nothing_from_another_that_has_the_same_function(device, cupy, rung):
    launch(device, rung, shared=100_000)
    launch(gpu.GpuDevice(), rung, shared=60_000)
    launch(device, rung, shared=100_000)
    assert [launched[4] for launched in cupy.launches] == [100_000, 60_000, 100_000]


def test_static_shared_memory_counts_towards_the_limit(device, tmp_path):
    path = tmp_path / "01_static.cu"
    path.write_text(
        '#include "common.cuh"\n__shared__ float near[256];\nextern "C" __global__ void told(float* x) '
        "{ near[threadIdx.x] = x[threadIdx.x]; __syncthreads(); x[threadIdx.x] = near[255 - threadIdx.x]; }\n"
    )
    kernel = device.kernel(source.parse(path, "tests/01_static"), "told")
    x = device.empty(256, np.float32)
    kernel(1, 256, x, shared=47 * 1024)
    assert kernel._function.max_dynamic_shared_size_bytes == 48 * 1024  # untouched
    kernel(1, 256, x, shared=47 * 1024 + 1)
    assert kernel._function.max_dynamic_shared_size_bytes == 231424
    with pytest.raises(ValueError, match="at most 231424 bytes"):
        kernel(1, 256, x, shared=231425)


def test_a_launch_that_fails_names_the_kernel(device, cupy, rung):
    cupy.refuses = "CUDA_ERROR_INVALID_VALUE: invalid argument"
    with pytest.raises(RuntimeError, match=r"tests/01_told told: the launch of .* CUDA_ERROR_INVALID_VALUE"):
        launch(device, rung)


def test_what_failed_in_a_kernel_is_raised_where_its_result_is_awaited(device, cupy, rung):
    _, out = launch(device, rung, FLOAT16)
    device.stream.fails = "cudaErrorIllegalAddress: an illegal memory access was encountered"
    for wait in (device.synchronize, lambda: device.to_host(out)):
        with pytest.raises(RuntimeError, match="tests/01_told told or one before it: cudaErrorIllegalAddress"):
            wait()


# -- on a GPU ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def real():
    if gpu.problem():
        pytest.skip(gpu.problem())
    return gpu.GpuDevice()


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [1024, 64 * 1024])
def test_a_kernel_on_the_gpu_reads_what_it_was_given(real, rung, shared):
    x, out = real.to_device(np.arange(8, dtype=np.float32)), real.empty(7, np.float64)
    real.fill_bytes(out, 255)
    far = shared // 4 - 1
    real.kernel(rung, "told")(1, 1, x, None, out, 5, far, -(2**40), 0.1, 0.1, shared=shared)
    assert real.to_host(out).tolist() == [1, 5, far, -(2.0**40), float(np.float32(0.1)), 0.1, 5]


@pytest.mark.gpu
def test_arrays_come_back_from_the_gpu_as_they_went(real):
    for dtype in (np.float32, np.float16, np.uint16, np.float64):
        a = np.random.default_rng(0).integers(0, 1000, (5, 7, 3)).astype(dtype)
        there, other = real.to_device(a), real.empty(a.shape, dtype)
        real.fill_bytes(other, 255)
        real.copy(there, other)
        assert real.to_host(other).tobytes() == a.tobytes()
        assert other.data.ptr % 256 == 0


@pytest.mark.gpu
def test_more_memory_than_the_gpu_has_is_a_memory_error(real):
    with pytest.raises(MemoryError, match="take a smaller size"):
        real.empty((1 << 46,), np.uint8)
    assert real.to_host(real.to_device(np.ones(3))).sum() == 3


@pytest.mark.gpu
def test_the_gpus_clock_measures_launches(real):
    a = [real.empty((1 << 26,), np.uint8)]
    assert 0 < real.seconds(lambda: real.fill_bytes(a[0], 0)) < 1
    assert real.held_bytes >= 1 << 26
    a.clear()
    real.release()
    assert real.held_bytes == 0
