"""Evaluations in one graph, their losses read together: the same bits as launch by launch, on the CPU's stand-in."""

from __future__ import annotations

import sys
from dataclasses import asdict

import gpu_bench
import gpu_check
import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from fake_cupy import fake_cupy

from nstcore import Objective
from nstcore.engines.cuda import CudaEngine, gpu, losses
from nstcore.engines.cuda.device import CannotCapture
from nstcore.engines.cuda.later import Later, known
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import PRECISIONS

LAYERS = {"content_layers": {"relu2_1": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 0.5}}
SIZE = (32, 36)
pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv2_1")


def pixels(seed: int) -> np.ndarray:
    return np.ascontiguousarray(smooth_picture(*SIZE, seed).transpose(2, 0, 1), np.float32)


class Counted:
    """A device's read-backs and launches."""

    def __init__(self, device: OnCpuDevice, monkeypatch) -> None:
        self.reads = self.graphs = 0
        to_host, capture = device.to_host, device.capture

        def reading(a):
            self.reads += 1
            return to_host(a)

        def capturing():
            self.graphs += 1
            return capture()

        monkeypatch.setattr(device, "to_host", reading)
        monkeypatch.setattr(device, "capture", capturing)


def objective(weights, engine: CudaEngine, **options) -> Objective:
    return Objective(weights, smooth_picture(*SIZE, 7), smooth_picture(40, 34, 8), engine=engine, **LAYERS | options)


def launched(weights, precision: str, **options):
    """The same objective, launch by launch, every loss read at once."""
    engine = CudaEngine(OnCpuDevice(), precision)
    found = objective(weights, engine, **options)
    found._repeated = lambda evaluate, x: evaluate(x)
    return found


def evaluated(of: Objective, x: np.ndarray):
    terms, gradient = of(of.engine.array(x))
    return asdict(terms), of.engine.numpy(gradient)


def assert_the_same(a, b) -> None:
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1], b[1])


REGIONS = [(np.pad(np.ones((32, 18)), ((0, 0), (0, 18))), ["all"])] * 2
WAYS = {
    "plain": {},
    "a pyramid": {"pyramid": (2,)},
    "no tv": {"tv_weight": 0.0},
    "average pooling": {"pooling": "average"},
    "gatys2016": {"convention": "gatys2016"},
    "protected": {"protect": np.pad(np.ones((16, 36)), ((16, 0), (0, 0)))},
    "regions": {"regions": REGIONS},
    "centred": {"style_loss": "centred"},
    "mean-std in regions": {"style_loss": "mean-std", "regions": REGIONS},
}


@pytest.mark.parametrize(
    "precision", ["float32", *(pytest.param(p, marks=pytest.mark.slow) for p in ("tf32", "bfloat16"))]
)
def test_a_graph_gives_the_bits_of_its_launches(weights, precision):
    engine = CudaEngine(OnCpuDevice(), precision)
    mine, plain = objective(weights, engine), launched(weights, precision)
    for seed in (0, 1, 2, 1):
        assert_the_same(evaluated(mine, pixels(seed)), evaluated(plain, pixels(seed)))
    assert mine._repeated._graph is not None


@pytest.mark.parametrize("way", WAYS)
def test_graphs_hold_for_every_kind_of_objective(weights, way, monkeypatch):
    device = OnCpuDevice()
    counted = Counted(device, monkeypatch)
    mine, plain = (
        objective(weights, CudaEngine(device, "float32"), **WAYS[way]),
        launched(weights, "float32", **WAYS[way]),
    )
    for seed in range(3):
        before = counted.reads
        terms, gradient = mine(mine.engine.array(pixels(seed)))
        assert counted.reads == before + 1, "every evaluation reads once"
        assert_the_same((asdict(terms), mine.engine.numpy(gradient)), evaluated(plain, pixels(seed)))
    assert counted.graphs == 1, "recorded once"
    assert mine._repeated._graph is not None


def test_what_needs_a_number_on_its_way_is_launched_every_time(weights, monkeypatch):
    device, w2 = OnCpuDevice(), {"style_loss": "w2"}
    counted = Counted(device, monkeypatch)
    mine, plain = objective(weights, CudaEngine(device, "float32"), **w2), launched(weights, "float32", **w2)
    for seed in range(3):
        assert_the_same(evaluated(mine, pixels(seed)), evaluated(plain, pixels(seed)))
    assert counted.graphs == 1, "tried once"
    assert mine._repeated._graph is None


def test_a_number_that_is_none_arrives(weights):
    mine = objective(weights, CudaEngine(OnCpuDevice(), "float32"))
    for _ in range(3):
        broken = pixels(0)
        broken[1, 5, 5] = np.nan
        terms, _ = mine(mine.engine.array(broken))
        assert np.isnan(terms.total)
        assert np.isfinite(mine(mine.engine.array(pixels(0)))[0].total)


def test_new_buffers_void_the_graph(weights):
    """Two objectives of two sizes, one network: as on a ladder, and back."""
    engine = CudaEngine(OnCpuDevice(), "float32")
    first = objective(weights, engine)
    for seed in range(3):
        evaluated(first, pixels(seed))
    graph = first._repeated._graph
    large = np.ascontiguousarray(smooth_picture(40, 36, 3).transpose(2, 0, 1), np.float32)
    second = Objective(
        weights, smooth_picture(40, 36, 1), smooth_picture(40, 34, 8), engine=engine, network=first.network, **LAYERS
    )
    expected = launched(weights, "float32")
    evaluated(second, large)
    assert_the_same(evaluated(first, pixels(1)), evaluated(expected, pixels(1)))
    assert_the_same(evaluated(first, pixels(2)), evaluated(expected, pixels(2)))
    assert first._repeated._graph not in (None, graph)


def test_a_watched_evaluation_is_launched_step_by_step(weights):
    mine = objective(weights, CudaEngine(OnCpuDevice(), "float32"))
    expected = [evaluated(mine, pixels(seed)) for seed in (0, 1, 2)][1]
    seen: list[str] = []
    mine.network.watch(lambda layer, *_: seen.append(layer))
    assert_the_same(evaluated(mine, pixels(1)), expected)
    assert "conv2_1" in seen
    mine.network.watch(None)
    seen.clear()
    assert_the_same(evaluated(mine, pixels(1)), expected)
    assert not seen


def test_the_gradient_of_one_picture_is_not_that_of_the_next(weights):
    """The graph reads its own copy of the picture: the caller may change his at once."""
    mine = objective(weights, CudaEngine(OnCpuDevice(), "float32"))
    x = mine.engine.array(pixels(0))
    found = [evaluated(mine, pixels(0)) for _ in range(3)]
    mine(x)
    mine.engine.vectors.fill(x, 0.0)
    assert_the_same(evaluated(mine, pixels(0)), found[0])


# -- devices ----------------------------------------------------------------------------------------------------------


def test_nothing_happens_while_launches_are_recorded():
    device = OnCpuDevice()
    a, b = device.to_device(np.arange(4.0)), device.to_device(np.zeros(4))
    with device.capture() as graph:
        device.copy(a, b)
        device.fill_bytes(a, 0)
    assert (device.to_host(b) == 0).all()
    graph.launch()
    np.testing.assert_array_equal(device.to_host(b), np.arange(4.0))
    assert (device.to_host(a) == 0).all()


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda d, a: d.to_host(a),
        lambda d, a: d.to_device(np.zeros(3)),
        lambda d, a: d.empty(3, np.float32),
        lambda d, a: d.synchronize(),
    ],
)
def test_what_a_graph_cannot_hold_is_refused_and_the_device_goes_on(forbidden):
    device = OnCpuDevice()
    a = device.to_device(np.ones(4))
    with pytest.raises(CannotCapture), device.capture():
        forbidden(device, a)
    forbidden(device, a)


def test_a_gpu_records_on_its_stream_and_launches_on_it(monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    gpu._problem.cache_clear()
    device = gpu.GpuDevice()
    a = device.to_device(np.ones(4))
    with device.capture() as graph:
        assert cupy.captures == ["begun"]
        for forbidden in (lambda: device.to_host(a), lambda: device.empty(3, np.float32), device.synchronize):
            with pytest.raises(CannotCapture):
                forbidden()
    assert cupy.captures == ["begun", "ended"]
    graph.launch()
    assert cupy.captures == ["begun", "ended", device.stream]
    with pytest.raises(ValueError, match="broken"), device.capture():
        raise ValueError("broken")
    assert cupy.captures[3:] == ["begun", "ended"], "a recording that breaks off is ended"
    device.to_host(a)
    gpu._problem.cache_clear()


# -- numbers that are known later ----------------------------------------------------------------------------------


def test_sums_products_and_quotients_are_known_once_the_results_are():
    a, b = (Later(lambda results, i=i: float(results[i])) for i in (0, 1))
    results = np.array([3.0, 5.0])
    for number, expected in (
        (a + b, 8.0),
        (1 + a, 4.0),
        (a + 1.5, 4.5),
        (2 * a * b, 30.0),
        (np.float64(2) * a, 6.0),
        (a / 2, 1.5),
        (a / b, 0.6),
        (sum([a, b]), 8.0),
    ):
        assert number.known(results) == expected
    assert known({"a": a, "b": [1]}, results) == {"a": 3.0, "b": [1]}


@pytest.mark.parametrize("use", [float, bool, lambda a: a > 1, lambda a: np.isfinite(a), lambda a: f"{a:g}"])
def test_a_number_that_is_not_known_yet_cannot_be_used_as_one(use):
    with pytest.raises(TypeError):
        use(Later(lambda results: 1.0))


def noted(device, monkeypatch) -> list[str]:
    """Every kernel that is launched from now on."""
    found, kernel = [], device.kernel
    monkeypatch.setattr(device, "kernel", lambda *a, **k: (found.append(a[1]), kernel(*a, **k))[1])
    return found


def test_numbers_that_are_read_later_are_those_that_are_read_at_once(monkeypatch):
    """One launch adds up all for which there is room; those after them are read at once."""
    monkeypatch.setattr(losses, "RESULTS", 4)
    device, rng = OnCpuDevice(), np.random.default_rng(0)
    mine = losses.Losses(device, PRECISIONS["float32"])
    a, b = (device.to_device(rng.standard_normal(5000, np.float32)) for _ in range(2))
    G, A = (rng.standard_normal((9, 9), np.float32) for _ in range(2))
    kept = device.to_device(A)
    asked = [
        lambda: mine.squared_distance(a, b),
        lambda: mine.squared_distance(a[:7], b[:7]),  # fewer pieces where there were more
        lambda: mine.style(device.to_device(G), 3, kept, 4, 2.0)[0],
        lambda: mine.squared_sum(kept),
    ]
    expected = [ask() for ask in asked]
    launches = noted(device, monkeypatch)
    for order in (1, -1, 1):
        launches.clear()
        with mine.later():
            *later, last = [ask() for ask in asked[::order]]
            with mine.at_once():
                assert asked[1]() == expected[1]
            assert launches.count("sum_pieces") == 2, "for the last, and for that one"
        assert launches.count("sum_pieces") == 3
        assert [number.known(mine.results()) for number in later] + [last] == expected[::order]


def test_an_evaluation_that_stops_adds_nothing_up(monkeypatch):
    device = OnCpuDevice()
    mine, launches = losses.Losses(device, PRECISIONS["float32"]), noted(device, monkeypatch)

    def stopped():
        with mine.later():
            mine.squared_sum(device.to_device(np.ones(9, np.float32)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert launches == ["squared_distance"]
    assert not mine.deferred


# -- tools/gpu_check.py ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False])
def test_pictures_at_once_are_rows_beside_one_alone_and_must_have_its_loss(monkeypatch, same):
    asked, budget = [], gpu_bench.Budget(100)

    def at_once(weights, device, size, precision, counts, steps):
        asked.append((size, precision))
        return [(count, 0.001, same) for count in counts]

    monkeypatch.setattr(gpu_check.gpu_graphs, "at_once", at_once)
    rows = [{"size": size, "form": "nstcore tf32", "seconds": [0.01], "bytes": 1, "loss": 2.0} for size in (256, 1024)]
    args = gpu_check.parser().parse_args(["--sizes", "128,256,1024", "--precisions", "tf32,float16"])
    problems = gpu_check.several_at_once(None, args, budget, rows)
    assert asked == [(256, "tf32")], "small sizes whose step was timed"
    assert [row["form"] for row in rows[2:]] == [f"nstcore tf32, each of {n} at once" for n in gpu_check.AT_ONCE]
    assert len(problems) == (0 if same else 3)
    budget.seconds = 0
    assert gpu_check.several_at_once(None, args, budget, rows) == []
    assert "several pictures of 256x256 at once" in budget.left_out[0]
