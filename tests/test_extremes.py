"""Pictures at the ends of what there is, in every engine and precision: the run ends, and the result is a picture."""

from __future__ import annotations

import gc
import math
import os
import statistics
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, random_weights, smooth_picture

import nstcore
from nstcore import engines, images

EVERY = (
    ("cpu", "float32"),
    ("cpu", "float64"),
    *(("cuda", precision) for precision in ("float32", "tf32", "float16", "bfloat16")),
    ("reference", "float64"),
    *(("cuda-on-cpu", precision) for precision in ("float32", "tf32", "float16", "bfloat16")),
)
ENGINES = [pytest.param(*e, marks=pytest.mark.slow if e in EVERY[6:] else ()) for e in EVERY]
CHECKS = np.indices((26, 24)).sum(0) % 2
PICTURES = {
    "black": np.zeros((26, 24, 3)),
    "white": np.ones((26, 24, 3)),
    "grey": np.full((26, 24, 3), 0.5),
    "one bright pixel": np.eye(26, 24)[..., None] * np.array([1.0, 0, 0]) * (np.arange(26) == 7)[:, None, None],
    "black and white": np.repeat(CHECKS[..., None], 3, axis=2).astype(float),
    "16-bit": (CHECKS[..., None] * np.array([65535, 1, 65534])).astype(np.uint16) / 65535,
    "16 x 16": smooth_picture(16, 16, 1),
}
LAYERS = {"content_layers": ("relu2_1",), "style_layers": ("relu1_1", "relu2_1")}


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv2_1")


def is_a_picture(result) -> None:
    assert np.isfinite(result.pixels).all()
    assert result.pixels.min() >= 0
    assert result.pixels.max() <= 1
    assert all(math.isfinite(terms.total) for terms in result.losses)


@pytest.mark.parametrize(("device", "precision"), ENGINES)
def test_every_engine_paints_from_and_with_every_extreme(weights, device, precision):
    for content, style in zip(PICTURES, [*list(PICTURES)[1:], "black"], strict=True):
        is_a_picture(
            nstcore.stylize(
                PICTURES[content],
                PICTURES[style],
                weights=weights,
                device=device,
                dtype=precision,
                size="content",
                iterations=2,
                **LAYERS,
            )
        )


@pytest.mark.parametrize(("device", "precision"), ENGINES)
@pytest.mark.parametrize("loss", ["centred", "mean-std", "w2"])
def test_every_style_loss_takes_flat_pictures(weights, device, precision, loss):
    for content, style, optimizer in (("black", "grey", "adam"), ("16-bit", "black", "lbfgs")):
        is_a_picture(
            nstcore.stylize(
                PICTURES[content],
                PICTURES[style],
                weights=weights,
                device=device,
                dtype=precision,
                size="content",
                iterations=2,
                style_loss=loss,
                optimizer=optimizer,
                **LAYERS,
            )
        )


@pytest.mark.slow
@pytest.mark.parametrize(("device", "precision"), [e for e in EVERY if e[1] not in ("float64", "bfloat16")])
def test_a_strip_of_16_by_thousands_of_pixels_is_painted(weights, device, precision):
    width = (512 if precision == "float32" else 256) if device == "cuda-on-cpu" else 4096  # the stand-in is slow
    content = smooth_picture(16, width, 1)
    result = nstcore.stylize(
        content, content[::-1], weights=weights, device=device, dtype=precision, size="content", iterations=1, **LAYERS
    )
    is_a_picture(result)
    assert result.pixels.shape == (3, 16, width)


GROWTH = """
import gc, numpy as np, nstcore
from conftest import random_weights, smooth_picture

def resident():
    gc.collect()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024

weights = random_weights(deepest="conv2_1")
content, style = smooth_picture(96, 90, 1), smooth_picture(80, 96, 2)
sizes = []
for number in range(60):
    nstcore.stylize(content, style, weights=weights, size=64 + 16 * (number % 3), iterations=2, ladder=48,
                    content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_1"), snapshot="s.h5",
                    optimizer=("adam", "lbfgs")[number % 2], snapshot_every=1e-9, seed=number, init="noise")
    sizes.append(resident())
print(*sizes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sixty_runs_in_one_process_do_not_grow_it(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")])
    command = [sys.executable, "-c", GROWTH]
    # Left to itself glibc moves the border between what it keeps and what it gives back, and gives threads heaps of
    # their own: some megabytes that nobody holds
    glibc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | {"PYTHONPATH": path} | glibc
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sizes = [int(size) for size in done.stdout.split()]
    # Every six runs are the same six but for their seeds; a library that wakes up late grows the process once only
    growth = [late - early for early, late in zip(sizes[5::6], sizes[11::6], strict=False)]
    print("resident size after every six runs grew by", *(f"{grown / 1e6:.2f}" for grown in growth), "MB")
    # Features of a picture of 96 pixels take 2 MB
    assert len(growth) == 9
    assert statistics.median(growth) < 0.2e6


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_run_leaves_nothing_to_the_garbage_collector(weights, optimizer, tmp_path):
    """It counts objects, not bytes: it would leave gigabytes lying."""
    gc.collect()
    gc.disable()
    try:
        nstcore.stylize(
            PICTURES["16 x 16"],
            PICTURES["16-bit"],
            weights=weights,
            size=40,
            ladder=24,
            iterations=2,
            optimizer=optimizer,
            snapshot=tmp_path / "s.h5",
            snapshot_every=1e-9,
            **LAYERS,
        )
        left = [o for o in gc.get_objects() if isinstance(o, nstcore.Objective | engines.Network)]
    finally:
        gc.enable()
    assert left == []


def test_16_bit_extremes_come_out_as_they_went_in(tmp_path):
    pixels = PICTURES["16-bit"].transpose(2, 0, 1)
    images.write_picture(tmp_path / "deep.png", pixels, bits=16)
    loaded = images.load(tmp_path / "deep.png")
    assert loaded.bits == 16
    np.testing.assert_allclose(loaded.pixels, pixels, atol=1e-7)
