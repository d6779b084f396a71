"""`Network.watch`: every engine says how long each of its steps takes, and computes the same."""

from __future__ import annotations

import time

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

from nstcore import engines
from nstcore.engines import TapGradient
from nstcore.engines.cpu import library

TAPS = ("relu1_1", "conv1_2", "pool1", "relu2_1")
STEPS = ["conv1_1", "conv1_2", "pool1", "conv2_1"]
FUSED = ["pixels", "conv1_1", "conv1_2", "conv2_1"]  # a pooling comes with the convolution before it
EACH = ["pixels", *STEPS]

# engine, precision, kernels of the cpu engine; the steps of each pass
MACHINES = [
    pytest.param("reference", "float64", None, EACH, EACH[::-1], id="reference"),
    pytest.param("cpu", "float32", library.NUMPY, EACH, STEPS[::-1], id="numpy"),
    *(pytest.param("cpu", "float32", kernels, FUSED, STEPS[::-1], id=kernels) for kernels in library.INSTRUCTIONS),
    pytest.param("cuda-on-cpu", "float32", None, EACH, STEPS[::-1], id="cuda-on-cpu"),
    pytest.param("cuda", "float32", None, EACH, STEPS[::-1], id="cuda", marks=pytest.mark.gpu),
]
each_machine = pytest.mark.parametrize(("device", "dtype", "kernels", "forward", "backward"), MACHINES)


@pytest.fixture
def engine(device, dtype, kernels, chosen_machine):
    return engines.create(device, dtype)


@pytest.fixture
def network(engine):
    return engine.network(random_weights(deepest="conv2_1"), TAPS, "max")


def pixels(engine):
    return engine.array(smooth_picture(33, 40).transpose(2, 0, 1))


def gradients(engine, network):
    """Something to send back from every tap."""
    rng = np.random.default_rng(0)
    Ns = {tap: len(network.features(tap)) for tap in TAPS}
    return {tap: [TapGradient(dG=engine.array(rng.standard_normal((N, N)) / N))] for tap, N in Ns.items()}


def evaluate(engine, network):
    """The bits of every feature and of the gradient; seconds of the forward and of the backward pass."""
    x, start = pixels(engine), time.perf_counter()
    network.forward(x)
    middle = time.perf_counter()
    features = [network.features(tap).tobytes() for tap in TAPS]
    back, begin = gradients(engine, network), time.perf_counter()
    gradient = network.backward(back)
    seconds = {"forward": middle - start, "backward": time.perf_counter() - begin}
    return [*features, engine.numpy(gradient).tobytes()], seconds


@each_machine
def test_every_step_is_reported_once_in_each_pass_in_its_order(engine, network, kernels, forward, backward):
    expected = [*((layer, "forward") for layer in forward), *((layer, "backward") for layer in backward)]
    calls = []
    network.watch(lambda *call: calls.append(call))
    for _ in range(2):
        calls.clear()
        _, whole = evaluate(engine, network)
        assert [call[:2] for call in calls] == expected
        for direction, most in whole.items():
            seconds = [s for _, d, s in calls if d == direction]
            assert min(seconds) > 0
            # Steps do not overlap, and what lies between them is part of the pass
            assert sum(seconds) <= most


@each_machine
def test_a_watched_network_computes_the_same_bits_and_an_unwatched_one_is_silent(
    engine, network, kernels, forward, backward
):
    calls = []
    plain, _ = evaluate(engine, network)
    network.watch(lambda *call: calls.append(call))
    watched, _ = evaluate(engine, network)
    assert watched == plain
    assert len(calls) == len(forward) + len(backward)
    network.watch(None)
    after, _ = evaluate(engine, network)
    assert after == plain
    assert len(calls) == len(forward) + len(backward)


@pytest.mark.parametrize("device", ["cuda-on-cpu"])
def test_a_gpu_is_waited_for_and_only_the_wait_after_a_step_counts(monkeypatch, device):
    engine = engines.create(device, "float32")
    network = engine.network(random_weights(deepest="conv1_1"), ["relu1_1"], "max")
    now, calls = [0.0], []

    def synchronize():
        now[0] += 0.002

    monkeypatch.setattr("nstcore.engines.base.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(engine.device, "synchronize", synchronize)
    network.forward(pixels(engine))
    assert now == [0.0]  # nobody watches, nobody waits
    network.watch(lambda *call: calls.append(call))
    network.forward(pixels(engine))
    assert [s for _, _, s in calls] == pytest.approx([0.002, 0.002])
    assert now == pytest.approx([0.008])


def test_a_twin_is_watched_on_its_own():
    engine = engines.create("reference", "float64")
    network = engine.network(random_weights(deepest="conv1_1"), ["relu1_1"], "max")
    mine, others = [], []
    network.watch(lambda *call: mine.append(call))
    twin = network.twin()
    twin.forward(pixels(engine))
    assert not mine
    twin.watch(lambda *call: others.append(call))
    twin.forward(pixels(engine))
    assert (len(mine), len(others)) == (0, 2)


def test_what_a_watcher_raises_ends_the_pass():
    engine = engines.create("reference", "float64")
    network = engine.network(random_weights(deepest="conv1_1"), ["relu1_1"], "max")

    def stop(*call):
        raise KeyboardInterrupt

    network.watch(stop)
    with pytest.raises(KeyboardInterrupt):
        network.forward(pixels(engine))
    network.watch(None)
    network.forward(pixels(engine))
    assert network.features("relu1_1").shape == (64, 33, 40)
