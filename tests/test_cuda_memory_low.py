"""`--memory low` on a GPU, proved on its stand-in: bands that never leave the device."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
import weakref

import numpy as np
import pytest
from conftest import smooth_picture
from fake_cupy import fake_cupy
from test_memory_low import LEFT, both, differences, picture

import nstcore
from nstcore.engines import Asked, TapGradient
from nstcore.engines.cuda import CudaEngine, gpu, nvrtc, on_cpu
from nstcore.engines.cuda.gpu import GpuDevice
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from nstcore.engines.tiled import LowEngine, low_planned

needs_compiler = pytest.mark.skipif(on_cpu.problem() is not None, reason=str(on_cpu.problem()))
SHALLOW = {"style_layers": ["relu1_1", "relu2_1"], "content_layers": ["relu2_1"]}


@pytest.fixture(autouse=True)
def _short_bands(monkeypatch):
    """Several of them in small pictures."""
    monkeypatch.setattr(low_planned, "LEAST", 16)


@pytest.fixture(params=["on-cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "gpu" and (problem := gpu.problem()):
        pytest.skip(problem)
    return GpuDevice() if request.param == "gpu" else OnCpuDevice(threads=1)


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "bound"),
    [("float32", 1e-6), *(pytest.param(name, 2e-3, marks=pytest.mark.slow) for name in ("tf32", "float16"))],
)
def test_bands_on_a_device_are_the_whole_there(narrow, device, precision, bound):
    """Gradients differ by elements near ties, whose rounding another sum decides."""
    engine = CudaEngine(device, precision)
    found, objective = both(narrow(), (50, 32), engine, **SHALLOW, pyramid=(2,))
    assert len(objective.network.bands) == 4
    loss, gradient = differences(found)
    assert loss <= 1e-6
    assert gradient <= bound


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(
    "options",
    [
        {"content_layers": ["relu1_2"], "tv_weight": 2.0},
        {"regions": [(LEFT, ["all"]), (1 - LEFT, ["all"])], "style_loss": "centred"},
    ],
    ids=lambda options: ",".join(options),
)
def test_controls_on_a_device(narrow, precision, options):
    found, _ = both(narrow(), (50, 20), CudaEngine(OnCpuDevice(threads=1), precision), **SHALLOW | options)
    loss, gradient = differences(found)
    assert loss <= 1e-6
    assert gradient <= 2e-3


class Booked(OnCpuDevice):
    """Notes what it makes, and what it exchanges with the host."""

    def __init__(self):
        super().__init__(threads=1)
        self.living, self.exchanged = {}, []

    def empty(self, shape, dtype):
        made = super().empty(shape, dtype)
        memory = made._host
        while isinstance(memory.base, np.ndarray):
            memory = memory.base
        weakref.finalize(memory, self.living.pop, id(memory), None)
        self.living[id(memory)] = made.nbytes
        return made

    def to_device(self, a):
        self.exchanged.append(a.shape)
        return super().to_device(a)

    def to_host(self, a):
        self.exchanged.append(a.shape)
        return super().to_host(a)


@needs_compiler
@pytest.mark.parametrize("guided", [False, True])
def test_a_step_exchanges_small_arrays_alone_and_the_plan_counts_every_byte(narrow, guided):
    device, taps = Booked(), ["relu1_1", "relu2_1"]
    engine = LowEngine(CudaEngine(device, "float32"))
    network = engine.network(narrow(), taps, "max")
    guides = dict.fromkeys(taps)
    if guided:
        guides["relu1_1"] = network.guide("relu1_1", picture(113, 20)[..., 0])
    network.ask([Asked("gram", tap, guide) for tap, guide in guides.items()])
    x, before = engine.array(picture(113, 20).transpose(2, 0, 1)), sum(device.living.values())

    def step():
        network.forward(x)
        dG = {tap: [TapGradient(network.gram(tap, guide), guide=guide)] for tap, guide in guides.items()}
        engine.total_variation(x, 1.0, network.backward(dG))

    step()
    device.exchanged.clear()
    step()
    assert len(network.bands) == 8  # the last of them one row
    # Of each band relu1_1's Gram matrix goes up, and their sum down; of the total variation a number
    assert device.exchanged == [(32, 32)] * 9 + [(512,)]
    if guided:
        return  # whose numbers `Needs` counts
    gc.collect()
    planned = network.memory(113, 20)
    tables = sum(device.living.values()) - before - (sum(planned.values()) - planned["filters"])
    assert 0 <= tables < 512  # of addresses


@needs_compiler
@pytest.mark.parametrize("optimizer", ["adam", pytest.param("lbfgs", marks=pytest.mark.slow)])
def test_a_run_on_a_device_is_that_in_one_piece(narrow, optimizer):
    """With no step of Adam recorded ahead, whose arrays nobody would use."""
    weights, engine = narrow(), CudaEngine(OnCpuDevice(threads=1), "float32")
    assert LowEngine(engine).vectors.adam_spares(100) == 0 < engine.vectors.adam_spares(100)
    low, whole = (
        nstcore.stylize(
            smooth_picture(36, 48, 1),
            smooth_picture(32, 32, 2),
            weights=weights,
            **SHALLOW,
            size=48,
            iterations=2,
            optimizer=optimizer,
            engine=engine,
            memory=word,
        )
        for word in ("low", "normal")
    )
    assert low.metadata["settings"]["memory"] == "low"
    assert [terms.total for terms in low.losses] == pytest.approx([terms.total for terms in whole.losses], rel=1e-5)
    np.testing.assert_allclose(low.pixels, whole.pixels, rtol=0, atol=1e-3)


@needs_compiler
def test_rows_are_copied_between_arrays_of_the_device(device):
    a = np.arange(48.0, dtype=np.float32).reshape(2, 6, 4)
    source, out = device.to_device(a), device.to_device(np.zeros((2, 3, 4), np.float32))
    device.copy_rows(source[:, 2:5], out)
    np.testing.assert_array_equal(device.to_host(out), a[:, 2:5])
    with pytest.raises(TypeError, match="copy_rows: expected one dtype and shape"):
        device.copy_rows(source[:, 2:4], out)
    with pytest.raises(TypeError, match=r"expected .* contiguous planes"):
        device.copy_rows(source[:, :3, ::2], out[:, :, :2])


def test_a_gpu_copies_all_planes_at_once(monkeypatch):
    if problem := nvrtc.problem():
        pytest.skip(problem)
    cupy = fake_cupy()

    class Array:
        def __init__(self, host):
            self.host, self.data = host, types.SimpleNamespace(ptr=host.ctypes.data, device_id=0)
            self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype
            self.itemsize, self.size = host.itemsize, host.size

        def __len__(self):
            return len(self.host)

    def copy(there, apart_there, here, apart_here, width, height, kind, stream):
        for plane in range(height):
            ctypes.memmove(there + plane * apart_there, here + plane * apart_here, width)

    cupy.ndarray, cupy.cuda.runtime.memcpy2DAsync = Array, copy
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(gpu, "_problem", lambda index: None)
    device, a, out = GpuDevice(), np.arange(48.0).reshape(2, 6, 4), np.zeros((2, 6, 4))
    device.copy_rows(Array(a[:, 2:5]), Array(out[:, 1:4]))
    np.testing.assert_array_equal(out[:, 1:4], a[:, 2:5])
    assert not out[:, [0, 4, 5]].any()
    with pytest.raises(TypeError, match="expected one dtype and shape"):
        device.copy_rows(Array(a[:, 2:5]), Array(out[:, 1:3]))
