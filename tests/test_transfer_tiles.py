"""Painting in tiles: what is planned, what is painted, and what goes on after a break."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_picture
from PIL import Image

import nstcore
from nstcore import disk
from nstcore.commands.kinds import Tile, Unfit
from nstcore.engines import memory
from nstcore.engines.tiled import TiledEngine, Tiling
from nstcore.errors import OptionError, OutputError, ShapeError
from nstcore.transfer import FailedRun, estimate
from nstcore.transfer.tiles import tiling_of, word_of

ROOT = Path(__file__).resolve().parents[1]
CONTENT, STYLE = smooth_picture(150, 200, 1), smooth_picture(140, 150, 2)
SMALL = {"size": 200, "iterations": 4, "device": "cpu", "threads": 1, "ladder": "off"}


@pytest.fixture
def weights(narrow):
    return narrow()


def paint(weights, content=CONTENT, **options):
    layers = {"style_layers": ("relu1_1", "relu2_1", "relu3_1", "relu5_1"), "content_layers": ("relu4_1",)}
    return nstcore.stylize(content, STYLE, weights=weights, **SMALL | layers | options)


@pytest.fixture
def free(monkeypatch):
    """Memory as much as one says."""

    def of(count):
        monkeypatch.setattr("nstcore.engines.base.free_memory", lambda: count)
        monkeypatch.setattr("nstcore.transfer.needs.free_memory", lambda: count)

    return of


# -- the option -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile", "tiling"),
    [("auto", None), ("off", None), (None, None), (128, Tiling(128)), ("512,3", Tiling(512, whole=3))],
)
def test_what_a_tile_size_stands_for(tile, tiling):
    assert tiling_of(tile) == tiling


@pytest.mark.parametrize("tile", [127, 0, -1, True, "big", "512,4", "512,0", "512,", 512.5, "5" * 20 + "x"])
def test_a_tile_that_is_none_is_refused(tile):
    with pytest.raises(OptionError, match="tile: expected auto, off, or a side of 128 pixels or more, got"):
        tiling_of(tile)


@pytest.mark.parametrize(("given", "read"), [("auto", "auto"), ("off", "off"), ("512", 512), ("512,1", "512,1")])
def test_the_command_line_reads_the_same(given, read):
    assert Tile().read(given) == read


@pytest.mark.parametrize("given", ["127", "512,0", "512,4", "x", "512,x", 12])
def test_the_command_line_refuses_the_same(given):
    with pytest.raises(Unfit):
        Tile().read(given)


@pytest.mark.parametrize("way", [{}, {"tile": 128}, {"memory": "low"}], ids=str)
def test_a_picture_that_is_too_narrow_for_the_network_is_refused_before_it_is_cut(weights, way):
    with pytest.raises(ShapeError, match="picture: expected at least 16x16 pixels, got 200x3; take a larger size"):
        paint(weights, smooth_picture(15, 1000, 1), **way)


def test_a_style_that_is_too_small_for_the_network_is_named(weights):
    with pytest.raises(OptionError, match=r"style_size: expected at least 16 pixels a side .*, got 12, which is 12x11"):
        paint(weights, style_size=12)


# -- painting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [{}, {"optimizer": "lbfgs"}, {"ladder": 90, "pyramid": "off"}], ids=str)
def test_a_picture_in_tiles_is_the_picture_in_one_piece(weights, way):
    whole, tiled = paint(weights, tile="off", **way), paint(weights, tile=128, **way)
    first, second = zip(*(run.losses[:2] for run in (tiled, whole)), strict=True)
    assert first[0].total == pytest.approx(first[1].total, rel=1e-6)
    # Decisions near ties flip, and Adam's first steps follow
    assert second[0].total == pytest.approx(second[1].total, rel=1e-4)
    assert np.abs(tiled.pixels - whole.pixels).mean() < 2e-3
    assert (whole.metadata["settings"]["tile"], tiled.metadata["settings"]["tile"]) == ("off", 128)
    assert "in tiles of 128 pixels" in tiled.metadata["engine"]


@pytest.mark.parametrize(
    "way",
    [{}, *(pytest.param(way, marks=pytest.mark.slow) for way in ({"optimizer": "lbfgs"}, {"ladder": 90}))],
    ids=str,
)
def test_tiles_go_on_from_a_snapshot_bit_for_bit(weights, way, tmp_path, monkeypatch):
    monkeypatch.setattr("nstcore.engines.tiled.LEAST", 1)
    monkeypatch.setattr(disk, "MEMORY_BYTES", 1)
    options = {"tile": "128,1", "iterations": 6} | way
    whole, steps = paint(weights, **options), []
    paint(weights, **options, snapshot=tmp_path / "s.h5", on_step=steps.append, stop=lambda: len(steps) == 3)
    # "auto" takes the tiles of the snapshot
    resumed = paint(weights, **options | {"tile": "auto"}, snapshot=tmp_path / "s.h5", resume=True)
    assert resumed.metadata["settings"]["tile"] == "128,1"
    np.testing.assert_array_equal(resumed.pixels, whole.pixels)


@pytest.mark.parametrize("layers", [("relu1_1", "relu2_1"), ("relu1_1", "relu3_1")])
def test_shallow_layers_have_fewer_parts(weights, layers):
    result = paint(weights, tile="128,2", style_layers=layers, content_layers=layers[:1], iterations=1)
    assert result.metadata["settings"]["tile"] == "128,2"


def test_a_disk_that_fills_up_on_the_way_leaves_the_best_picture(weights, monkeypatch):
    monkeypatch.setattr("nstcore.engines.tiled.LEAST", 1 << 17)
    make = disk.disk_array

    def full(shape, *args):
        if tuple(shape)[1:] == (150, 200):
            raise OutputError("the disk is full")
        return make(shape, *args)

    monkeypatch.setattr("nstcore.engines.tiled.disk_array", full)
    with pytest.raises(FailedRun, match="the disk is full") as raised:
        paint(weights, tile=128, ladder=140)
    assert raised.value.result.pixels.shape == (3, 106, 141)


def test_a_disk_without_room_is_refused_in_one_line(weights, monkeypatch):
    monkeypatch.setattr("nstcore.engines.tiled.LEAST", 1)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match=r"arrays on disk take .*are left there") as raised:
        paint(weights, tile=128)
    assert "\n" not in str(raised.value)


# -- what fits ---------------------------------------------------------------------------------------------------------


def needed(weights, **options):
    layers = {"style_layers": ("relu1_1", "relu5_1"), "content_layers": ("relu4_1",), "size": 1600}
    return estimate(CONTENT, STYLE, weights=weights, calibrate=False, **SMALL | layers | options)


def test_auto_takes_tiles_where_the_whole_does_not_fit(weights, free):
    free(1 << 40)
    whole = needed(weights)
    assert word_of(whole.engine) == "off"
    free(int(whole.plan.needed / 3))
    tiled = needed(weights)
    assert tiled.refusal is None
    assert isinstance(tiled.engine, TiledEngine)
    assert tiled.plan.fits
    assert tiled.plan.needed < whole.plan.needed / 3
    assert tiled.plan.disk > 3 * 4 * 1600 * 1200 * 5
    assert 1 < tiled.work < 2.5
    assert needed(weights, tile="off").refusal is not None


def test_more_memory_loses_less(weights, free):
    free(1 << 40)
    whole, work = needed(weights).plan.needed, []
    for share in (0.25, 0.4, 0.6, 0.9):
        free(int(whole * share))
        work.append(needed(weights).work)
    assert work == sorted(work, reverse=True)
    assert work[-1] < work[0]


def test_what_fits_in_no_tiles_is_refused(weights, free):
    free(1 << 20)
    assert "no size would fit" in needed(weights).refusal


def test_the_plan_tells_what_tiles_lose(tmp_path, monkeypatch):
    path = tmp_path / "c.png"
    Image.fromarray((CONTENT * 255).astype(np.uint8)).save(path)
    command = [sys.executable, "-m", "nstcore", "run", str(path), str(path), "--plan", "--tile", "128"]
    command += ["--weights", "builtin", "--size", "300", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "times the convolutions of the whole, for halos and features that are computed again" in done.stdout
    assert "on disk, in " in done.stdout


def test_the_limits_of_the_process_count(monkeypatch):
    resource = pytest.importorskip("resource")
    before = memory.free_memory()
    used = memory.held_memory()
    assert before is not None
    assert used is not None
    plain = resource.getrlimit

    def limited(which):
        return (8 << 30, 8 << 30) if which == resource.RLIMIT_DATA else plain(which)

    monkeypatch.setattr(resource, "getrlimit", limited)
    assert memory.free_memory() <= 8 << 30


FREED = """
import re
from pathlib import Path
import numpy as np
from nstcore import disk

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

disk.return_freed()
np.ones(6 << 20, np.float32)  # glibc would keep pieces of up to its size from here on
before, kept = resident(), []
for _ in range(8):
    kept += [np.ones(4 << 20, np.float32), np.ones(1 << 16, np.float32)]
kept[::2] = [None] * 8
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_large_arrays_that_are_freed_leave_memory():
    done = subprocess.run([sys.executable, "-c", FREED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 16  # MiB, of 128


PEAK = """
import resource, sys
sys.path[:0] = [{tests!r}]
from conftest import random_weights
import nstcore
from nstcore import vgg
from nstcore.engines.memory import held_memory
vgg.ARCHITECTURES["vgg19"] = (2, 32), (2, 32), (1, 32), (1, 32), (1, 32)
picture = "{picture}"
nstcore.stylize(
    picture, picture, weights=random_weights(), size={size}, tile=256, iterations=1, device="cpu",
    style_scale=300 / {size}, ladder="off", pyramid="off",
    style_layers=("relu1_1", "relu2_1", "relu3_1", "relu5_1"), content_layers=("relu4_1",),
)
print(held_memory()[1])
"""


@pytest.mark.slow
def test_peak_memory_is_that_of_the_tile(tmp_path):
    peaks = []
    for size in (512, 1536):
        picture = tmp_path / f"{size}.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)).save(picture)
        script = PEAK.format(tests=str(ROOT / "tests"), size=size, picture=picture)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) - 4 * size**2)  # but for the picture as Pillow decodes it, 4 bytes a pixel
    assert max(peaks) < 1.1 * min(peaks), peaks
