"""Weights and pictures that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from cuda_devices import machine, stand_in  # noqa: F401  (fixtures, for every test)

from nstcore import vgg
from nstcore.engines.cpu import library
from nstcore.engines.cuda import gpu, on_cpu
from nstcore.pretrained import Preprocessing, Weights, convert, read_weights

# Tests that run side by side get a core each: threads that spin for one another would take turns
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


each_kernels = pytest.mark.parametrize("kernels", [library.NUMPY, *library.INSTRUCTIONS])


def random_weights(
    architecture: str = "vgg19", deepest: str = "conv5_1", padding: str = "zero", pooling: str = "max", seed: int = 0
) -> Weights:
    """He-initialised filters and small biases: a network whose features neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    filters = {}
    for name, shape in vgg.convolutions(architecture).items():
        w = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / (9 * shape[1])))
        filters[name] = (w, rng.standard_normal(shape[0], np.float32) * np.float32(0.1))
        if name == deepest:
            break
    preprocessing = Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (58.0, 57.0, 57.5))
    facts = {"source": "tests", "source_sha256": "0" * 64, "licence": "MIT", "converter": "tests"}
    return Weights("random", architecture, filters, preprocessing, padding, pooling, facts)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) float64 in [0, 1]: noise with the slow variation of a picture, no two pixels alike."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.full((height, width, 3), 0.5)
    for _ in range(6):
        wave = rng.normal(size=2) * 0.3
        picture += (
            0.08 * np.sin(rows * wave[0] + columns * wave[1] + rng.uniform(0, 6, 1))[..., None] * rng.normal(size=3)
        )
    return np.clip(picture + 0.05 * rng.random((height, width, 3)), 0.01, 0.99)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """`--weights auto` downloads where it can; a test that wants that takes this away again."""
    monkeypatch.setenv("NSTCORE_OFFLINE", "1")


@pytest.fixture(autouse=True)
def chosen_machine(request, monkeypatch):
    """A test with a `device` that is not there is skipped, with the reason; so are `kernels` that the machine lacks,
    which the cpu engine otherwise takes.
    """
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    there = {"cuda": gpu.problem, "cuda-on-cpu": on_cpu.problem}.get(parameters.get("device"))
    if there is not None and (problem := there()):
        pytest.skip(problem)
    kernels = parameters.get("kernels")
    if kernels is not None:
        if kernels != library.NUMPY and kernels not in library.available():
            pytest.skip(f"the {kernels} kernels are not built, or not for this machine")
        monkeypatch.setenv(library.VARIABLE, kernels)


@pytest.fixture(scope="session")
def random_vgg19() -> Weights:
    return random_weights()


@pytest.fixture(scope="session")
def vgg19_path(tmp_path_factory) -> Path:
    """The ImageNet VGG19, converted."""
    source = SHARED / "vgg19_uint8_tfjs"
    if not source.is_dir():
        pytest.skip(f"the published VGG19 is not at {source}")
    path = tmp_path_factory.mktemp("weights") / "vgg19.h5"
    convert(source, path)
    return path


@pytest.fixture(scope="session")
def vgg19(vgg19_path) -> Weights:
    return read_weights(vgg19_path)


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """Photographs and paintings of the literature, in `content` and `style`."""
    folder = SHARED / "images"
    if not folder.is_dir():
        pytest.skip(f"the pictures of the literature are not at {folder}")
    return folder
