"""`--report`: the page of a run, without a browser: its numbers, its size, its safety, and when it is written."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from command_desk import (
    at_fixture,  # noqa: F401
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    interrupt,
    main,
    one_line,
    run,
    table,
)
from conftest import smooth_picture
from recorded import Network, many_layers, recorded

from nstcore import images
from nstcore.commands import reports
from nstcore.errors import OutputError
from nstcore.objective import Terms
from nstcore.report import HEAD, LARGE, MOST_BYTES, Recorder, page, picture, read_page
from nstcore.report.pictures import FRAME, FRAMES, kept_evaluations
from nstcore.transfer import Rung, Step

PAIR = ("photos/a.png", "art/x.png", "-o", "out.png", "--quiet")
REPORT = ("--report", "out.html")
TRIED = ("--iterations", 6)


@pytest.fixture(autouse=True)
def not_ignored():
    """Tests that run in the background inherit an ignored Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def report(path: str = "out.html") -> dict:
    found = read_page(path)
    assert found is not None
    return found


def test_its_numbers_are_those_of_the_run(desk):
    assert run(*PAIR, *TRIED, *REPORT, "--log", "log.jsonl", "--style-weight", 12, "--tv-weight", 0.3) == 0
    lines = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    steps, end = [line["losses"] for line in lines if line["kind"] == "step"], lines[-1]
    data, values = report(), report()["losses"]["values"]
    assert data["losses"]["at"] == list(range(1, 8))
    for name in ("total", "content", "style", "tv"):
        assert values[name] == [step[name] for step in steps]
    assert values["style.relu1_1"] == [step["style_layers"]["relu1_1"] for step in steps]
    assert values["content.relu2_1"] == [step["content_layers"]["relu2_1"] for step in steps]
    assert (data["state"], data["status"]) == ("complete", end["status"])
    assert (data["now"]["loss"], data["now"]["iteration"]) == (end["losses"]["total"], 6)
    assert data["factors"] == {"content": 1.0, "style": 12.0, "tv": 0.3}
    assert dict(data["weights"])["SHA-256"] == images.read_metadata("out.png")["weights"]["sha256"]
    assert dict(data["weights"])["licence"] == "MIT"
    assert {row["name"]: row["value"] for row in data["settings"] if row["differs"]}["--style-weight"] == "12"


def test_a_picture_is_the_same_bit_for_bit_with_a_report_and_without(desk):
    assert run(*PAIR, *TRIED) == 0
    plain = images.as_pixels("out.png")
    assert run(*PAIR, *TRIED, *REPORT) == 0
    assert (images.as_pixels("out.png") == plain).all()


def test_every_layer_of_one_step_is_timed(desk):
    assert run(*PAIR, *TRIED, *REPORT) == 0
    data = report()
    times = {row["layer"]: row for row in data["layers"]}
    assert list(times) == [name for name in ("pixels", "conv1_1", "conv1_2", "pool1", "conv2_1") if name in times]
    for layer in ("conv1_1", "conv1_2", "conv2_1"):
        assert times[layer]["forward"] > 0 < times[layer]["backward"]
    together = sum(row["forward"] + row["backward"] for row in data["layers"])
    assert together < data["now"]["seconds"]
    assert data["memory"]["buffers"]["filters"] > 0
    assert data["peak"] is None or data["peak"] > 2**24


def test_the_command_on_the_page_makes_the_picture_again(desk):
    given = ("--style-layers", "relu1_1=0.5,relu2_1", "--recipe", "painterly", "--region", "mask.png", "--size", 30)
    assert run(*PAIR, *REPORT, *given) == 0
    words = shlex.split(report()["command"])
    assert words[:4] == ["python", "-m", "nstcore", "run"]
    assert not {"--recipe", "--report"} & set(words)
    first = images.as_pixels("out.png")
    Path("out.png").unlink()
    assert main(*words[3:], "--quiet") == 0
    assert (images.as_pixels("out.png") == first).all()


def test_frames_lead_from_the_start_to_the_result(desk):
    assert run(*PAIR, *REPORT, "--iterations", 12, "--size", 64, "--ladder", 32) == 0
    data = report()
    assert [(size["evaluation"], size["width"]) for size in data["sizes"]] == [
        (at, size["width"])
        for at, size in zip(_firsts("out.png"), images.read_metadata("out.png")["sizes"], strict=True)
    ]
    evaluations = [frame["evaluation"] for frame in data["frames"]]
    assert evaluations == sorted(set(evaluations))
    assert (evaluations[0], evaluations[-1]) == (1, images.read_metadata("out.png")["evaluations"])
    assert {size["evaluation"] for size in data["sizes"]} <= set(evaluations)
    assert data["frames"][-1]["loss"] == data["now"]["loss"]
    raw = base64.b64decode(data["result"]["src"].partition(",")[2])
    Path("result.jpg").write_bytes(raw)
    apart = np.abs(images.as_pixels("result.jpg") - images.as_pixels("out.png"))
    assert apart.mean() < 0.06  # of JPEG, at quality 88


def _firsts(path: str) -> list[int]:
    """The evaluation with which each size begins, if all went as planned."""
    found, at = [], 1
    for size in images.read_metadata(path)["sizes"]:
        found.append(at)
        at += size["iterations"] + 1
    return found


@pytest.mark.parametrize("iterations", [1, 5, 50, 300, 2000, 100_000])
@pytest.mark.parametrize("sizes", [1, 4, 8, 30])
def test_frames_are_few_early_ones_and_the_ends_of_every_size(iterations, sizes):
    rungs = [Rung(10 + i, 10 + i, iterations, 1.0) for i in range(sizes)]
    kept, total = kept_evaluations(rungs), sizes * (iterations + 1)
    assert len(kept) <= FRAMES
    assert {1, total} <= kept
    assert (min(kept), max(kept)) == (1, total)
    if sizes <= 8:
        assert {i * (iterations + 1) + 1 for i in range(sizes)} <= kept
    if total > 100 and sizes == 1:
        gaps = np.diff(sorted(kept))
        assert list(gaps[:3]) == [1, 1, 1]
        assert gaps[-1] > 5 * gaps[3]


@pytest.mark.parametrize(
    ("evaluations", "levels"), [(51, 2), pytest.param(2001, 3, marks=pytest.mark.slow)], ids=["50", "2000"]
)
def test_a_page_stays_under_5_mb_with_pictures_that_hardly_compress(evaluations, levels):
    pixels = np.random.default_rng(0).random((3, 400, 600), np.float32)
    recorder = recorded(evaluations, pixels, many_layers(levels))
    data = recorder.data()
    assert len(data["frames"]) >= 25
    assert len(page(data)) < MOST_BYTES
    every = data["losses"]["every"]
    assert every == (1 if evaluations == 51 else 3)
    assert data["losses"]["values"]["total"] == [math.e / at for at in data["losses"]["at"]]
    assert data["losses"]["at"][-1] == evaluations


def test_a_picture_is_brought_down_until_it_fits():
    noise = np.random.default_rng(0).random((3, 300, 500), np.float32)
    for side, most in (FRAME, LARGE, (500, 3000)):
        found = picture(noise, side, most)
        assert len(found["src"]) <= most
        assert (found["width"], found["height"]) == (500, 300)


def test_pictures_cost_a_twentieth_of_the_time_at_most(monkeypatch):
    """With a clock that only pictures move, beyond the half second that they may have in any case."""
    clock = 0.0

    def slow():
        nonlocal clock
        clock += 0.3
        return np.zeros((3, 20, 20), np.float32)

    monkeypatch.setattr("time.perf_counter", lambda: clock)
    recorder = Recorder()
    recorder.begin({}, Network(), [Rung(20, 20, 199, 1.0)])
    for i in range(200):
        clock += 0.1  # of the step itself
        terms = Terms(1.0, 1.0, 1.0, 0.0)
        recorder.step(Step(i, 199, i + 1, 20, 0.5, terms, 0.0, clock, None, slow))
    spent = 0.3 * len(recorder.data()["frames"])
    assert 0.5 < spent <= 0.05 * clock + 0.3


HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\u202e\u2028{{data}}.png".replace("/", "\u2215")


def test_no_name_can_end_the_script_or_become_markup(desk):
    name = "<script>alert(1)<!--" + HOSTILE
    Path("photos/a.png").rename(f"photos/{name}")
    assert run(f"photos/{name}", "art/x.png", "-o", name, "--quiet", *REPORT) == 0
    text = Path("out.html").read_text()
    assert report()["title"] == report()["pictures"]["content"]["name"] == name
    inside = text.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(inside)["title"] == name
    assert not set(inside) & set("<>&\u2028\u202e")
    assert text.count("<script") == 2
    assert "<img src=x" not in text
    title = re.search("<title>(.*)</title>", text)[1]
    assert "<" not in title


def test_a_title_with_an_end_of_script_in_it_stays_a_title():
    data = {"title": "</title></script><script>alert(1)</script>", "more": "</script>"}
    text = page(data).decode()
    assert text.count("<script") == 2
    assert text.count("</title>") == 1


def test_a_name_that_is_no_text_is_written_all_the_same(desk):
    name = "caf\udce9.png"
    try:
        Path("photos/a.png").rename(f"photos/{name}")
    except OSError:
        pytest.skip("this file system takes text only")
    assert run(f"photos/{name}", *PAIR[1:], *REPORT) == 0
    assert report()["pictures"]["content"]["name"] == name


def test_the_policy_allows_what_stands_in_the_page_and_nothing_else():
    for live in (False, True):
        text = page({"title": "x"}, live=live).decode()
        policy = dict(
            part.split(" ", 1) for part in re.search('Content-Security-Policy" content="([^"]*)"', text)[1].split("; ")
        )
        for kind in ("style", "script"):
            found = re.search(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)[1]
            digest = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
            assert policy.pop(f"{kind}-src") == f"'sha256-{digest}'"
        assert policy.pop("connect-src", None) == ("'self'" if live else None)
        assert policy == {
            "default-src": "'none'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
        assert not re.search(r"\bon\w+=|style=|innerHTML|eval\(", text)


def test_an_interrupted_run_has_its_page_and_a_resumed_one_has_the_whole(desk, at):
    at(4, interrupt)
    assert run(*PAIR, *TRIED, *REPORT) == 130
    half = report()
    assert (half["state"], half["resumed"]) == ("interrupted", False)
    assert run(*PAIR, *TRIED, *REPORT, "--resume") == 0
    whole = report()
    assert (whole["state"], whole["resumed"]) == ("complete", True)
    assert whole["losses"]["at"] == [1, 2, 3, 4, 5, 6, 7]
    assert whole["losses"]["values"]["total"][: len(half["losses"]["at"])] == half["losses"]["values"]["total"]
    assert [frame["evaluation"] for frame in whole["frames"]] == [1, 2, 3, 4, 5, 6, 7]
    assert whole["frames"][:3] == half["frames"][:3]


@pytest.mark.parametrize("earlier", ["none", "another run's", "changed"])
def test_only_the_runs_own_page_is_gone_on_from(desk, at, earlier):
    at(4, interrupt)
    assert run(*PAIR, *TRIED, *REPORT) == 130
    data = report()
    if earlier == "another run's":
        data["request"] = "0" * 64
    data["frames"][0]["src"] = "javascript:alert(1)"
    Path("out.html").write_bytes(page(data))
    if earlier == "none":
        Path("out.html").unlink()
    assert run(*PAIR, *TRIED, *REPORT, "--resume") == 0
    whole = report()
    assert whole["frames"][0]["evaluation"] == 5
    assert whole["losses"]["at"] == [1, 2, 3, 4, 5, 6, 7]
    assert all(frame["src"].startswith("data:image/jpeg;base64,") for frame in whole["frames"])


def test_a_run_that_breaks_off_has_a_page_that_says_why(desk, monkeypatch, at):
    def fail():
        raise MemoryError

    at(3, fail)
    assert run(*PAIR, *TRIED, *REPORT) == 1
    data = report()
    assert data["state"] == "failed"
    assert "not enough memory" in data["status"]
    assert "result" in data
    at(4, fail)
    assert run(*PAIR, *TRIED, *REPORT) == 1
    data = report()
    assert data["state"] == "failed"
    assert "result" not in data


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none/out.html", "does not exist"),
        ("photos", "ends in .html"),
        ("out.txt", "ends in .html"),
        ("mine.html", "expected a report of nstcore or a new name"),
        ("photos/a.png", "itself"),
        ("out.png", "one for the output and the report"),
    ],
)
def test_a_place_for_no_page_is_refused_before_any_work(desk, capsys, name, expected):
    Path("mine.html").write_text("<p>mine</p>")
    assert run(*PAIR, "--report", name) == 2
    assert expected in one_line(capsys)
    assert Path("mine.html").read_text() == "<p>mine</p>"
    assert not Path("out.png").exists()


def test_a_page_that_cannot_be_written_in_the_end_is_told_and_the_picture_is_there(desk, capsys, monkeypatch):
    real = reports.files.replacing

    def replacing(path):
        if str(path) == "out.html":
            raise OutputError(f"{path}: cannot be written: no space left on device; choose another place")
        return real(path)

    monkeypatch.setattr(reports.files, "replacing", replacing)
    assert run(*PAIR, *REPORT) == 1
    said = one_line(capsys)
    assert "--report: out.html: cannot be written: no space left on device" in said
    assert "the picture is in out.png" in said
    assert images.read_metadata("out.png")["complete"]


def test_every_job_has_a_page_of_its_own(desk, capsys):
    jobs = '[[grid]]\ncontents = "photos/*.png"\nstyles = "art/x.png"\noutput = "{content}.png"\n'
    Path("jobs.toml").write_text(f"[defaults]\n{table(report='pages/{output}.html')}\n{jobs}")
    assert main("run", "--jobs", "jobs.toml", "--quiet") == 0
    assert [report(f"pages/{name}.html")["title"] for name in "ab"] == ["a.png", "b.png"]
    Path("jobs.toml").write_text(f"[defaults]\n{table(report='one.html')}\n{jobs}")
    assert main("run", "--jobs", "jobs.toml") == 2
    assert "put {output} into its name" in one_line(capsys)


def test_a_report_is_what_it_says_and_nothing_else_is(tmp_path):
    path = tmp_path / "a.html"
    for content in (b"", b"<!doctype html>", HEAD, HEAD + b'<script type="application/json" id="data">[1]</script>'):
        path.write_bytes(content)
        assert read_page(path) is None
    assert read_page(tmp_path / "none.html") is None


def test_a_loss_that_is_no_number_is_none():
    terms = Terms(math.nan, math.inf, 1.0, 0.0, {"relu1_1": math.nan})
    recorder = Recorder()
    recorder.begin({}, Network(), [Rung(20, 20, 5, 1.0)])
    recorder.step(Step(0, 5, 1, 20, 0.1, terms, 0.0, 0.0, None, lambda: smooth_picture(20, 20).transpose(2, 0, 1)))
    data = recorder.data()
    assert data["losses"]["values"]["total"] == data["losses"]["values"]["content.relu1_1"] == [None]
    assert data["losses"]["values"]["style"] == [asdict(terms)["style"]]
    assert data["frames"] == []
