"""Workers and schedulers that die, and the commands: no bit of the picture changes, and none is lost.

Real processes and real sockets on the loopback address; every wait has an end.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from cluster_desk import (  # noqa: F401
    CONTENT,
    LAYERS,
    SMALL,
    STYLE,
    cluster_fixture,
    command,
    evaluated,
    free_port,
    joined_fixture,
    pids,
    same,
    uncut,
    weights_fixture,
)
from command_desk import desk_fixture, furniture_fixture, main, table  # noqa: F401

import nstcore
from nstcore import images
from nstcore.engines import create
from nstcore.engines.cluster import Cluster, ClusterEngine, member, pieces
from nstcore.engines.cluster.messages import Around, Call, Load, Missing, Order, Recipe
from nstcore.errors import RunError
from nstcore.pretrained import write_weights
from nstcore.transfer import FailedRun

pytest.importorskip("distributed")


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
    options = ["--size", 144, "--iterations", 10, "--tile", 128, "--threads", 1, "--weights", "weights.h5"]
    options += ["--style-layers", "relu1_1,relu2_1", "--content-layers", "relu2_2", "--snapshot-every", "0.01"]
    run = ["run", "content.png", "style.png", *options]
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        command("worker", "--scheduler", address[6:], expect=b"a scheduler at") as scheduler,
        command("worker", address, "--threads", 1, expect=b"a worker of") as worker,
        command(*run, "-v", "-o", "a.png", "--cluster", address, expect=b"4/10", cwd=tmp_path) as painting,
    ):
        scheduler.kill()
        assert painting.wait(30) == 1
        said = painting.stderr.read().decode().strip().splitlines()
        assert worker.wait(30) == 1
    assert "the scheduler" in said[-1]
    assert "--resume goes on from a.png.snapshot.h5" in said[-1]
    assert "Traceback" not in "".join(said)
    before = Path(tmp_path / "a.png").stat().st_mtime_ns
    for words in (["local:2", "-o", "a.png", "--resume"], ["local:1", "-o", "b.png"]):
        with command(*run, "--quiet", "--cluster", *words, cwd=tmp_path) as painting:
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
