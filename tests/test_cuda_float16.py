"""float16 on the cuda engine: its scales, which only the device knows, and evaluations in one graph, read once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from late_device import LateDevice

import nstcore
from nstcore import Objective, vgg
from nstcore.checks.gradcheck import relative_error
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine, loss_scale, repeated, vectors
from nstcore.engines.cuda.device import Kernel
from nstcore.engines.cuda.later import Later, overflowed
from nstcore.engines.cuda.loss_scale import LossScale
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.network import CudaNetwork
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.statistics import Target

FLOAT16 = PRECISIONS["float16"]
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


def test_what_overflowed_is_found_by_its_number():
    class Check:
        def __init__(self, place: int) -> None:
            self.squares = Later(lambda results: results[place])

    checks = [Check(place) for place in range(4)]
    assert overflowed(checks, np.array([1.0, np.inf, 3e38, np.nan])) == [checks[1], checks[3]]


# ---- scales ----------------------------------------------------------------------------------------------------------


class Scaled:
    """The scales of some gradients, as they are on the device: style, loss, S, back."""

    def __init__(self, gradients, there, losses, above=None) -> None:
        self.device, self.of = losses.device, LossScale(losses)
        self.scales = self.of.measure(gradients, there, above)
        self.again = lambda: self.of.measure(gradients, there, above)

    def row(self, dG=None) -> list[float]:
        return self.device.to_host(self.scales.of(0 if dG is None else self.device.address(dG))).tolist()


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_the_loss_scale_brings_what_the_losses_send_back_to_about_one(size):
    """Found again in float64, from the features and the gradients that the network was given."""
    device, rng = OnCpuDevice(), np.random.default_rng(4)
    losses = Losses(device, FLOAT16)
    F, P = (rng.standard_normal((4, 5, 8)).astype(np.float16) for _ in range(2))
    dG, ds, scale = (size * rng.standard_normal((8, 8))).astype(np.float32), size * rng.standard_normal(8), size * 0.7
    there = {"relu1_1": device.to_device(F), "relu1_2": device.to_device(F)}
    style, content = TapGradient(device.to_device(dG)), TapGradient(None, ds, Target(device.to_device(P), None), scale)
    small = TapGradient(device.to_device(dG / 64))
    found = Scaled({"relu1_2": [small], "relu1_1": [style, content]}, there, losses)
    F, P, dG = (a.astype(np.float64) for a in (F, P, dG))
    squares = 4 * (dG**2).sum() * (F**2).sum() + 20 * (ds**2).sum() + (2 * scale) ** 2 * ((F - P) ** 2).sum()
    _, loss, one, back = found.row()
    assert 0.5 < loss * np.sqrt(squares / F.size) <= 1
    assert (one, back) == (1, 1 / loss)
    for term in (style, small):
        of_F, same, S, _ = found.row(term.dG)
        assert 2**10 < S * abs(device.to_host(term.dG)).max() <= 2**11
        assert (of_F, same) == (loss / S, loss)
    above = device.to_device(np.full((8, 2, 2), 1e3 * size * 2.0**10, np.float32))
    assert 0.5 < Scaled({}, there, losses, above).row()[1] * 1e3 * size * 2.0**10 <= 1
    assert Scaled({}, there, losses).row() == [1, 1, 1, 1]
    every = TapGradient(style.dG, ds, content.target, scale)
    assert Scaled({"relu1_1": [every]}, there, losses, above).row() == Scaled({}, there, losses, above).row()


JUST_ABOVE = float(np.nextafter(np.float32(0.5), np.float32(1)))
POWERS = [(1.0, 0), (0.5, 1), (JUST_ABOVE, 0), (3.0, -2), (2.0**-40, 40), (1.5 * 2.0**-41, 40), (0.0, 0), (np.nan, 0)]


@pytest.mark.parametrize(("value", "exponent"), POWERS)
def test_the_loss_scale_brings_a_number_to_one_or_just_below(value, exponent):
    device = OnCpuDevice()
    above = device.to_device(np.array([value], np.float32))
    assert Scaled({}, {}, Losses(device, FLOAT16), above).row()[1] == 2.0**exponent


BEYOND = [(2.0**-100, 100), (2.0**120, -100), (0.0, 0), (np.inf, 0), (np.nan, 0)]


@pytest.mark.parametrize(("value", "exponent"), [*((v, e + 11) for v, e in POWERS[:6]), *BEYOND])
def test_the_scale_of_S_brings_a_number_to_two_to_the_eleventh(value, exponent):
    device = OnCpuDevice()
    dG, F = device.to_device(np.array([[value]], np.float32)), device.to_device(np.zeros((1, 1, 1), np.float16))
    found = Scaled({"relu1_1": [TapGradient(dG)]}, {"relu1_1": F}, Losses(device, FLOAT16))
    assert found.row(dG)[2] == 2.0**exponent


def test_scales_are_lowered_as_often_as_there_are_attempts_and_restored():
    device = OnCpuDevice()
    found = Scaled({}, {}, Losses(device, FLOAT16), device.to_device(np.ones(5, np.float32)))
    seen = [found.row()[1]]
    while found.of.lower():
        found.again()
        seen.append(found.row()[1])
    assert seen == [2.0**-e for e in loss_scale.ATTEMPTS]
    found.of.restore()
    found.again()
    assert found.row()[1] == 1


# ---- an evaluation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(monkeypatch):
    """Three blocks of a few channels."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 16), (1, 16)))
    return random_weights(deepest="conv3_1")


@pytest.fixture
def too_large(monkeypatch):
    """Scales with which every gradient overflows, once."""
    monkeypatch.setattr(loss_scale, "ATTEMPTS", (-19, -8))


LAYERS = {"content_layers": {"relu2_1": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 0.5, "relu3_1": 0.2}}


def objective(weights, device, **options) -> Objective:
    content, style = smooth_picture(*SIZE, 7), smooth_picture(40, 34, 8)
    return Objective(weights, content, style, engine=CudaEngine(device, "float16"), **LAYERS | options)


def launched(weights, **options) -> Objective:
    """The same, launch by launch."""
    found = objective(weights, OnCpuDevice(), **options)
    found._repeated = lambda evaluate, x: evaluate(x)
    return found


def picture(engine, seed):
    return engine.array(np.ascontiguousarray(smooth_picture(*SIZE, seed).transpose(2, 0, 1), np.float32))


def evaluated(of, seed):
    terms, gradient = of(picture(of.engine, seed))
    return terms.total, of.engine.numpy(gradient)


REGIONS = [(np.pad(np.ones((32, 18)), ((0, 0), (0, 18))), ["all"])] * 2
WAYS = {
    "plain": {},
    "a pyramid": {"pyramid": (2,)},
    "regions": {"regions": REGIONS},
    "sums": {"style_loss": "mean-std"},
    "sums in regions": {"style_loss": "centred", "regions": REGIONS},
}


def assert_the_same(mine, plain, seeds=(0, 1, 1, 0, 2)) -> None:
    for seed in seeds:
        found, expected = evaluated(mine, seed), evaluated(plain, seed)
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_graph_gives_the_bits_of_its_launches(weights, way):
    mine, plain = objective(weights, OnCpuDevice(), **WAYS[way]), launched(weights, **WAYS[way])
    assert_the_same(mine, plain)
    assert mine._repeated._graph is not None


@pytest.mark.slow
def test_an_evaluation_is_one_launch_and_one_read_back(weights, monkeypatch):
    device = OnCpuDevice()
    mine, counted = objective(weights, device), Counted(device, monkeypatch)
    x = picture(mine.engine, 0)
    for _ in range(4):
        before = counted.reads, counted.launches
        mine(x)
    assert (counted.reads - before[0], counted.launches - before[1], counted.graphs) == (1, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_an_overflow_is_repeated_by_launching_the_graph_again(weights, way, too_large, monkeypatch):
    """In a pyramid the scales of those networks that overflowed are lowered."""
    device = OnCpuDevice()
    mine, plain = objective(weights, device, **WAYS[way]), launched(weights, **WAYS[way])
    assert_the_same(mine, plain)
    assert np.isfinite(evaluated(mine, 0)[1]).all()
    counted = Counted(device, monkeypatch)
    evaluated(mine, 0)
    assert counted.reads == 2 + 1, "of each launch of the graph, and the gradient here"
    assert mine.network._loss_scale.attempt == 0, "the next evaluation begins where every one does"


@pytest.mark.slow
def test_a_gradient_that_overflows_at_every_scale_is_told_as_it_is(weights, monkeypatch):
    monkeypatch.setattr(loss_scale, "ATTEMPTS", (-30, -29))
    mine = objective(weights, OnCpuDevice())
    for _ in range(3):
        assert not np.isfinite(evaluated(mine, 0)[1]).all()


@pytest.mark.slow
def test_a_gradient_that_overflowed_is_that_of_smaller_scales(weights, monkeypatch):
    usual = evaluated(objective(weights, OnCpuDevice()), 0)[1]
    monkeypatch.setattr(loss_scale, "ATTEMPTS", (-19, -8))
    once, called = CudaNetwork._backward, []
    monkeypatch.setattr(CudaNetwork, "_backward", lambda self, *a: called.append("") or once(self, *a))
    again = evaluated(objective(weights, OnCpuDevice()), 0)[1]
    assert len(called) == 2
    assert relative_error(again, usual) <= 4 * FLOAT16.unit


# ---- a run, a step ahead of the host --------------------------------------------------------------------------------


def paint(weights, **options):
    given = {"size": 20, "iterations": 5, "average": 0.9} | LAYERS | options
    engine = CudaEngine(LateDevice(), "float16")
    return nstcore.stylize(
        smooth_picture(16, 20, 7), smooth_picture(18, 16, 8), weights=weights, engine=engine, **given
    )


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [(0, 6), (-19, -8)])
def test_a_run_ahead_of_the_host_drops_the_step_that_an_overflow_began(weights, attempts, monkeypatch):
    monkeypatch.setattr(loss_scale, "ATTEMPTS", attempts)
    found = paint(weights)
    monkeypatch.setattr(vectors, "AHEAD", 0)
    expected = paint(weights)
    assert found.losses == expected.losses
    np.testing.assert_array_equal(found.pixels, expected.pixels)


@pytest.fixture
def small(monkeypatch, weights):
    """tools/gpu_graphs.py, which compares graphs with their launches on a GPU, for that network on the stand-in."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "tools"))
    import gpu_graphs

    monkeypatch.setattr(gpu_graphs, "Objective", partial(Objective, **LAYERS))
    return gpu_graphs


@pytest.mark.slow
def test_the_check_for_a_gpu_finds_no_other_bits_and_sees_those_that_there_are(small, weights, monkeypatch):
    assert small.unlike(weights, "cuda-on-cpu", 20, ["float16"]) == []
    monkeypatch.setattr(repeated, "overflowed", lambda checks, results: [])
    found = small.unlike(weights, "cuda-on-cpu", 20, ["float16"])
    assert found
    assert all(line.startswith("graphs, float16 that overflows: ") for line in found)


@pytest.mark.slow
def test_a_timed_step_is_one_of_a_run_that_stands_still(small, weights, monkeypatch):
    of = objective(weights, OnCpuDevice())
    start = np.ascontiguousarray(smooth_picture(*SIZE, 0).transpose(2, 0, 1), np.float32)
    steps = small.Steps(of, start)
    counted = Counted(of.engine.device, monkeypatch)
    losses = [steps() for _ in range(5)]
    assert counted.graphs == 2, "one for each of the two sets of x, m and v"
    assert losses == [of(of.engine.array(start))[0].total] * 5
    assert steps._average.count == 5
    assert steps._adam.state.t == 4


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_graph_is_void_when_a_buffer_has_gone(weights):
    """Another size of picture; and a larger scratch for the guides of another tap."""
    engine = CudaEngine(OnCpuDevice(), "float16")
    network = engine.network(weights, ("relu1_1", "relu2_1"), "max")
    seen = [network.generation]

    def changed() -> bool:
        seen.append(network.generation)
        return seen[-1] != seen[-2]

    guides = [network.guide("relu2_1", np.ones((16, 18))), network.guide("relu1_1", np.ones(SIZE))]
    network.forward(picture(engine, 0))
    assert changed()
    network.gram("relu2_1", guides[0])
    assert changed()
    network.gram("relu1_1", guides[1])
    assert changed()
    network.gram("relu2_1", guides[0])
    network.forward(picture(engine, 1))
    assert not changed()
    network.free()
    assert changed()
    network.forward(engine.array(np.zeros((3, 20, 20))))
    assert changed()


@pytest.mark.slow
def test_a_graph_keeps_its_own_factors_when_the_network_has_got_others(weights):
    mine, plain = objective(weights, OnCpuDevice()), launched(weights)
    assert_the_same(mine, plain, (0, 1, 1))
    network = mine.network
    network.forward(picture(mine.engine, 2))
    target = network.keep("relu2_1")
    network.forward(picture(mine.engine, 0))
    network.backward({"relu2_1": [TapGradient(target=target, scale=1e-3)]})
    assert_the_same(mine, plain, (0, 1))
