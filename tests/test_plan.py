"""What a transfer is said to take, what fits the memory at hand, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_desk import QUICK, desk_fixture, furniture_fixture  # noqa: F401  (fixtures)
from conftest import random_weights, smooth_picture

from nstcore import engines, images
from nstcore.commands.job import Job
from nstcore.commands.plan import print_plan
from nstcore.commands.settings import Settings, Source
from nstcore.commands.studio import Studio
from nstcore.engines.cuda.plan import Plan as Block
from nstcore.engines.memory import free_memory, held_memory
from nstcore.errors import OptionError
from nstcore.pretrained import download
from nstcore.transfer.ladder import climb
from nstcore.transfer.needs import LEAST_HISTORY, Needs
from nstcore.transfer.pictures import Pictures
from nstcore.transfer.plan import USABLE
from nstcore.transfer.preview import estimate
from nstcore.transfer.rung import Optimizer

CONTENT, STYLE = smooth_picture(60, 90), smooth_picture(70, 64, seed=1)
LAYERS = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu2_1"]}
LEFT = np.zeros((60, 90), np.float32)
LEFT[:, :45] = 1


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv2_1")


@pytest.fixture
def needs_for(weights):
    """Needs of a transfer of CONTENT and STYLE on the cpu, whose memory is `free`."""

    def make(free=None, optimizer="adam", history=20, ladder="off", styles=(STYLE,), scale=1.0, **options):
        engine = engines.create("cpu", threads=1)
        engine.memory = lambda: free
        pictures = Pictures(CONTENT, styles, style_scale=scale)
        chosen = Optimizer(optimizer, 0.02, history, 0.9)
        return Needs(pictures, weights, engine, LAYERS | options, chosen, lambda size: climb(size, ladder, 50, 2))

    return make


def phases(plan):
    """By name, at the full size."""
    return {phase.name: phase for phase in plan.phases if phase.size == plan.size}


# -- what is foreseen -------------------------------------------------------------------------------------------------


def test_the_peak_is_what_is_held_and_the_fullest_phase(needs_for):
    plan = needs_for().plan((200, 300))
    assert list(phases(plan)) == ["content", "styles", "start", "steps", "output"]
    assert plan.needed == max(sum(p.engine.values()) + sum(p.host.values()) for p in plan.phases)
    assert plan.peak == max(plan.most, plan.held + plan.needed)


def test_buffers_grow_with_the_picture_and_filters_do_not(needs_for):
    needs = needs_for()
    small, large = (phases(needs.plan(size))["steps"].engine for size in ((200, 300), (400, 600)))
    assert small.keys() == large.keys()
    assert small["filters"] == large["filters"]
    for name in ("relu1_1", "content targets", "picture", "Adam's m and v", "best pictures"):
        assert large[name] == 4 * small[name]


def test_a_style_larger_than_the_picture_is_the_peak(needs_for):
    plan = needs_for(scale=3.0).plan((200, 300))
    assert plan.needed == plan.bytes_of(phases(plan)["styles"]) > 2 * plan.bytes_of(phases(plan)["steps"])


@pytest.mark.parametrize(
    ("options", "name"),
    [({"protect": LEFT}, "protected part"), ({"protect": LEFT}, "extra"), ({"regions": [(LEFT, [])]}, "guides")],
)
def test_masks_take_memory_of_their_own(needs_for, options, name):
    plain, masked = (phases(needs_for(**o).plan((200, 300)))["steps"].engine for o in ({}, options))
    if engines.create("cpu").library is None and name == "extra":
        pytest.skip("without the native kernels, guided features need no buffer of their own")
    assert not plain.get(name)
    assert masked[name] > 0


def test_pairs_of_lbfgs_take_two_pictures_each(needs_for):
    needs = needs_for(optimizer="lbfgs")
    picture = 3 * 200 * 300 * 4
    fewer, more = (sum(phases(needs.plan((200, 300), n))["steps"].engine.values()) for n in (8, 12))
    assert more - fewer == 4 * 2 * picture


def test_on_the_ladder_what_the_size_before_has_left_is_counted(needs_for):
    plan = needs_for(ladder=60).plan((200, 300))
    begun = [phase.engine for phase in plan.phases if phase.name == "content"]
    assert len(begun) > 2
    assert "of the size before" not in begun[0]
    assert all(engine["of the size before"] > 0 for engine in begun[1:])


def test_an_engine_with_a_memory_of_its_own_needs_both(needs_for):
    needs = needs_for(free=10**12)
    together = needs.plan((200, 300))
    needs.network.apart = True
    plan = needs.plan((200, 300))
    assert plan.needed + plan.host_needed >= together.needed > plan.needed
    assert plan.fits
    needs._host_free = 1000
    assert not needs.plan((200, 300)).fits


def test_buffers_that_share_memory_are_counted_once():
    block = Block()
    block.add("early", (1000,), np.float32, 0, 1)
    block.add("always", (500,), np.float32, 0, 3)
    block.add("late", (800,), np.float32, 2, 3)
    assert sum(block.fullest.values()) == block.bytes
    assert set(block.fullest) == {"early", "always", "gaps"}


# -- what fits --------------------------------------------------------------------------------------------------------


def test_the_largest_size_that_fits_is_taken(needs_for):
    budget = needs_for().plan((80, 120)).needed / USABLE
    needs = needs_for(free=int(budget) + 1)
    plan = needs.largest((200, 300))
    assert plan.fits
    assert max(plan.size) in (120, 121)
    assert not needs.plan(images.fit(CONTENT.shape[:2], max(plan.size) + 2)).fits
    assert needs.largest((60, 90)).size == (60, 90)
    with pytest.raises(OptionError, match="free some"):
        needs_for(free=1000).largest((200, 300))


def test_lbfgs_forgets_pairs_before_the_picture_shrinks(needs_for):
    foreseen = needs_for(optimizer="lbfgs")
    budget = int(foreseen.plan((200, 300), 15).needed / USABLE) + 1
    plan = needs_for(free=budget, optimizer="lbfgs").largest((200, 300))
    assert (plan.size, plan.history) == ((200, 300), 15)
    budget = int(0.9 * foreseen.plan((200, 300), LEAST_HISTORY).needed / USABLE)
    plan = needs_for(free=budget, optimizer="lbfgs").largest((200, 300))
    assert plan.history == LEAST_HISTORY
    assert max(plan.size) < 300
    assert needs_for(free=budget, optimizer="lbfgs", history=3).largest((200, 300)).history == 3


def test_what_does_not_fit_is_refused_with_what_would(needs_for):
    needs = needs_for(free=int(needs_for().plan((80, 120)).needed / USABLE) + 1)
    needs.check(needs.plan((60, 90)))
    with pytest.raises(OptionError, match=r"300x200.*take a long side of 12[01] pixels, or let --fit") as raised:
        needs.check(needs.plan((200, 300)))
    assert "\n" not in str(raised.value)
    with pytest.raises(OptionError, match="no size would fit"):
        needs_for(free=1000).check(needs_for(free=1000).plan((200, 300)))


def test_where_nobody_knows_what_is_free_nothing_is_refused(needs_for):
    assert needs_for(free=None).plan((2000, 3000)).fits


# -- estimates --------------------------------------------------------------------------------------------------------


def test_an_estimate_has_sizes_memory_and_time(weights):
    found = estimate(CONTENT, [STYLE], weights=weights, size=90, iterations=20, device="cpu", threads=1, **LAYERS)
    assert found.plan.size == (60, 90)
    assert found.refusal is None
    assert found.pace is not None
    assert max(found.pace.size) <= 90
    more = estimate(CONTENT, [STYLE], weights=weights, size=90, calibrate=False, **LAYERS)
    assert more.seconds is None

    def in_one_piece(height, width):
        return 1.0

    twice = found.pace.seconds([*found.plan.rungs, *found.plan.rungs], [[(70, 64)], [(70, 64)]], in_one_piece)
    assert twice == pytest.approx(2 * found.pace.seconds(found.plan.rungs, [[(70, 64)]], in_one_piece))
    assert found.seconds > 20 * found.pace.step


def test_an_estimate_refuses_the_options_that_stylize_refuses(weights):
    with pytest.raises(OptionError, match="optimizer"):
        estimate(CONTENT, STYLE, weights=weights, optimizer="sgd")
    with pytest.raises(TypeError, match="style"):
        estimate(CONTENT, weights=weights)


def test_masks_that_leave_nothing_at_a_small_size_leave_no_estimate_of_time(weights):
    dot = np.zeros((800, 1200), np.float32)
    dot[400:402, 600:602] = 1
    options = {"regions": [(dot, ["all"])], "guide_edges": "inside", "size": 1200, "pyramid": "off"}
    large = np.broadcast_to(np.float32(0.5), (800, 1200, 3))
    found = estimate(large, STYLE, weights=weights, device="cpu", threads=1, style_size=64, **LAYERS | options)
    assert found.pace is None
    assert found.plan.needed > 0


# -- the command ------------------------------------------------------------------------------------------------------


def job(**settings):
    values = {name.replace("-", "_"): value for name, value in QUICK.items()} | {"weights": "weights.h5"} | settings
    values |= {name: {values[name]: 1.0} for name in ("content_layers", "style_layers")}
    return Job(Path("photos/a.png"), (Path("art/x.png"),), Path("out.png"), Settings([Source("", values)]))


@pytest.fixture
def studio():
    with Studio(quiet=True) as made:
        yield made


def test_the_plan_is_printed_and_nothing_is_written(desk, studio, capsys):
    before = sorted(desk.rglob("*"))
    assert print_plan(job(), studio) == 0
    said = capsys.readouterr().out
    for words in ("relu1_1", "measuring the styles", "peak of the process", "free", "long sides in pixels", "time:"):
        assert words in said
    assert sorted(desk.rglob("*")) == before


def test_a_plan_that_does_not_fit_is_printed_and_refused(desk, studio, capsys, monkeypatch):
    monkeypatch.setattr("nstcore.engines.base.free_memory", lambda: 40_000_000)
    with pytest.raises(OptionError, match="let --fit do so"):
        print_plan(job(size=900), studio)
    assert "steps" in capsys.readouterr().out


def test_weights_that_a_run_would_download_are_planned_by_their_shapes(desk, studio, capsys, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a plan downloads nothing")

    monkeypatch.delenv("NSTCORE_OFFLINE")
    monkeypatch.setattr(download, "fetch", refuse)
    assert print_plan(job(weights="vgg16"), studio) == 0
    assert "vgg16 is not in the cache: a run downloads it first" in capsys.readouterr().out


# -- the memory at hand -----------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 16 kB\nMemAvailable: 9000 kB\n")
    return tmp_path, write


def test_limits_of_the_groups_around_the_process_hold_too(system):
    root, write = system
    write("proc/self/cgroup", "0::/batch/job/task\n")
    write("sys/fs/cgroup/batch/job/task/memory.max", "max\n")
    write("sys/fs/cgroup/batch/job/task/memory.current", "100\n")
    assert free_memory(root) == 9000 * 1024
    write("sys/fs/cgroup/batch/job/memory.max", "3000000\n")
    write("sys/fs/cgroup/batch/job/memory.current", "1000000\n")
    write("sys/fs/cgroup/batch/job/memory.stat", "anon 5\ninactive_file 400000\n")
    assert free_memory(root) == 2_400_000


def test_the_first_version_of_groups_is_honoured_as_well(system):
    root, write = system
    write("proc/self/cgroup", "5:cpu,memory:/job\n4:pids:/other\n0::/\n")
    write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000000\n")
    write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1500000\n")
    write("sys/fs/cgroup/memory/job/memory.stat", "total_inactive_file 100000\n")
    assert free_memory(root) == 600_000
    write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "2500000\n")
    assert free_memory(root) == 0


def test_the_process_knows_what_it_holds():
    before = held_memory()
    if before is None:
        pytest.skip("this system does not say")
    block = np.ones(50_000_000, np.uint8)
    now, most = held_memory()
    assert most >= now
    assert most >= before[0] + 0.9 * block.nbytes or before[1] > before[0] + block.nbytes
