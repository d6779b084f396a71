"""Gradients that wait with the workers of a cluster, and the memory that these have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from cluster_here import Here, members_fixture, picture, weights_fixture  # noqa: F401

from nstcore.engines import TapGradient, create
from nstcore.engines.cluster import Cluster, ClusterEngine, member, pieces
from nstcore.engines.cluster.messages import Memory, Recipe
from nstcore.engines.reference import ReferenceEngine, ReferenceNetwork
from nstcore.engines.tiled import TiledEngine, Tiling
from nstcore.engines.tiled.tiling import GRID
from nstcore.objective import Objective
from nstcore.optim import minimize_adam


def test_a_gradient_that_waits_is_of_the_picture_as_it_was(weights, members):
    """Adam has changed the picture, which is wanted again where a tile has moved; the gradient is masked by then."""
    found, left = [], np.zeros((64, 64))
    left[:, :20] = 1
    for engine in (
        TiledEngine(ReferenceEngine("float32"), Tiling(32, cuts=(), keep=True, grid=GRID)),
        ClusterEngine(Here(3), ReferenceEngine("float32"), side=32),
    ):
        objective = Objective(weights, picture(64), picture(48, 1), engine=engine, tv_weight=0.0, protect=left)

        def moved(x, objective=objective, engine=engine):
            terms, gradient = objective(x)
            if isinstance(engine, ClusterEngine):
                assert engine.cluster.store.deferred.before is not None
                objective.network._at = {}
            return terms.total, gradient

        options = {"max_evaluations": 3, "bounds": (0, 1), "vectors": engine.vectors}
        end = minimize_adam(moved, engine.array(picture(64, 2).transpose(2, 0, 1)), **options)
        found.append(engine.numpy(end.x))
    np.testing.assert_array_equal(*found)


def test_a_gradient_that_waits_is_made_before_a_picture_of_another_size_comes(weights, members):
    engine = ClusterEngine(Here(2), ReferenceEngine("float32"), side=32)
    network, found = engine.network(weights, ["relu1_1"], "max"), []
    large, small = (engine.array(picture(size).transpose(2, 0, 1)) for size in (64, 48))
    for interrupted in (False, True):
        network.forward(large)
        gradient = network.backward({"relu1_1": [TapGradient(dG=np.eye(4))]})
        if interrupted:
            network.forward(small)
        found.append(engine.numpy(gradient))
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_a_worker_whose_arrays_are_not_numpys_paints_what_one_process_does(weights, members, monkeypatch):
    """Its pieces are, and the CPU adds the total variation."""
    monkeypatch.setattr(pieces, "OWN", pieces.Own("cuda-on-cpu", 1))
    found, layers = [], {"content_layers": ("relu1_1",), "style_layers": ("relu1_1", "relu2_1")}
    for engine in (
        TiledEngine(create("cuda-on-cpu", "float32", 1), Tiling(32, cuts=(), keep=True, grid=GRID)),
        ClusterEngine(Here(2), create("cpu", "float32", 1), side=32),
    ):
        objective = Objective(weights, picture(48), picture(48, 1), engine=engine, tv_weight=1.0, **layers)
        terms, gradient = objective(engine.array(picture(48, 2).transpose(2, 0, 1)))
        found.append((terms, engine.numpy(gradient)))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_the_total_variation_is_added_to_a_gradient_as_it_was_made(weights, members):
    cluster = Here(2)
    engine = ClusterEngine(cluster, ReferenceEngine("float32"), side=32)
    x = engine.array(picture(64).transpose(2, 0, 1))
    _, gradient = Objective(weights, picture(64), picture(48, 1), engine=engine, tv_weight=0.0)(x)
    for pixels, other in ((x, x), (gradient, gradient)):
        with pytest.raises(RuntimeError, match="gradient that nothing was done with"):
            engine.total_variation(pixels, 1.0, other)
    before = engine.numpy(gradient)
    with pytest.raises(RuntimeError):
        engine.total_variation(x, 1.0, gradient)
    np.testing.assert_array_equal(engine.numpy(gradient), before)


def test_a_worker_tells_the_memory_of_its_engine_from_the_hosts(weights, members, monkeypatch):
    monkeypatch.setattr(ReferenceEngine, "memory", lambda self: 9_000)
    monkeypatch.setattr(member, "free_memory", lambda: 5_000)
    monkeypatch.setattr(ReferenceNetwork, "apart", True)
    facts = member.begin("driver", 1, Recipe(weights, ("relu1_1",), "max", None))
    assert facts.memory == Memory(9_000, 5_000, apart=True)
    cluster = SimpleNamespace(_facts={"a": facts, "gone": facts}, neighbours=lambda: {"a": 2})
    assert Cluster.memory(cluster) == {Memory(3_600, 2_000, apart=True)}
