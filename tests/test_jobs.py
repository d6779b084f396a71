"""`run --jobs`: many pictures, kept, made or failed each on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_desk import (
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    main,
    no_new_folder_fixture,  # noqa: F401
    one_line,
    table,
)

import nstcore
from nstcore import images, transfer

GRID = """
[[grid]]
contents = "photos/*.png"
styles = ["art/x.png", "art/y.png"]
output = "out/{content}-{style}.png"
"""


def write(text: str, **defaults: object) -> None:
    Path("jobs.toml").write_text(f"[defaults]\n{table(**defaults)}\n{text}")


def jobs(*arguments: object) -> int:
    return main("run", "--jobs", "jobs.toml", *arguments)


def made(folder: str = "out") -> dict[str, int]:
    """Pictures, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(Path(folder).iterdir())}


@pytest.fixture
def evaluations(monkeypatch):
    """Calls of the objective, and what to do in them."""
    calls = {"count": 0, "then": lambda count: None}
    evaluate = nstcore.Objective.__call__

    def counted(self, pixels):
        calls["count"] += 1
        calls["then"](calls["count"])
        return evaluate(self, pixels)

    monkeypatch.setattr(nstcore.Objective, "__call__", counted)
    return calls


def test_a_grid_paints_every_content_with_every_style(desk, capsys):
    write(
        GRID + '[[job]]\ncontent = "photos/a.png"\nstyle = ["art/x.png", "art/y.png"]\noutput = "one.png"\nseed = 3\n'
    )
    assert jobs() == 0
    assert list(made()) == ["a-x.png", "a-y.png", "b-x.png", "b-y.png"]
    assert images.read_metadata("one.png")["settings"]["seed"] == 3
    said = capsys.readouterr()
    assert "1/5 one.png" in said.out
    assert "5/5 b-y.png" in said.out
    assert said.out.strip().endswith("5 made")
    assert "2/5 a-x.png: 0/2: loss" in said.err


def test_what_is_there_is_kept_and_costs_nothing(desk, capsys, evaluations):
    write(GRID)
    assert jobs("--quiet") == 0
    before, count = made(), evaluations["count"]
    Path("out/b-x.png").unlink()
    assert jobs() == 0
    assert evaluations["count"] - count == count / 4
    assert {n: t for n, t in made().items() if n != "b-x.png"} == {n: t for n, t in before.items() if n != "b-x.png"}
    assert capsys.readouterr().out.strip().endswith("1 made, 3 kept")


def test_other_settings_or_other_pictures_make_it_again_and_say_why(desk, capsys):
    write(GRID)
    assert jobs("--quiet") == 0
    before = made()
    write(GRID, style_weight=3)
    assert jobs() == 0
    assert "made again, for it was made with another --style-weight" in capsys.readouterr().out
    assert all(made()[name] != before[name] for name in before)
    Path("art/x.png").write_bytes(Path("photos/b.png").read_bytes())
    assert jobs() == 0
    assert "made again, for it was made with another style" in capsys.readouterr().out
    Path("out/a-y.png").write_bytes(Path("photos/b.png").read_bytes())
    assert jobs() == 0
    assert "a-y.png: made again, for it was made with other means" in capsys.readouterr().out


def test_the_machine_does_not_make_it_another_picture(desk):
    write(GRID)
    assert jobs("--quiet") == 0
    before = made()
    assert jobs("--quiet", "--threads", 2) == 0
    assert made() == before


def test_the_command_line_comes_before_the_job_before_the_defaults(desk):
    text = '[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\noutput = "o.png"\nseed = 2\niterations = 1\n'
    write(text, seed=1, tv_weight=0.25)
    assert jobs("--quiet", "--seed", 3) == 0
    settings = images.read_metadata("o.png")["settings"]
    assert [settings[name] for name in ("seed", "iterations", "tv_weight")] == [3, 1, 0.25]


def test_a_picture_that_fails_does_not_stop_the_rest(desk, capsys):
    Path("photos/a.png").write_text("no picture")
    write(GRID)
    assert jobs() == 1
    said = capsys.readouterr()
    assert list(made()) == ["b-x.png", "b-y.png"]
    assert said.out.strip().endswith("2 made, 2 failed")
    assert said.err.count("nstcore: out/a-") == 2


def test_a_folder_that_cannot_be_made_fails_its_own_pictures(desk, capsys, no_new_folder):
    no_new_folder("closed")
    write('[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\noutput = "closed/a.png"\n' + GRID)
    assert jobs() == 1
    said = capsys.readouterr()
    assert len(made()) == 4
    assert "nstcore: closed/a.png: closed: the folder cannot be made: read-only file system; choose" in said.err


def test_no_memory_fails_one_picture(desk, capsys, evaluations):
    def then(count):
        if count == 1:
            raise MemoryError

    evaluations["then"] = then
    write(GRID)
    assert jobs() == 1
    assert "not enough memory" in capsys.readouterr().err
    assert len(made()) == 3


def test_a_run_that_breaks_off_is_begun_anew_the_next_time(desk, capsys, evaluations):
    def then(count):
        if count == 3:
            raise MemoryError

    evaluations["then"] = then
    write(GRID)
    assert jobs("--quiet") == 1
    assert "the best picture before is in out/a-x.png" in one_line(capsys)
    assert len(made()) == 4
    assert jobs() == 0
    said = capsys.readouterr().out
    assert "a-x.png: made again, for it was made with an end before its time" in said
    assert said.strip().endswith("1 made, 3 kept")


def test_ctrl_c_keeps_the_best_and_the_same_command_goes_on(desk, capsys, evaluations):
    def then(count):
        if count == 6:
            raise KeyboardInterrupt

    evaluations["then"] = then
    write(GRID)
    assert jobs() == 130
    said = capsys.readouterr()
    assert "interrupted at out/a-y.png" in said.err
    assert said.out.strip().endswith("1 made, 1 interrupted, 2 not begun")
    assert list(made()) == ["a-x.png", "a-y.png"]
    assert jobs() == 0
    assert capsys.readouterr().out.strip().endswith("3 made, 1 kept")


def test_all_share_weights_engine_and_what_is_known_of_the_styles(desk, monkeypatch):
    seen = []
    real = transfer.stylize

    def stylize(*pictures, **options):
        seen.append(options)
        return real(*pictures, **options)

    monkeypatch.setattr(transfer, "stylize", stylize)
    write(GRID)
    assert jobs("--quiet") == 0
    assert len(seen) == 4
    for name in ("weights", "engine", "statistics"):
        assert all(options[name] is seen[0][name] for options in seen)
    assert len(seen[0]["statistics"]) == 2


ONE = '[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\noutput = "o.png"\n'
MISTAKES = {
    "an unknown key": (ONE + "sise = 3\n", "did you mean size?"),
    "an unknown table": ("[[jobs]]\n", "'jobs'"),
    "a key of a grid in a job": (ONE + 'contents = "*"\n', "did you mean content"),
    "a content that is missing": (ONE.replace("a.png", "none.png"), "none.png"),
    "a style that is missing": (ONE.replace("x.png", "none.png"), "none.png"),
    "a mask that is missing": (ONE + 'protect = "none.png"\n', "protect"),
    "a pattern without pictures": (GRID.replace("photos/*", "nothing/*"), "nothing/*"),
    "no style": ('[[job]]\ncontent = "photos/a.png"\n', "no style"),
    "two jobs with one output": (ONE + ONE, "got two"),
    "a grid with one output": (GRID.replace("{content}-{style}", "x"), "got two"),
    "an unknown field of a name": (GRID.replace("{style}", "{size}"), "{content}"),
    "a job that is no list": ('[job]\ncontent = "photos/a.png"\n', "[[job]]"),
    "an output of unknown kind": (ONE.replace("o.png", "o.xyz"), ".png"),
    "an output of unknown kind in a new folder": (ONE.replace("o.png", "new/o.xyz"), ".png"),
    "a value that does not fit": (ONE + 'size = "big"\n', "jobs.toml [[job]] 1: size"),
    "a wrong combination": (ONE + "history = 3\n", "lbfgs"),
    "nothing": ("", "at least one"),
    "no TOML": ("[[job]\n", "TOML"),
    "the output is the content": (ONE.replace("o.png", "photos/a.png"), "itself"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_anywhere_is_refused_before_the_first_picture(desk, capsys, case):
    text, expected = MISTAKES[case]
    write(GRID.replace("out/", "") + text if case != "nothing" else "")
    before = sorted(desk.rglob("*"))
    assert jobs() == 2
    assert expected in one_line(capsys)
    assert sorted(desk.rglob("*")) == before


def test_defaults_that_do_not_apply_to_a_job_are_left_out(desk):
    text = ONE + '[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\noutput = "o.jpg"\noptimizer = "lbfgs"\n'
    write(text, average=0.5, quality=80)
    assert jobs("--quiet") == 0
    assert images.read_metadata("o.png")["settings"]["average"] == 0.5
    assert images.read_metadata("o.jpg")["settings"]["optimizer"] == "lbfgs"


def test_a_job_without_output_gets_a_name_beside_the_file(desk):
    write('[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\n')
    assert jobs("--quiet") == 0
    assert images.read_metadata("a-x.png")["complete"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_job_that_needs_the_output_of_another_is_told_to_come_afterwards(desk, capsys, order):
    one = '[[job]]\ncontent = "photos/a.png"\nstyle = "art/x.png"\noutput = "one.png"\n'
    two = '[[job]]\ncontent = "./one.png"\nstyle = "art/x.png"\noutput = "two.png"\n'
    write("".join([one, two][::order]))
    assert jobs() == 2
    numbers = (2, 1) if order == 1 else (1, 2)
    said = one_line(capsys)
    assert said.startswith(f"nstcore: jobs.toml [[job]] {numbers[0]}: ")
    assert f"one.png: no such file yet, it is the output of jobs.toml [[job]] {numbers[1]}; " in said
    assert "a file of its own" in said
    assert not Path("one.png").exists()
