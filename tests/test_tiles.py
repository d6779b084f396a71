"""Exact tiles: loss and gradient are those of the whole picture, whatever the tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import random_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nstcore import disk, engines, vgg
from nstcore.engines import Asked
from nstcore.engines.cpu import CpuEngine
from nstcore.engines.reference import ReferenceEngine
from nstcore.engines.tiled import TiledEngine, Tiling, geometry
from nstcore.engines.tiled.geometry import Reach, stretches
from nstcore.engines.tiled.windows import Room
from nstcore.engines.tiled.work import Tree
from nstcore.objective import Objective
from nstcore.optim import minimize_adam, minimize_lbfgs

STYLE = {"style_layers": ["relu1_1", "pool1", "relu3_1", "conv4_1", "relu5_1"], "content_layers": ["relu4_1"]}


def picture(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).random((height, width, channels))


def both(weights, size, tiling, engine=ReferenceEngine, styles=1, least=1 << 40, **options):
    """(terms, gradient) of the whole picture, and of tiles."""
    height, width = size
    style = [picture(70, 61, k + 1) for k in range(styles)]
    x, found = picture(height, width, 9).transpose(2, 0, 1), []
    content = options.pop("content", picture(height, width))
    for tiled in (False, True):
        base = engine("float64")
        machine = TiledEngine(base, tiling, least) if tiled else base
        objective = Objective(weights, content, style, engine=machine, **{**STYLE, **options})
        terms, gradient = objective(machine.array(x))
        found.append((terms, np.array(gradient)))
    return found


def differences(found):
    (terms, gradient), (of_tiles, from_tiles) = found
    return abs(terms.total - of_tiles.total) / terms.total, np.linalg.norm(from_tiles - gradient) / np.linalg.norm(
        gradient
    )


@pytest.fixture
def narrow_once(monkeypatch):
    """Five blocks of fewer channels than `narrow` has, for many examples."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 12), (1, 16), (1, 12), (1, 8)))
    return random_weights  # called anew: hypothesis would print the weights themselves


# -- where they lie --------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 200), st.integers(0, 60), st.sampled_from([1, 2, 4, 8, 16]))
def test_tiles_cover_each_position_once_and_their_windows_hold_the_halo(size, tile, halo, grid):
    found = stretches(size, tile, halo, grid)
    assert [s.begin for s in found] == [0, *(s.end for s in found[:-1])]
    assert found[-1].end == size
    assert len({s.length for s in found}) == 1
    for s in found:
        assert 0 <= s.start <= max(0, s.begin - halo)
        assert min(size, s.end + halo) <= s.start + s.length <= size
        assert s.start % grid == 0
        assert s.begin % grid == 0


@pytest.mark.parametrize(
    ("part", "stride", "grid", "reach", "again"),
    [
        (vgg.WHOLE, 1, 16, 70, [0, 1, 2, 2, 4]),
        (vgg.Part(1, 2), 1, 4, 6, [0, 1, 2, 2, 4]),
        (vgg.Part(3, 3), 4, 2, 4, [0, 1, 2, 3, 4, 4]),
        (vgg.Part(4), 8, 2, 6, [0, 1, 2, 3, 4, 4, 6]),
    ],
)
def test_a_part_reaches_as_far_as_its_convolutions(part, stride, grid, reach, again):
    steps = vgg.steps_for("vgg19", ["relu5_1"] if part.last is None else [], part)
    assert Reach.of(part, steps) == Reach(stride, grid, reach, reach)
    assert [Reach.of(part, steps, n).again for n in range(len(again))] == again


def test_the_sum_is_a_tree_whatever_comes_between():
    tree = Tree(lambda a, b: f"({a}{b})")
    for letter in "abcdefg":
        tree.add(letter)
    assert tree.total() == "(((ab)(cd))((ef)g))"


# -- the same numbers -------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(33, 150),
    st.integers(33, 150),
    st.integers(16, 170),
    st.lists(st.integers(1, 4), unique=True).map(sorted).map(tuple),
    st.sampled_from(["max", "average", "l2"]),
    st.integers(0, 2),
    st.booleans(),
)
def test_tiles_of_any_layout_are_the_whole(narrow_once, height, width, side, cuts, pooling, whole, gated):
    tiling = Tiling(side, cuts, min(whole, len(cuts)))
    with pytest.MonkeyPatch.context() as patch:
        if not gated:  # as on engines that compute all features again
            patch.setattr(Tiling, "gated", lambda *_: None)
        loss, gradient = differences(both(narrow_once(), (height, width), tiling, pooling=pooling))
    assert loss <= 1e-12
    assert gradient <= 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {"convention": "gatys-code"},
        {"convention": "crowson"},
        {"convention": "johnson"},
        {"style_loss": "w2"},
        {"style_loss": "mean-std"},
        {"styles": 2, "style_blend": [2, 1]},
        {"tv_weight": 3.0, "pyramid": (2, 3)},
        {"protect": picture(20, 20, 5)[..., 0] > 0.7, "guide_edges": "inside"},
        {"content": picture(99, 75, 4, 4)},
        {"content_layers": [], "pooling": "average"},
    ],
    ids=str,
)
def test_every_control_of_the_desk_works_in_tiles(narrow, options):
    loss, gradient = differences(both(narrow("replicate"), (99, 75), Tiling(32), **options))
    # Crowson's W2 takes roots of covariances whose least eigenvalues are 1e-4 of the mean, which multiplies roundings
    bound = 1e-11 if options.get("convention") == "crowson" else 1e-12
    assert loss <= bound
    assert gradient <= bound


def test_regions_work_in_tiles(narrow):
    left = np.zeros((40, 40))
    left[:, :19] = 1
    regions = [(left, ["all", "none"]), (1 - left, ["none", "all"])]
    loss, gradient = differences(both(narrow(), (99, 75), Tiling(32), styles=2, regions=regions, style_loss="centred"))
    assert loss <= 1e-12
    assert gradient <= 1e-12


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("cuts", [(), (2, 3), (1, 2, 3, 4)])
@pytest.mark.parametrize("sweep", ["features", "gradient"])
def test_a_halo_one_unit_of_the_grid_smaller_is_wrong(narrow_once, monkeypatch, cuts, sweep, gated):
    if not gated:
        monkeypatch.setattr(Tiling, "gated", lambda *_: None)
    enough = getattr(Reach, sweep)
    monkeypatch.setattr(Reach, sweep, property(lambda self: max(0, enough.fget(self) - self.grid)))
    side = 32 if cuts else 160  # larger than the halo, or another window would make up for it
    loss, gradient = differences(both(narrow_once(), (400, 90), Tiling(side, cuts)))
    assert max(loss, gradient) > 1e-9


def test_native_kernels_differ_by_rounding(narrow):
    weights = narrow()

    def engine(_dtype):
        return CpuEngine("float32")

    loss, gradient = differences(both(weights, (131, 150), Tiling(48), engine))
    assert loss <= 1e-5
    assert gradient <= 5e-3  # decisions near ties flip


def test_arrays_on_disk_hold_the_same_numbers(narrow, monkeypatch):
    monkeypatch.setattr(disk, "STRIP_BYTES", 4096)
    options = {"tv_weight": 2.0, "convention": "crowson"}
    in_memory, on_disk = (both(narrow(), (99, 75), Tiling(32), least=n, **options) for n in (1 << 40, 1))
    assert in_memory[1][0].total == pytest.approx(on_disk[1][0].total, rel=1e-13)  # total variation adds up strips
    np.testing.assert_allclose(in_memory[1][1], on_disk[1][1], rtol=1e-12)


def test_every_evaluation_takes_the_memory_of_the_one_before(narrow, monkeypatch):
    made, new = [], disk.disk_array
    monkeypatch.setattr("nstcore.engines.tiled.disk_array", lambda *args: made.append(args) or new(*args))
    engine = TiledEngine(CpuEngine("float32"), Tiling(32), 1)
    objective = Objective(narrow(), picture(99, 75), picture(70, 61), engine=engine, pyramid=(2,), **STYLE)
    x = engine.array(picture(99, 75, 9).transpose(2, 0, 1))
    objective(x)
    before, places, clear, of_name = len(made), [], Room.clear, Room._new
    monkeypatch.setattr(Room, "clear", lambda room: places.append({}) or clear(room))

    def noted(room, name, *what):
        found = of_name(room, name, *what)
        places[-1].setdefault(name, set()).add(found.ctypes.data)
        return found

    monkeypatch.setattr(Room, "_new", noted)
    objective(x)
    assert len(made) == before
    assert {name for part in places for name in part} >= {"input", "gradient", "gates 0", "target 0 of relu4_1"}
    assert all(len(addresses) == 1 for part in places for addresses in part.values())  # one place for all tiles


@pytest.mark.parametrize("minimize", [minimize_adam, minimize_lbfgs])
def test_both_optimizers_work_on_disk(narrow, minimize, monkeypatch):
    monkeypatch.setattr("nstcore.engines.tiled.vectors.BLOCK", 1000)
    ends, weights = [], narrow()
    for least in (1 << 40, 1):
        engine = TiledEngine(ReferenceEngine("float64"), Tiling(32), least)
        objective = Objective(weights, picture(60, 70), picture(50, 50, 1), engine=engine, **STYLE)

        def f(x, objective=objective):
            terms, gradient = objective(x)
            return terms.total, gradient

        x0 = engine.array(picture(60, 70, 2).transpose(2, 0, 1))
        assert disk.on_disk(x0) == (least == 1)
        end = minimize(f, x0, max_evaluations=5, bounds=(0, 1), vectors=engine.vectors)
        assert disk.on_disk(end.x) == (least == 1)
        ends.append(end)
    np.testing.assert_allclose(ends[0].x, ends[1].x, rtol=0, atol=1e-12)
    assert ends[0].loss == pytest.approx(ends[1].loss, rel=1e-12)


# -- the interface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["reference", "cpu", "cuda-on-cpu"])
def test_every_engine_is_cut_alike_and_goes_back_from_gates(narrow, device):
    network = TiledEngine(engines.create(device), Tiling(48)).network(narrow(), ["relu2_1", "relu5_1"], "max")
    assert [part.part.last for part in network.networks] == [2, 3, 4, None]
    assert [network.tiling.gated(part) is part for part in network.networks] == [True, True, True, False]


def test_what_was_not_asked_is_not_there(narrow):
    engine = TiledEngine(ReferenceEngine("float64"), Tiling(32))
    network = engine.network(narrow(), ["relu3_1"], "max")
    with pytest.raises(RuntimeError, match="call forward first"):
        network.gram("relu3_1")
    network.ask([Asked("gram", "relu3_1")])
    network.forward(picture(64, 64).transpose(2, 0, 1))
    assert network.gram("relu3_1").shape == (96, 96)
    with pytest.raises(RuntimeError, match="sums of relu3_1: not measured"):
        network.sums("relu3_1")


def test_features_of_tiles_are_those_of_the_whole(narrow_once):
    weights, x = narrow_once(), picture(75, 90).transpose(2, 0, 1)
    whole = ReferenceEngine("float64").network(weights, ["relu5_1"], "max")
    tiled = TiledEngine(ReferenceEngine("float64"), Tiling(16)).network(weights, ["relu5_1"], "max")
    whole.forward(x)
    tiled.forward(x)
    for layer in ("relu1_2", "pool2", "relu3_1", "relu5_1"):
        np.testing.assert_allclose(tiled.features(layer), whole.features(layer), rtol=1e-12, atol=1e-12)
    for name, decision in whole.decisions().items():
        np.testing.assert_array_equal(tiled.decisions()[name], decision)


def test_work_counts_the_multiplications_of_all_windows(narrow):
    engine = TiledEngine(ReferenceEngine("float64"), Tiling(16))
    network, seen = engine.network(narrow(), ["relu2_1", "relu5_1"], "max"), []
    area = geometry.Tile.area.fget  # by hand: every window of every part
    assert network.work(75, 90) > 1.5
    for part, side in zip(network.networks, network.sides, strict=True):
        forward, backward = (sum(map(area, tiles)) for tiles in network._tiles(part, 75, 90, side))
        for s in _convs(part):
            again = s.name <= "conv2_1" or s.name == "conv5_1"  # up to the taps
            times = forward + backward * (1 + again)
            seen.append(times * s.in_channels * s.out_channels / (s.stride / part.part.stride) ** 2)
    whole = 2 * 75 * 90 * sum(s.in_channels * s.out_channels / s.stride**2 for s in _convs(network))
    assert network.work(75, 90) == pytest.approx(sum(seen) / whole, rel=0.05)  # of 75 rows, 18 and 9 are whole
    network.retiled(replace(network.tiling, side=1000))
    assert network.work(75, 90) == pytest.approx(1.0)


def _convs(network):
    return [step for step in network.steps if step.kind == "conv"]


def test_memory_depends_on_the_tile_not_on_the_picture(random_vgg19):
    network = TiledEngine(CpuEngine(), Tiling(512)).network(random_vgg19, ["relu4_2", "relu5_1"], "max")
    small, large = (sum(network.memory(n, n).values()) for n in (3000, 16384))
    assert large == pytest.approx(small, rel=0.05)
