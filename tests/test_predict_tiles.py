"""tools/predict_tiles.py: it counts what the program computes, holds and stores; its page is not stale."""

from __future__ import annotations

import json
from collections import Counter
from typing import ClassVar

import bench
import numpy as np
import predict_tiles
import pytest
import tile_constants
import tile_costs
from conftest import random_weights
from tile_costs import FLOAT, parts_of

from nstcore import ops, vgg
from nstcore.engines.reference import ReferenceEngine
from nstcore.engines.tiled import TiledEngine, Tiling
from nstcore.engines.tiled.tiling import CUTS
from nstcore.errors import OptionError
from nstcore.objective import Objective
from nstcore.transfer.preview import estimate

IN_MEMORY = 1 << 40
NARROW = ((2, 4), (2, 6), (3, 8), (2, 8), (1, 4))  # blocks: (convolutions, filters)
CONSTANTS = tile_constants.read()


@pytest.fixture
def weights(monkeypatch):
    """Of a network that is computed at once, with all the layers that are usual."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", NARROW)
    return random_weights()


def picture(size, seed=0):
    return np.random.default_rng(seed).random((size, size, 3))


def objective_of(weights, size, engine):
    """With the usual layers, and pixels that are not the content."""
    found = Objective(weights, picture(size), picture(48, 1), engine=engine, tv_weight=0.0)
    return found, engine.array(np.random.default_rng(2).random((3, size, size)))


def networks_of(weights, tiling):
    return TiledEngine(ReferenceEngine("float32"), tiling, IN_MEMORY).network(weights, tile_costs.TAPS, "max")


# -- one machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "tiling"), [(160, Tiling(48)), (160, Tiling(64, (3,))), (128, Tiling(32, whole=1))])
def test_multiplications_are_those_that_are_made(weights, monkeypatch, size, tiling):
    made = []
    forward, backward = ops.conv_forward, ops.conv_backward

    def counted_forward(x, w, *rest):
        made.append(w.size * x[0].size)
        return forward(x, w, *rest)

    def counted_backward(dy, w, *rest):
        made.append(w.size * dy[0].size)
        return backward(dy, w, *rest)

    objective, pixels = objective_of(weights, size, TiledEngine(ReferenceEngine("float32"), tiling, IN_MEMORY))
    monkeypatch.setattr(ops, "conv_forward", counted_forward)
    monkeypatch.setattr(ops, "conv_backward", counted_backward)
    objective(pixels)
    found = tile_costs.step(parts_of("vgg19", tiling.cuts), size, objective.network.sides, tiling.whole)
    assert sum(made) == found.products
    made.clear()
    whole, _ = objective_of(weights, size, ReferenceEngine("float32"))
    made.clear()
    whole(pixels)
    assert sum(made) == found.whole


@pytest.mark.parametrize("architecture", ["vgg19", "vgg16"])
@pytest.mark.parametrize("tiling", [Tiling(256), Tiling(512, whole=1), Tiling(320, ()), Tiling(256, (1, 4))])
def test_work_and_bytes_are_those_that_the_program_plans(monkeypatch, architecture, tiling):
    convolutions = vgg.ARCHITECTURES[architecture]
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", tuple((n, K // 32) for n, K in convolutions))
    network, parts = networks_of(random_weights(), tiling), parts_of("vgg19", tiling.cuts)
    for size in (1024, 2048):
        found = tile_costs.step(parts, size, network.sides, tiling.whole)
        assert network.work(size, size) == pytest.approx(found.lost, rel=1e-12)
        planned = network.memory(size, size)
        names = {name for name in planned if name.startswith(("after block", "gates"))} | {"gradient"}
        assert sum(planned[name] for name in names) == found.stored * size**2 / size**2
        windows, stay = [0], 0
        for i, (part, of_part, side) in enumerate(zip(parts, network.networks, network.sides, strict=True)):
            forward, backward = tile_costs.sweeps(part, size, side)
            buffers = of_part.memory(*backward.shape, of_part.taps)
            buffers.pop("filters")
            if forward.count == 1 and i >= len(parts) - tiling.whole:
                stay += sum(buffers.values())
            else:
                windows.append(sum(buffers.values()))
        assert planned.get("windows", 0) == max(windows)
        assert sum(n for name, n in planned.items() if name.startswith("blocks")) == stay


class Counted(np.ndarray):
    """An array that counts the bytes of what is taken from it and put into it."""

    moved: ClassVar[Counter[str]] = Counter()

    def __getitem__(self, key):
        found = super().__getitem__(key).view(np.ndarray)
        Counted.moved["read"] += found.nbytes
        return found

    def __setitem__(self, key, values):
        there = self.view(np.ndarray)
        Counted.moved["written"] += there[key].nbytes
        there[key] = values


@pytest.mark.parametrize(("size", "tiling"), [(160, Tiling(48)), (128, Tiling(32, whole=1)), (160, Tiling(64, ()))])
def test_what_is_read_and_written_is_what_passes_through_the_stored_arrays(weights, monkeypatch, size, tiling):
    engine = TiledEngine(ReferenceEngine("float32"), tiling, IN_MEMORY)
    new = engine.new
    monkeypatch.setattr(engine, "new", lambda *a: new(*a).view(Counted))
    objective, pixels = objective_of(weights, size, engine)
    objective(pixels)
    Counted.moved.clear()
    objective(pixels)
    found = tile_costs.step(parts_of("vgg19", tiling.cuts), size, objective.network.sides, tiling.whole)
    assert Counted.moved == {"read": found.read, "written": found.written}


def test_what_lies_on_disk_is_what_a_run_plans(weights):
    content = np.full((64, 64, 3), 0.5, np.float32)
    engine, size = TiledEngine(ReferenceEngine("float32"), Tiling(256), least=1 << 16), 2048
    options = {"size": size, "ladder": "off", "pyramid": "off", "calibrate": False}
    found = estimate(content, content, weights=weights, engine=engine, **options)
    pictures = next(phase.disk for phase in found.plan.phases if phase.name == "steps")
    assert pictures == tile_costs.disk_of_a_run(parts_of("vgg19", found.engine.tiling.cuts)) * size**2


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_has_what_the_model_says():
    page = predict_tiles.PAGE.read_text(encoding="utf-8")
    for name, text in predict_tiles.sections(CONSTANTS).items():
        opening, closing = f"<!-- {predict_tiles.GROUP}:{name} -->", f"<!-- /{predict_tiles.GROUP}:{name} -->"
        assert f"{opening}\n\n{text}\n{closing}" in page, f"{name} is stale: python tools/predict_tiles.py --write"


def test_a_stale_page_is_written_anew(tmp_path, capsys):
    page, path = predict_tiles.PAGE.read_text(encoding="utf-8"), tmp_path / "README.md"
    before, after = bench.split(predict_tiles.PAGE, "parts", predict_tiles.GROUP)
    path.write_text(f"{before}stale\n{after}", encoding="utf-8")
    assert predict_tiles.main(["--write", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == page
    path.write_text("no markers", encoding="utf-8")
    assert predict_tiles.main(["--write", str(path)]) == 2
    assert "<!-- tiles:parts -->" in capsys.readouterr().err


def test_the_constants_are_of_the_network_that_there_is():
    for architecture, plan in CONSTANTS["plans"].items():
        for name, tiling in plan["tiles"].items():
            parts, stay = parts_of(architecture, CUTS), int(name.split(",")[1])
            found = tile_costs.step(parts, tile_constants.PLANNED, tiling["sides"], stay)
            assert tiling["work"] == pytest.approx(found.lost, rel=1e-12)
        assert plan["bytes a pixel"] > sum(part.features for part in parts_of(architecture)) * 0.9


def test_without_constants_it_says_how_to_make_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tile_constants, "FILE", tmp_path / "none.json")
    assert predict_tiles.main([]) == 2
    assert "--measure" in capsys.readouterr().err
    with pytest.raises(OptionError):
        tile_constants.read()


@pytest.mark.slow
def test_every_constant_is_measured(monkeypatch, tmp_path):
    for name, value in {"SIDE": 64, "ROUNDS": 1, "CHECKED": 96, "CHECKED_TILE": 48, "COUNT": 1 << 12}.items():
        monkeypatch.setattr(tile_constants, name, value)
    for name, value in {"MESSAGE": 1 << 16, "DISK": 1 << 24, "SMALL": 4, "TASKS": 3}.items():
        monkeypatch.setattr(tile_constants, name, value)
    for architecture in tile_constants.ARCHITECTURES:
        narrow = tuple((n, max(32, K // 8)) for n, K in vgg.ARCHITECTURES[architecture])
        monkeypatch.setitem(vgg.ARCHITECTURES, architecture, narrow)
    monkeypatch.setattr(tile_constants, "FILE", tmp_path / "constants.json")
    said = []
    found = tile_constants.measure(1, said.append)
    tile_constants.write(found)
    again = tile_constants.read()
    assert again.keys() == CONSTANTS.keys()
    assert json.dumps(again["check"]) == json.dumps(found["check"], default=float)
    for architecture in tile_constants.ARCHITECTURES:
        assert np.min(again["passes"][architecture]) > 0
    assert again["update"] > 0
    assert again["dask"].pop("pass") >= 0
    assert min(again["dask"].values()) > 0
    assert min(again["disk"].values()) > 0
    assert min(again["socket"].values()) > 0
    assert again["plans"]["vgg19"]["filters"] > FLOAT
    assert set(said) > {"passes", "dask", "check"}
