"""The plan of the GPU's memory: buffers that live at the same time never overlap, and little is wasted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nstcore import vgg
from nstcore.engines.cuda.plan import ALIGNMENT, Plan, lives

buffers = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from([np.float32, np.uint16]), st.integers(0, 20), st.integers(0, 9)),
    min_size=1,
    max_size=25,
)


def planned(found):
    plan = Plan()
    for i, (size, dtype, first, length) in enumerate(found):
        plan.add(str(i), (size,), dtype, first, first + length)
    return plan


@given(buffers)
@settings(deadline=None)
def test_buffers_that_live_together_do_not_overlap(found):
    places = planned(found).places()
    assert set(places) == {str(i) for i in range(len(found))}
    for i, (size, dtype, first, length) in enumerate(found):
        assert places[str(i)] % ALIGNMENT == 0
        for j, (other_size, other_dtype, other_first, other_length) in enumerate(found[:i]):
            if first <= other_first + other_length and other_first <= first + length:
                mine = range(places[str(i)], places[str(i)] + size * np.dtype(dtype).itemsize)
                other = range(places[str(j)], places[str(j)] + other_size * np.dtype(other_dtype).itemsize)
                assert mine.stop <= other.start or other.stop <= mine.start or not (mine and other)


@given(buffers)
@settings(deadline=None)
def test_the_block_is_as_large_as_its_fullest_moment_demands_and_no_larger_than_all_together(found):
    plan = planned(found)
    sizes = [math.ceil(size * np.dtype(dtype).itemsize / ALIGNMENT) or 1 for size, dtype, _, _ in found]
    fullest = max(
        sum(s for s, (_, _, first, length) in zip(sizes, found, strict=True) if first <= moment <= first + length)
        for moment in range(30)
    )
    assert fullest * ALIGNMENT <= plan.bytes <= sum(sizes) * ALIGNMENT


def test_gradients_take_the_place_of_features_that_are_no_more_needed():
    plan = Plan()
    plan.add("a", (100, 64), np.float32, 1, 5)
    plan.add("b", (100, 64), np.float32, 2, 4)
    plan.add("gradient of b", (100, 64), np.float32, 4, 5)
    plan.add("gradient of a", (100, 64), np.float32, 5, 6)
    assert plan.bytes == 3 * 25600
    assert plan.places()["gradient of a"] == plan.places()["b"]


def test_views_have_the_shapes_and_types_that_were_planned(machine_like):
    plan = Plan()
    plan.add("a", (3, 5), np.float32, 0, 1)
    plan.add("b", (7,), np.uint16, 1, 2)
    plan.add("c", (0,), np.float32, 0, 2)
    views = plan.allocate(machine_like)
    assert {n: (v.shape, v.dtype) for n, v in views.items()} == {
        "a": ((3, 5), np.float32),
        "b": ((7,), np.uint16),
        "c": ((0,), np.float32),
    }
    views["a"][...] = 1
    views["b"][...] = 2
    assert (views["a"] == 1).all()
    assert (views["b"] == 2).all()
    assert machine_like.taken == [plan.bytes]


class Memory:
    """A device that only has memory."""

    def __init__(self):
        self.taken = []

    def empty(self, size, dtype):
        self.taken.append(size)
        return np.empty(size, dtype)


@pytest.fixture
def machine_like():
    return Memory()


@pytest.mark.parametrize("element", [np.float32, np.uint16])
@pytest.mark.parametrize("size", [(512, 512), (1024, 768), (96, 128)])
def test_gradients_cost_almost_nothing_for_the_usual_taps(size, element):
    """The peak is at the end of the forward pass, when every feature that the backward pass needs is there."""
    taps = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")
    steps = vgg.steps_for("vgg19", taps)
    plan = Plan()
    shapes = {step.output: vgg.shape("vgg19", step.output, *size) for step in steps}
    features = sum(math.prod(shapes[s.output]) for s in steps if s.kind == "conv") * np.dtype(element).itemsize
    for name, shape, first, last in lives(steps, taps, shapes):
        plan.add(name, shape, element, first, last)
    assert features <= plan.bytes <= 1.03 * features
