"""Weights and pictures that tests share."""

from __future__ import annotations

import gc
import os
import sys

# Before NumPy is loaded: the products of tests are small, and threads that spin for the next one take the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# `--weights auto` downloads where it can; a test that wants that takes this away
os.environ["NSTCORE_OFFLINE"] = "1"

from pathlib import Path

import pytest
from cuda_devices import machine, machine_unoptimised, stand_in, tiles_json, unoptimised  # noqa: F401  (fixtures, for every test)

from nstcore import vgg
from nstcore.checks.samples import random_weights, smooth_picture  # noqa: F401  (many tests take them from here)
from nstcore.engines.cpu import library
from nstcore.engines.cuda import gpu, on_cpu, tiles
from nstcore.pretrained import FastWeights, Weights, convert, load_fast_weights, read_weights

# Where nothing is kept, each of the hundreds of processes that tests start compiles the whole package again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Tests that run side by side get a core each: threads that wait for one another would take turns
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
# The stand-in follows the rule, whatever kernels/tiles.json holds: tests know its bits
MEASURED_TILES, tiles.file = tiles.file, lambda: ROOT / "tests" / "no tiles.json"


each_kernels = pytest.mark.parametrize("kernels", [library.NUMPY, *library.INSTRUCTIONS])


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Ten thousand tests stay until the end: Python need not look again and again for garbage among them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)  # after `-m` has taken out what it takes out
def pytest_collection_modifyitems(items):
    """Files with slow tests first, and those first in each: what is left to share out at the end is short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    place = {path: i for i, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (item.path not in slow, place[item.path], not item.get_closest_marker("slow")))


@pytest.fixture(autouse=True)
def chosen_machine(request, monkeypatch):
    """A test with a `device` that is not there is skipped, with the reason; so are `kernels` that the machine lacks,
    which the cpu engine otherwise takes. A GPU follows kernels/tiles.json, where that is.
    """
    if request.node.get_closest_marker("gpu") is not None:
        monkeypatch.setattr(tiles, "file", MEASURED_TILES)
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


@pytest.fixture(scope="session")
def magenta_files() -> Path:
    """The published files of Magenta's fast network, int8."""
    folder = SHARED / "magenta_tflite"
    if not folder.is_dir():
        pytest.skip(f"the published files of Magenta's network are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def magenta(magenta_files) -> FastWeights:
    return load_fast_weights(magenta_files)


@pytest.fixture
def narrow(monkeypatch):
    """Five blocks of a few channels; the native kernels want multiples of 32."""

    def of(padding="zero", width=32):
        blocks = (2, width), (2, 2 * width), (1, 3 * width), (1, 2 * width), (1, width)
        monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", blocks)
        return random_weights(padding=padding)

    return of
