"""Two at once: a lock that its holder's death opens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_desk import (
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    main,
    one_line,
    run,
    table,
)
from conftest import ROOT

import nstcore
from nstcore import images
from nstcore.errors import Occupied, OutputError
from nstcore.lock import locked

PAIR = ("photos/a.png", "art/x.png", "-o", "out.png")
LOCK = ".out.png.lock"


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / ".it.lock"


def busy(holder: str) -> Occupied:
    return Occupied(holder)


def refused(lock: Path) -> str:
    with pytest.raises(Occupied) as error, locked(lock, busy):
        pass
    return str(error.value)


def other(lock: Path | str) -> subprocess.Popen[str]:
    """Another process, which holds the lock until it is killed."""
    code = (
        "import sys, pathlib, time\nfrom nstcore.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), RuntimeError):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_it_is_held_while_the_block_runs_and_gone_after_any_end(lock):
    with locked(lock, busy):
        assert refused(lock) == f"process {os.getpid()}"
        assert lock.exists()
    assert not lock.exists()
    for end in (RuntimeError, KeyboardInterrupt, SystemExit):
        with pytest.raises(end), locked(lock, busy):
            raise end
        assert not lock.exists()


@pytest.mark.skipif(os.name != "posix", reason="whether a process lives is asked on POSIX only")
def test_a_killed_holder_is_succeeded_at_once(lock):
    with other(lock) as process:
        assert refused(lock) == f"process {process.pid}"
        process.kill()
    with locked(lock, busy):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert list(lock.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_another_process_that_got_the_same_number_is_not_the_holder(lock):
    with locked(lock, busy):
        mine = json.loads(lock.read_text())
    lock.write_text(json.dumps(mine | {"began": mine["began"][:-1] + "x"}))
    with locked(lock, busy):
        pass
    assert not lock.exists()


def test_a_holder_that_lives_keeps_it_however_long_it_has_been_silent(lock):
    with locked(lock, busy):
        os.utime(lock, (time.time() - 86400,) * 2)
        if Path("/proc/self/stat").exists():
            assert refused(lock)


def test_a_holder_elsewhere_is_named_and_given_up_after_ten_minutes_of_silence(lock):
    lock.write_text(json.dumps({"host": "another", "pid": 7}))
    assert refused(lock) == "process 7 on another"
    os.utime(lock, (time.time() - 590,) * 2)
    assert refused(lock)
    os.utime(lock, (time.time() - 610,) * 2)
    with locked(lock, busy):
        pass
    assert not lock.exists()


def test_a_holder_says_that_it_lives(lock, monkeypatch):
    with locked(lock, busy) as beat:
        os.utime(lock, (1000, 1000))
        beat()
        assert lock.stat().st_mtime == 1000  # not at every step
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 11)
        beat()
        assert lock.stat().st_mtime > 1000


@pytest.mark.parametrize("text", ["", "no JSON", '{"host": 1}', "[]", '{"host": "h", "pid": "x"}', "\xff\xfe"])
def test_what_is_no_lock_is_waited_for_and_then_taken_away(lock, text):
    lock.write_bytes(text.encode("latin-1"))
    assert refused(lock) == "another process"
    os.utime(lock, (time.time() - (3 if not text else 601),) * 2)
    with locked(lock, busy):
        pass
    assert not lock.exists()


def test_a_lock_that_was_taken_over_is_not_removed_by_its_first_holder(lock):
    with locked(lock, busy):
        lock.write_text("another's")
    assert lock.read_text() == "another's"


def test_where_nothing_can_be_written_there_is_no_lock(tmp_path):
    with (
        pytest.raises(OutputError, match=r"no such file or directory; set HOME"),
        locked(tmp_path / "none" / ".lock", busy, "set HOME"),
    ):
        pass


def test_two_runs_on_one_output(desk, capfd):
    with other(LOCK) as process:
        assert run(*PAIR) == 2
        said = one_line(capfd)
        assert said == (
            f"nstcore: out.png: process {process.pid} is writing it; wait for that to end, or give another name\n"
        )
        assert not Path("out.png").exists()
        assert run("photos/a.png", "art/x.png", "-o", "b.png", "--quiet") == 0
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    assert run(*PAIR, "--quiet") == 0
    assert {path.name for path in desk.glob(".*")} == set()


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_two_names_of_one_output_are_one(desk, capfd):
    Path("elsewhere").mkdir()
    Path("link.png").symlink_to("elsewhere/out.png")
    with other("elsewhere/.out.png.lock") as process:
        assert run("photos/a.png", "art/x.png", "-o", "link.png") == 2
        assert "is writing it" in one_line(capfd)
        process.kill()


def test_two_runs_with_one_snapshot(desk, capfd):
    with other(".state.h5.lock") as process:
        assert run(*PAIR, "--snapshot", "state.h5") == 2
        assert "state.h5: process" in one_line(capfd)
        process.kill()
    assert list(desk.glob(".out*")) == []


def test_of_many_jobs_the_one_that_another_process_makes_is_left_to_it(desk, capfd):
    grid = '[[grid]]\ncontents = "photos/*.png"\nstyles = "art/x.png"\noutput = "{content}.png"\n'
    Path("jobs.toml").write_text(f"[defaults]\n{table()}\n{grid}")
    with other(".a.png.lock") as process:
        assert main("run", "--jobs", "jobs.toml") == 1
        process.kill()
    assert "a.png: process" in (said := capfd.readouterr()).err
    assert said.out.strip().endswith("1 made, 1 failed")


def test_a_run_that_fails_or_is_refused_leaves_no_lock(desk, monkeypatch):
    assert run(*PAIR, "--style-layers", "relu7_1") == 2
    assert list(desk.glob(".*")) == []

    def fail(self, pixels):
        raise MemoryError

    monkeypatch.setattr(nstcore.Objective, "__call__", fail)
    assert run(*PAIR) == 1
    assert list(desk.glob(".*")) == []


def test_leavings_of_a_killed_run_are_taken_away(desk):
    leavings = [".out.png.0123abcd.part", ".out.png.snapshot.h5.0123abcd.part"]
    others = [".out.png.0123abcd.part.txt", ".b.png.0123abcd.part", ".out.png.part"]
    for name in (*leavings, *others):
        Path(name).write_bytes(b"half")
    assert run(*PAIR, "--quiet") == 0
    assert sorted(path.name for path in desk.glob(".*")) == sorted(others)
    assert images.read_metadata("out.png")["complete"]
