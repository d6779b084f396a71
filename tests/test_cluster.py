"""Tiles on the workers of a cluster: the picture of one process.

Real processes and real sockets on the loopback address; every wait has an end.
"""

from __future__ import annotations

import time
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from cluster_desk import (  # noqa: F401
    CONTENT,
    LAYERS,
    SMALL,
    STYLE,
    cluster_fixture,
    command,
    evaluated,
    free_port,
    joined_fixture,
    pids,
    same,
    uncut,
    weights_fixture,
)
from command_desk import desk_fixture, furniture_fixture, main, table  # noqa: F401

import nstcore
from nstcore.engines import create
from nstcore.engines.cluster import Cluster, ClusterEngine, member
from nstcore.engines.cluster.messages import Memory
from nstcore.errors import DeviceError
from nstcore.objective import Objective
from nstcore.optim import AdamState, minimize_adam
from nstcore.optim.adam import Halves

pytest.importorskip("distributed")

ALPHA = np.dstack([SMALL, np.hypot(*np.mgrid[-1:1:121j, -1:1:90j]) < 0.9])
LEFT = np.zeros((121, 90))
LEFT[:, :40] = 1
OBJECTIVES = {
    "transparent, means too": {"content": ALPHA, "style_loss": "w2"},
    "regions, a pyramid": {
        "style": [STYLE, SMALL],
        "regions": [(LEFT, ["all", "none"]), (1 - LEFT, ["none", "all"])],
        "pyramid": (2,),
        "tv_weight": 1.0,
    },
    "a last tile of one row, which relu3_1 has nothing of": {
        "side": 20,
        "content": SMALL[:, :20],
        "content_layers": ("relu3_1",),
    },
}


@pytest.mark.parametrize("way", [pytest.param(w, marks=[pytest.mark.slow] * ("means" not in w)) for w in OBJECTIVES])
def test_loss_and_gradient_are_those_of_one_process_bit_for_bit(way, weights, cluster):
    options = dict(OBJECTIVES[way])
    side = options.pop("side", 64)
    joined = ClusterEngine(cluster, create("cpu", "float32", 1), side)
    same(evaluated(weights, uncut(side), **options), evaluated(weights, joined, **options))


def test_a_picture_is_that_of_one_process_bit_for_bit(weights, cluster):
    options = {"weights": weights, "size": 160, "iterations": 4, "tile": 128, "ladder": "off", **LAYERS}
    alone = nstcore.stylize(CONTENT, STYLE, engine=uncut(128), **options | {"tile": "off"})
    engine = ClusterEngine(cluster, create("cpu", "float32", 1))
    spread = nstcore.stylize(CONTENT, STYLE, engine=engine, **options)
    np.testing.assert_array_equal(spread.pixels, alone.pixels)
    assert spread.losses == alone.losses
    assert spread.metadata["settings"]["tile"] == 128
    assert "workers with cpu" in spread.metadata["engine"]


@pytest.mark.slow
def test_l_bfgs_on_three_workers_is_that_on_one(weights, cluster):
    options = {
        "weights": weights,
        "size": 160,
        "iterations": 6,
        "tile": 128,
        "ladder": "off",
        "optimizer": "lbfgs",
        **LAYERS,
    }
    with Cluster("local:1", threads=1) as other:
        found = [
            nstcore.stylize(CONTENT, STYLE, engine=ClusterEngine(where, create("cpu", "float32", 1)), **options)
            for where in (cluster, other)
        ]
    np.testing.assert_array_equal(found[0].pixels, found[1].pixels)
    assert found[0].losses == found[1].losses


@pytest.mark.slow
def test_from_step_to_step_no_pixel_comes_to_the_driver(weights, cluster, joined, monkeypatch):
    numbers = []

    def noted(name):
        passed = getattr(Cluster, name)

        async def noting(self, given, *rest):
            found = await passed(self, given, *rest)
            numbers.extend(sizes(given) + (sizes(found) if name == "result" else []))
            return found

        return noting

    for name in ("scattered", "result"):
        monkeypatch.setattr(Cluster, name, noted(name))
    objective = Objective(weights, SMALL, STYLE, engine=joined, tv_weight=1.0, pyramid=(2,), **LAYERS)
    x = joined.array(SMALL.transpose(2, 0, 1))
    state = AdamState.zero(x, joined.vectors)
    options = {"bounds": (0.0, 1.0), "vectors": joined.vectors, "state": state}
    f = Halves(objective, lambda x, terms: terms.total)
    minimize_adam(f, x, max_evaluations=2, **options)
    assert sum(numbers) > SMALL.size  # the start, the targets
    numbers.clear()
    minimize_adam(f, x, max_evaluations=3, **options)
    matrices = 2 * (64**2 + 128**2)  # from each of two sizes and back to them
    assert 0 < sum(numbers) <= 3 * 3 * matrices


def sizes(found):
    """Of all arrays in an answer."""
    if isinstance(found, np.ndarray):
        return [found.size]
    if isinstance(found, dict):
        return sizes(list(found.values()))
    if isinstance(found, list | tuple):
        return [n for one in found for n in sizes(one)]
    if is_dataclass(found):
        return sizes([getattr(found, f.name) for f in fields(found)])
    return []


def test_features_and_targets_come_back_whole(weights, joined):
    found = []
    for engine in (uncut(64), joined):
        network = engine.network(weights, ["relu2_1"], "max")
        network.forward(engine.array(SMALL.transpose(2, 0, 1)))
        found.append(network.features("relu1_2", (slice(3, 99), slice(50, 150))))
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_workers_without_room_for_features_compute_them_again(weights, joined, monkeypatch):
    from nstcore.engines.cluster import network

    order = network.Order
    monkeypatch.setattr(network, "Order", lambda *a: order(*a[:-1], 10**9))  # so many share a worker's memory
    same(evaluated(weights, uncut(64)), evaluated(weights, joined))


def test_the_tiles_are_as_many_as_keep_the_workers_busy(weights, joined, monkeypatch):
    network = joined.network(weights, ["relu2_1"], "max")
    network.fit(4096, 4096, range(128, 4097, 32))
    count = len(network._tiles(network.networks[0], 4096, 4096, network.sides[0])[0])
    assert count % 3 == 0
    assert network.share(4096, 4096) == 1 / 3
    assert network.share(100, 100) == 1  # of a single tile, as in the calibration of a plan
    monkeypatch.setattr(joined.cluster, "memory", lambda: {Memory(100_000_000, None)})
    network.fit(4096, 4096, range(128, 4097, 32))
    assert network.sides[0] < 1024
    monkeypatch.setattr(joined.cluster, "memory", lambda: {Memory(None, None), Memory(1000, None)})
    with pytest.raises(DeviceError, match=r"expected workers with .* found .*; take a smaller"):
        network.fit(4096, 4096, [128])


def heard_of(cluster, monkeypatch, count):
    """Results of so many tasks that say a line each, with the lines that are heard by then."""
    lines = []
    monkeypatch.setattr(cluster, "driver", f"a driver of {count}")
    tasks = [(cluster.driver, f"line {i}") for i in range(count)]
    # The tasks end between two looks at the lines
    for i, _ in cluster.spread(member.say, tasks, lines.append, lambda: time.sleep(0.3) or False):
        yield i, list(lines)


def test_what_a_task_says_last_is_heard_before_its_result(cluster, monkeypatch):
    found = dict(heard_of(cluster, monkeypatch, 4))
    assert found.keys() == set(range(4))
    assert all(f"line {i}" in lines for i, lines in found.items())


def test_workers_are_told_to_stop_where_the_driver_ends_before_them(cluster, monkeypatch):
    begun = heard_of(cluster, monkeypatch, 5)
    next(begun)
    stopping = cluster.client.run(member.stopping, cluster.driver)
    assert not any(stopping.values())
    begun.close()
    stopping = cluster.client.run(member.stopping, cluster.driver)
    assert stopping
    assert all(stopping.values())
