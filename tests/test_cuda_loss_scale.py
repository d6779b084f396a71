"""float16's loss scales: two launches find the sums of many arrays, and the powers of two, that float64 finds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import random_weights, smooth_picture
from cuda_devices import notices, plant
from cuda_sanitized import run_sanitized

from nstcore import Objective, vgg
from nstcore.engines import TapGradient
from nstcore.engines.cuda import CudaEngine, loss_scale, losses
from nstcore.engines.cuda.gram import Grams
from nstcore.engines.cuda.later import LaterArray
from nstcore.engines.cuda.loss_scale import LossScale, place_of
from nstcore.engines.cuda.losses import Losses
from nstcore.engines.cuda.moments import make_guide
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.statistics import Target
from nstcore.errors import ShapeError

FLOAT16 = PRECISIONS["float16"]
UNIT = 2.0**-24
BOUND = 12 * UNIT  # of a sum: 8 additions of a load, difference (twice), weight, square
TRACED = (128 + 2) * UNIT  # of a Gram matrix of that many positions in a piece
GUARD = 16
needs_stand_in = pytest.mark.skipif(problem() is not None, reason=str(problem()))

# ---- the two launches ------------------------------------------------------------------------------------------------


def held(device, a):
    """A copy on the device, with NaN behind it."""
    whole = np.full(a.size + GUARD, 255, np.uint8).repeat(a.itemsize).view(a.dtype)
    whole[: a.size] = a.reshape(-1)
    return device.to_device(whole)[: a.size].reshape(a.shape)


@dataclass
class Term:
    """A loss's gradient in NumPy's arrays; `weights` (H, W) of a guide."""

    tap: str
    dG: np.ndarray | None = None
    ds: np.ndarray | None = None
    factor: float = 1.0  # of a ds that lies on the device; 0: it does not
    P: np.ndarray | None = None
    scale: float = 0.0
    weights: np.ndarray | None = None


class Case:
    """Some losses at two taps: one with pieces that are not whole, one whose channels fill no 16 bytes."""

    def __init__(self, seed: int = 0, size: float = 1.0, terms: str = "all") -> None:
        rng = np.random.default_rng(seed)
        self.F = {tap: rng.standard_normal(s).astype(np.float16) for tap, s in (("a", (9, 33, 24)), ("b", (5, 7, 35)))}
        P = {tap: rng.standard_normal(F.shape).astype(np.float16) for tap, F in self.F.items()}
        dG = {N: (size * rng.standard_normal((3, N, N))).astype(np.float32) for N in (24, 35)}
        ds, weights = (size * rng.standard_normal(35)).astype(np.float32), 3 * rng.random((9, 33))
        every = [
            Term("a", dG=dG[24][0]),
            Term("a", dG=dG[24][1] / 64, P=P["a"], scale=size / 3, weights=weights),
            Term("b", dG=dG[35][0], ds=ds, factor=0.25),
            Term("b", dG=dG[35][1], ds=ds, factor=0.0, P=P["b"], scale=size * 8),
        ]
        self.terms = {"all": every, "one": every[:1], "none": []}[terms]
        self.above = (size * 50 * rng.standard_normal((3, 11, 31))).astype(np.float32) if terms == "all" else None

    def measured(self, device, traced: bool = False):
        """Scales of the device, LossScale, and the gradients that it was asked for."""
        for room in (device,):
            _unwritten(room)
        F = {tap: held(device, a) for tap, a in self.F.items()}
        gradients: dict[str, list[TapGradient]] = {tap: [] for tap in F}
        for term in self.terms:
            guide = None if term.weights is None else make_guide(device, term.tap, term.weights, 24)
            ds = term.ds
            if ds is not None:
                ds = LaterArray(held(device, ds), term.factor) if term.factor else ds.astype(np.float64)
            dG = None if term.dG is None else held(device, term.dG)
            target = None if term.P is None else Target(held(device, term.P), guide)
            gradients[term.tap].append(TapGradient(dG, ds, target, term.scale, guide))
        scale = LossScale(Losses(device, FLOAT16))
        above = None if self.above is None else held(device, self.above)
        return scale.measure(gradients, F, above, self.traces(device, F) if traced else None), scale, gradients

    def traces(self, device, F):
        """Of all taps without a guide, as Gram matrices leave them."""
        found = {}
        for tap, a in F.items():
            N, M = a.shape[2], a.size // a.shape[2]
            grams = Grams(device, FLOAT16, [(N, M)], traced=True)
            partials, G = device.empty(grams.partial_floats, np.float32), device.empty((N, N), np.float32)
            grams([a.reshape(M, N)], partials, [G])
            (found[place_of(device, tap)],) = grams.traces
        return found

    def sums(self) -> list[float]:
        """What every job adds up, in their order."""
        found = []
        for term in self.terms:
            F = self.F[term.tap].astype(np.float64)
            w = 1.0 if term.weights is None else (term.weights / most(term.weights))[..., None]
            if term.dG is not None:
                found += [(term.dG.astype(np.float64) ** 2).sum(), (w * F**2).sum()]
            if term.ds is not None and term.factor:
                found.append((term.ds.astype(np.float64) ** 2).sum())
            if term.P is not None:
                found.append((w * (F - term.P) ** 2).sum())
        return found if self.above is None else [*found, (self.above.astype(np.float64) ** 2).sum()]

    def exponents(self) -> tuple[int, list[int]]:
        """Of the loss scale; of each dG's S."""
        means = dict.fromkeys(self.F, 0.0)
        for term in self.terms:
            F = self.F[term.tap].astype(np.float64)
            w = np.ones(F.shape[:2]) if term.weights is None else term.weights
            largest, squares = most(w), 0.0
            if term.dG is not None:
                squares += 4 * (term.dG.astype(np.float64) ** 2).sum() * largest * (w[..., None] * F**2).sum()
            if term.ds is not None:
                squares += (((term.factor or 1) * term.ds.astype(np.float64)) ** 2).sum() * (w**2).sum()
            if term.P is not None:
                squares += (2 * term.scale) ** 2 * largest * (w[..., None] * (F - term.P) ** 2).sum()
            means[term.tap] += squares / F.size
        if self.above is not None:
            means["above"] = (self.above.astype(np.float64) ** 2).mean()
        return power(0, math.sqrt(max(means.values()))), [
            power(11, abs(t.dG).max()) for t in self.terms if t.dG is not None
        ]


def most(weights: np.ndarray) -> float:
    """The power of two by which a guide divides them."""
    return 2.0 ** math.ceil(math.log2(weights.max()))


def power(wanted: int, v: float) -> int:
    """e that brings 2^e v into (2^(wanted-1), 2^wanted], 0 for 0; never near a border, where rounding decides."""
    if v == 0:
        return 0
    exact = wanted - math.log2(v)
    assert abs(exact - round(exact)) > 1e-5
    return math.floor(exact)


def _unwritten(device) -> None:
    """What is not written is NaN."""
    empty = type(device).empty

    def filled(shape, dtype):
        a = empty(device, shape, dtype)
        device.fill_bytes(a, 255)
        return a

    device.empty = filled


def check(machine, case: Case, traced: bool = False) -> None:
    def run(device):
        scales, scale, gradients = case.measured(device, traced)
        dGs = [term.dG for of_tap in gradients.values() for term in of_tap if term.dG is not None]
        rows = [device.to_host(scales.of(0 if dG is None else device.address(dG))) for dG in (None, *dGs)]
        return np.array(rows), device.to_host(scale._rooms["results"])

    rows, results = machine.check(run)
    sums, mosts = results[: 2 * len(case.sums())].reshape(-1, 2).T
    np.testing.assert_allclose(sums, case.sums(), rtol=TRACED if traced else BOUND)
    at = np.cumsum([0] + [2 + bool(t.ds is not None and t.factor) + (t.P is not None) for t in case.terms])
    for term, place in zip(case.terms, at, strict=False):
        assert mosts[place] == abs(term.dG).max()
        assert mosts[place + 1] == 0
    loss, of_S = case.exponents()
    assert rows[0].tolist() == [2.0**e for e in (loss, loss, 0, -loss)]
    for row, e in zip(rows[1:], of_S, strict=True):
        assert row.tolist() == [2.0 ** (loss - e), 2.0**loss, 2.0**e, 2.0**-loss]


@pytest.mark.parametrize(("terms", "size"), [("all", 1.0), ("all", 1e-12), ("all", 1e15), ("one", 1.0), ("none", 1.0)])
def test_scales_are_those_of_float64(machine, terms, size):
    check(machine, Case(size=size, terms=terms))


def test_a_piece_of_a_large_array_is_dealt_with_in_turns(machine, monkeypatch):
    monkeypatch.setattr(loss_scale, "MOST", 2)
    check(machine, Case())


def test_a_trace_that_is_there_gives_the_same_scales_and_features_are_not_read(machine):
    case = Case()
    check(machine, case, traced=True)
    device = machine.devices[0]
    case.F = {tap: np.full_like(F, np.nan) for tap, F in case.F.items()}
    case.terms = [Term("a", dG=case.terms[0].dG)]
    case.above = None
    traces = {("a", 0): device.to_device(np.array([2.0, 0.5]))}
    case.traces = lambda device, F: traces
    scales, _, _ = case.measured(device, traced=True)
    dG = case.terms[0].dG.astype(np.float64)
    squares = 4 * (dG**2).sum() * 2.5 / case.F["a"].size
    assert device.to_host(scales.of())[1] == 2.0 ** power(0, math.sqrt(squares))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["dG", "F"])
def test_what_is_not_finite_asks_for_no_scale(machine, where, bad):
    """It must come out as it is: the gradient that follows is not finite either, and that is told."""
    case = Case(terms="one")
    (case.terms[0].dG if where == "dG" else case.F["a"]).reshape(-1)[-1] = bad

    def run(device):
        scales, _, gradients = case.measured(device)
        return device.to_host(scales.of(device.address(gradients["a"][0].dG)))

    style, loss, of_S, back = machine.check(run)
    assert (loss, back) == (1, 1)
    assert style == 1 / of_S
    assert (of_S == 1) == (where == "dG")


@needs_stand_in
def test_arrays_that_a_table_cannot_take_are_refused_in_one_line():
    device = OnCpuDevice()
    scale = LossScale(Losses(device, FLOAT16))
    F, dG = device.to_device(np.ones((3, 4, 8), np.float16)), device.to_device(np.ones((8, 8), np.float32))
    wide = device.to_device(np.ones((8, 16), np.float32))
    P = Target(device.to_device(np.ones((4, 3, 8), np.float16)), None)
    theirs = Target(np.ones((3, 4, 8), np.float16), None)
    for term, error, message in (
        (TapGradient(target=theirs), TypeError, "loss scales: expected C-contiguous float16 arrays of .*, got <class"),
        (TapGradient(wide[:, :8]), TypeError, "got float32 with strides"),
        (TapGradient(dG, ds=LaterArray(device.to_device(np.ones(8)))), TypeError, "float16 arrays .*, got float64"),
        (TapGradient(target=P), ShapeError, r"P: expected the shape of F \(3, 4, 8\), got \(4, 3, 8\)"),
    ):
        with pytest.raises(error, match=message) as caught:
            scale.measure({"a": [term]}, {"a": F})
        assert "\n" not in str(caught.value)


# ---- what these tests would notice -----------------------------------------------------------------------------------

BUGS = {
    "nothing": ("// op:", "// op:"),
    "a job that is not found": ("while (--count && blockIdx.x >= job", "while (--count && blockIdx.x > job"),
    "pieces counted from the launch's first block": ("(i, n, 4, piece, pieces)", "(i, n, 4, blockIdx.x, pieces)"),
    "extremes of another job": ("? extremes + job[JOB_FIRST]", "? extremes"),
    "extremes of one piece": ("extremes[blockIdx.x] = most;", "extremes[blockIdx.x] = piece ? 0 : most;"),
    "no barrier after the jobs' sums": ("__syncthreads();  // all results are there", ""),
    "jobs that no warp adds": ("j += WARPS", "j += 2 * WARPS"),
    "a fourth float that is left out": ("e < 4; ++e) part =", "e < 3; ++e) part ="),
    "a float beyond the end": ("if (e < left) v[e]", "if (e <= left) v[e]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(unoptimised, monkeypatch, bug):
    plant(monkeypatch, losses.STYLE, *BUGS[bug])
    notices(bug, lambda: check(unoptimised, Case()))


SANITIZED = """
from cuda_devices import Machine
from nstcore.engines.cuda.on_cpu import OnCpuDevice
from test_cuda_loss_scale import Case, check

check(Machine([OnCpuDevice(build=BUILD)]), Case(terms="one" if BUILD == "tsan" else "all"))
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_no_launch_leaves_its_memory_or_races(build):
    done = run_sanitized(build, SANITIZED)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---- an evaluation ---------------------------------------------------------------------------------------------------

LAYERS = {"content_layers": {"relu2_1": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 0.5, "relu3_1": 0.2}}
REGIONS = [(np.pad(np.ones((32, 18)), ((0, 0), (0, 18))), ["all"])] * 2
WAYS = {
    "plain": {},
    "regions": {"regions": REGIONS},
    "sums": {"style_loss": "mean-std"},
    "sums in regions": {"style_loss": "centred", "regions": REGIONS},
}


@pytest.fixture
def weights(monkeypatch):
    """Three blocks of a few channels."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 16), (1, 16)))
    return random_weights(deepest="conv3_1")


@needs_stand_in
@pytest.mark.parametrize("way", WAYS)
def test_float16_makes_three_launches_more_than_bfloat16(weights, way):
    """Whatever the losses: two for the scales, and one that looks whether the gradient is finite."""
    from predict_launches import Recorder, record_step  # of tools, which a sanitized Python does not know

    def launches(precision):
        found = record_step(weights, precision, 32, Recorder(90, 132, "a GPU on paper"), **LAYERS | WAYS[way])
        return Counter((one.rung, one.kernel) for one in found)

    more, fewer = launches("float16"), launches("bfloat16")
    assert fewer - more == Counter()
    style, content = losses.STYLE, losses.CONTENT
    assert more - fewer == Counter([(style, "measure"), (style, "loss_scales"), (content, "squared_distance")])
    assert more[content, "sum_pieces"] == 1
    assert more["", "fill"] == ("regions" in WAYS[way]), "a loss without a guide begins the gradient"


@needs_stand_in
@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way == "regions" else pytest.mark.slow) for way in WAYS])
def test_an_evaluation_reads_no_features_again_and_has_the_scales_as_if_it_did(weights, way, monkeypatch):
    measure, seen = LossScale.measure, []

    def both(self, gradients, features, above, traced):
        dGs = [(tap, term) for tap, of_tap in gradients.items() for term in of_tap if term.dG is not None]
        assert {place_of(self.device, tap, term.guide) for tap, term in dGs} == set(traced)
        plain, found = (measure(LossScale(self.losses), gradients, features, above, t) for t in (None, traced))
        for dG in (0, *(self.device.address(term.dG) for _, term in dGs)):
            seen.append([self.device.to_host(scales.of(dG)).tolist() for scales in (plain, found)])
        return measure(self, gradients, features, above, traced)

    monkeypatch.setattr(LossScale, "measure", both)
    content, style = smooth_picture(32, 36, 7), smooth_picture(40, 34, 8)
    of = Objective(weights, content, style, engine=CudaEngine(OnCpuDevice(), "float16"), **LAYERS | WAYS[way])
    of(np.ascontiguousarray(smooth_picture(32, 36, 0).transpose(2, 0, 1), np.float32))
    assert len(seen) >= 4
    assert all(plain == found for plain, found in seen)
    assert len({loss for (_, loss, _, _), _ in seen}) == 1


@needs_stand_in
def test_traces_are_those_of_the_last_forward(weights):
    """Of another picture, or of gates, they would be wrong."""
    engine = CudaEngine(OnCpuDevice(), "float16")
    network = engine.network(weights, ("relu1_1", "relu2_1"), "max")
    x = engine.array(np.ascontiguousarray(smooth_picture(32, 36, 0).transpose(2, 0, 1), np.float32))
    network.forward(x)
    guide = network.guide("relu1_1", np.ones((32, 36)))
    network.grams(["relu2_1"]), network.gram("relu1_1", guide)
    places = [("relu2_1", 0), place_of(engine.device, "relu1_1", guide)]
    assert list(network.traced) == places
    F = network.features("relu2_1").astype(np.float64)
    parts = engine.device.to_host(network.traced["relu2_1", 0])
    assert parts.sum() == pytest.approx((F**2).sum(), rel=TRACED)
    gates = {step.name: network.gates(step) for step in network.gated}
    network.forward(x)
    assert not network.traced
    network.grams(["relu2_1"])
    network.reopen(x, gates)
    assert not network.traced
