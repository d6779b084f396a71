"""Gates: from one bit of each feature a network goes back as it does from the features, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from test_engines import pixels_of
from test_parts import each, machines

from nstcore import engines, vgg
from nstcore.engines import TapGradient, gates
from nstcore.engines.cpu import library
from nstcore.engines.cuda.on_cpu import problem
from nstcore.vgg import Part

on_cpu = pytest.mark.skipif(problem() is not None, reason=str(problem()))
each_with_gates = pytest.mark.parametrize(
    ("device", "kernels"), [*machines(), pytest.param("cuda-on-cpu", None, id="cuda-on-cpu", marks=on_cpu)]
)

# Parts with taps: at their beginning, in the middle, none, a pooling's, before the ReLU; of one block and of several
CASES = [
    (Part(1, 1), ["conv1_1"]),
    (Part(1, 2), ["relu1_1", "relu1_2"]),
    (Part(2, 3), []),
    (Part(2, 3), ["pool2"]),
    (Part(3), ["relu3_1", "conv4_1", "relu5_1"]),
    (Part(3, 5), ["conv4_1"]),
]


def gradients_of(network, engine):
    """Of a style loss and a content loss at each tap, by the features that are there."""
    rng, found = np.random.default_rng(3), {}
    for tap in network.taps:
        N, *size = network.features(tap).shape
        target = network.hold(tap, rng.standard_normal((N, *size)).astype(np.float32))
        found[tap] = [TapGradient(engine.array(rng.standard_normal((N, N)) / N), None, target, 1.5)]
    return found


def from_features_and_gates(engine, network, x, above=None):
    """The gradient of both, and the gates of the whole input."""
    network.forward(engine.array(x))
    found = {step.name: network.gates(step) for step in network.gated}
    gradients = gradients_of(network, engine)
    above = None if above is None else engine.array(above)
    from_features = engine.numpy(network.backward(gradients, above))
    network.forward(engine.array(np.zeros_like(x)))  # what it finds there is another picture's
    network.reopen(engine.array(x), found)
    return from_features, engine.numpy(network.backward(gradients, above)), found


def inputs(part, size, seed=0):
    """Of a part, and what comes back to it."""
    rng = np.random.default_rng(seed)
    channels = 3 if part.first == 1 else vgg.find("vgg19", f"pool{part.first - 1}").out_channels
    x = rng.random((channels, *size)).astype(np.float32)
    if part.last is None:
        return x, None
    stride = 2 ** (part.last - part.first + 1)
    channels = vgg.find("vgg19", f"pool{part.last}").out_channels
    return x, rng.standard_normal((channels, *(n // stride for n in size))).astype(np.float32)


@each  # and the cuda engine, in all its precisions, in test_cuda_gates.py
@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_the_gradient_from_gates_is_that_from_features(narrow, device, kernels, pooling):
    engine, weights = engines.create(device), narrow("replicate" if pooling == "average" else "zero")
    for part, taps in CASES:
        network = engine.network(weights, taps, pooling, part)
        from_features, from_gates, _ = from_features_and_gates(engine, network, *inputs(part, (45, 51)))
        assert np.any(from_features)
        np.testing.assert_array_equal(from_gates, from_features)


@pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
def test_of_equal_values_the_first_wins(narrow, kernels):
    network = engines.create("cpu").network(narrow(), [], "max", Part(1, 2))
    network.forward(pixels_of(38, 41))
    for step in network.gated:
        F = network.buffers[step.output]
        F[...] = np.random.default_rng(0).integers(-1, 3, F.shape)  # ties in most windows
        values = network.features(step.output)
        passed = values > 0
        if network.pooled(step):
            _, H, W = values.shape
            every = np.stack([values[:, r : H // 2 * 2 : 2, s : W // 2 * 2 : 2] for r in (0, 1) for s in (0, 1)])
            passed &= gates.winners(every.argmax(axis=0), H, W)
        np.testing.assert_array_equal(gates.bits(network.gates(step), step.out_channels), passed)


@each_with_gates
def test_gates_are_what_forward_decided(narrow, device, kernels):
    engine = engines.create(device)
    network = engine.network(narrow(), ["conv1_1"], "max", Part(1, 2))
    network.forward(engine.array(pixels_of(37, 50)))
    decisions = network.decisions()
    for step in network.gated:
        passed = decisions[step.output]
        if network.pooled(step):
            passed = passed & gates.winners(decisions[f"pool{step.block}"], *passed.shape[1:])
        whole = network.gates(step)
        np.testing.assert_array_equal(gates.bits(whole, step.out_channels), passed)
        for window in ((slice(2, 9), slice(4, 25)), (slice(0, 1), slice(12, None))):
            np.testing.assert_array_equal(network.gates(step, window), whole[:, *window])


def test_a_number_without_meaning_is_no_gate(narrow):
    network = engines.create("cpu").network(narrow(), [], "max", Part(2, 2))
    x = inputs(network.part, (32, 32))[0]
    x[:, 5, 5] = np.nan
    network.forward(x)
    assert not gates.bits(network.gates(network.steps[0]), 64)[:, 4:7, 4:7].any()


@pytest.mark.parametrize(
    ("part", "taps", "pooling", "computed", "gated"),
    [
        (Part(1, 1), ["conv1_1"], "max", 1, ["conv1_2"]),
        (Part(3, 3), ["relu3_1"], "average", 1, ["conv3_2", "conv3_3", "conv3_4"]),
        (Part(3, 3), ["relu3_1"], "l2", 5, []),
        (Part(4, 4), ["conv4_2", "conv4_1"], "max", 2, ["conv4_3", "conv4_4"]),
        (Part(2, 2), ["pool2"], "max", 3, []),
        (Part(1, 2), ["relu1_2"], "max", 3, ["conv2_1", "conv2_2"]),
        (Part(2, 2), [], "max", 0, ["conv2_1", "conv2_2"]),
        (Part(5), ["conv5_1"], "max", 1, []),
    ],
)
def test_what_lies_behind_the_deepest_tap_is_not_computed_again(random_vgg19, part, taps, pooling, computed, gated):
    network = engines.create("reference").network(random_vgg19, taps, pooling, part)
    assert network.again == computed
    assert [step.name for step in network.gated] == gated


@each_with_gates
def test_reopening_computes_the_steps_up_to_the_deepest_tap(narrow, device, kernels):
    engine, seen = engines.create(device), []
    network = engine.network(narrow(), ["relu1_1"], "max", Part(1, 3))
    x, _ = inputs(network.part, (40, 40))
    network.forward(engine.array(x))
    found = {step.name: network.gates(step) for step in network.gated}
    network.watch(lambda layer, *_: seen.append(layer))
    network.reopen(engine.array(x), found)
    assert seen == ["pixels", "conv1_1"]


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 96])
def test_words_hold_their_bits(channels):
    given = np.random.default_rng(channels).random((channels, 5, 7)) < 0.5
    found = gates.words(given)
    assert found.dtype == np.uint16
    assert found.shape == (-(-channels // 16), 5, 7)
    assert bool(found[0, 2, 3] & 1) == given[0, 2, 3]
    np.testing.assert_array_equal(gates.bits(found, channels), given)


@pytest.mark.parametrize("size", [(0, 7), (5, 0)])
def test_of_a_tile_without_a_position_of_a_layer_there_are_no_words(size):
    """The last tile of a picture may be one pixel wide, and nothing of it is left below the first pooling."""
    found = gates.words(np.ones((17, *size), bool))
    assert found.shape == (2, *size)
    assert gates.bits(found, 17).shape == (17, *size)


@pytest.mark.parametrize("kernels", library.INSTRUCTIONS)
def test_gates_of_another_size_are_refused(narrow, kernels):
    network = engines.create("cpu").network(narrow(), [], "max", Part(2, 2))
    x, _ = inputs(network.part, (32, 32))
    network.forward(x)
    found = {step.name: network.gates(step)[:, 1:] for step in network.gated}
    with pytest.raises(ValueError, match="gates"):
        network.reopen(x, found)
