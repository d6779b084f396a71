"""Signals, snapshots and `--resume`: how a run ends before its time, and how it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import PIL.Image
import pytest
from command_desk import (
    at_fixture,  # noqa: F401
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    main,
    one_line,
    run,
    table,
)
from conftest import ROOT

from nstcore import images
from nstcore.commands.ends import Ends
from nstcore.commands.networks import Networks
from nstcore.errors import Stopped

PAIR = ("photos/a.png", "art/x.png", "-o", "out.png")
SNAPSHOT = "out.png.snapshot.h5"
SIGNALS = [
    pytest.param(getattr(signal, name), code, id=name)
    for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129))
    if hasattr(signal, name)
]


@pytest.fixture(autouse=True)
def not_ignored():
    """Tests that run in the background inherit ignored signals."""
    before = {parameter.values[0]: signal.getsignal(parameter.values[0]) for parameter in SIGNALS}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    return lambda: os.kill(os.getpid(), number)


def there() -> set[str]:
    """Files in the working folder that were not on the desk, hidden ones too."""
    return {path.name for path in Path().iterdir()} - {"photos", "art", "mask.png", "weights.h5"}


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_first_signal_keeps_picture_and_snapshot_and_resume_ends_as_if_nothing_had_happened(
    desk, capfd, at, number, code
):
    assert run(*PAIR, "--iterations", 8, "--quiet") == 0
    whole = Path("out.png").read_bytes()
    Path("out.png").unlink()
    at(9 + 4, send(number))  # nine evaluations, and one of the average, have been made
    assert run(*PAIR, "--iterations", 8) == code
    said = capfd.readouterr().err
    assert "stopping after this step; again to leave at once" in said
    assert f"the best picture so far is in out.png; --resume goes on from {SNAPSHOT}" in said
    assert there() == {"out.png", SNAPSHOT}
    assert not images.read_metadata("out.png")["complete"]
    assert run(*PAIR, "--iterations", 8, "--resume") == 0
    assert there() == {"out.png"}
    assert images.read_metadata("out.png")["resumed"] == 1
    Path("whole.png").write_bytes(whole)
    assert (images.as_pixels("out.png") == images.as_pixels("whole.png")).all()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_second_signal_leaves_at_once_and_leaves_nothing_behind(desk, at, number, code):
    begun = []

    def twice():
        os.kill(os.getpid(), number)
        begun.append("the step goes on")
        os.kill(os.getpid(), number)
        begun.append("nobody comes here")

    at(3, twice)
    assert run(*PAIR, "--iterations", 8) == code
    assert begun == ["the step goes on"]
    assert there() == set()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_before_there_is_anything_to_keep_the_first_signal_leaves(desk, capfd, monkeypatch, number, code):
    def load(*_):
        os.kill(os.getpid(), number)
        raise AssertionError("it has not left")

    monkeypatch.setattr(Networks, "_load_vgg", load)
    assert run(*PAIR) == code
    assert capfd.readouterr().err == "nstcore: interrupted before there was anything to keep\n"
    assert there() == set()


def test_a_second_signal_while_the_picture_is_written_leaves_no_part_of_it(desk, at, monkeypatch):
    def interrupted(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)

    at(3, send(signal.SIGINT))
    monkeypatch.setattr(PIL.Image.Image, "save", interrupted)
    assert run(*PAIR, "--iterations", 8) == 130
    assert there() == {SNAPSHOT}


def test_the_first_signal_while_the_picture_is_written_lets_it_be_written(desk, monkeypatch):
    save = PIL.Image.Image.save

    def interrupted(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        save(self, *arguments, **options)

    monkeypatch.setattr(PIL.Image.Image, "save", interrupted)
    assert run(*PAIR) == 0
    assert there() == {"out.png"}
    assert images.read_metadata("out.png")["complete"]


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    before = signal.getsignal(signal.SIGINT)
    with Ends(quiet=True) as ends:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is not before
        ends.keeping = True
        os.kill(os.getpid(), signal.SIGINT)
        assert ends.stop()
        with pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), signal.SIGINT)
        assert left.value.code == ends.code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with Ends():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_what_comes_before_anything_can_be_kept_carries_its_code():
    with pytest.raises(Stopped) as stopped, Ends():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143


GRID = '[[grid]]\ncontents = "photos/*.png"\nstyles = "art/*.png"\noutput = "out/{content}-{style}.png"\n'


def test_jobs_leave_the_rest_and_go_on_in_the_middle_of_the_picture(desk, capfd, at):
    Path("jobs.toml").write_text(f"[defaults]\n{table(iterations=6)}\n{GRID}")
    at(8 + 3, send(signal.SIGTERM))  # the first picture takes eight
    assert main("run", "--jobs", "jobs.toml") == 143
    said = capfd.readouterr()
    assert "interrupted at out/a-y.png: the best so far is saved; the same command goes on from here\n" in said.err
    assert said.out.strip().endswith("1 made, 1 interrupted, 2 not begun")
    assert main("run", "--jobs", "jobs.toml") == 0
    assert capfd.readouterr().out.strip().endswith("3 made, 1 kept")
    resumed = {path.name: images.read_metadata(path)["resumed"] for path in sorted(Path("out").iterdir())}
    assert resumed == {"a-x.png": 0, "a-y.png": 1, "b-x.png": 0, "b-y.png": 0}


def test_a_job_whose_settings_have_changed_begins_anew_and_keeps_the_snapshot(desk, capfd, at):
    Path("jobs.toml").write_text(f"[defaults]\n{table(iterations=6)}\n{GRID}")
    at(3, send(signal.SIGINT))
    assert main("run", "--jobs", "jobs.toml") == 130
    Path("jobs.toml").write_text(f"[defaults]\n{table(iterations=6, seed=4)}\n{GRID}")
    assert main("run", "--jobs", "jobs.toml") == 0
    said = capfd.readouterr().err
    assert "found one with seed 0, not 4: this begins at the start" in said
    assert Path("out/a-x.png.snapshot.previous.h5").is_file()


def test_a_job_before_it_has_begun_is_the_first_that_is_left(desk, capfd, monkeypatch):
    Path("jobs.toml").write_text(f"[defaults]\n{table()}\n{GRID}")
    monkeypatch.setattr(Networks, "_load_vgg", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main("run", "--jobs", "jobs.toml") == 143
    said = capfd.readouterr()
    assert said.out.strip().endswith("1 interrupted, 3 not begun")
    assert "before there was anything to keep" in said.err


def test_a_run_without_resume_sets_the_snapshot_aside_and_it_can_be_gone_on_from(desk, capfd, at):
    at(3, send(signal.SIGINT))
    assert run(*PAIR, "--iterations", 8) == 130
    assert run(*PAIR, "--iterations", 2) == 0
    previous = "out.png.snapshot.previous.h5"
    assert f"an earlier run's snapshot is now {previous}" in capfd.readouterr().err
    assert there() == {"out.png", previous}
    assert run(*PAIR, "--iterations", 8, "--resume", "--snapshot", previous) == 0
    assert images.read_metadata("out.png")["resumed"] == 1
    assert there() == {"out.png"}


def test_resume_may_always_be_given(desk, capfd):
    assert run(*PAIR, "--resume") == 0
    assert f"{SNAPSHOT}: no snapshot to go on from: this begins at the start" in capfd.readouterr().err
    made = Path("out.png").stat().st_mtime_ns
    assert run(*PAIR, "--resume") == 0
    assert "out.png: kept, it is as asked" in capfd.readouterr().out
    assert Path("out.png").stat().st_mtime_ns == made
    assert run(*PAIR, "--resume", "--iterations", 3) == 0
    assert Path("out.png").stat().st_mtime_ns != made


def test_resume_finds_the_name_that_the_interrupted_run_had_chosen(desk, at):
    at(3, send(signal.SIGINT))
    assert run("photos/a.png", "art/x.png", "--iterations", 8) == 130
    assert run("photos/a.png", "art/x.png", "--iterations", 8, "--resume") == 0
    assert there() == {"a-x.png"}


def test_a_snapshot_of_other_settings_is_refused_with_the_difference_and_stays(desk, capfd, at):
    at(3, send(signal.SIGINT))
    assert run(*PAIR, "--iterations", 8) == 130
    before = Path(SNAPSHOT).read_bytes()
    capfd.readouterr()
    assert run(*PAIR, "--iterations", 8, "--resume", "--seed", 7) == 2
    assert "seed 0, not 7" in one_line(capfd)
    assert Path(SNAPSHOT).read_bytes() == before


def test_a_rerun_is_interrupted_and_resumed_like_a_run(desk, at, capfd):
    assert run(*PAIR, "--iterations", 8, "--quiet") == 0
    at(10 + 4, send(signal.SIGTERM))
    assert main("rerun", "out.png", "-o", "again.png") == 143
    assert main("rerun", "out.png", "-o", "again.png", "--resume") == 0
    assert "the pixels are identical" in capfd.readouterr().out
    assert there() == {"out.png", "again.png"}


LONG = ("--weights", "builtin", "--size", "32", "--iterations", "100000", "--log", "log.jsonl")


def started(desk: Path) -> subprocess.Popen[str]:
    """The real program on a picture that takes long; it has begun when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nstcore", "run", *PAIR, *LONG],
        cwd=desk,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not has_begun(desk) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def has_begun(desk: Path) -> bool:
    log = desk / "log.jsonl"
    return log.exists() and '"kind": "step"' in log.read_text()


def test_the_real_program_takes_sigterm(desk):
    with started(desk) as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert images.as_pixels("out.png").shape == (3, 27, 32)
    assert there() == {"out.png", SNAPSHOT, "log.jsonl"}


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no hang-ups on this system")
def test_a_terminal_that_goes_away_costs_nothing(desk):
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PYTHONPATH=str(ROOT))
        os.execv(sys.executable, [sys.executable, "-m", "nstcore", "run", *PAIR, *LONG])
    try:
        deadline = time.monotonic() + 60
        while not has_begun(desk) and time.monotonic() < deadline:
            os.read(terminal, 4096)
    finally:
        os.close(terminal)  # the kernel sends SIGHUP, and what is written to the terminal fails from now on
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    assert images.as_pixels("out.png").shape == (3, 27, 32)
    assert there() == {"out.png", SNAPSHOT, "log.jsonl"}


def test_a_reader_that_goes_away_costs_nothing(desk):
    with started(desk) as process:
        process.stdout.close()
        process.stderr.close()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert images.as_pixels("out.png").shape == (3, 27, 32)
