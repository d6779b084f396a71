"""`--live`: the page while the run goes on, its news, its stop, and who may not have them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from pathlib import Path

import pytest
from command_desk import (
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    one_line,
    run,
    table,
)
from command_desk import main as nst
from live_run import live_run_fixture  # noqa: F401

from nstcore import images
from nstcore.errors import OptionError
from nstcore.report import Live, Recorder, live, read_page

PAIR = ("photos/a.png", "art/x.png", "-o", "out.png", "--iterations", 8, "--quiet")


@pytest.fixture(autouse=True)
def no_farewell(monkeypatch):
    """Nobody here waits to be told of the end."""
    monkeypatch.setattr(live, "_FAREWELL", 0.0)


def ask(page: Live, path: str = "", method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Status and content of a request as this machine's own browser makes it, but for these headers; to a path below
    the page's address, or one from the root on.
    """
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    given = {"Host": f"127.0.0.1:{page.port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, path if path.startswith("/") else page.home + path, skip_host=True)
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def news(page: Live, *known: int) -> dict:
    """What has come since."""
    code, content = ask(page, f"data?known={','.join(map(str, known or (0, 0, 0, 0)))}")
    assert code == 200
    return json.loads(content)


@pytest.fixture(scope="module")
def page():
    """A live page of a run that has not begun, for all that only asks."""
    with Live(Recorder()) as found:
        found.start()
        yield found


def test_the_page_and_its_news_tell_what_the_run_has_done(desk, live_run):
    begun = live_run(*PAIR, "--log", "log.jsonl")
    begun.allow(3)
    begun.reached(3)
    code, content = ask(begun.live)
    Path("page.html").write_bytes(content)
    data = read_page("page.html")
    assert (code, data["state"], data["token"]) == (200, "running", begun.live.token)
    assert data["losses"]["at"] == [1, 2, 3]
    begun.allow(2)
    begun.reached(5)
    more = news(begun.live, 3, 3, 0, data["results"])
    assert more["losses"]["at"] == [4, 5]
    assert [frame["evaluation"] for frame in more["frames"]] == [4, 5]
    assert "pictures" not in more
    assert begun.end() == 0
    lines = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    totals = [line["losses"]["total"] for line in lines if line["kind"] == "step"]
    assert data["losses"]["values"]["total"] + more["losses"]["values"]["total"] == totals[:5]


def test_who_looks_sees_the_picture_large(desk, live_run, monkeypatch):
    monkeypatch.setattr("nstcore.report.recorder._EVERY", 0.0)
    begun = live_run(*PAIR)
    begun.allow(1)
    begun.reached(1)
    assert news(begun.live)["results"] == 0  # nobody had looked before
    begun.allow(1)
    begun.reached(2)
    found = news(begun.live)
    assert found["results"] == 1
    assert found["result"]["width"] == 24


def test_stop_and_keep_ends_the_run_as_ctrl_c_does(desk, live_run):
    begun = live_run(*PAIR, "--report", "out.html")
    begun.allow(3)
    begun.reached(3)
    host = f"127.0.0.1:{begun.live.port}"
    assert ask(begun.live, "stop", "POST", Origin=f"http://{host}", X_Token=begun.live.token) == (200, b"{}")
    assert begun.end() == 130
    found = images.read_metadata("out.png")
    assert not found["complete"]
    assert found["evaluations"] == 4  # the step at hand was finished
    assert read_page("out.html")["state"] == "interrupted"
    assert Path("out.png.snapshot.h5").exists()
    assert run(*PAIR, "--resume") == 0
    assert images.read_metadata("out.png")["complete"]


def test_a_page_that_is_looked_at_gets_the_end(desk, live_run, monkeypatch):
    monkeypatch.setattr(live, "_FAREWELL", 20.0)
    begun = live_run(*PAIR)
    begun.allow(1)
    begun.reached(1)
    assert "final" not in news(begun.live)
    begun.allow(20)
    while not begun.live.recorder.ended:
        time.sleep(0.01)
    final = news(begun.live)["final"]
    assert (final["state"], len(final["losses"]["at"])) == ("complete", 9)
    begun.thread.join(5)
    assert begun.code == 0
    with pytest.raises(OSError, match="refused"):
        ask(begun.live)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Host": "localhost:PORT"}, 200),
        ({"Host": "evil.example:PORT"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Host": ""}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["", "data?known=0,0,0,0"])
def test_only_this_machines_own_browser_sees_it(page, headers, code, path):
    given = {name: value.replace("PORT", str(page.port)) for name, value in headers.items()}
    found, content = ask(page, path, **given)
    assert found == code
    assert (page.token.encode() in content) == (path == "" and code == 200)


@pytest.mark.parametrize(
    "change",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"X_Token": None},
        {"X_Token": "guessed"},
        {"X_Token": "caf\u00e9"},
        {"Host": "evil.example:PORT"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
    ids=str,
)
def test_only_the_page_itself_may_stop_the_run(page, change):
    right = {"Origin": f"http://127.0.0.1:{page.port}", "X_Token": page.token} | change
    assert ask(page, "stop", "POST", **{k: v for k, v in right.items() if v is not None})[0] == 403
    assert not page.stop_asked
    assert ask(page, "stop", "GET")[0] == 404
    assert ask(page, "other", "POST", Origin=f"http://127.0.0.1:{page.port}", X_Token=page.token)[0] == 404
    assert not page.stop_asked


@pytest.mark.parametrize(
    "query", ["", "?known=", "?known=a,b,c,d", "?known=1,2", "?known=-1,0,0,0", "?known=" + "9" * 99]
)
def test_a_question_that_makes_no_sense_gets_everything(page, query):
    code, content = ask(page, f"data{query}")
    assert code == 200
    assert json.loads(content)["losses"]["at"] == []


@pytest.mark.parametrize("path", ["/", "/data?known=0,0,0,0", "/guessed/", "/guessed/data", "//"])
def test_nothing_is_told_without_the_key_in_the_address(page, path):
    assert ask(page, path) == (404, b"there is nothing here: the page has the whole address that the run has printed\n")
    assert ask(page, "/stop", "POST", Origin=f"http://127.0.0.1:{page.port}", X_Token=page.token)[0] == 404
    assert not page.stop_asked


def test_it_listens_on_this_machine_only(page):
    assert page._server.server_address[0] == "127.0.0.1"


def test_a_port_in_use_is_refused_before_any_work(desk, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(*PAIR, f"--live={port}") == 2
        said = one_line(capsys)
        assert f"--live: expected a port that is free, got {port}" in said
    assert not Path("out.png").exists()


@pytest.mark.parametrize("port", ["photos/a.png", "65536", "-1", "\uff11", "1e3", ""])
def test_what_is_no_port_is_refused(desk, capsys, port):
    assert run(*PAIR, f"--live={port}") == 2
    assert "--live: expected a port, 0 to 65535" in one_line(capsys)


def test_a_picture_that_live_takes_for_its_port_is_named(desk, capsys):
    assert nst("run", PAIR[0], "--live", PAIR[1]) == 2
    assert f"--live: expected a port, 0 to 65535, got '{PAIR[1]}'; put --live behind the pictures" in one_line(capsys)


def test_a_port_that_only_the_system_may_take_is_refused():
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("the administrator may take any port")
    with pytest.raises(OptionError, match="--live: expected a port that is free, got 1 "):
        Live(Recorder(), 1)


def test_jobs_have_no_live_page(desk, capsys):
    job = '[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\n'
    Path("jobs.toml").write_text(f"[defaults]\n{table()}\n{job}")
    assert nst("run", "--jobs", "jobs.toml", "--live") == 2
    assert "expected no --live beside it" in one_line(capsys)


def test_visitors_that_break_off_or_say_nothing_disturb_nobody(desk, live_run, capfd):
    begun = live_run(*PAIR)
    silent = [socket.create_connection(("127.0.0.1", begun.live.port)) for _ in range(5)]
    broken = socket.create_connection(("127.0.0.1", begun.live.port))
    broken.sendall(b"\x00\xff nonsense\r\n\r\n")
    gone = socket.create_connection(("127.0.0.1", begun.live.port))
    gone.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{begun.live.port}\r\n\r\n".encode())
    gone.close()
    begun.allow(2)
    begun.reached(2)
    assert news(begun.live)["losses"]["at"] == [1, 2]
    begin = time.monotonic()
    assert begun.end() == 0
    assert time.monotonic() - begin < 5
    for connection in (*silent, broken):
        connection.close()
    assert capfd.readouterr().err == ""
