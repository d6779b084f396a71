"""Tiles on the workers of a cluster: the picture of one process, whatever dies on the way.

Real processes and real sockets on the loopback address; every wait has an end.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from command_desk import desk_fixture, furniture_fixture, main, table  # noqa: F401
from conftest import ROOT, random_weights, smooth_picture

import nstcore
from nstcore import images
from nstcore.engines import create
from nstcore.engines.cluster import Cluster, ClusterEngine, member, pieces
from nstcore.engines.cluster.messages import Around, Call, Load, Missing, Order, Recipe
from nstcore.engines.tiled import TiledEngine, Tiling
from nstcore.engines.tiled.tiling import GRID
from nstcore.errors import DeviceError, RunError
from nstcore.objective import Objective
from nstcore.optim import AdamState, minimize_adam
from nstcore.optim.adam import Halves
from nstcore.pretrained import write_weights
from nstcore.transfer import FailedRun

pytest.importorskip("distributed")

LAYERS = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}
CONTENT, STYLE = smooth_picture(200, 170, 1), smooth_picture(90, 100, 2)
SMALL = CONTENT[:121, :90]
ALPHA = np.dstack([SMALL, np.hypot(*np.mgrid[-1:1:121j, -1:1:90j]) < 0.9])
LEFT = np.zeros((121, 90))
LEFT[:, :40] = 1
OBJECTIVES = {
    "transparent, means too": {"content": ALPHA, "style_loss": "w2"},
    "regions, a pyramid": {
        "style": [STYLE, SMALL],
        "regions": [(LEFT, ["all", "none"]), (1 - LEFT, ["none", "all"])],
        "pyramid": (2,),
        "tv_weight": 1.0,
    },
    "a last tile of one row, which relu3_1 has nothing of": {
        "side": 20,
        "content": SMALL[:, :20],
        "content_layers": ("relu3_1",),
    },
}


def uncut(side):
    """The tiles of a cluster, in one process."""
    return TiledEngine(create("cpu", "float32", 1), Tiling(side, cuts=(), keep=True, grid=GRID))


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv3_1")


@pytest.fixture(scope="module")
def cluster():
    with Cluster("local:3", threads=1) as cluster:
        yield cluster


@pytest.fixture
def joined(cluster):
    """An engine on three workers."""
    return ClusterEngine(cluster, create("cpu", "float32", 1), 64)


def evaluated(weights, engine, steps=2, content=SMALL, style=STYLE, between=lambda step: None, **options):
    """Terms and gradients of some pictures."""
    objective = Objective(weights, content, style, engine=engine, **LAYERS | options)
    found = []
    for step in range(steps):
        between(step)
        x = engine.array(np.random.default_rng(step).random((3, *content.shape[:2])).astype(np.float32))
        terms, gradient = objective(x)
        found.append((terms, engine.numpy(gradient)))
    return found


def same(one, other):
    assert len(one) == len(other)
    for (terms, gradient), (other_terms, other_gradient) in zip(one, other, strict=True):
        assert terms == other_terms
        np.testing.assert_array_equal(gradient, other_gradient)


# -- the same picture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", OBJECTIVES)
def test_loss_and_gradient_are_those_of_one_process_bit_for_bit(way, weights, cluster):
    options = dict(OBJECTIVES[way])
    side = options.pop("side", 64)
    joined = ClusterEngine(cluster, create("cpu", "float32", 1), side)
    same(evaluated(weights, uncut(side), **options), evaluated(weights, joined, **options))


def test_a_picture_is_that_of_one_process_bit_for_bit(weights, cluster):
    options = {"weights": weights, "size": 160, "iterations": 10, "tile": 128, "ladder": "off", **LAYERS}
    alone = nstcore.stylize(CONTENT, STYLE, engine=uncut(128), **options | {"tile": "off"})
    engine = ClusterEngine(cluster, create("cpu", "float32", 1))
    spread = nstcore.stylize(CONTENT, STYLE, engine=engine, **options)
    np.testing.assert_array_equal(spread.pixels, alone.pixels)
    assert spread.losses == alone.losses
    assert spread.metadata["settings"]["tile"] == 128
    assert "workers with cpu" in spread.metadata["engine"]


@pytest.mark.slow
def test_l_bfgs_on_three_workers_is_that_on_one(weights, cluster):
    options = {
        "weights": weights,
        "size": 200,
        "iterations": 6,
        "tile": 128,
        "ladder": "off",
        "optimizer": "lbfgs",
        **LAYERS,
    }
    with Cluster("local:1", threads=1) as other:
        found = [
            nstcore.stylize(CONTENT, STYLE, engine=ClusterEngine(where, create("cpu", "float32", 1)), **options)
            for where in (cluster, other)
        ]
    np.testing.assert_array_equal(found[0].pixels, found[1].pixels)
    assert found[0].losses == found[1].losses


def test_from_step_to_step_no_pixel_comes_to_the_driver(weights, cluster, joined, monkeypatch):
    numbers = []

    def noted(name):
        passed = getattr(Cluster, name)

        async def noting(self, given, *rest):
            found = await passed(self, given, *rest)
            numbers.extend(sizes(given) + (sizes(found) if name == "result" else []))
            return found

        return noting

    for name in ("scattered", "result"):
        monkeypatch.setattr(Cluster, name, noted(name))
    objective = Objective(weights, SMALL, STYLE, engine=joined, tv_weight=1.0, pyramid=(2,), **LAYERS)
    x = joined.array(SMALL.transpose(2, 0, 1))
    state = AdamState.zero(x, joined.vectors)
    options = {"bounds": (0.0, 1.0), "vectors": joined.vectors, "state": state}
    f = Halves(objective, lambda x, terms: terms.total)
    minimize_adam(f, x, max_evaluations=2, **options)
    assert sum(numbers) > SMALL.size  # the start, the targets
    numbers.clear()
    minimize_adam(f, x, max_evaluations=3, **options)
    matrices = 2 * (64**2 + 128**2)  # from each of two sizes and back to them
    assert 0 < sum(numbers) <= 3 * 3 * matrices


def sizes(found):
    """Of all arrays in an answer."""
    if isinstance(found, np.ndarray):
        return [found.size]
    if isinstance(found, dict):
        return sizes(list(found.values()))
    if isinstance(found, list | tuple):
        return [n for one in found for n in sizes(one)]
    if is_dataclass(found):
        return sizes([getattr(found, f.name) for f in fields(found)])
    return []


def test_features_and_targets_come_back_whole(weights, joined):
    found = []
    for engine in (uncut(64), joined):
        network = engine.network(weights, ["relu2_1"], "max")
        network.forward(engine.array(SMALL.transpose(2, 0, 1)))
        found.append(network.features("relu1_2", (slice(3, 99), slice(50, 150))))
    np.testing.assert_array_equal(*found)


def test_workers_without_room_for_features_compute_them_again(weights, joined, monkeypatch):
    from nstcore.engines.cluster import network

    order = network.Order
    monkeypatch.setattr(network, "Order", lambda *a: order(*a[:-1], 10**9))  # so many share a worker's memory
    same(evaluated(weights, uncut(64)), evaluated(weights, joined))


def test_the_tiles_are_as_many_as_keep_the_workers_busy(weights, joined, monkeypatch):
    network = joined.network(weights, ["relu2_1"], "max")
    network.fit(4096, 4096, range(128, 4097, 32))
    count = len(network._tiles(network.networks[0], 4096, 4096, network.sides[0])[0])
    assert count % 3 == 0
    assert network.share(4096, 4096) == 1 / 3
    assert network.share(100, 100) == 1  # of a single tile, as in the calibration of a plan
    monkeypatch.setattr(joined.cluster, "memory", lambda: 100_000_000)
    network.fit(4096, 4096, range(128, 4097, 32))
    assert network.sides[0] < 1024
    monkeypatch.setattr(joined.cluster, "memory", lambda: 1000)
    with pytest.raises(DeviceError, match=r"expected workers with .* found .*; take a smaller"):
        network.fit(4096, 4096, [128])


def heard_of(cluster, monkeypatch, count):
    """Results of so many tasks that say a line each, with the lines that are heard by then."""
    lines = []
    monkeypatch.setattr(cluster, "driver", f"a driver of {count}")
    tasks = [(cluster.driver, f"line {i}") for i in range(count)]
    # The tasks end between two looks at the lines
    for i, _ in cluster.spread(member.say, tasks, lines.append, lambda: time.sleep(0.3) or False):
        yield i, list(lines)


def test_what_a_task_says_last_is_heard_before_its_result(cluster, monkeypatch):
    found = dict(heard_of(cluster, monkeypatch, 4))
    assert found.keys() == set(range(4))
    assert all(f"line {i}" in lines for i, lines in found.items())


def test_workers_are_told_to_stop_where_the_driver_ends_before_them(cluster, monkeypatch):
    begun = heard_of(cluster, monkeypatch, 5)
    next(begun)
    stopping = cluster.client.run(member.stopping, cluster.driver)
    assert not any(stopping.values())
    begun.close()
    stopping = cluster.client.run(member.stopping, cluster.driver)
    assert stopping
    assert all(stopping.values())


# -- what dies -------------------------------------------------------------------------------------------------------


def pids(cluster):
    return [p.pid for p in cluster._processes._running if p.poll() is None]


def settled(cluster):
    """Whether every piece and its copy are with workers that live."""
    return cluster.store.sound and set(cluster.store._workers) == cluster._members()


def test_a_worker_that_is_killed_changes_nothing(weights, cluster, joined):
    def kill(step):
        if step == 1:
            os.kill(pids(cluster)[0], signal.SIGKILL)

    told = []
    cluster.tell = told.append
    same(evaluated(weights, uncut(64), 3), evaluated(weights, joined, 3, between=kill))
    assert any("have gone" in line and "move to others" in line for line in told)


def test_a_worker_that_forgets_is_told_again(weights, cluster, joined):
    def forget(step):
        if step == 1:
            ends = [cluster.submit(member.end, cluster.driver, worker=worker) for worker in cluster.living()]
            cluster.client.gather(ends)

    same(evaluated(weights, uncut(64)), evaluated(weights, joined, between=forget))


def test_a_worker_drops_what_its_driver_has_done_with(weights, monkeypatch):
    monkeypatch.setattr(member, "_KEPT", {})
    monkeypatch.setattr(pieces, "_HELD", {})
    monkeypatch.setattr(pieces, "OWN", pieces.Own("cpu", 1))
    recipe, here = Recipe(weights, ("relu1_1",), "max", None), (slice(0, 32),) * 2
    for driver, number in (("a", 1), ("a", 2), ("b", 1)):
        member.begin(driver, number, recipe)
    calls = [Call("a", frozenset({number}), number) for number in (1, 2)]
    orders = [Order(call, 1, 6 + call.newest, 0, 1, frozenset({(1, 6 + call.newest)}), 1) for call in calls]
    for order in orders:
        pieces.put(order.call, [(order.call.newest, 0)], [np.zeros((3, 32, 32), np.float32)])
        member.forward(order, Load(Around(order.call.newest, (32, 32), ((0, here, here),), ())), [])
    assert pieces.held("a") == {2: {0}}
    assert member._KEPT.keys() == {("a", 1), ("b", 1)}
    assert member._KEPT["a", 1].tiles.keys() == {(8, 0)}
    with pytest.raises(Missing):
        member.backward(orders[0], None, here, 3, None)
    pieces.put(Call("b", frozenset({1}), 1), [(1, 0)], [np.zeros((3, 1, 1))])
    member._KEPT["b", 1].called -= 2 * member.IDLE
    pieces._HELD["b"].called -= 2 * member.IDLE
    member.begin("a", 1, recipe)
    assert member._KEPT.keys() == {("a", 1)}
    assert not pieces.held("b")
    member.end("a")
    assert not member._KEPT
    assert not pieces.held("a")


@pytest.mark.slow
def test_where_no_worker_comes_the_run_ends_with_the_best_picture(weights):
    with Cluster("local:1", threads=1) as cluster:
        engine, told = ClusterEngine(cluster, create("cpu", "float32", 1)), []
        cluster.tell, cluster.patience, cluster._processes._left = told.append, 0.5, 0

        def step(now):
            if now.iteration == 2:
                os.kill(pids(cluster)[0], signal.SIGKILL)

        with pytest.raises(FailedRun, match="no worker is left at local:1") as failed:
            nstcore.stylize(
                CONTENT, STYLE, weights=weights, size=64, iterations=5, engine=engine, on_step=step, **LAYERS
            )
        assert len(failed.value.result.losses) == 3
        assert any("waiting 0.5 seconds for new ones" in line for line in told)


@pytest.mark.slow
def test_where_a_piece_goes_with_its_copy_the_picture_of_the_last_snapshot_is_kept(weights):
    with Cluster("local:2", threads=1) as cluster:
        engine = ClusterEngine(cluster, create("cpu", "float32", 1))

        def step(now):
            if now.iteration == 3:
                for pid in pids(cluster):
                    os.kill(pid, signal.SIGKILL)

        with pytest.raises(FailedRun, match=r"has gone with the workers.*--resume") as failed:
            nstcore.stylize(
                *(CONTENT, STYLE), weights=weights, size=64, iterations=5, engine=engine, on_step=step, **LAYERS,
                snapshot_every=1e-9,
            )  # fmt: skip
        assert len(failed.value.result.losses) == 4
        assert failed.value.result.terms in failed.value.result.losses[:4]
        assert np.isfinite(failed.value.result.pixels).all()


@pytest.mark.slow
def test_workers_killed_at_random_moments_change_no_bit(weights):
    expected = evaluated(weights, uncut(64), 12)
    rng, killed, over = random.Random(11), [], threading.Event()
    with Cluster("local:3", threads=1) as cluster:

        def kill():
            while len(killed) < 5 and not over.wait(rng.uniform(0.1, 0.8)):
                # Two that are next to each other and die at the same time take a piece and its copy with them
                if settled(cluster) and len(running := pids(cluster)) == 3:
                    os.kill(pid := rng.choice(running), signal.SIGKILL)
                    killed.append(pid)

        killer = threading.Thread(target=kill)
        engine, found = ClusterEngine(cluster, create("cpu", "float32", 1), 64), []

        def between(step):
            if step == 0:
                killer.start()

        try:
            found = evaluated(weights, engine, 12, between=between)
            while len(killed) < 5:  # quick machines: again, until five have died in the middle of work
                assert killer.is_alive()
                same(expected, evaluated(weights, engine, 12))
        finally:
            over.set()
            killer.join(5)
        same(expected, found)
        assert len(killed) == 5


# -- commands --------------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def command(*words, expect=b"", cwd=None):
    """A process of ours, once it has said `expect`; it is killed at the end if it still runs."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "NSTCORE_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "nstcore", *map(str, words)], cwd=cwd, env=env, stderr=subprocess.PIPE
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        while expect:
            line = process.stderr.readline()
            assert line, f"{words}: ended without {expect}"
            if expect in line:
                break
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
def test_a_worker_joins_computes_and_leaves_with_ctrl_c(weights):
    address = f"tcp://127.0.0.1:{free_port()}"
    with command("worker", "--scheduler", address.rsplit(":")[-1], expect=b"a scheduler at") as scheduler:
        join = "worker", address, "--device", "cpu", "--threads", 1
        with command(*join, expect=b"a worker of") as worker, Cluster(address) as cluster:
            same(evaluated(weights, uncut(64)), evaluated(weights, ClusterEngine(cluster, uncut(64).base, 64)))
            worker.send_signal(signal.SIGINT)
            assert worker.wait(15) == 130
            assert b"the worker has left" in worker.stderr.read()
            cluster.patience = 0.3
            with pytest.raises(RunError, match="no worker is left"):
                cluster.living()
        scheduler.send_signal(signal.SIGTERM)
        assert scheduler.wait(15) == 143


@pytest.mark.slow
def test_a_run_goes_on_from_its_snapshot_after_the_scheduler_was_killed(weights, tmp_path):
    write_weights(tmp_path / "weights.h5", weights)
    for name, picture in (("content", CONTENT), ("style", STYLE)):
        images.write_picture(tmp_path / f"{name}.png", picture.transpose(2, 0, 1))
    options = ["--size", 160, "--iterations", 16, "--tile", 128, "--threads", 1, "--weights", "weights.h5"]
    options += ["--style-layers", "relu1_1,relu2_1", "--content-layers", "relu2_2", "--snapshot-every", "0.01"]
    run = ["run", "content.png", "style.png", *options]
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        command("worker", "--scheduler", address[6:], expect=b"a scheduler at") as scheduler,
        command("worker", address, "--threads", 1, expect=b"a worker of") as worker,
        command(*run, "-v", "-o", "a.png", "--cluster", address, expect=b"5/16", cwd=tmp_path) as painting,
    ):
        scheduler.kill()
        assert painting.wait(30) == 1
        said = painting.stderr.read().decode().strip().splitlines()
        assert worker.wait(30) == 1
    assert "the scheduler" in said[-1]
    assert "--resume goes on from a.png.snapshot.h5" in said[-1]
    assert "Traceback" not in "".join(said)
    before = Path(tmp_path / "a.png").stat().st_mtime_ns
    for words in (["-o", "a.png", "--resume"], ["-o", "b.png"]):
        with command(*run, "--quiet", "--cluster", "local:2", *words, cwd=tmp_path) as painting:
            assert painting.wait(50) == 0
    assert Path(tmp_path / "a.png").stat().st_mtime_ns > before
    a, b = (images.load(tmp_path / f"{name}.png").pixels for name in "ab")
    np.testing.assert_array_equal(a, b)
    assert images.read_metadata(tmp_path / "a.png")["resumed"] == 1


@pytest.mark.slow
def test_jobs_are_spread_and_one_whose_worker_is_killed_is_made_all_the_same(desk, capsys, monkeypatch):
    entry = '[[grid]]\ncontents = "photos/*.png"\nstyles = "art/*.png"\noutput = "{}/{{content}}-{{style}}.png"\n'
    text = f"[defaults]\n{table(iterations=600, snapshot_every=0.1)}\n"
    started, spread = [], Cluster.spread

    def killing(self, function, arguments, hear, stop):
        def heard(line):
            hear(line)
            if ": 120/600" in line and not started:
                started.append(line)
                os.kill(pids(self)[0], signal.SIGKILL)

        return spread(self, function, arguments, heard, stop)

    monkeypatch.setattr(Cluster, "spread", killing)
    for folder, words in (("out", ["--cluster", "local:2"]), ("alone", [])):
        Path(f"{folder}.toml").write_text(text + entry.format(folder))
        assert main("run", "--jobs", f"{folder}.toml", *words) == 0
    assert started
    said = capsys.readouterr()
    assert said.out.count("4 made") == 2
    for name in ("a-x", "a-y", "b-x", "b-y"):
        out, alone = (images.load(f"{folder}/{name}.png").pixels for folder in ("out", "alone"))
        np.testing.assert_array_equal(out, alone)
