"""The cuda engine as a whole, on the CPU's stand-in and, where there is one, on a GPU."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, random_weights, smooth_picture
from PIL import Image

import nstcore
from nstcore import engines
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine, gpu, loss_scale, on_cpu
from nstcore.engines.cuda.conv import RUNGS
from nstcore.engines.cuda.network import CudaNetwork
from nstcore.errors import DeviceError

each_device = pytest.mark.parametrize("device", ["cuda-on-cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
# Tensor cores take the stand-in long
PRECISIONS = ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tf32", "float16", "bfloat16"))]
TAPS = ("conv1_2", "relu1_2", "pool1", "relu2_1")
PIXELS = np.ascontiguousarray(smooth_picture(35, 46).transpose(2, 0, 1).astype(np.float32))


def made_on(device: str):
    return gpu.GpuDevice() if device == "cuda" else on_cpu.OnCpuDevice()


def evaluated(engine, weights, taps=TAPS, size_of_dG=1.0):
    """Features, Gram matrices and gradient."""
    network = engine.network(weights, taps, "max")
    network.forward(engine.array(PIXELS[:, ::-1].copy()))
    target = network.keep(taps[0])
    network.forward(engine.array(PIXELS))
    features = {tap: network.features(tap) for tap in taps}
    grams = {tap: engine.numpy(G) for tap, G in network.grams(taps).items()}
    rng = np.random.default_rng(0)
    gradients = {}
    for tap in taps:
        N = len(grams[tap])
        dG = engine.array(rng.standard_normal((N, N)) * (size_of_dG / N))
        gradients[tap] = [TapGradient(dG, target=target if tap == taps[0] else None, scale=size_of_dG)]
    decisions = network.decisions()
    return features, grams, engine.numpy(network.backward(gradients)), decisions


@functools.cache
def production_gradient(device, precision):
    """With the weights of the next test."""
    weights = random_weights(deepest="conv2_1", padding="replicate")
    return evaluated(CudaEngine(made_on(device), precision), weights)[2]


@pytest.mark.slow
@each_device
@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_of_the_convolution_can_be_the_engines(device, name):
    precision = RUNGS[name].precisions[0]
    weights = random_weights(deepest="conv2_1", padding="replicate")
    try:
        engine = CudaEngine(made_on(device), precision, name)
    except DeviceError as refused:
        if device == "cuda-on-cpu":
            raise
        pytest.skip(str(refused))  # a rung for another GPU
    features, _, gradient, decisions = evaluated(engine, weights)
    book = engines.create("reference", "float64")
    network = book.network(weights, TAPS, "max")
    network.forward(PIXELS, decisions)
    unit = engine.elements.unit
    for tap in TAPS:
        assert relative_error(features[tap], network.features(tap)) <= max(2e-5, 4 * unit), tap
    assert relative_error(gradient, production_gradient(device, precision)) <= max(1e-4, 10 * unit)


@each_device
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gram_matrices_of_several_taps_are_those_of_each_alone(device, precision):
    engine = CudaEngine(made_on(device), precision)
    network = engine.network(random_weights(deepest="conv2_1"), TAPS, "average")
    network.forward(engine.array(PIXELS))
    together = {tap: engine.numpy(G) for tap, G in network.grams(TAPS).items()}
    for tap in TAPS:
        np.testing.assert_array_equal(engine.numpy(network.gram(tap)), together[tap])


@pytest.mark.slow
@each_device
@pytest.mark.parametrize("size", [1e-12, 1e-4, 1e6])
def test_float16_gradients_do_not_depend_on_the_size_of_the_loss(device, size):
    """Without a loss scale, they would vanish below 6e-8 and overflow beyond 65504."""
    engine = CudaEngine(made_on(device), "float16")
    weights = random_weights(deepest="conv2_1")
    gradient = evaluated(engine, weights, size_of_dG=size)[2]
    usual = evaluated(engine, weights)[2]
    assert np.isfinite(gradient).all()
    assert relative_error(gradient / size, usual) <= 4 * engine.elements.unit


@pytest.mark.slow
@each_device
def test_a_float16_gradient_that_overflows_is_computed_again_with_a_smaller_scale(device, monkeypatch):
    engine = CudaEngine(made_on(device), "float16")
    weights = random_weights(deepest="conv2_1")
    usual = evaluated(engine, weights)[2]
    monkeypatch.setattr(loss_scale, "ATTEMPTS", (-18, -12))
    once, scales = CudaNetwork._backward, []
    monkeypatch.setattr(CudaNetwork, "_backward", lambda self, g, scale: scales.append(scale) or once(self, g, scale))
    again = evaluated(engine, weights)[2]
    assert len(scales) == 2
    assert np.isfinite(again).all()
    assert relative_error(again, usual) <= 4 * engine.elements.unit


@each_device
def test_the_plan_is_exact_and_an_evaluation_takes_no_memory_of_its_own(device, monkeypatch):
    made = made_on(device)
    taken: list[int] = []
    empty = made.empty

    def counting(shape, dtype):
        a = empty(shape, dtype)
        taken.append(a.nbytes)
        return a

    monkeypatch.setattr(made, "empty", counting)
    engine = CudaEngine(made, "float32")
    taps = ("relu1_1", "relu2_1")
    taken.clear()
    network = engine.network(random_weights(deepest="conv2_1"), taps, "max")
    assert sum(taken) == network.filter_bytes
    pixels = engine.array(PIXELS)

    def step():
        taken.clear()
        network.forward(pixels)
        network.backward({tap: [TapGradient(dG)] for tap, dG in network.grams(taps).items()})

    step()
    assert max(taken) == network.bytes(*PIXELS.shape[1:]) - network.filter_bytes
    assert sum(taken) - max(taken) < 2**16  # tables and partial sums
    step()
    assert not taken


@each_device
def test_backward_uses_up_the_features(device):
    engine = CudaEngine(made_on(device), "float32")
    network = engine.network(random_weights(deepest="conv1_1"), ("relu1_1",), "max")
    network.forward(engine.array(PIXELS))
    network.backward({"relu1_1": [TapGradient(engine.array(np.eye(64)))]})
    with pytest.raises(RuntimeError, match="call forward first"):
        network.gram("relu1_1")


@each_device
def test_the_objective_takes_arrays_of_the_engine_and_of_numpy(device):
    weights = random_weights(deepest="conv2_1")
    picture = smooth_picture(20, 24)
    layers = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu2_1"], "tv_weight": 0.1}
    objective = nstcore.Objective(weights, picture, picture[:, ::-1], device=device, **layers)
    pixels = np.random.default_rng(0).random((3, 20, 24))
    engine = objective.engine
    terms, gradient = objective(pixels)
    expected = engine.numpy(gradient)
    again, gradient = objective(engine.array(pixels))
    assert again == terms
    np.testing.assert_array_equal(engine.numpy(gradient), expected)
    book_terms, book = nstcore.Objective(weights, picture, picture[:, ::-1], device="reference", **layers)(pixels)
    assert terms.total == pytest.approx(book_terms.total, rel=1e-5)
    assert relative_error(expected, book) <= 5e-3


@pytest.mark.slow
@each_device
@pytest.mark.parametrize(("optimizer", "iterations"), [("adam", 3), ("lbfgs", 6)])
def test_a_painting_is_the_reference_engines_within_rounding(device, optimizer, iterations):
    """`run` at 32 pixels, with the filters that ship with the package."""
    options = {"weights": "builtin", "size": 32, "iterations": iterations, "optimizer": optimizer, "dtype": "float32"}
    content, style = (ROOT / "nstcore" / "examples" / name for name in ("content.jpg", "style.jpg"))
    mine = nstcore.stylize(content, style, device=device, **options)
    book = nstcore.stylize(content, style, device="reference", **options)
    assert [t.total for t in mine.losses] == pytest.approx([t.total for t in book.losses], rel=1e-3)
    difference = np.abs(np.asarray(mine.image, int) - np.asarray(book.image, int))
    assert (difference > 1).mean() <= 0.01
    assert mine.losses[-1].total < 0.7 * mine.losses[0].total


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_painting_does_not_depend_on_the_order_of_the_threads(precision):
    if problem := on_cpu.problem():
        pytest.skip(problem)
    weights, picture = random_weights(deepest="conv2_1"), smooth_picture(24, 24)
    layers = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu2_1"]}
    painted = []
    for device in (on_cpu.OnCpuDevice(), on_cpu.OnCpuDevice(order="random", seed=3, threads=1)):
        engine = CudaEngine(device, precision)
        options = {"size": 24, "iterations": 3, "init": "noise", "engine": engine, **layers}
        painted.append(nstcore.stylize(picture, picture[:, ::-1], weights=weights, **options).pixels)
    np.testing.assert_array_equal(*painted)


def test_precisions_that_a_gpu_lacks_are_refused():
    if problem := on_cpu.problem():
        pytest.skip(problem)
    device = on_cpu.OnCpuDevice()
    with pytest.raises(DeviceError, match="float32, tf32, float16, bfloat16"):
        CudaEngine(device, "float64")
    assert CudaEngine(device).precision == "tf32"
    with pytest.raises(DeviceError, match="03_register_tile"):
        CudaEngine(device, "float32", "09_unwritten")
    device.architecture = 75
    assert CudaEngine(device).precision == "float32"
    with pytest.raises(DeviceError, match=r"sm_80 or later.*--precision float32"):
        CudaEngine(device, "tf32")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(gpu, "problem", lambda: "no GPU")
    assert engines.create("auto").name == "cpu"
    assert engines.create("auto", None).precision == "float32"
    assert engines.create("auto", "float64").name == "reference"
    with pytest.raises(DeviceError, match="takes a GPU"):
        engines.create("auto", "tf32")
    if not on_cpu.problem():
        monkeypatch.setattr(gpu, "problem", lambda: None)
        monkeypatch.setattr(gpu, "GpuDevice", on_cpu.OnCpuDevice)
        assert engines.create("auto").precision == "float32"
        assert engines.create("auto", None).precision == "tf32"
        assert engines.create("auto", "float64").name == "reference"


def test_without_a_gpu_the_command_says_what_is_missing_and_auto_says_nothing(tmp_path):
    if gpu.problem() is None:
        pytest.skip("there is a GPU")
    picture = tmp_path / "p.png"
    Image.fromarray((smooth_picture(20, 20) * 255).astype(np.uint8)).save(picture)
    done = run_command(picture, picture, "--device", "cuda", "-o", tmp_path / "out.png")
    assert done.returncode == 2
    assert done.stderr.strip() == f"nstcore: device cuda: {gpu.problem()}"
    assert not (tmp_path / "out.png").exists()
    done = run_command(picture, picture, "--size", "20", "--iterations", "1", "-o", tmp_path / "out.png")
    assert done.returncode == 0
    assert "GPU" not in done.stdout + done.stderr


def test_the_command_paints_with_the_gpus_kernels_on_the_cpu(tmp_path):
    if problem := on_cpu.problem():
        pytest.skip(problem)
    picture = tmp_path / "p.png"
    Image.fromarray((smooth_picture(20, 20) * 255).astype(np.uint8)).save(picture)
    options = ("--size", "20", "--iterations", "2", "--style-layers", "relu1_1,relu2_1", "--content-layers", "relu2_1")
    done = run_command(picture, picture, "--device", "cuda-on-cpu", *options, "-o", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    assert "cuda-on-cpu" in done.stdout
    with Image.open(tmp_path / "out.png") as painted:
        assert painted.size == (20, 20)


def run_command(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "nstcore", "run", *map(str, arguments), "--weights", "builtin"]
    return subprocess.run(command, cwd=Path(ROOT), capture_output=True, text=True, timeout=300)
