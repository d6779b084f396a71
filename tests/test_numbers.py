"""Losses that are not finite, line searches that find nothing: noticed, named, and got round where there is a way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

import nstcore
from nstcore import Terms, engines
from nstcore.errors import NotFinite
from nstcore.transfer import FailedRun, ladder
from nstcore.transfer.progress import Progress
from nstcore.transfer.rung import Optimizer, Painting

CONTENT, STYLE = smooth_picture(32, 36, 1), smooth_picture(34, 32, 2)
LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu2_1")}


class Bowl:
    """sum (x - 1/2)^2, which may be spoilt at some evaluations: `terms` and gradient there are what `spoil` makes."""

    def __init__(self, spoil=None, precision="float64"):
        self.engine = engines.create("reference", precision)
        self.calls, self.spoil = 0, spoil or (lambda call, x, loss, g: (loss, g))

    def __call__(self, x):
        self.calls += 1
        loss, g = self.spoil(self.calls, x, float(((x - 0.5) ** 2).sum()), 2 * (x - 0.5))
        return Terms(loss, 0.0, loss, 0.0, {}, {"relu3_1": loss}), g

    def composed(self, x):
        return x


def painting(objective, optimizer="adam", evaluations=30, raised=lambda: None, average=0.0):
    progress = Progress([ladder.Rung(4, 5, evaluations - 1, 1.0)], None)
    given = Optimizer(optimizer, 0.05, 5, average)
    return Painting(objective, given, progress, 0, lambda p: p, lambda painting, state: False, raised)


def paint(made):
    return made.paint(np.random.default_rng(0).random((3, 4, 5)), None, lambda _: None)


def nan_at(*calls):
    return lambda call, x, loss, g: (math.nan, g) if call in calls else (loss, g)


def test_a_loss_that_is_not_finite_takes_adam_back_to_the_best_with_half_the_rate():
    made = painting(Bowl(nan_at(7)), average=0.9)
    _, status = paint(made)
    assert status == "the evaluation limit was reached"
    assert made.progress.events == [
        "the style term at relu3_1 became nan at evaluation 7; back to the best picture, with the learning rate 0.025"
    ]
    assert made.leg.learning_rate == 0.025
    assert len(made.progress.losses) == 30
    assert made.terms.total < 0.05
    assert np.isfinite(made.picture()).all()


def test_a_gradient_that_is_not_finite_is_noticed_at_the_next_evaluation():
    def spoil(call, x, loss, g):
        return loss, np.full_like(g, np.nan) if call == 5 else g

    made = painting(Bowl(spoil))
    paint(made)
    (event,) = made.progress.events
    assert "became nan at evaluation 6;" in event
    assert made.terms.total < 0.05


def test_after_three_new_attempts_the_run_fails_with_the_best_picture():
    made = painting(Bowl(lambda call, x, loss, g: (math.inf if call > 6 and call % 3 == 0 else loss, g)))
    with pytest.raises(NotFinite, match="the style term at relu3_1 became inf at evaluation"):
        paint(made)
    assert len(made.progress.events) == 3
    assert np.isfinite(made.picture()).all()


def test_a_number_too_large_for_the_precision_raises_it():
    higher = Bowl()
    made = painting(
        Bowl(lambda call, x, loss, g: (math.inf if call > 4 else loss, g), "float32"), raised=lambda: higher
    )
    paint(made)
    (event,) = made.progress.events
    assert event.endswith("at evaluation 5; float32 does not hold it: going on in float64")
    assert made.objective is higher
    assert made.best.dtype == np.float64
    assert len(made.progress.losses) == 30
    assert made.terms.total < 0.05


def test_it_is_raised_at_the_very_first_evaluation_too():
    made = painting(Bowl(lambda call, x, loss, g: (math.inf, g), "float32"), "lbfgs", raised=Bowl)
    paint(made)
    assert made.terms.total < 1e-8


@pytest.mark.slow
def test_float16_that_overflows_goes_on_in_tf32():
    """Filters a thousand times too large: their features leave float16, and nothing else."""
    weights = random_weights(deepest="conv2_2")
    for name, (w, b) in weights.filters.items():
        weights.filters[name] = (w * np.float32(80), b)
    engine = engines.create("cuda-on-cpu", "float16")
    result = nstcore.stylize(CONTENT, STYLE, weights=weights, engine=engine, size=32, iterations=3, **LAYERS)
    assert any("float16 does not hold it: going on in tf32" in event for event in result.metadata["events"])
    assert np.isfinite(result.pixels).all()
    assert math.isfinite(result.terms.total)


def test_an_lbfgs_that_finds_nothing_lower_is_helped_by_adam_and_begins_anew():
    """The gradient points the wrong way for a while: no line search finds a lower loss."""
    made = painting(Bowl(lambda call, x, loss, g: (loss, -g if 2 < call < 30 else g)), "lbfgs", evaluations=120)
    _, status = paint(made)
    assert made.progress.events[0].startswith("L-BFGS: no step along the gradient lowers the loss any more; Adam takes")
    assert made.leg.rescues >= 1
    assert made.terms.total < 1e-6, status


def test_where_adam_finds_nothing_lower_either_the_run_ends():
    def flat(call, x, loss, g):
        return 1.0, np.ones_like(g)

    made = painting(Bowl(flat), "lbfgs", evaluations=500)
    paint(made)
    assert made.progress.events[-1] == "Adam found no lower loss either"
    assert made.count < 500


def test_weights_that_overflow_float32_end_in_one_line_that_names_the_term():
    weights = random_weights(deepest="conv2_2")
    for name, (w, b) in weights.filters.items():
        weights.filters[name] = (w * np.float32(1e18), b)
    with pytest.raises(FailedRun, match=r"the content term at relu2_2 became (nan|inf)") as failed:
        nstcore.stylize(CONTENT, STYLE, weights=weights, size=32, iterations=3, device="cpu", **LAYERS)
    assert failed.value.result is None
    assert "\n" not in str(failed.value)


def test_pairs_that_mislead_are_dropped_and_it_is_told():
    """A whole line search sees nothing but higher losses; the one along the gradient that follows does not."""
    weights = np.geomspace(1, 1e3, 60).reshape(3, 4, 5)

    def spoil(call, x, loss, g):
        return float((weights * (x - 0.5) ** 2).sum()) + 1e3 * (12 <= call < 32), 2 * weights * (x - 0.5)

    made = painting(Bowl(spoil), "lbfgs", evaluations=120)
    paint(made)
    assert made.progress.events == ["L-BFGS: the remembered steps led nowhere lower and were dropped"]
    assert made.terms.total < 1e-3
