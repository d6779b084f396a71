"""`--memory low`: the first block in bands; the same picture, with little of that block in memory."""

from __future__ import annotations

import gc
import tracemalloc
import types

import numpy as np
import pytest
from command_desk import OPTIONS as QUICK
from command_desk import desk_fixture, furniture_fixture, main, one_line  # noqa: F401
from conftest import smooth_picture

import nstcore
from nstcore import ops
from nstcore.commands.settings import Settings, Source
from nstcore.engines import Asked, TapGradient
from nstcore.engines.cpu import CpuEngine
from nstcore.engines.reference import ReferenceEngine
from nstcore.engines.tiled import LowEngine, TiledEngine, low_planned
from nstcore.errors import OptionError
from nstcore.objective import Objective
from nstcore.transfer import estimate
from nstcore.transfer.tiles import memory_of, with_memory

STYLE = {"style_layers": ["relu1_1", "pool1", "relu3_1", "conv4_1", "relu5_1"], "content_layers": ["relu4_1"]}
LEFT = np.pad(np.ones((40, 19)), ((0, 0), (0, 21)))
PAPER = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1"]


LEAST = low_planned.LEAST


@pytest.fixture(autouse=True)
def _short_bands(monkeypatch):
    """Several of them in small pictures."""
    monkeypatch.setattr(low_planned, "LEAST", 16)


def picture(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).random((height, width, channels))


def both(weights, size, engine, **options):
    """(terms, gradient) of the second evaluation, of a base engine and in bands; the objective in bands."""
    height, width = size
    found, machine = [], engine
    x, content = picture(height, width, 9).transpose(2, 0, 1), options.pop("content", picture(height, width))
    styles = [picture(70, 61, k + 1) for k in range(options.pop("styles", 1))]
    for machine in (engine, LowEngine(engine)):
        objective = Objective(weights, content, styles, engine=machine, **{**STYLE, **options})
        objective(machine.array(x))
        terms, gradient = objective(machine.array(x))
        found.append((terms.total, machine.numpy(gradient)))
    return found, objective


def without_gates(monkeypatch):
    """As on a GPU: all features of a band are computed again."""
    for name in ("low_planned", "low_network"):
        monkeypatch.setattr(f"nstcore.engines.tiled.{name}.GatedNetwork", types.SimpleNamespace)


def differences(found):
    (loss, gradient), (low, from_bands) = found
    return abs(loss - low) / loss, np.linalg.norm(from_bands - gradient) / np.linalg.norm(gradient)


# -- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "average"},
        {"pooling": "l2", "convention": "gatys-code"},
        {"style_loss": "mean-std", "tv_weight": 3.0, "pyramid": (2, 3)},
        {"content_layers": ["conv1_2", "relu4_1"], "style_layers": ["pool1", "relu2_1"]},
        {"content_layers": ["relu1_1"], "style_layers": ["relu1_2"]},
        {"protect": LEFT, "guide_edges": "inside"},
        {"content": picture(99, 75, 4, 4), "content_layers": ["relu1_2"]},
        {
            "regions": [(LEFT, ["all", "none"]), (1 - LEFT, ["none", "all"])],
            "styles": 2,
            "style_loss": "centred",
            "content_layers": ["relu4_1", "pool1"],
        },
    ],
    ids=lambda options: ",".join(options),
)
def test_a_picture_in_bands_is_the_whole_under_every_control(narrow, options):
    found, objective = both(narrow("replicate", 8), (99, 75), ReferenceEngine("float64"), **options)
    assert len(objective.network.bands) > 3
    loss, gradient = differences(found)
    assert loss <= 1e-12
    assert gradient <= 1e-12


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("size", [(33, 40), (34, 57), (64, 33), (113, 50)])
def test_bands_of_any_picture_are_the_whole(narrow, size, gated, monkeypatch):
    if not gated:
        without_gates(monkeypatch)
    found, _ = both(narrow(width=8), size, ReferenceEngine("float64"), style_layers=["relu1_1", "relu5_1"])
    loss, gradient = differences(found)
    assert loss <= 1e-12
    assert gradient <= 1e-12


@pytest.mark.parametrize("gated", [True, False])
def test_a_halo_one_unit_of_the_grid_smaller_is_wrong(narrow, gated, monkeypatch):
    if not gated:
        without_gates(monkeypatch)
    enough = low_planned.PlannedInBands._halo
    monkeypatch.setattr(low_planned.PlannedInBands, "_halo", property(lambda self: enough.fget(self) - 2))
    found, _ = both(narrow(width=8), (96, 40), ReferenceEngine("float64"), style_layers=["relu1_1", "relu5_1"])
    assert max(differences(found)) > 1e-9


def test_native_kernels_differ_by_rounding(narrow):
    found, objective = both(narrow(), (131, 90), CpuEngine("float32", 1), pyramid=(2,))
    assert objective.network.rest.lends
    loss, gradient = differences(found)
    assert loss <= 1e-5
    assert gradient <= 5e-3  # decisions near ties flip


def test_features_of_bands_are_those_of_the_whole(narrow):
    weights, x = narrow(width=8), picture(75, 60).transpose(2, 0, 1)
    whole, low = (e.network(weights, ["relu5_1"], "max") for e in (ReferenceEngine(), LowEngine(ReferenceEngine())))
    with pytest.raises(RuntimeError, match="call forward first"):
        low.gram("relu1_1")
    whole.forward(x)
    low.forward(x)
    for layer in ("relu1_2", "pool1", "relu3_1", "relu5_1"):
        np.testing.assert_allclose(low.features(layer), whole.features(layer), rtol=1e-5, atol=1e-5)
    P = whole.features("relu1_2")
    assert low.squared_norm(low.hold("relu1_2", P)) == pytest.approx(np.square(P, dtype=np.float64).sum(), rel=1e-5)
    with pytest.raises(RuntimeError, match="gram of relu1_1: not measured; say so with `ask`"):
        low.gram("relu1_1")


# -- what it takes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [True, False])
def test_work_counts_the_multiplications_of_all_windows(narrow, gated, monkeypatch):
    if not gated:
        without_gates(monkeypatch)
    seen = []
    for name in ("conv_forward", "conv_backward"):
        plain = getattr(ops, name)

        def counted(x, w, *more, plain=plain):
            seen.append(x[0].size * w.shape[0] * w.shape[1])
            return plain(x, w, *more)

        monkeypatch.setattr(ops, name, counted)
    weights, done = narrow(width=8), []
    for engine in (ReferenceEngine(), LowEngine(ReferenceEngine())):
        network, x = engine.network(weights, ["relu1_1", "relu5_1"], "max"), picture(96, 48).transpose(2, 0, 1)
        seen.clear()
        network.ask([Asked("gram", "relu1_1")])
        network.forward(x)
        network.backward({"relu1_1": [TapGradient(np.eye(8, dtype=np.float32))]})
        done.append(sum(seen))
    assert network.work(96, 48) == pytest.approx(done[1] / done[0], rel=1e-12)
    assert network.work(16, 48) == 1.0


def test_the_plan_counts_every_byte(narrow):
    weights, x = narrow(), picture(300, 200).transpose(2, 0, 1).astype(np.float32)
    for engine in (CpuEngine("float32", 1), CpuEngine("float32", 1, "numpy")):
        network = LowEngine(engine).network(weights, ["relu1_1", "relu2_1", "relu5_1"], "max")
        network.ask([Asked("gram", "relu1_1")])
        dG = np.eye(32, dtype=np.float32)
        gc.collect()
        tracemalloc.start()
        for _ in range(2):
            network.forward(x)
            network.backward({"relu1_1": [TapGradient(dG)]})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        planned = network.memory(300, 200)
        assert peak == pytest.approx(sum(planned.values()) - planned["filters"], rel=0.03)


def test_low_saves_a_quarter_for_hundredths(random_vgg19, monkeypatch):
    monkeypatch.setattr(low_planned, "LEAST", LEAST)
    engine = CpuEngine("float32", 1)
    whole, low = (e.network(random_vgg19, PAPER, "max") for e in (engine, LowEngine(engine)))
    for size, share, work in ((1024, 0.75, 1.02), (4096, 0.71, 1.01)):
        assert low.bytes(size, size) <= share * whole.bytes(size, size)
        assert 1 < low.work(size, size) < work


def test_levels_share_the_buffers_of_both_parts(narrow):
    network = LowEngine(CpuEngine("float32", 1)).network(narrow(), ["relu1_1", "relu5_1"], "max")
    twin = network.twin()
    assert (twin.first, twin.rest) == (network.first, network.rest)
    assert twin.bytes_of_twin(100, 80) < 0.2 * twin.bytes(100, 80)


# -- the option -------------------------------------------------------------------------------------------------------


CONTENT, PAINTING = smooth_picture(150, 200, 1), smooth_picture(140, 150, 2)
SMALL = {"size": 200, "iterations": 4, "device": "cpu", "threads": 1, "ladder": "off", "memory": "low"}
LAYERS = {"style_layers": ("relu1_1", "relu2_1", "relu5_1"), "content_layers": ("relu4_1",)}


def paint(weights, **options):
    return nstcore.stylize(CONTENT, PAINTING, weights=weights, **SMALL | LAYERS | options)


@pytest.mark.parametrize("way", [{}, {"optimizer": "lbfgs"}, {"ladder": 90}], ids=str)
def test_a_run_is_that_in_one_piece_and_goes_on_bit_for_bit(narrow, way, tmp_path):
    weights, steps = narrow(), []
    low, whole = paint(weights, **way), paint(weights, **way, memory="normal")
    assert low.losses[1].total == pytest.approx(whole.losses[1].total, rel=1e-4)
    assert np.abs(low.pixels - whole.pixels).mean() < 2e-3
    assert (low.metadata["settings"]["memory"], whole.metadata["settings"]["memory"]) == ("low", "normal")
    assert low.metadata["engine"].endswith(", the first block in bands")
    paint(weights, **way, snapshot=tmp_path / "s.h5", on_step=steps.append, stop=lambda: len(steps) == 2)
    resumed = paint(weights, **way, snapshot=tmp_path / "s.h5", resume=True)
    np.testing.assert_array_equal(resumed.pixels, low.pixels)
    assert not resumed.metadata["events"]
    other = paint(weights, **way, snapshot=tmp_path / "s.h5", resume=True, memory="normal")
    assert other.metadata["events"][0].endswith("the picture will not be the same bit for bit")


def test_what_does_not_fit_low_comes_in_tiles(narrow, monkeypatch):
    weights, options = narrow(), {"size": 512, "pyramid": "off"}

    def needs(free, **more):
        monkeypatch.setattr("nstcore.engines.base.free_memory", lambda: free)
        monkeypatch.setattr("nstcore.transfer.needs.free_memory", lambda: free)
        return estimate(CONTENT, PAINTING, weights=weights, calibrate=False, **SMALL | LAYERS | options | more)

    normal, low = (needs(1 << 40, memory=word).plan.needed for word in ("normal", "low"))
    assert low < 0.8 * normal
    between = int((low + normal) / 2 / 0.9)
    assert memory_of(needs(between).engine) == "low"
    assert isinstance(needs(between, memory="normal").engine, TiledEngine)
    tiled = needs(int(0.7 * low))
    assert isinstance(tiled.engine, TiledEngine)
    assert not isinstance(tiled.engine.base, LowEngine)


def test_what_has_begun_in_tiles_goes_on_in_them(narrow, tmp_path):
    weights, steps, given = narrow(), [], {"snapshot": tmp_path / "s.h5"}
    begun = {**given, "memory": "normal", "tile": 128, "stop": lambda: len(steps) == 2}
    assert paint(weights, **begun, on_step=steps.append).metadata["settings"]["memory"] == "normal"
    resumed = paint(weights, **given, resume=True)
    assert resumed.metadata["settings"] | {"tile": 128, "memory": "normal"} == resumed.metadata["settings"]
    assert not resumed.metadata["events"]


def test_tiles_and_clusters_leave_no_room_for_it(narrow):
    engine = CpuEngine("float32", 1)
    assert with_memory("normal", 512, engine) is engine
    with pytest.raises(OptionError, match="memory: expected normal beside the side of a tile, got low; take tile auto"):
        paint(narrow(), tile=128)
    with pytest.raises(OptionError, match="memory: expected one of normal, low, got 'least'"):
        paint(narrow(), memory="least")
    with pytest.raises(OptionError, match="memory: expected normal on a cluster, got low"):
        with_memory("low", "auto", types.SimpleNamespace(elsewhere=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--tile", "128"], "--memory low means no tiles; take --tile auto or off, or leave it out"),
        (["--cluster", "local:2"], "--memory low is for one machine; take --memory normal, or leave it out"),
    ],
)
def test_the_command_line_refuses_both_in_one_line(desk, capsys, given, said):
    code = main("run", "photos/a.png", "art/x.png", "-o", "o.png", "--weights", "weights.h5", "--memory", "low", *given)
    assert code == 2
    assert said in one_line(capsys)


def test_a_tile_on_the_command_line_hides_what_a_file_says():
    low, tile = Source("a.toml", {"memory": "low"}, strict=False), Source("", {"tile": 512})
    assert Settings([low, tile])["memory"] == "normal"
    assert Settings([low, Source("", {"tile": "off"})])["memory"] == "low"


def test_the_plan_and_the_picture_say_so(desk, capsys, monkeypatch):
    monkeypatch.setattr(low_planned, "LEAST", 4)
    given = ["run", "photos/a.png", "art/x.png", "-o", "o.png", "--weights", "weights.h5", *QUICK, "--memory", "low"]
    assert main(*given, "--plan", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "the first block in bands: 1." in said
    assert "a band of block 1" in said
    assert main(*given, "--device", "cpu") == 0
    assert nstcore.images.read_metadata(desk / "o.png")["settings"]["memory"] == "low"
    capsys.readouterr()
    assert main("rerun", "o.png", "-o", "again.png", "--weights", "weights.h5") == 0
    assert nstcore.images.read_metadata(desk / "again.png")["settings"]["memory"] == "low"
