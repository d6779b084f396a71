"""Runs the native kernels of one library through small networks; a sanitizer in the process watches.

    python native_driver.py LIBRARY INSTRUCTIONS [SHORT]

Every buffer is an allocation of its own, exactly as large as planned, and starts as NaN: an access one float beyond it
is seen, and what is read before it is written shows in the results. SHORT names a buffer that gets one row less than
planned, or half where it has no rows: proof that an overrun is seen.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import sys
import weakref
from pathlib import Path

import numpy as np
from conftest import random_weights

from nstcore import vgg
from nstcore.engines import TapGradient
from nstcore.engines.cpu import filters, library, native, operations, vectors
from nstcore.engines.cpu.arena import ALIGNMENT, Arena, Spare
from nstcore.optim import minimize_adam, minimize_lbfgs

# Widths on both sides of every decision that the kernels take by the number of channels
BLOCKS = ((2, 32), (1, 64), (2, 128), (2, 288), (1, 512))
TAPS = (
    ("conv1_1", "relu1_1", "pool1", "relu2_1", "conv3_2", "relu4_2", "relu5_1"),
    ("relu1_2", "conv2_1", "pool2", "relu3_1", "relu4_1", "conv4_2"),
    ("relu1_1", "pool3"),
)
PARTS = (vgg.Part(2, 3), "conv3_2"), (vgg.Part(2, 3), "conv2_1"), (vgg.Part(4, 4), "pool4")
ELEMENTS = (1, 7, 1025, 40_003)
SIZES = ((16, 16), (17, 33), (37, 50), (21, 67))
# Of layers: C, K (0: depthwise), size, kernel, what follows it; on both sides of what the kernels decide
LAYERS = (
    (5, 17, (3, 150), (3, 3), {}),
    (3, 3, (9, 200), (9, 9), {"padding": "reflect", "activation": "sigmoid"}),
    (33, 21, (40, 131), (3, 3), {"padding": "replicate", "activation": "relu"}),
    (300, 9, (5, 300), (3, 3), {"activation": "relu6"}),
    (290, 70, (1, 3), (1, 1), {}),
    (30, 20, (50, 33), (1, 1), {}),
    (8, 6, (50, 67), (3, 3), {"stride": 2, "padding": "reflect"}),
    (4, 3, (1, 40), (2, 3), {"stride": 3, "amounts": ((0, 9), (5, 1)), "padding": "reflect"}),
    (6, 10, (41, 70), (3, 3), {"upsample": 2, "padding": "reflect", "activation": "sigmoid"}),
    (3, 4, (9, 6), (5, 4), {"upsample": 3, "amounts": ((4, 1), (0, 3))}),
    (3, 4, (9, 6), (5, 5), {"upsample": 2, "padding": "reflect"}),
    (40, 0, (9, 33), (3, 3), {"activation": "relu6"}),
    (3, 0, (200, 70), (3, 3), {"stride": 2, "amounts": ((0, 1), (0, 1))}),
)
libc = ctypes.CDLL(None)


class Separate(Arena):
    """Each buffer between the red zones of the sanitizer."""

    short: str | None = None

    def allocate(self, spare: Spare | None = None) -> dict[str, np.ndarray]:
        return {name: self._one(name, shape) for name, (_, shape, _) in self._plan.items()}

    def _one(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        count, address = math.prod(shape), ctypes.c_void_p()
        cut = 0
        if name == self.short:
            cut = math.prod(shape[1:]) if len(shape) > 1 else count // 2
        size = ctypes.c_size_t(4 * (count - cut))
        if libc.posix_memalign(ctypes.byref(address), ctypes.c_size_t(ALIGNMENT), size):
            raise MemoryError(f"{name}: {size.value} bytes")
        libc.memset(address, 0xFF, size)  # NaN
        buffer = (ctypes.c_float * count).from_address(address.value)
        weakref.finalize(buffer, libc.free, address)
        return np.frombuffer(buffer, np.float32).reshape(shape)


def buffer(*shape: int) -> np.ndarray:
    arena = Separate()
    arena.add("buffer", shape, np.float32)
    return arena.allocate()["buffer"]


def filled(rng: np.random.Generator, *shape: int) -> np.ndarray:
    out = buffer(*shape)
    out[...] = rng.random(shape, np.float32)
    return out


def step(network: native.NativeNetwork, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Forward, every statistic, backward."""
    network.forward(filled(rng, 3, *size))
    deepest = network.taps[-1]
    guides = {tap: network.guide(tap, rng.random(network.buffers[tap].shape[1:3])) for tap in network.taps}
    target, guided = network.keep(deepest), network.keep(deepest, guides[deepest])
    network.forward(filled(rng, 3, *size))
    numbers, gradients = [network.squared_norm(t) for t in (target, guided)], {}
    numbers += [network.squared_distance(deepest, t) for t in (target, guided)]
    for tap, guide in guides.items():
        numbers += [network.gram(tap, guide).max(), network.sums(tap).max(), network.sums(tap, guide).max()]
        G = network.gram(tap)
        A, dG = filled(rng, *G.shape), buffer(*G.shape)
        numbers.append(network.library.style(network.crew.pointer, G, 7.0, A, 5.0, 1e-3, len(G), dG))
        numbers.append(np.abs(network.features(tap)).max())
        ds = rng.random(len(G))
        gradients[tap] = [TapGradient(dG, ds), TapGradient(dG, ds, guide=guide)]
    gradients[deepest] += [TapGradient(target=target, scale=0.5), TapGradient(target=guided, scale=0.5, guide=guide)]
    gradient = network.backward(gradients)
    x = filled(rng, 3, *size)
    numbers.append(network.library.total_variation(network.crew.pointer, x, 3, *size, 0.5, 0.5, gradient))
    assert np.isfinite(numbers).all(), (network.taps, size, numbers)
    assert np.isfinite(gradient).all(), (network.taps, size)


def step_of_a_part(network: native.NativeNetwork, size: tuple[int, int], rng: np.random.Generator) -> None:
    """A part with one tap and a pooling at its end: windows of larger arrays in, statistics of rectangles."""
    (tap,), channels = network.taps, network.steps[0].in_channels
    network.forward(filled(rng, channels, size[0] + 1, size[1] + 2)[:, 1:, 1:-1])
    N, H, W = network.features(tap).shape
    for window in ((slice(1, H), slice(0, W)), (slice(0, H - 1), slice(1, W - 1)), (slice(H - 1, H), slice(W - 1, W))):
        weights = np.zeros((H, W))
        weights[window] = 1
        guide = network.guide(tap, weights)
        target = network.hold(tap, filled(rng, N, H, W), guide)
        numbers = [network.gram(tap, guide).max(), network.sums(tap, guide).max(), network.squared_norm(target)]
        numbers += [network.squared_distance(tap, target), network.features(tap, window).max()]
        assert np.isfinite(numbers).all(), (tap, size, window, numbers)
    end = network.features(network.steps[-1].output).shape
    gradients = {tap: [TapGradient(target=target, scale=0.5, guide=guide)]}
    above = filled(rng, *end[:2], end[2] + 3)[:, :, 3:]
    gates = {step.name: network.gates(step) for step in network.gated}
    for step in network.gated:
        rows, columns = (slice(n // 4 * 2, n) for n in gates[step.name].shape[1:])
        assert np.array_equal(network.gates(step, (rows, columns)), gates[step.name][:, rows, columns]), (step, size)
    gradient = network.backward(gradients, above).copy()
    assert np.isfinite(gradient).all(), (tap, size)
    if tap == "conv2_1" and network.pooling != "l2":
        x = filled(rng, channels, *size)
        network.forward(x)
        gates = {step.name: network.gates(step) for step in network.gated}
        gradient = network.backward(gradients, above).copy()
        network.reopen(x, gates)
        assert len(gates) == 2
        assert np.array_equal(network.backward(gradients, above), gradient), size


class SeparateVectors(vectors.NativeVectors):
    """Arrays with red zones, off the alignment by one float."""

    def empty_like(self, x: np.ndarray) -> np.ndarray:
        return buffer(x.size + 1)[1:].reshape(x.shape)


def optimize(kernels: library.Library, crew: library.Crew, count: int, rng: np.random.Generator) -> None:
    """Both optimizers, in a box that holds some elements, on sum (x - t)^2."""
    operations, target, x = SeparateVectors(kernels, crew), 1.5 * rng.random(count, np.float32), filled(rng, count)

    def f(at: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = operations.empty_like(at)
        np.multiply(at - target, 2, out=gradient)
        return float(np.square(at - target, dtype=np.float64).sum()), gradient

    for minimize in (minimize_adam, minimize_lbfgs):
        result = minimize(f, x, max_evaluations=9, bounds=(0.0, 1.0), vectors=operations)
        assert np.isfinite(result.x).all(), (minimize, count)


def layers(kernels: library.Library, crew: library.Crew, rng: np.random.Generator) -> None:
    """Every single layer, and what normalises and resizes its result."""
    for C, K, size, kernel, options in LAYERS:
        found = operations.NativeOperations(kernels, crew)  # with scratch of its own
        x, w, b = filled(rng, C, *size), filled(rng, *((K, C) if K else (C,)), *kernel), filled(rng, K or C)
        filters = (found.filters if K else found.depthwise_filters)(w, b)
        y = (found.conv if K else found.depthwise)(x, filters, **options)
        for each in (x, y):
            P, Q = each.shape[1:]
            found._scratch = found._scratch[:0]
            scale, shift = found.statistics(each, 1e-5)
            results = [found.global_average(each), found.max_pool(each)]
            for resize in (found.resize_nearest, found.resize_bilinear):
                found._scratch = found._scratch[:0]
                results.append(resize(each, P // 2 + 1, 2 * Q + 1))
            other = filled(rng, *each.shape)
            results.append(found.add(other, each))
            results.append(found.instance_norm(each, scale, shift, 1e-5, activation="sigmoid", plus=other))
            assert all(np.isfinite(result).all() for result in results), (C, K, size, kernel, options)


def main(path: str, instructions: str, short: str | None = None) -> None:
    filters.Arena = native.Arena = vectors.Arena = operations.Arena = Separate
    Separate.short = short
    vgg.ARCHITECTURES["vgg19"] = BLOCKS
    kernels, rng = library.Library(instructions, Path(path)), np.random.default_rng(0)
    three = [library.Crew(kernels, threads) for threads in (1, 2, 3)]
    for crew, count in itertools.product(three, ELEMENTS):
        optimize(kernels, crew, count, rng)
    for crew in three:
        layers(kernels, crew, rng)
    crews, sizes = itertools.cycle([*three, three[1]]), itertools.cycle([SIZES[::2], SIZES[1::2]])
    weights = [random_weights(deepest="conv5_1", padding=padding) for padding in ("zero", "replicate")]
    for i, (j, pooling), (k, taps) in itertools.product((0, 1), enumerate(("max", "average", "l2")), enumerate(TAPS)):
        if (i + j + k) % 2 and taps is not TAPS[-1]:
            continue  # deep networks take long: each border with each pooling, and each of them with each depth
        network = native.NativeNetwork(weights[i], taps, pooling, kernels, next(crews))
        for size in next(sizes):
            step(network, size, rng)
        for part, tap in PARTS if taps is TAPS[-1] else ():
            network = native.NativeNetwork(weights[i], [tap], pooling, kernels, next(crews), part)
            for size in SIZES[1:3]:
                step_of_a_part(network, size, rng)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
