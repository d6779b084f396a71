"""What the tests of a cluster have in common: workers, tiles in one process, and commands as processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import ROOT, random_weights, smooth_picture

from nstcore.engines import create
from nstcore.engines.cluster import Cluster, ClusterEngine
from nstcore.engines.tiled import TiledEngine, Tiling
from nstcore.engines.tiled.tiling import GRID
from nstcore.objective import Objective

LAYERS = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}
CONTENT, STYLE = smooth_picture(200, 170, 1), smooth_picture(90, 100, 2)
SMALL = CONTENT[:121, :90]


def uncut(side):
    """The tiles of a cluster, in one process."""
    return TiledEngine(create("cpu", "float32", 1), Tiling(side, cuts=(), keep=True, grid=GRID))


@pytest.fixture(name="weights", scope="module")
def weights_fixture():
    return random_weights(deepest="conv3_1")


@pytest.fixture(name="cluster", scope="module")
def cluster_fixture():
    with Cluster("local:3", threads=1) as cluster:
        yield cluster


@pytest.fixture(name="joined")
def joined_fixture(cluster):
    """An engine on three workers."""
    return ClusterEngine(cluster, create("cpu", "float32", 1), 64)


def evaluated(weights, engine, steps=2, content=SMALL, style=STYLE, between=lambda step: None, **options):
    """Terms and gradients of some pictures."""
    objective = Objective(weights, content, style, engine=engine, **LAYERS | options)
    found = []
    for step in range(steps):
        between(step)
        x = engine.array(np.random.default_rng(step).random((3, *content.shape[:2])).astype(np.float32))
        terms, gradient = objective(x)
        found.append((terms, engine.numpy(gradient)))
    return found


def same(one, other):
    assert len(one) == len(other)
    for (terms, gradient), (other_terms, other_gradient) in zip(one, other, strict=True):
        assert terms == other_terms
        np.testing.assert_array_equal(gradient, other_gradient)


def pids(cluster):
    return [p.pid for p in cluster._processes._running if p.poll() is None]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def command(*words, expect=b"", cwd=None):
    """A process of ours, once it has said `expect`; it is killed at the end if it still runs."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "NSTCORE_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "nstcore", *map(str, words)], cwd=cwd, env=env, stderr=subprocess.PIPE
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        while expect:
            line = process.stderr.readline()
            assert line, f"{words}: ended without {expect}"
            if expect in line:
                break
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        process.stderr.close()
