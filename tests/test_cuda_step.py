"""Steps of Adam in graphs, one ahead of the host: the same bits as launch by launch, on the CPU's stand-in.

`LateDevice` does nothing before it is waited for, as a GPU may: whoever looks too early sees what was there before.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from fake_cupy import Memory, fake_cupy
from late_device import SIZE, Bowl, LateDevice, LateGraph, LateReading, everything

import nstcore
from nstcore.engines.cuda import CudaEngine, gpu, vectors
from nstcore.engines.cuda.device import CannotCapture
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.errors import NotFinite
from nstcore.optim import minimize_adam
from nstcore.optim.adam import Rule, Steps

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))

TOLD = ("loss", "evaluations", "iterations", "status")
LAYERS = {"content_layers": {"relu1_2": 1.0}, "style_layers": {"relu1_1": 1.0, "relu1_2": 0.5}}


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv1_2")


@pytest.fixture
def one_by_one(monkeypatch):
    """Calls a function with Adam as the book has it, launch by launch."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(vectors, "AHEAD", 0)
            return function(*args, **options)

    return call


def paint(weights, precision="float32", device=None, **options):
    """A run; and of every step its losses and what it has to show."""
    steps = []

    def on_step(step):
        steps.append((asdict(step.terms), step.pixels().copy()))

    given = {"size": 20, "iterations": 6, "average": 0.9, "on_step": on_step} | LAYERS | options
    engine = CudaEngine(device or LateDevice(), precision)
    content, style = smooth_picture(*SIZE, 7), smooth_picture(18, 16, 8)
    return nstcore.stylize(content, style, weights=weights, engine=engine, **given), steps


def assert_same_run(one, other) -> None:
    (a, steps_a), (b, steps_b) = one, other
    assert a.losses == b.losses
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert len(steps_a) == len(steps_b)
    for (terms_a, pixels_a), (terms_b, pixels_b) in zip(steps_a, steps_b, strict=True):
        assert terms_a == terms_b
        np.testing.assert_array_equal(pixels_a, pixels_b)


# -- a whole run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("float32", {}),
        pytest.param("tf32", {"average": 0.0}, marks=pytest.mark.slow),
        ("float32", {"protect": np.pad(np.ones((8, 20)), ((8, 0), (0, 0)))}),
        pytest.param("bfloat16", {}, marks=pytest.mark.slow),
        pytest.param("float16", {}, marks=pytest.mark.slow),
        pytest.param("float32", {"style_loss": "mean-std"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_ahead_of_the_host_has_the_bits_of_one_launch_by_launch(weights, one_by_one, precision, options):
    """Also what each step shows: it is the picture of that step, not of the one that the GPU is at."""
    assert_same_run(paint(weights, precision, **options), one_by_one(paint, weights, precision, **options))


def test_a_run_that_is_cut_goes_on_with_the_same_bits(weights, tmp_path):
    whole = paint(weights)
    file = tmp_path / "s.h5"
    for cut in (1, 2, 4):
        asked = itertools.count(1)
        first = paint(weights, snapshot=file, stop=lambda asked=asked, cut=cut: next(asked) >= cut)
        assert len(first[0].losses) == cut
        rest = paint(weights, snapshot=file, resume=True)
        np.testing.assert_array_equal(rest[0].pixels, whole[0].pixels)
        assert rest[0].losses == whole[0].losses


@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_interrupt_keeps_the_whole_picture_that_was_best_then(weights, one_by_one, number):
    def interrupted():
        steps = itertools.count(1)

        def on_step(step):
            if next(steps) == number:
                raise KeyboardInterrupt

        return paint(weights, on_step=on_step)[0]

    found, expected = interrupted(), one_by_one(interrupted)
    assert found.interrupted
    assert len(found.losses) == number
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.terms == expected.terms


@pytest.mark.parametrize("loss", ["gram", "centred", pytest.param("mean-std", marks=pytest.mark.slow)])
def test_of_a_step_the_host_launches_one_graph_and_reads_once(weights, loss, monkeypatch):
    """Beside it the average's launch, and a copy where the picture is the best so far; nothing waits for the GPU to be
    idle, nothing is sent there, and no memory is taken."""
    device = LateDevice()
    asked: list[str] = []
    steps: list[list[str]] = []

    def noted(owner, name, as_=None):
        method = getattr(owner, name)
        note = lambda *a, **k: (asked.append(as_ or name), method(*a, **k))[1]  # noqa: E731
        monkeypatch.setattr(owner, name, note)

    for name in ("to_host", "to_device", "empty", "synchronize", "copy"):
        noted(device, name)
    noted(LateGraph, "launch", "graph")
    noted(LateReading, "begin", "reading begun")
    noted(LateReading, "end", "read")
    kernel = device.kernel

    def launching(rung, function, *args, **defines):
        found = kernel(rung, function, *args, **defines)
        return lambda *a, **k: (device.capturing or asked.append(function), found(*a, **k))[1]

    monkeypatch.setattr(device, "kernel", launching)

    def on_step(step):
        steps.append(list(asked))
        asked.clear()

    paint(weights, "float32", device, iterations=8, style_loss=loss, on_step=on_step)
    # From one step's report to the next; the last has no other after it
    for step in steps[3:-1]:
        assert [what for what in step if what != "copy"] == ["graph", "reading begun", "read", "combine_one"]
        assert step.count("copy") <= 1
    assert [what for what in steps[-1] if what != "copy"] == ["read", "combine_one"]


def test_the_next_step_is_launched_before_the_last_one_is_read(weights):
    """Without that, nothing would be gained: whenever the host has a loss, the GPU has work."""
    device = LateDevice()
    at_work = []
    paint(weights, "float32", device, average=0.0, on_step=lambda step: at_work.append(len(device.waiting) > 15))
    assert at_work == [False, True, True, True, True, True, False]


def test_steps_that_are_timed_are_launched_kernel_by_kernel_and_those_after_them_are_not(weights, one_by_one):
    """The first is the one after the step that the GPU was at already."""

    def watched():
        networks, seen, steps = [], [], itertools.count(1)

        def on_step(step):
            number = next(steps)
            networks[0].watch((lambda layer, *_: seen.append((number, layer))) if number in (1, 4, 5) else None)

        found = paint(weights, on_start=lambda objective, rungs: networks.append(objective.network), on_step=on_step)
        return found, seen

    (found, seen), (expected, all_of_them) = watched(), one_by_one(watched)
    assert_same_run(found, expected)
    assert {number for number, _ in seen} == {1, 5}
    assert {number for number, _ in all_of_them} == {1, 4, 5}


# -- what minimize_adam promises --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [None, 1, 2, 5])
def test_a_callback_sees_x_and_the_state_as_they_were_evaluated_and_may_end_the_run_there(one_by_one, stop_at):
    bowl, book = Bowl(LateDevice()), Bowl(LateDevice())
    (seen, end), (expected, other) = everything(bowl, stop_at), one_by_one(everything, book, stop_at)
    assert seen == expected
    assert [getattr(end, name) for name in TOLD] == [getattr(other, name) for name in TOLD]
    for mine, theirs in ((end.x, other.x), (end.state.m, other.state.m), (end.state.v, other.state.v)):
        np.testing.assert_array_equal(bowl.device.to_host(mine), book.device.to_host(theirs))
    assert (bowl.begun, book.begun) == (1 if stop_at == 1 else 3, len(expected)), "evaluated once, recorded twice"


def test_a_run_that_is_cut_in_two_is_the_whole_run(one_by_one):
    bowl = Bowl(LateDevice())
    whole, _ = one_by_one(everything, Bowl(LateDevice()))
    first, end = everything(bowl, stop_at=4)
    rest, _ = everything(bowl, x=end.x, state=end.state, max_evaluations=6)
    assert [step[5:] for step in first[:3] + rest] == [step[5:] for step in whole]
    assert [step[4] for step in first[:3] + rest] == list(range(9))


@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_a_loss_that_is_not_finite_is_told_at_the_evaluation_that_it_came_from(number):
    calls = itertools.count(1)

    def end(x, found):
        return np.nan if next(calls) == number else found

    with pytest.raises(NotFinite, match=f"the loss became nan at evaluation {number}:"):
        Bowl(LateDevice()).minimize(max_evaluations=9, end=end)


def test_a_loss_that_overflows_on_the_device_is_told_in_the_same_words(one_by_one):
    def message():
        with pytest.raises(NotFinite, match="the loss became inf at evaluation 2:") as error:
            Bowl(LateDevice()).minimize(max_evaluations=9, learning_rate=1e19)
        return str(error.value)

    assert message() == one_by_one(message)


def test_a_graph_that_may_not_be_launched_for_a_while_is_launched_later_and_counts_right(one_by_one):
    """The corrections of every update are those of its number, however it was launched."""
    bowl = Bowl(LateDevice())
    begun = []

    def minimized(bowl):
        seen = []

        def callback(state):
            bowl.watched = state.evaluations in (3, 4, 5)
            begun.append(bowl.begun)
            seen.append((state.loss, bowl.device.to_host(state.x).tobytes()))

        bowl.minimize(callback, max_evaluations=10)
        return seen

    assert minimized(bowl) == one_by_one(minimized, Bowl(LateDevice()))
    assert begun[:10] == [1, 3, 3, 3, 4, 5, 5, 5, 5, 5]


@pytest.mark.parametrize("why", ["a number on the way", "no memory for a second set", "a large picture"])
def test_what_cannot_be_ahead_goes_launch_by_launch(why, one_by_one, monkeypatch):
    expected, _ = one_by_one(everything, Bowl(LateDevice()))
    bowl = Bowl(LateDevice(), forbidden=why == "a number on the way")
    if why == "no memory for a second set":
        empty, sizes = bowl.device.empty, itertools.count(1)

        def full(shape, dtype):
            if shape == SIZE and next(sizes) > 5:
                raise MemoryError("full")
            return empty(shape, dtype)

        monkeypatch.setattr(bowl.device, "empty", full)
    if why == "a large picture":
        monkeypatch.setattr(vectors, "AHEAD", SIZE[0] * SIZE[1] - 1)
    seen, _ = everything(bowl)
    assert seen == expected
    assert bowl.begun == 9 + (why == "a number on the way")


def test_nothing_is_written_to_the_host_after_the_run():
    device = LateDevice()

    def callback(state):
        if state.evaluations == 5:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        Bowl(device).minimize(callback, max_evaluations=9)
    assert not device.waiting


def test_a_function_of_one_piece_is_called_for_every_evaluation():
    device, calls = LateDevice(), []
    bowl = Bowl(device)

    def f(x):
        calls.append(x)
        return bowl.begin(x)

    minimize_adam(f, device.to_device(np.ones(SIZE, np.float32)), max_evaluations=5, vectors=bowl.vectors)
    assert len(calls) == 5


# -- the update -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "t"), [(1, 0), (1023, 0), (2050, 7)])
@pytest.mark.parametrize("betas", [(0.9, 0.9), (0.9, 0.999), (0.0, 0.5)])
def test_an_update_in_a_graph_has_the_bits_of_adams(size, t, betas):
    """However long it goes on: past the number from which its corrections change no more."""
    device, rng = OnCpuDevice(), np.random.default_rng(0)
    v = vectors.CudaVectors(device)
    rule = Rule(0.02, betas, 1e-8, 0.0, 1.0)
    x, g, m = (device.to_device(rng.random(size, np.float32)) for _ in range(3))
    s = device.to_device(rng.random(size, np.float32))
    mine = [[v.empty_like(x) for _ in range(3)] + [device.to_device(np.zeros(1, np.int32))] for _ in range(2)]
    for a, b in zip((x, m, s), mine[0][:3], strict=True):
        device.copy(a, b)
    book = Steps(None, x, nstcore.optim.AdamState(m, s, t), rule, v)
    book._g = g
    steps = 60 if betas == (0.0, 0.5) else 5
    launch = v.adam_step(rule, t, steps)
    for number in range(steps):
        launch(mine[number % 2], g, mine[1 - number % 2])
        book.update()
        for found, expected in zip(mine[1 - number % 2][:3], (book.x, book.state.m, book.state.v), strict=True):
            np.testing.assert_array_equal(device.to_host(found), device.to_host(expected))
    assert device.to_host(mine[steps % 2][3])[0] == steps


def test_the_table_of_corrections_ends_where_they_do():
    rule = Rule(0.02, (0.9, 0.9), 1e-8, 0.0, 1.0)
    table = list(vectors._corrections(rule, 3, 10**6))
    assert table[0] == (0.02 / (1 - 0.9**4), 1 / (1 - 0.9**4))
    assert 300 < len(table) < 400
    assert table[-1] == (0.02, 1.0)
    assert table[-2] != table[-1]
    assert len(list(vectors._corrections(rule, 3, 10))) == 10


# -- devices ----------------------------------------------------------------------------------------------------------


def test_a_late_device_is_late_and_waits_for_no_more_than_it_must():
    device = LateDevice()
    a, b = device.to_device(np.zeros(4)), device.to_device(np.ones(4))
    reading = device.reading(a)
    device.copy(b, a)
    reading.begin()
    device.fill_bytes(a, 0)
    assert (a._host == 0).all()
    assert (reading.end() == 1).all()
    assert (a._host == 1).all(), "what came after it is still to be done"
    assert (device.to_host(a) == 0).all()
    with device.capture() as graph:
        device.copy(b, a)
        with pytest.raises(CannotCapture):
            device.to_host(a)
    graph.launch()
    assert (a._host == 0).all()
    device.synchronize()
    assert (a._host == 1).all()


@pytest.fixture
def cupy(monkeypatch):
    found = fake_cupy()
    events = found.events = []

    class Event:
        fails = None

        def __init__(self, disable_timing):
            assert disable_timing

        def record(self, stream):
            events.append(("recorded", stream))

        def synchronize(self):
            events.append("waited for")
            if self.fails:
                raise RuntimeError(self.fails)

    def copy_to_host_async(memory, to, size, stream):
        events.append(("copied", stream))
        np.frombuffer((np.ctypeslib.ctypes.c_uint8 * size).from_address(to.value), np.uint8)[:] = memory.bytes[:size]

    found.cuda.Event, found.cuda.alloc_pinned_memory = Event, bytearray
    monkeypatch.setattr(Memory, "copy_to_host_async", copy_to_host_async, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", found)
    gpu._problem.cache_clear()
    yield found
    gpu._problem.cache_clear()


def test_a_gpu_copies_on_its_stream_and_the_host_waits_for_that_copy_alone(cupy, monkeypatch):
    device = gpu.GpuDevice()
    a = device.to_device(np.arange(5.0))
    reading = device.reading(a)
    monkeypatch.setattr(device, "synchronize", lambda: pytest.fail("waited for everything"))
    reading.begin()
    assert cupy.events == [("copied", device.stream), ("recorded", device.stream)]
    found = reading.end()
    np.testing.assert_array_equal(found, np.arange(5.0))
    assert cupy.events[2:] == ["waited for"]
    device.fill_bytes(a, 0)
    reading.begin()
    np.testing.assert_array_equal(found, np.arange(5.0))  # a copy of its own
    assert (reading.end() == 0).all()


def test_a_gpus_reading_cannot_be_in_a_graph_and_tells_what_failed(cupy):
    device = gpu.GpuDevice()
    reading = device.reading(device.to_device(np.zeros(2)))
    with pytest.raises(CannotCapture), device.capture():
        reading.begin()
    cupy.cuda.Event.fails = "cudaErrorIllegalAddress: an illegal memory access"
    device.launched = "gram/03_tensor_core gram"
    with pytest.raises(RuntimeError, match="NVIDIA H200: a kernel failed, gram/03_tensor_core gram or one before it"):
        reading.end()
