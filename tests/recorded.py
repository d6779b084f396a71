"""What a recorder would have gathered in a run, without one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nstcore.objective import Terms
from nstcore.report import LARGE, STYLE, Recorder, picture
from nstcore.transfer import Result, Rung, Step


class Network:
    """As much of one as a recorder needs."""

    steps = ()

    def watch(self, watcher):
        self.watcher = watcher


def recorded(evaluations: int, pixels: np.ndarray, terms: Terms) -> Recorder:
    """A run at one size, with the same picture at every step."""
    rungs, recorder = [Rung(*pixels.shape[1:], evaluations - 1, 1.0)], Recorder()
    style = picture(pixels, *STYLE)
    facts = {"title": "out.png", "pictures": {"content": picture(pixels, *LARGE), "styles": [style]}}
    recorder.begin(facts, Network(), rungs)
    losses = []
    for i in range(evaluations):
        losses.append(replace(terms, total=terms.total / (i + 1)))
        recorder.step(
            Step(i, evaluations - 1, i + 1, max(pixels.shape), 1.0, losses[-1], 0.02, 1e9, None, lambda: pixels)
        )
        recorder._spent = 0.0  # as if it had cost nothing: every frame is kept
    recorder.end("complete", "", Result(pixels, None, losses[-1], losses, {}, "", False, 1.0))
    return recorder


def many_layers(levels: int) -> Terms:
    """Losses of ten content and ten style layers, at so many levels of the pyramid besides the picture."""
    layers = {f"relu{i}_{j}": math.pi * 1e-5 / (i + j) for i in range(1, 6) for j in range(1, 3)}
    own = Terms(math.e, math.pi, 0.1 + 0.2, 1 / 3, dict(layers), dict(layers))
    return replace(own, levels={2**i: own for i in range(1, levels + 1)})
