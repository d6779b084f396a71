"""L-BFGS beside SciPy's and PyTorch's on a style transfer: as many evaluations, a loss no higher.

The objective is the project's own for all three, with the ImageNet VGG19 and pictures of the literature at 96 px.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import nstcore

pytestmark = pytest.mark.slow

SIDE = 96
EVALUATIONS = 60
PAIR = ("tuebingen_neckarfront.jpg", "starry_night.jpg")


class Counted:
    """f for any optimizer: float32 pixels in, the losses of all evaluations kept, no call beyond the limit."""

    class Spent(Exception):
        pass

    def __init__(self, f: Callable, limit: int = EVALUATIONS) -> None:
        self.f, self.limit, self.losses = f, limit, []

    def __call__(self, x):
        if len(self.losses) == self.limit:
            raise self.Spent
        loss, gradient = self.f(np.ascontiguousarray(x, np.float32))
        self.losses.append(loss)
        return loss, gradient

    @property
    def best(self):
        return min(self.losses)


def picture(path):
    with Image.open(path) as image:
        scale = SIDE / max(image.size)
        size = [round(side * scale) for side in image.size]
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), np.float32) / 255


@pytest.fixture(scope="module")
def problem(vgg19, shared_images):
    """f(pixels) -> (loss, gradient), and the content picture to start from."""
    content = picture(shared_images / "content" / PAIR[0])
    style = picture(shared_images / "style" / PAIR[1])
    objective = nstcore.Objective(vgg19, content, style, device="cpu", dtype="float32")

    def f(pixels):
        terms, gradient = objective(pixels)
        return terms.total, gradient

    return f, np.ascontiguousarray(content.transpose(2, 0, 1))


def minimised(f, x0, evaluations, bounds):
    """Our L-BFGS: its end, the losses of all evaluations, and what its callback was told."""
    counted, trace = Counted(f, evaluations), []
    end = nstcore.minimize_lbfgs(
        counted,
        x0,
        max_evaluations=evaluations,
        bounds=bounds,
        callback=lambda state: trace.append((state.evaluations, state.loss)),
    )
    assert end.evaluations == len(counted.losses) == evaluations
    assert end.loss == counted.best
    return end, counted.losses, trace


@pytest.fixture(scope="module")
def bounded(problem):
    """Five times as many evaluations, with the bounds of a picture."""
    return minimised(*problem, 5 * EVALUATIONS, (0.0, 1.0))


@pytest.fixture(scope="module")
def ours(problem, bounded):
    """The loss that our L-BFGS reaches, with the bounds of a picture and without."""
    return {
        "bounded": min(bounded[1][:EVALUATIONS]),
        "unbounded": minimised(*problem, EVALUATIONS, None)[0].loss,
    }


def scipy_reaches(f, x0, bounds):
    optimize = pytest.importorskip("scipy.optimize")
    counted = Counted(f)

    def flat(z):
        loss, gradient = counted(z.reshape(x0.shape))
        return loss, gradient.ravel().astype("float64")

    limits = None if bounds is None else [bounds] * x0.size
    options = {"maxfun": 10 * EVALUATIONS, "maxiter": 10 * EVALUATIONS, "ftol": 0.0, "gtol": 0.0}
    with pytest.raises(Counted.Spent):
        optimize.minimize(
            flat, x0.ravel().astype("float64"), jac=True, method="L-BFGS-B", bounds=limits, options=options
        )
    return counted.best


def torch_reaches(f, x0, history):
    torch = pytest.importorskip("torch")
    counted = Counted(f)
    x = torch.from_numpy(x0.copy()).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=10 * EVALUATIONS,
        max_eval=10 * EVALUATIONS,
        history_size=history,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        loss, gradient = counted(x.detach().numpy())
        x.grad = torch.from_numpy(np.array(gradient))
        return torch.tensor(loss, dtype=torch.float64)

    with pytest.raises(Counted.Spent):
        optimizer.step(closure)
    return counted.best


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_as_many_evaluations_of_scipys_lbfgsb_reach_no_lower_loss(problem, ours, bounds):
    reached = scipy_reaches(*problem, bounds)
    name = "unbounded" if bounds is None else "bounded"
    print(f"loss after {EVALUATIONS} evaluations, {name}: nstcore {ours[name]:.5f}, SciPy {reached:.5f}")
    assert ours[name] <= reached


@pytest.mark.parametrize("history", [100, 10])
def test_as_many_evaluations_of_torchs_lbfgs_reach_no_lower_loss(problem, ours, history):
    reached = torch_reaches(*problem, history)
    print(f"loss after {EVALUATIONS} evaluations: nstcore {ours}, PyTorch (history {history}) {reached:.5f}")
    assert ours["bounded"] <= reached


def test_three_hundred_evaluations_in_float32_go_on_decreasing(bounded):
    end, _, trace = bounded
    assert end.status == "the evaluation limit was reached"
    losses = [loss for _, loss in trace]
    assert all(after < before for before, after in pairwise(losses))
    at = [min(loss for n, loss in trace if n <= limit) for limit in (100, 200, 300)]
    assert all(after < 0.99 * before for before, after in pairwise(at)), at
