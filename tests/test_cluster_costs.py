"""tools/cluster_costs.py: what it counts is what crosses the wire between a driver and its workers."""

from __future__ import annotations

from dataclasses import replace

import cluster_costs
import numpy as np
import pytest
import tile_costs
from cluster_costs import Links, Worker
from cluster_here import Here, members_fixture, picture, weights_fixture  # noqa: F401
from tile_costs import DOUBLE, parts_of

from nstcore import vgg
from nstcore.engines.cluster import ClusterEngine
from nstcore.engines.cluster.messages import Memory
from nstcore.engines.reference import ReferenceEngine
from nstcore.engines.tiled import work
from nstcore.errors import DeviceError
from nstcore.objective import Objective
from nstcore.optim import Average, minimize_adam
from nstcore.optim.adam import Halves
from nstcore.transfer import stylize
from nstcore.transfer.preview import estimate

WIDE = Links(bandwidth=1e30, between=1e30, latency=0.0, task=0.0, begin=0.0, add=0.0, update=0.0)
WORKER = Worker(forward=1e-6, backward=2e-6, bytes_a_pixel=1000.0, filters=1e8, memory=16e9)


# -- bytes and tasks -------------------------------------------------------------------------------------------------


def compared(sent, found):
    """What was sent in a step, against the model."""
    tasks = found.tasks
    numbers = DOUBLE * found.tiles  # of the total variation
    assert sent["tasks"] == sum(tasks.values())
    assert sent["forward"] == sent["backward"] == found.tiles
    assert sent["plus"] == tasks["sum"]
    assert sent["apply"] == found.used
    assert sent["take"] == tasks["forward"] - found.tiles
    assert sent["keep"] == (0 if found.alone else found.tiles + found.used)
    assert sent["regions"] == found.halos
    assert sent["copies"] == (0 if found.alone else found.copies + numbers)
    assert sent["crossings"] == found.crossings
    assert sent["answers"] + sent["shares"] == found.statistics
    assert sent["shares"] == found.shares * (found.used - 1)
    assert sent["from driver"] == found.shares
    assert sent["to driver"] + sent["from driver"] == found.of_driver


@pytest.fixture
def idle(monkeypatch):
    """Networks that find ones at once."""

    def answer(question):
        N = vgg.find("vgg19", question.tap).out_channels
        own = tuple(side.stop - side.start for side in question.own)
        found = {"gram": np.eye(N), "sums": np.ones(N), "keep": np.ones((N, *own), np.float32), "distance": 1.0}
        return found[question.what]

    def backward(network, engine, window, shares, above, own):
        return np.ones((3, *(side.stop - side.start for side in own)), np.float32)

    monkeypatch.setattr(work, "forward", lambda network, engine, window, asked, end: ([*map(answer, asked)], None))
    monkeypatch.setattr(work, "backward", backward)


@pytest.mark.parametrize(("size", "side", "workers"), [(800, 128, 5), (576, 160, 20), (400, 128, 1), (640, 96, 16)])
def test_what_crosses_the_wire_is_what_is_sent(weights, members, idle, size, side, workers):
    cluster = Here(workers)
    engine = ClusterEngine(cluster, ReferenceEngine("float32"), side=side)
    objective = Objective(weights, picture(size), picture(48, 1), engine=engine)
    assert objective.tv_weight  # by default
    pixels, average, sent = engine.array(np.zeros((3, size, size))), Average(0.9, engine.vectors), []

    def averaged(state):
        average.add(state.x)
        sent.append(cluster.sent.copy())
        cluster.sent.clear()

    f = Halves(objective, lambda x, terms: terms.total)
    # What one evaluation leaves to be done goes with the next; the first average is x itself
    minimize_adam(f, pixels, max_evaluations=3, bounds=(0, 1), vectors=engine.vectors, callback=averaged)
    compared(sent[-1], cluster_costs.wire("vgg19", size, side, workers))


def test_the_step_that_is_predicted_is_that_of_a_run(weights, members):
    """One with the defaults, but for the pyramid: after the first ones, which send what stays."""
    cluster, sent = Here(3), []

    def counted(step):
        sent.append(cluster.sent.copy())
        cluster.sent.clear()

    engine = ClusterEngine(cluster, ReferenceEngine("float32"))
    options = {"size": 160, "tile": 128, "iterations": 3, "ladder": "off", "pyramid": "off"}
    stylize(*(picture(160), picture(48, 1)), weights=weights, engine=engine, on_step=counted, **options)
    compared(sent[3], cluster_costs.wire("vgg19", 160, 128, 3))


def test_pictures_with_the_workers_are_those_that_a_run_plans(weights, members):
    content = np.full((64, 64, 3), 0.5, np.float32)
    engine = ClusterEngine(Here(3), ReferenceEngine("float32"))
    options = {"size": 1024, "ladder": "off", "pyramid": "off", "calibrate": False}
    found = estimate(content, content, weights=weights, engine=engine, **options)
    assert found.plan.workers == cluster_costs.PICTURES * tile_costs.PIXEL * 1024**2


def test_a_worker_more_costs_so_many_tasks():
    """Of n x n tiles, each with a worker of its own, there are a n^2 + b n + c, where a is the sum of TASKS."""
    few, more, most = (sum(cluster_costs.wire("vgg19", n * 512, 512, n * n).tasks.values()) for n in (5, 6, 7))
    assert most - 2 * more + few == 2 * sum(cluster_costs.TASKS.values())


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("size", "workers", "memory"), [(640, 1, 3.0), (640, 3, 3.0), (1024, 7, 1e3)])
def test_tiles_are_those_that_the_cluster_would_choose(weights, members, monkeypatch, size, workers, memory, apart):
    """`memory` in megabytes above those of the filters and of the workers' pictures, which may lie elsewhere."""
    cluster = Here(workers)
    network = ClusterEngine(cluster, ReferenceEngine("float32")).network(weights, tile_costs.TAPS, "max")
    filters = network.networks[0].memory(512, 512)["filters"]
    monkeypatch.setattr(network.networks[0], "memory", lambda H, W, taps=(): {"filters": filters, "all": 10 * H * W})
    pictures = cluster_costs.PICTURES * tile_costs.PIXEL * size**2
    own = cluster_costs.memory(size, workers) // workers
    free = filters + memory * 1e6 + (0 if apart else own)
    cluster.memory = lambda: {Memory(free, own, apart), Memory(None, None, apart)}
    sides = range(128, size + 32, 32)
    network.fit(size, size, sides, pictures)
    worker = Worker(1.0, 1.0, 10.0, filters, free, own if apart else None)
    (part,) = parts_of("vgg19")
    if apart:
        cluster.memory = lambda: {Memory(free, own - 1, apart)}
        with pytest.raises(DeviceError, match=r"expected workers with .* of the host's memory .*; take more machines"):
            network.fit(size, size, sides, pictures)
        with pytest.raises(ValueError, match="part of the picture"):
            cluster_costs.best_side(part, size, workers, replace(worker, host=own - 1))
    if workers == 1:
        assert cluster_costs.best_side(part, size, workers, worker)[1] is False
    assert cluster_costs.best_side(part, size, workers, worker)[0] == network.sides[0]


# -- seconds ---------------------------------------------------------------------------------------------------------


def test_workers_without_the_memory_for_a_tile_are_refused():
    with pytest.raises(ValueError, match="too little"):
        cluster_costs.best_side(parts_of("vgg19")[0], 4096, 10, replace(WORKER, memory=1e8))


def test_a_worker_that_holds_all_of_a_picture_loses_nothing():
    found = cluster_costs.predict("vgg19", 1024, 1, WORKER, WIDE)
    assert found.side == 1024
    assert found.efficiency == pytest.approx(1)
    assert not found.waits


def test_copies_that_are_seldom_make_steps_shorter():
    links = replace(WIDE, between=1e7)
    often, seldom = (cluster_costs.predict("vgg19", 8192, 10, WORKER, links, copying) for copying in (1.0, 0.1))
    assert seldom.total < often.total
    assert seldom.seconds["forward"] == often.seconds["forward"]


def test_a_step_takes_longer_on_slower_links():
    before = cluster_costs.predict("vgg19", 8192, 100, WORKER, WIDE).total
    slower = {"bandwidth": 1e8, "between": 1e7, "latency": 0.1, "task": 0.1, "begin": 0.1, "add": 1.0, "update": 1.0}
    for name, value in slower.items():
        found = cluster_costs.predict("vgg19", 8192, 100, WORKER, replace(WIDE, **{name: value}))
        assert found.total > before, name


def test_tasks_are_the_limit_in_the_end():
    links = replace(WIDE, task=1e-3)
    most = round(cluster_costs.most_workers(8192, WORKER, links))
    few, best, many = (cluster_costs.predict("vgg19", 8192, n, WORKER, links) for n in (most // 8, most, 8 * most))
    assert best.total < min(few.total, many.total)
    assert many.waits
    assert not few.waits
    tasks = sum(cluster_costs.wire("vgg19", 8192, many.side, 8 * most).tasks.values())
    assert many.total > tasks * links.task
    # Halos apart, a step takes no less than the sum that `most_workers` makes least
    assert best.total > 2 * most * sum(cluster_costs.TASKS.values()) * links.task * 0.9
