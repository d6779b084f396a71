"""The average of the iterates, against the sum that it stands for."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from nstcore.errors import OptionError
from nstcore.optim import Average, Vectors, minimize_adam


def weighted_mean(decay, arrays):
    """sum_i (1 - d) d^(t-i) x_i / (1 - d^t), as the definition has it."""
    t = len(arrays)
    weights = np.array([(1 - decay) * decay ** (t - i) for i in range(1, t + 1)]) / (1 - decay**t)
    return np.tensordot(weights, np.array(arrays, "float64"), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_it_is_the_bias_corrected_moving_average_after_every_array(decay, dtype):
    arrays = np.random.default_rng(0).random((300, 2, 5)).astype(dtype)
    average = Average(decay)
    for t, x in enumerate(arrays, 1):
        average.add(x)
        assert (average.count, average.mean.dtype) == (t, dtype)
        atol = 16 * np.finfo(dtype).eps  # each step rounds, and forgets a part of what was rounded before
        np.testing.assert_allclose(average.mean, weighted_mean(decay, arrays[:t]), rtol=0, atol=atol / (1.02 - decay))


def test_the_mean_of_equal_arrays_is_that_array_from_the_first_on():
    average = Average(0.99)
    for _ in range(50):
        average.add(np.full(3, 0.75))
        np.testing.assert_allclose(average.mean, 0.75, rtol=1e-14)


def test_there_is_no_mean_before_the_first_array_and_the_first_is_copied():
    average, x = Average(0.9), np.ones(4)
    assert (average.mean, average.count) == (None, 0)
    average.add(x)
    x[:] = 7.0
    np.testing.assert_array_equal(average.mean, 1.0)


def test_what_the_vectors_leave_in_a_new_array_does_not_matter():
    class Dirty(Vectors):
        def empty_like(self, x):
            return np.full(x.shape, np.nan, x.dtype)

    average = Average(0.9, Dirty())
    average.add(np.ones(3))
    average.add(np.ones(3))
    np.testing.assert_allclose(average.mean, 1.0)


def test_it_has_one_buffer_and_needs_no_other():
    x, average = np.random.default_rng(0).random(500_000), Average(0.9)
    average.add(x)
    buffer = average.mean
    average.add(x)  # the scratch block comes into being
    tracemalloc.start()
    average.add(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 10
    assert average.mean is buffer


def test_the_average_of_adams_iterates_lies_nearer_to_the_minimum_of_a_noisy_bowl_than_the_last():
    rng, average = np.random.default_rng(0), Average(0.99)
    noisy = lambda x: (float(x @ x) / 2, x + 0.5 * rng.standard_normal(x.size))  # noqa: E731
    end = minimize_adam(noisy, np.ones(200), max_evaluations=1000, callback=lambda s: s.iterations and average.add(s.x))
    assert average.count == end.iterations == 999
    assert np.linalg.norm(average.mean) < 0.5 * np.linalg.norm(end.x)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(OptionError, match="expected a decay in"):
        Average(decay)
