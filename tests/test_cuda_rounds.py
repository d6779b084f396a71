"""Several pictures at once, their steps launched together: the bits that each has alone, on the CPU's stand-in."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import gpu_graphs
import numpy as np
import pytest
from command_desk import (
    at_fixture,  # noqa: F401
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    interrupt,
    main,
    one_line,
    table,
)
from conftest import random_weights, smooth_picture
from fake_cupy import fake_cupy
from late_device import LateDevice

import nstcore
from nstcore import images
from nstcore.commands import together
from nstcore.commands.job import Job
from nstcore.commands.settings import Settings, Source
from nstcore.engines.cuda import CudaEngine, cache, gpu
from nstcore.engines.cuda.on_cpu import OnCpuDevice, problem
from nstcore.engines.cuda.rounds import Rounds

pytestmark = pytest.mark.skipif(problem() is not None, reason=str(problem()))
LAYERS = {"content_layers": {"relu1_2": 1.0}, "style_layers": {"relu1_1": 1.0, "relu1_2": 0.5}}


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv1_2")


class Watched(LateDevice):
    """Counts what is launched, and how many graphs at once; every graph works on arrays of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[int] = []
        self.made = 0

    def joined(self, graphs):
        self.made += 1
        found = super().joined(graphs)
        launch = found.launch

        def counted() -> None:
            self.together.append(len(graphs))
            launch()

        found.launch = counted
        return found


def painted(weights, device, seed: int, precision: str = "float32", **options) -> nstcore.transfer.Result:
    given = {"size": 20, "iterations": 5} | LAYERS | options
    pictures = smooth_picture(16, 20, seed), smooth_picture(18, 16, seed + 8)
    return nstcore.stylize(*pictures, weights=weights, engine=CudaEngine(device, precision), **given)


def alone_and_together(weights, options: list[dict]) -> Watched:
    """Paint each by itself, then all at once; the device of the latter."""
    expected = [painted(weights, LateDevice(), seed, **given) for seed, given in enumerate(options)]
    device = Watched()
    found: dict[int, nstcore.transfer.Result] = {}

    def work(seed: int, given: dict):
        return lambda: found.__setitem__(seed, painted(weights, device, seed, **given))

    Rounds(device).run([work(seed, given) for seed, given in enumerate(options)])
    for seed, result in enumerate(expected):
        assert found[seed].losses == result.losses
        assert found[seed].status == result.status
        np.testing.assert_array_equal(found[seed].pixels, result.pixels)
    assert device.rounds is None
    return device


def test_pictures_painted_at_once_have_the_bits_of_those_painted_alone(weights):
    """Of other sizes, lengths and optimizers, kernel by kernel in turn; a round is one launch, and Adam's two sets of
    buffers are two joined graphs, whatever the number of steps."""
    device = alone_and_together(weights, [{}, {"size": 24}, {"optimizer": "lbfgs", "iterations": 3}])
    # The first evaluation is launched kernel by kernel, of L-BFGS's the second is recorded; it ends some rounds earlier
    assert device.together[:2] == [3] * 2
    assert set(device.together) == {2, 3}
    assert device.made <= 6


@pytest.mark.slow
def test_at_once_in_other_precisions_and_on_ladders(weights):
    ladder, sixteen = {"size": 32, "ladder": 20, "iterations": 4}, {"iterations": 3}
    options = [
        {"precision": "float16"} | sixteen,
        {"precision": "bfloat16"} | sixteen,
        ladder,
        ladder,
        {"style_loss": "mean-std"},
        {"style_loss": "w2"},
    ]
    device = alone_and_together(weights, options)
    assert max(device.together) == 5, "the one whose losses the host computes launches no graphs"


def test_graphs_that_share_an_array_would_be_noticed(weights):
    """What makes the tests above worth something: with one engine for two pictures, their work space is common."""
    device = LateDevice()
    engine = CudaEngine(device, "float32")
    expected = [painted(weights, LateDevice(), seed) for seed in (0, 1)]
    found = {}

    def work(seed: int):
        pictures = smooth_picture(16, 20, seed), smooth_picture(18, 16, seed + 8)
        given = {"size": 20, "iterations": 5, "weights": weights, "engine": engine} | LAYERS
        return lambda: found.__setitem__(seed, nstcore.stylize(*pictures, **given))

    Rounds(device).run([work(0), work(1)])
    assert any(found[seed].losses != expected[seed].losses for seed in (0, 1))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_gpu_gives_pictures_painted_at_once_the_bits_that_they_have_alone(weights, device):
    device, found = nstcore.engines.create(device).device, {}
    options = [{}, {"size": 48, "iterations": 9}, {"optimizer": "lbfgs"}, {"precision": "float16"}]
    works = [
        lambda i=i, given=given: found.__setitem__(i, painted(weights, device, i, **given))
        for i, given in enumerate(options)
    ]
    Rounds(device).run(works)
    for i, given in enumerate(options):
        alone = painted(weights, device, i, **given)
        assert found[i].losses == alone.losses
        np.testing.assert_array_equal(found[i].pixels, alone.pixels)


@pytest.mark.slow
def test_the_check_for_a_gpu_times_pictures_at_once_and_sees_bits_that_are_others(weights, monkeypatch):
    monkeypatch.setattr(gpu_graphs, "Objective", partial(nstcore.Objective, **LAYERS))
    monkeypatch.setattr(gpu_graphs, "TURNS", (0, 1))
    found = list(gpu_graphs.at_once(weights, "cuda-on-cpu", 20, "float32", (1, 2), 2))
    assert [(count, same) for count, _, same in found] == [(1, True), (2, True)]
    assert all(seconds > 0 for _, seconds, _ in found)
    assert gpu_graphs.launch_by_launch(weights, "cuda-on-cpu", 20, "float32") == ["w2"]
    assert gpu_graphs.unlike(weights, "cuda-on-cpu", 20, ["float32"]) == []
    common: dict = {}
    monkeypatch.setattr(
        gpu_graphs, "CudaEngine", lambda device, precision: common.setdefault(0, CudaEngine(device, precision))
    )
    (line,) = gpu_graphs.unlike(weights, "cuda-on-cpu", 20, ["float32"])
    assert line == "graphs, float32: 2 pictures at once: expected the bits of each alone, got others"


def test_filters_lie_on_a_device_once(weights):
    device = OnCpuDevice()

    def make(weights, precision, device=device):
        return CudaEngine(device, precision).network(weights, ["relu1_2"], "max")

    one, same, other = make(weights, "float32"), make(weights, "float32"), make(weights, "tf32")
    assert one.filters is same.filters
    assert other.filters is not one.filters
    assert make(replace(weights, padding="replicate"), "float32").filters is not one.filters
    assert make(weights.with_pooling_scaled(2.0), "float32").filters is one.filters, "conv1_1 and conv1_2 are before it"
    assert make(weights, "float32", OnCpuDevice()).filters is not one.filters
    assert len(device.packed) == 2
    del one, same
    assert len(device.packed) == 1, "and as long as somebody reads them"


# -- whoever takes part -----------------------------------------------------------------------------------------------


def graph_of(device, log: list, name: str):
    with device.capture() as graph:
        device._do(lambda: log.append(name))
    return graph


def test_one_works_at_a_time_and_all_wait_for_the_round():
    device, log = OnCpuDevice(), []
    graphs = {name: graph_of(device, log, name) for name in "ABC"}

    def work(name: str, rounds: int):
        def run() -> None:
            for i in range(rounds):
                log.append(f"{name.lower()}{i}")
                device.launch(graphs[name])
            log.append(f"{name.lower()}.")

        return run

    Rounds(device).run([work("A", 1), work("B", 3), work("C", 0)])
    assert log == ["a0", "b0", "c.", "A", "B", "a.", "b1", "B", "b2", "B", "b."]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_ends_all_and_leaves_no_thread(error):
    device, log = OnCpuDevice(), []
    graph = graph_of(device, log, "A")

    def forever() -> None:
        try:
            while True:
                device.launch(graph)
        finally:
            log.append("put away")

    def fails() -> None:
        device.launch(graph)
        raise error

    before = threading.active_count()
    with pytest.raises(type(error)):
        Rounds(device).run([forever, fails, forever])
    assert threading.active_count() == before
    assert log.count("put away") == 2
    assert device.rounds is None


def test_each_is_told_of_a_launch_that_failed(weights, monkeypatch):
    """As of one of its own: the best picture before is there."""
    device = OnCpuDevice()
    monkeypatch.setattr(device, "joined", lambda graphs: (_ for _ in ()).throw(MemoryError("no room for the graph")))
    found = []

    def work() -> None:
        with pytest.raises(nstcore.transfer.FailedRun, match="not enough memory") as failed:
            painted(weights, device, 0)
        found.append(failed.value.result)

    Rounds(device).run([work, work])
    assert [len(result.losses) for result in found] == [1, 1]


def test_a_gpu_records_a_branch_for_each_between_a_fork_and_a_join(monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    gpu._problem.cache_clear()
    device = gpu.GpuDevice()
    a, b = device.to_device(np.arange(4.0)), device.to_device(np.zeros(4))
    graphs = []
    for work in (lambda: device.copy(a, b), lambda: (device.fill_bytes(a, 0), device.fill_bytes(b, 0))):
        with device.capture() as graph:
            work()
        graphs.append(graph)
    cupy.launches.clear()
    cupy.captures.clear()
    joined = device.joined(graphs)
    assert cupy.captures == ["begun", "ended"]
    (_, main, begin), *rest = cupy.launches
    (_, first, waited), (copied, at, *_), (_, left, end), (_, joins, joined_with) = rest[:4]
    assert main is device.stream is joins
    assert (copied, at) == ("copy", first)
    assert (waited, left, joined_with) == (begin, first, end)
    (_, second, waited), *fills, (_, left, end), (_, joins, joined_with) = rest[4:]
    assert [(what, where) for what, where in fills] == [("fill", second)] * 2
    assert len({main, first, second}) == 3
    assert (waited, left, joined_with, joins) == (begin, second, end, main)
    device.joined(graphs[:1])
    assert len(device._branches) == 2, "streams are kept"
    joined.launch()
    assert cupy.captures[-1] is device.stream
    assert joined.work == []
    gpu._problem.cache_clear()


# -- on the command line ----------------------------------------------------------------------------------------------

KERNELS = cache.folder()  # those of every test: a desk would compile its own


@pytest.fixture
def there(desk, monkeypatch):
    """The desk, with the kernels that have been compiled."""
    monkeypatch.setattr(cache, "folder", lambda: KERNELS)


SMALL = {"size": 24, "iterations": 3, "weights": "weights.h5", "threads": 1, "precision": "float32"}
SMALL |= {"content_layers": "relu1_1", "style_layers": "relu1_1"}
GRID = (
    '[[grid]]\ncontents = "photos/*.png"\nstyles = ["art/x.png", "art/y.png"]\noutput = "out/{content}-{style}.png"\n'
)
ONE = '[[job]]\ncontent = "mask.png"\nstyle = ["art/x.png"]\noutput = "out/{}.png"\n'


def jobs(*arguments: object, device: str = "cuda-on-cpu", text: str = GRID, **defaults: object) -> int:
    Path("jobs.toml").write_text(f"[defaults]\n{table(**SMALL | {'device': device} | defaults)}\n{text}")
    return main("run", "--jobs", "jobs.toml", *arguments)


def made(folder: str) -> dict[str, bytes]:
    return {path.name: images.load(str(path)).pixels.tobytes() for path in sorted(Path(folder).glob("*.png"))}


def test_jobs_at_once_make_the_pictures_of_jobs_one_by_one(there, capsys):
    """With one that fails, which the others do not notice; and again nothing is left to do."""
    broken = ONE.format("no") + 'style_layers = "relu5_1"\n'
    assert jobs(text=GRID + broken) == 1
    expected = made("out")
    Path("out").rename("alone")
    assert jobs("--at-once", "3", text=GRID + broken) == 1
    assert made("out") == expected
    said = capsys.readouterr()
    assert said.out.strip().endswith("4 made, 1 failed")
    assert said.err.count("out/no.png: ") == 2
    assert jobs("--at-once", "2") == 0
    assert capsys.readouterr().out.strip().endswith("4 kept")


def test_a_signal_keeps_all_that_are_begun_and_the_same_command_goes_on(there, capsys, at):
    three = GRID.replace(', "art/y.png"', "") + ONE.format("m")
    jobs(text=three)
    expected = made("out")
    Path("out").rename("alone")
    at(3 * 4 + 5, interrupt)  # the first picture has launched a step, the second records it
    assert jobs("--at-once", "2", text=three) == 130
    said = capsys.readouterr()
    assert "interrupted; the same command goes on from here" in said.err
    assert said.out.strip().endswith("2 interrupted, 1 not begun")
    assert sorted(path.suffix for path in Path("out").iterdir()) == [".h5", ".h5", ".png", ".png"]
    assert jobs("--at-once", "2", text=three) == 0
    assert made("out") == expected


def test_a_second_signal_leaves_at_once_with_nothing_half_done(there, at):
    def twice() -> None:
        for _ in range(2):
            interrupt()
            time.sleep(0.25)  # for the main thread to take it

    at(5, twice)
    assert jobs("--at-once", "2") == 130  # the other two are not begun
    assert not list(Path("out").glob("*")), "no picture, no lock, no part of a file"


def test_a_sweep_at_once(there):
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    sweep = ("sweep", "photos/a.png", "art/x.png", "--over", "seed=1,2", "--init", "noise", "--quiet", *words)
    assert main(*sweep, "--device", "cuda-on-cpu", "-o", "one") == 0
    assert main(*sweep, "--device", "cuda-on-cpu", "-o", "two", "--at-once", "2") == 0
    assert made("one") == made("two")


def test_every_picture_has_its_share_of_the_memory(there, capsys, monkeypatch):
    monkeypatch.setattr(OnCpuDevice, "free_bytes", lambda self: 2_000_000)
    assert jobs() == 0
    capsys.readouterr()
    Path("out").rename("alone")
    assert jobs("--at-once", "3") == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert all("size: expected a picture that fits the memory, got 24x20" in line for line in said)
    assert all(line.endswith("or fewer pictures than --at-once says, which share the memory evenly") for line in said)


def test_a_picture_that_would_fit_whole_alone_is_never_painted_in_tiles_because_of_others(there):
    """They would be other bits; tiles that were asked for are the same ones alone."""
    for given, taken in (({}, "off"), ({"tile": "512"}, "512")):
        settings = Settings([Source("", given)])
        job = Job(Path("photos/a.png"), (Path("art/x.png"),), Path("a.png"), settings)
        assert together._whole(job).settings["tile"] == taken
        assert together._whole(job).settings.record(str) == settings.record(str)


def test_a_cpu_paints_one_after_the_other_and_says_so(there, capsys):
    assert jobs("--at-once", "4", device="cpu") == 0
    said = capsys.readouterr().err
    assert said.count("--at-once is for a GPU: on cpu (") == 1
    assert "one picture is painted after the other" in said


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (("--at-once", "0"), {}, "--at-once: expected a whole number of 1 or more, got '0'"),
        (("--at-once", "two"), {}, "--at-once: expected a whole number of 1 or more, got 'two'"),
        (("--at-once", "2", "--fit"), {}, "--at-once: expected no --fit beside it, as what fits depends on the others"),
        (("--at-once", "2", "--cluster", "local:1"), {}, "--at-once: expected no --cluster beside it"),
        (
            ("--at-once", "2"),
            {"text": GRID + ONE.format("m") + "threads = 2\n"},
            "--at-once: expected one --device and --threads for all pictures, got several",
        ),
    ],
)
def test_what_cannot_be_painted_at_once_is_refused(there, capsys, arguments, more, message):
    assert jobs(*arguments, **more) == 2
    assert one_line(capsys).startswith(f"nstcore: {message}")
    assert main("run", "photos/a.png", "art/x.png", "--at-once", "2") == 2
    assert one_line(capsys).startswith("nstcore: --at-once: expected --jobs beside it, got one picture")
