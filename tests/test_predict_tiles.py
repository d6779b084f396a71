"""tools/predict_tiles.py: it counts what the program computes, holds, stores and sends; its page is not stale."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import bench
import cluster_costs
import numpy as np
import predict_tiles
import pytest
import tile_constants
import tile_costs
from cluster_costs import Links, Worker
from conftest import random_weights
from tile_costs import FLOAT, parts_of

from nstcore import ops, vgg
from nstcore.engines.cluster import ClusterEngine, member
from nstcore.engines.cluster.messages import Load, Shares
from nstcore.engines.reference import ReferenceEngine
from nstcore.engines.tiled import TiledEngine, Tiling
from nstcore.errors import OptionError
from nstcore.objective import Objective
from nstcore.transfer.preview import estimate

IN_MEMORY = 1 << 40
NARROW = ((2, 4), (2, 6), (3, 8), (2, 8), (1, 4))  # blocks: (convolutions, filters)
CONSTANTS = tile_constants.read()
WIDE = Links(bandwidth=1e30, between=1e30, latency=0.0, task=0.0, add=0.0, update=0.0)
WORKER = Worker(forward=1e-6, backward=2e-6, bytes_a_pixel=1000.0, filters=1e8, memory=16e9)


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
        names = {name for name in planned if name.startswith("after block")} | {"gradient"}
        assert sum(planned[name] for name in names) == found.stored * size**2 / size**2
        windows, stay = [0], 0
        for i, (part, of_part, side) in enumerate(zip(parts, network.networks, network.sides, strict=True)):
            forward, backward = tile_costs.sweeps(part, size, side)
            buffers = of_part.memory(backward.length, backward.length, of_part.taps)
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


# -- a cluster -------------------------------------------------------------------------------------------------------


class Here:
    """A cluster of workers who all are this process; it counts what would cross the wire."""

    precision, driver, where = "float32", "driver", "here"

    def __init__(self, workers):
        self.members = [f"tcp://10.0.0.{n}:1" for n in range(workers)]
        self.networks = set()
        self.numbers = iter(range(1, 1000))
        self.sent = Counter()
        self.space = {}  # by worker: what `member` keeps

    def number(self):
        return next(self.numbers)

    def describe(self):
        return "the book"

    def tell(self, line):
        raise AssertionError(line)

    def neighbours(self):
        return {}

    def begin(self, number, recipe):
        for address in self.members:
            self._at(address, member.begin, self.driver, number, recipe)
        return self.members

    def watched(self, work, needs):
        return asyncio.run(work)

    def submit(self, function, *arguments, worker):
        given = []
        for argument in arguments:
            if isinstance(argument, Future):
                if argument.worker != worker:
                    self.sent["between"] += bytes_of(argument.value)
                    self.sent["crossings"] += function is member.plus
                argument = argument.value
            given.append(argument)
        return Future(self._at(worker, function, *given), worker)

    async def scattered(self, data, worker):
        self.sent["windows" if isinstance(data, Load) else "shares"] += bytes_of(data)
        return Future(data, worker)

    async def result(self, futures):
        many = futures if isinstance(futures, list) else [futures]
        self.sent["answers" if isinstance(futures, list) else "gradients"] += sum(bytes_of(f.value) for f in many)
        return [f.value for f in many] if isinstance(futures, list) else futures.value

    def _at(self, worker, function, *arguments):
        member.OWN.device = "reference"
        member._KEPT.clear()
        member._KEPT.update(self.space.setdefault(worker, {}))
        found = function(*arguments)
        self.space[worker] = dict(member._KEPT)
        return found


class Future:
    status = "finished"

    def __init__(self, value, worker):
        self.value, self.worker = value, worker


def bytes_of(value) -> int:
    """Of arrays and numbers in whatever holds them."""
    if isinstance(value, np.ndarray | np.generic | float):
        return np.asarray(value).nbytes
    if isinstance(value, Load):
        return bytes_of(value.window) + bytes_of(list(value.new.values()))
    if isinstance(value, Shares):
        return sum(bytes_of([s.dG, s.ds]) for s in value.all)
    if isinstance(value, dict):
        return bytes_of(list(value.values()))
    return sum(map(bytes_of, value)) if isinstance(value, list | tuple) else 0


@pytest.fixture
def members(monkeypatch):
    """The workers' module, left as it was found."""
    monkeypatch.setattr(member, "OWN", member.Own())
    monkeypatch.setattr(member, "_KEPT", {})


@pytest.mark.parametrize(("size", "side", "workers"), [(160, 48, 3), (128, 48, 20), (96, 32, 1)])
def test_what_crosses_the_wire_is_what_is_sent(weights, members, size, side, workers):
    cluster = Here(workers)
    engine = ClusterEngine(cluster, ReferenceEngine("float32"), side=side)
    objective, pixels = objective_of(weights, size, engine)
    objective(pixels)  # content targets go to their owners once
    cluster.sent.clear()
    objective(pixels)
    found, sent = cluster_costs.wire("vgg19", size, side, workers), cluster.sent
    assert sent["windows"] == found.windows
    assert sent["gradients"] == found.gradients
    assert sent["answers"] == found.answers
    assert sent["shares"] == found.shares
    assert sent["crossings"] == found.crossings
    used = len(set(cluster_costs.owners(found.tiles, workers)))
    assert sent["between"] == found.between + found.shares * (found.tiles - owned_by_first(found.tiles, workers))
    assert used == min(workers, found.tiles)


def owned_by_first(tiles, workers) -> int:
    return cluster_costs.owners(tiles, workers).count(0)


@pytest.mark.parametrize(("size", "workers", "memory"), [(640, 1, 3.0), (640, 3, 3.0), (1024, 7, 1e3)])
def test_tiles_are_those_that_the_cluster_would_choose(weights, members, monkeypatch, size, workers, memory):
    """`memory` in megabytes above those of the filters."""
    cluster = Here(workers)
    cluster.living = lambda: cluster.members
    network = ClusterEngine(cluster, ReferenceEngine("float32")).network(weights, tile_costs.TAPS, "max")
    filters = network.networks[0].memory(512, 512)["filters"]
    monkeypatch.setattr(network.networks[0], "memory", lambda H, W, taps=(): {"filters": filters, "all": 10 * H * W})
    cluster.memory = lambda: filters + memory * 1e6
    network.fit(size, size, range(128, size + 32, 32))
    worker = Worker(1.0, 1.0, 10.0, filters, filters + memory * 1e6)
    (part,) = parts_of("vgg19")
    if workers == 1:
        assert cluster_costs.best_side(part, size, workers, worker)[1] is False
    assert cluster_costs.best_side(part, size, workers, worker)[0] == network.sides[0]


def test_workers_without_the_memory_for_a_tile_are_refused():
    with pytest.raises(ValueError, match="too little"):
        cluster_costs.best_side(parts_of("vgg19")[0], 4096, 10, replace(WORKER, memory=1e8))


def test_a_worker_that_holds_all_of_a_picture_loses_nothing():
    found = cluster_costs.predict("vgg19", 1024, 1, WORKER, WIDE)
    assert found.side == 1024
    assert found.efficiency == pytest.approx(1)
    assert not found.driven


def test_a_step_takes_longer_on_slower_links_and_the_driver_is_the_limit_in_the_end():
    (whole,) = parts_of("vgg19")
    before = cluster_costs.predict("vgg19", 8192, 100, WORKER, WIDE).total
    slower = {"bandwidth": 1e8, "between": 1e7, "latency": 0.1, "task": 0.1, "add": 1.0, "update": 1.0}
    for name, value in slower.items():
        found = cluster_costs.predict("vgg19", 8192, 100, WORKER, replace(WIDE, **{name: value}))
        assert found.total > before, name
    links = replace(WIDE, bandwidth=1e8)
    found = cluster_costs.predict("vgg19", 8192, 1000, WORKER, links)
    assert found.driven
    assert found.total >= 2 * whole.input * 8192**2 / 1e8
    assert found.efficiency * 1000 < cluster_costs.most_workers("vgg19", WORKER, links)


# -- the page --------------------------------------------------------------------------------------------------------


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
            parts, stay = parts_of(architecture, (2, 3)), int(name.split(",")[1])
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
    for name, value in {"MESSAGE": 1 << 16, "DISK": 1 << 24, "SMALL": 3, "TASKS": 3}.items():
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
    assert min(again["dask"].values()) > 0
    assert min(again["disk"].values()) > 0
    assert min(again["socket"].values()) > 0
    assert again["plans"]["vgg19"]["filters"] > FLOAT
    assert set(said) > {"passes", "dask", "check"}
