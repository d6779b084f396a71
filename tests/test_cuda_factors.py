"""float16's factors: a kernel gives the same bits whether the host hands it some, or they lie on the device."""

from __future__ import annotations

import numpy as np
import pytest

from nstcore.engines.cuda import features, pixels
from nstcore.engines.cuda.conv import RUNGS, Convolution
from nstcore.engines.cuda.gram import gram_backward
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.moments import Moments, make_guide
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.pretrained.weights import Preprocessing

FLOAT16 = PRECISIONS["float16"]
pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))
SCALES = (2.0**-3, 2.0**4, 2.0**7, 2.0**-4)  # of F S, of gradients, of S, of what leaves


class OnHost:
    """Arrays, and what kernels make of them with factors of the host, or of the device."""

    def __init__(self) -> None:
        self.device, self.rng = OnCpuDevice(), np.random.default_rng(5)
        self.scales = self.device.to_device(np.array(SCALES, np.float32))

    def elements(self, *shape):
        return self.device.to_device(self.rng.standard_normal(shape).astype(np.float16))

    def floats(self, *shape):
        return self.device.to_device(self.rng.standard_normal(shape).astype(np.float32))

    def agree(self, out, run) -> None:
        """run(style, loss, S, back, scales), with all factors on either side; `out` is what it writes."""
        first = self.device.to_host(out)
        found = []
        for factors in ((*SCALES, None), (1.0, 1.0, 1.0, 1.0, self.scales), (1.0, 1.0, 1.0, 1.0, None)):
            self.device.copy(self.device.to_device(first), out)
            run(*factors)
            found.append(self.device.to_host(out))
        np.testing.assert_array_equal(found[0], found[1])
        assert (found[0] != found[2]).any()


@pytest.mark.parametrize(
    "rung",
    ["06_tensor_core_16bit"]
    + [pytest.param(r, marks=pytest.mark.slow) for r in RUNGS if "float16" in RUNGS[r].precisions and r[:2] != "06"],
)
def test_a_convolution_takes_factors_from_the_device(rung):
    on, C, K, H, W = OnHost(), 16, 24, 6, 7
    layer = Convolution(on.device, FLOAT16, rung, C, K, H, W, False)
    w = on.device.to_device(layer.rung.turned(on.rng.standard_normal((K, C, 3, 3)), FLOAT16))
    dy, F, P, dx = on.elements(H, W, K), *(on.elements(H, W, C) for _ in range(3))
    S = on.rng.standard_normal((C, C))
    S = on.device.to_device((S + S.T).astype(np.float16))

    def run(style, loss, _, __, scales):
        layer.backward(dy, w, None, F, S, style, P, loss, True, dx, scales)

    on.agree(dx, run)


@pytest.mark.parametrize("rung", ["03_tensor_core", *(pytest.param(r, marks=pytest.mark.slow) for r in ("01_naive",))])
def test_a_gram_gradient_takes_factors_from_the_device(rung):
    on = OnHost()
    F, P, g, S = on.elements(40, 8), on.elements(40, 8), on.elements(40, 8), on.elements(8, 8)

    def run(style, loss, _, __, scales):
        gram_backward(on.device, FLOAT16, F, S, style, P, loss, True, True, g, rung=rung, scales=scales)

    on.agree(g, run)


def test_what_enters_and_leaves_a_network_takes_factors_from_the_device():
    on = OnHost()
    y, x, dy, gradient = on.floats(8, 6, 7), on.elements(6, 7, 8), on.elements(6, 7, 8), on.floats(3, 6, 7)
    dG, S, w = on.floats(8, 8), on.elements(8, 8), on.floats(9, 8, 3)
    on.agree(x, lambda _, loss, __, ___, scales: features.enter(on.device, FLOAT16, y, x, loss, scales))
    on.agree(y, lambda _, __, ___, back, scales: features.leave(on.device, FLOAT16, x, y, 0, 0, back, scales))
    on.agree(S, lambda _, __, of_S, ___, scales: Losses(on.device, FLOAT16).pack_style(dG, of_S, S, scales))
    facts = Preprocessing(range=255.0, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0), channel_order="bgr")

    def run(_, __, ___, back, scales):
        pixels.backward(on.device, FLOAT16, dy, w, gradient, facts, back, False, scales)

    on.agree(gradient, run)


def test_the_gradient_of_sums_takes_its_factor_from_the_device():
    on = OnHost()
    F, T, g, ds = on.elements(6, 7, 8), on.elements(6, 7, 8), on.elements(6, 7, 8), on.rng.standard_normal(8)
    guide = make_guide(on.device, "relu1_1", on.rng.random((6, 7)), 8)

    def run(_, loss, __, ___, scales):
        Moments(on.device, FLOAT16).backward(T, loss * ds, F, guide, True, g, scales)

    on.agree(g, run)
