"""`--log`, `-v`, `--quiet`: what is said of a run, to programs and to people."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from datetime import UTC, datetime, timedelta
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

import nstcore
from nstcore import images
from nstcore.commands.log import Log, resident_bytes
from nstcore.errors import OutputError

PAIR = ("photos/a.png", "art/x.png", "-o", "out.png")
LOG = ("--log", "log.jsonl")


def lines(path: str = "log.jsonl") -> list[dict]:
    """Every line, which is valid JSON: no NaN, no Infinity."""

    def refuse(word):
        raise AssertionError(word)

    return [json.loads(line, parse_constant=refuse) for line in Path(path).read_text().splitlines()]


def test_one_line_a_step_between_the_settings_and_the_end(desk):
    before = datetime.now(UTC)
    assert run(*PAIR, "--iterations", 3, *LOG, "--quiet") == 0
    start, *steps, end = lines()
    assert [line["kind"] for line in (start, *steps, end)] == ["start", "step", "step", "step", "step", "end"]
    assert (start["settings"]["iterations"], start["output"], start["style"]) == ("3", "out.png", ["art/x.png"])
    assert start["weights"]["sha256"] == images.read_metadata("out.png")["weights"]["sha256"]
    assert start["versions"]["nstcore"] == nstcore.__version__
    assert "cpu" in start["engine"]
    assert [step["evaluations"] for step in steps] == [1, 2, 3, 4]
    assert [step["iteration"] for step in steps] == [0, 1, 2, 3]
    assert all(set(step["losses"]["style_layers"]) == {"relu1_1"} for step in steps)
    assert all(0 < a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(steps))
    assert all(step["step_length"] == 0.02 for step in steps[2:])
    times = [datetime.fromisoformat(line["time"]) for line in lines()]
    assert times == sorted(times)
    assert before - timedelta(seconds=1) <= times[0] <= times[-1] <= datetime.now(UTC) + timedelta(seconds=1)
    assert (end["status"], end["complete"]) == ("the evaluation limit was reached", True)
    if resident_bytes() is not None:
        assert all(2**24 < step["rss"] < 2**36 for step in steps)


def test_the_losses_are_those_of_the_run(desk):
    assert run(*PAIR, *LOG, "--quiet") == 0
    assert lines()[1]["losses"]["total"] == images.read_metadata("out.png")["losses"]["start"]["total"]


def test_a_resumed_run_adds_its_lines(desk, monkeypatch):
    evaluate, count = nstcore.Objective.__call__, iter(range(1000))

    def interrupted(self, pixels):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, pixels)

    monkeypatch.setattr(nstcore.Objective, "__call__", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run(*PAIR, "--iterations", 6, *LOG, "--quiet") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    first = Path("log.jsonl").read_text()
    assert run(*PAIR, "--iterations", 6, *LOG, "--quiet", "--resume") == 0
    assert Path("log.jsonl").read_text().startswith(first)
    found = lines()
    assert [line["kind"] for line in found].count("start") == 2
    assert [line["resumed"] for line in found if line["kind"] == "start"] == [False, True]
    assert [line["interrupted"] for line in found if line["kind"] == "end"] == [True, False]
    evaluations = [line["evaluations"] for line in found if line["kind"] == "step"]
    assert evaluations == [1, 2, 3, 4, 5, 6, 7]


def test_a_run_that_breaks_off_says_so_in_its_last_line(desk, monkeypatch, capsys):
    def fail(self, pixels):
        raise MemoryError

    monkeypatch.setattr(nstcore.Objective, "__call__", fail)
    assert run(*PAIR, *LOG) == 1
    assert [line["kind"] for line in lines()] == ["start", "end"]
    assert "not enough memory" in lines()[-1]["status"]
    assert lines()[-1]["complete"] is False


def test_what_is_no_number_is_null(tmp_path):
    path = tmp_path / "a.jsonl"
    with Log(path) as log:
        log.start(values=[math.nan, math.inf, 1.5, {"a": -math.inf, 3: True}], path=path)
        log.event("caf\u00e9\nand a line")
    start, event, end = lines(str(path))
    assert start["values"] == [None, None, 1.5, {"a": None, "3": True}]
    assert start["path"] == str(path)
    assert event["text"] == "caf\u00e9\nand a line"
    assert (end["status"], end["complete"]) == ("ended", False)


@pytest.mark.parametrize("torn", ['{"kind": "step", "los', '{"ki'])
def test_a_line_that_a_killed_run_has_torn_is_cut_off(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_text('{"kind": "start"}\n' + torn)
    with Log(path) as log:
        log.start()
    assert [line["kind"] for line in lines(str(path))] == ["start", "start", "end"]


def test_a_whole_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"kind": "event", "text": "x"}')
    with Log(path) as log:
        log.start()
    assert [line["kind"] for line in lines(str(path))] == ["event", "start", "end"]


def test_a_disk_without_room_tears_no_line_and_ends_no_run(tmp_path, monkeypatch):
    path, write, full = tmp_path / "a.jsonl", os.write, [False, True, False]
    with Log(path) as log:
        monkeypatch.setattr(os, "write", lambda f, data: write(f, data[:5] if full.pop(0) else data))
        log.start()
        log.event("lost")
        log.event("there")
        monkeypatch.undo()
        assert log.problem == f"{path}: lines are missing from the log: no space left on device; the run goes on"
    assert [line["kind"] for line in lines(str(path))] == ["start", "event", "end"]
    assert lines(str(path))[1]["text"] == "there"


def test_a_file_that_is_no_log_is_refused_and_stays(desk, capsys):
    Path("notes.txt").write_text("mine")
    assert run(*PAIR, "--log", "notes.txt") == 2
    assert "expected a log of nstcore or a new name" in one_line(capsys)
    assert Path("notes.txt").read_text() == "mine"
    for name, expected in (("none/a.jsonl", "does not exist"), ("photos", "folder"), ("art/x.png", "itself")):
        assert run(*PAIR, "--log", name) == 2
        assert expected in one_line(capsys)
    assert run(*PAIR, "--log", "out.png") == 2
    assert "one for the output and the log" in one_line(capsys)
    assert not Path("out.png").exists()


def test_a_refusal_makes_no_log(desk):
    assert run(*PAIR, *LOG, "--style-layers", "relu7_1") == 2
    assert not Path("log.jsonl").exists()


def test_jobs_share_a_log(desk):
    jobs = '[[grid]]\ncontents = "photos/*.png"\nstyles = "art/x.png"\noutput = "{content}.png"\n'
    Path("jobs.toml").write_text(f"[defaults]\n{table(log='log.jsonl')}\n{jobs}")
    assert main("run", "--jobs", "jobs.toml", "--quiet") == 0
    assert [line["output"] for line in lines() if line["kind"] == "start"] == ["a.png", "b.png"]


def test_verbose_prints_a_line_for_every_evaluation(desk, capsys):
    assert run(*PAIR, "--iterations", 30, "-v") == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 31
    assert all(", step " in line and "loss" in line for line in said)
    assert run(*PAIR, "--iterations", 30) == 0
    assert len(capsys.readouterr().err.splitlines()) == 11


def test_quiet_and_verbose_exclude_one_another(desk, capsys):
    assert run(*PAIR, "-v", "--quiet") == 2
    assert "not allowed with" in one_line(capsys)


def test_save_every_that_fails_is_an_event_and_the_run_goes_on(desk, capsys, monkeypatch):
    real = images.write_picture

    def write(path, *arguments, **options):
        if "out_" in str(path):
            raise OutputError(f"{path}: cannot be written: no space left on device")
        real(path, *arguments, **options)

    monkeypatch.setattr(images, "write_picture", write)
    assert run(*PAIR, "--iterations", 3, "--save-every", 1, *LOG) == 0
    said = capsys.readouterr().err
    assert "--save-every: out_1.png: cannot be written: no space left on device; the run goes on" in said
    assert [line["kind"] for line in lines()].count("event") == 2
    assert images.read_metadata("out.png")["complete"]
