"""float16 on the cuda engine: its scales, and an evaluation in three graphs, each of which ends with a read-back."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

from nstcore import Objective, vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine
from nstcore.engines.cuda.device import Kernel
from nstcore.engines.cuda.later import known
from nstcore.engines.cuda.loss_scale import Scales, measure
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.network import CudaNetwork
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.recordings import MOST, SEEN, Recordings
from nstcore.engines.cuda.statistics import Target

SIZE = (32, 36)
pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))


class Counted:
    """A device's read-backs, graphs, and what the host launches by itself."""

    def __init__(self, device: OnCpuDevice, monkeypatch) -> None:
        self.reads = self.graphs = self.launches = 0
        to_host, capture, launch = device.to_host, device.capture, Kernel.__call__

        def reading(a):
            self.reads += 1
            return to_host(a)

        def capturing():
            self.graphs += 1
            return capture()

        def launching(kernel, *arguments, **options):
            self.launches += 1
            launch(kernel, *arguments, **options)

        monkeypatch.setattr(device, "to_host", reading)
        monkeypatch.setattr(device, "capture", capturing)
        monkeypatch.setattr(Kernel, "__call__", launching)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_numbers_that_are_read_together_are_those_that_are_read_alone(monkeypatch):
    """And they leave alone what an evaluation around them still has to read."""
    device = OnCpuDevice()
    losses, counted = Losses(device, PRECISIONS["float32"]), Counted(device, monkeypatch)
    a, b = (device.to_device(np.random.default_rng(seed).standard_normal(900, np.float32)) for seed in (0, 1))
    alone = [losses.max_abs(a), losses.squared_sum(a), losses.max_abs(b)]
    assert counted.reads == 3
    with losses.later():
        before = losses.squared_sum(b)
        with losses.together():
            together = [losses.max_abs(a), losses.squared_sum(a), losses.max_abs(b)]
        assert counted.reads == 3
        results = losses.results()
        assert [known(number, results) for number in together] == alone
        after = losses.max_abs(b)
    results = losses.results()
    assert known(before, results) == losses.squared_sum(b)
    assert known(after, results) == alone[2]
    with losses.together():
        again = losses.max_abs(a)
    assert known(again, losses.results()) == alone[0]


def scales(gradients, there, losses, above=None) -> Scales:
    return measure(gradients, there, losses, above).scales(losses.results())


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_the_loss_scale_brings_what_the_losses_send_back_to_about_one(size):
    """Found again in float64, from the features and the gradients that the network was given."""
    device, rng = OnCpuDevice(), np.random.default_rng(4)
    losses = Losses(device, PRECISIONS["float16"])
    F, P = (rng.standard_normal((4, 5, 8)).astype(np.float16) for _ in range(2))
    dG, ds, scale = (size * rng.standard_normal((8, 8))).astype(np.float32), size * rng.standard_normal(8), size * 0.7
    there = {"relu1_1": device.to_device(F)}
    style, content = TapGradient(device.to_device(dG)), TapGradient(None, ds, Target(device.to_device(P), None), scale)
    found = scales({"relu1_1": [style, content]}, there, losses)
    F, P, dG = (a.astype(np.float64) for a in (F, P, dG))
    squares = 4 * (dG**2).sum() * (F**2).sum() + 20 * (ds**2).sum() + (2 * scale) ** 2 * ((F - P) ** 2).sum()
    assert 0.5 < found.loss * np.sqrt(squares / F.size) <= 1
    assert 2**10 < found.style[device.address(style.dG)] * abs(dG).max() <= 2**11
    above = device.to_device(np.full((8, 2, 2), 1e3 * size * 2.0**10, np.float32))
    assert 0.5 < scales({}, there, losses, above).loss * 1e3 * size * 2.0**10 <= 1
    assert scales({}, there, losses) == Scales()


# ---- recordings ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ways():
    """A device, its recordings, and something to launch: it doubles what lies in an array."""
    device = OnCpuDevice()
    losses, a = Losses(device, PRECISIONS["float32"]), device.to_device(np.ones(5, np.float32))
    called: list[str] = []

    def twice() -> str:
        called.append("")
        losses.multiply(a, 2.0)
        return f"of call {len(called)}"

    return device, Recordings(device), a, called, twice


def test_what_comes_for_the_second_time_is_recorded_and_then_launched(ways):
    device, recordings, a, called, twice = ways
    assert [recordings("key", twice) for _ in range(5)] == ["of call 1", *["of call 2"] * 4]
    assert len(called) == 2
    assert (device.to_host(a) == 32).all()
    recordings("another", twice)
    recordings(None, twice)
    recordings(None, twice)
    assert len(called) == 5, "what has no key changes every time"
    assert (device.to_host(a) == 256).all()


def test_what_cannot_be_recorded_is_launched_and_not_tried_again(ways, monkeypatch):
    device, recordings, a, _, twice = ways
    counted = Counted(device, monkeypatch)
    for _ in range(4):
        recordings("key", lambda: (device.to_host(a), twice()))
    assert counted.graphs == 1
    assert (device.to_host(a) == 16).all()


def test_a_recording_within_another_is_a_part_of_it(ways):
    device, recordings, a, called, twice = ways
    for _ in range(3):
        recordings("key", twice)
    with device.capture() as graph:
        recordings("key", twice)
    assert len(called) == 3
    assert (device.to_host(a) == 8).all()
    graph.launch()
    assert (device.to_host(a) == 16).all()


def test_the_recordings_that_were_used_last_are_kept(ways):
    _, recordings, _, called, twice = ways
    for key in range(MOST + 1):
        recordings(key, twice)
        recordings(key, twice)
        recordings(0, twice)
    assert len(recordings._graphs) == MOST
    before = len(called)
    recordings(0, twice)
    recordings(2, twice)
    assert len(called) == before, "still there"
    recordings(1, twice)
    assert len(called) == before + 1, "the one that was used longest ago has gone"
    for key in range(2 * SEEN):
        recordings(-key, twice)
    assert len(recordings._seen) == SEEN


# ---- an evaluation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(monkeypatch):
    """Three blocks of a few channels."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 16), (1, 16)))
    return random_weights(deepest="conv3_1")


def objective(weights, engine, **options) -> Objective:
    layers = {"content_layers": {"relu2_1": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 0.5, "relu3_1": 0.2}}
    return Objective(weights, smooth_picture(*SIZE, 7), smooth_picture(40, 34, 8), engine=engine, **layers | options)


def pixels(engine, seed):
    return engine.array(np.ascontiguousarray(smooth_picture(*SIZE, seed).transpose(2, 0, 1), np.float32))


def evaluated(of, seed):
    terms, gradient = of(pixels(of.engine, seed))
    return terms.total, of.engine.numpy(gradient)


WAYS = {
    "plain": {},
    "regions": {"regions": [(np.pad(np.ones((32, 18)), ((0, 0), (0, 18))), ["all"])] * 2},
    "sums": {"style_loss": "mean-std"},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_recordings_give_the_bits_of_their_launches(weights, way, monkeypatch):
    mine = objective(weights, CudaEngine(OnCpuDevice(), "float16"), **WAYS[way])
    plain = objective(weights, CudaEngine(OnCpuDevice(), "float16"), **WAYS[way])
    for seed in (0, 1, 1, 0, 0, 2, 1):
        with monkeypatch.context() as patched:
            patched.setattr(CudaNetwork, "_records", False)
            expected = evaluated(plain, seed)
        found = evaluated(mine, seed)
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1])
    assert mine.network._recordings._graphs
    assert not plain.network._recordings._graphs


@pytest.mark.slow
def test_an_evaluation_reads_three_times_and_launches_little(weights, monkeypatch):
    """What its scales follow from; whether something overflowed; the losses. Whatever the losses are."""
    device = OnCpuDevice()
    counted = Counted(device, monkeypatch)
    for layers in ({"relu1_1": 1.0}, {"relu1_1": 1.0, "relu1_2": 1.0, "relu2_1": 0.5}):
        mine = objective(weights, CudaEngine(device, "float16"), style_layers=layers)
        x, launches = pixels(mine.engine, 0), []
        for _ in range(4):
            before = counted.reads, counted.launches, counted.graphs
            mine(x)
            launches.append(counted.launches - before[1])
        assert counted.reads == before[0] + 3
        assert counted.graphs == before[2]
        # Those of the Gram matrices (2), of each style loss (2), of content and total variation (2 each)
        assert launches[-1] == 2 + 2 * len(layers) + 2 + 2
        assert launches[0] > 3 * launches[-1]


@pytest.mark.slow
def test_an_overflow_is_repeated_from_recordings_too(weights, monkeypatch):
    mine = objective(weights, CudaEngine(OnCpuDevice(), "float16"))
    usual = evaluated(mine, 0)[1]
    chosen, attempt, scales = CudaNetwork._loss_scale, CudaNetwork._attempt, []
    monkeypatch.setattr(CudaNetwork, "_loss_scale", lambda self, gradients: chosen(self, gradients) * 2.0**19)
    monkeypatch.setattr(CudaNetwork, "_attempt", lambda self, g, s: scales.append(s.loss) or attempt(self, g, s))
    found = [evaluated(mine, 0)[1] for _ in range(5)]
    assert len(scales) > len(found)
    for gradient in found:
        assert np.isfinite(gradient).all()
        assert relative_error(gradient, usual) <= 4 * mine.engine.elements.unit
        np.testing.assert_array_equal(gradient, found[0])


@pytest.mark.slow
def test_recordings_are_void_when_a_buffer_has_gone(weights):
    """Another size of picture; and a larger scratch for the guides of another tap."""
    engine = CudaEngine(OnCpuDevice(), "float16")
    network = engine.network(weights, ("relu1_1", "relu2_1"), "max")
    dG, x = engine.array(np.eye(16)), pixels(engine, 0)
    guides = {"relu2_1": np.ones((16, 18)), "relu1_1": np.ones(SIZE)}
    guide = network.guide("relu2_1", guides["relu2_1"])
    for _ in range(3):
        network.forward(x)
        gradient = engine.numpy(network.backward({"relu2_1": [TapGradient(dG, guide=guide)]}))
    recordings, generation = network._recordings, network.generation
    network.forward(x)
    network.gram("relu1_1", network.guide("relu1_1", guides["relu1_1"]))
    assert network._recordings is not recordings
    assert network.generation == generation + 1
    again = engine.numpy(network.backward({"relu2_1": [TapGradient(dG, guide=guide)]}))
    np.testing.assert_array_equal(again, gradient)
    recordings = network._recordings
    network.forward(engine.array(np.zeros((3, 20, 20))))
    assert network._recordings is not recordings


@pytest.mark.slow
def test_what_is_recorded_leaves_alone_what_is_still_to_be_read(weights):
    """An evaluation with more losses before its backward pass has its numbers where another one's scales are found."""
    engine = CudaEngine(OnCpuDevice(), "float16")
    network, losses = engine.network(weights, ("relu2_1",), "max"), engine.losses
    network.forward(pixels(engine, 1))
    target = network.keep("relu2_1")
    for count in (1, 1, 1, 4, 4, 4):
        network.forward(pixels(engine, 0))
        expected = network.squared_distance("relu2_1", target)
        with losses.later():
            numbers = [network.squared_distance("relu2_1", target) for _ in range(count)]
            network.backward({"relu2_1": [TapGradient(target=target, scale=1e-3)]})
        assert known(dict(enumerate(numbers)), losses.results()) == dict.fromkeys(range(count), expected)
