"""`explain`: every topic tells its equation, its code, its kernel and its proof."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from conftest import ROOT

from nstcore import cli
from nstcore.commands import explain
from nstcore.engines.cuda import conv, source
from nstcore.topics import TOPICS, where

PROGRAM = [sys.executable, "-m", "nstcore", "explain"]


@pytest.fixture(autouse=True)
def checks(monkeypatch):
    """Instead of the real checks, which have tests of their own; what a test appends is told of every topic."""
    found = [SimpleNamespace(what="dx", error=1.5e-9, bound=1e-6, seconds=0.25, passed=True)]
    module = ModuleType("nstcore.checks")
    module.run = lambda topic: iter(found)
    monkeypatch.setitem(sys.modules, "nstcore.checks", module)
    return found


@pytest.fixture
def say(capsys, monkeypatch):
    """Run the command, on a terminal or not; its exit code, and what it wrote."""

    def go(*arguments: str, terminal: bool = False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        code = cli.main(["explain", *arguments])
        written = capsys.readouterr()
        return SimpleNamespace(code=code, out=written.out, err=written.err)

    return go


@pytest.mark.parametrize("name", TOPICS)
def test_every_topic_explains_itself(say, name):
    topic, told = TOPICS[name], say(name)
    assert (told.code, told.err) == (0, "")
    for line in topic.equation.splitlines():
        assert line in told.out
    assert topic.source in told.out
    for function in topic.book:
        place = where(function)
        assert f"{place.path.relative_to(ROOT)}:{place.line} {place.name}\n" in told.out
        last = place.text.splitlines()[-1].rstrip()
        assert f"{place.last}  {last}\n" in told.out, "the whole function is shown, with its lines' numbers"
    for function in topic.engines:
        assert f":{where(function).line} {where(function).name}\n" in told.out
    for file in explain.chosen(name):
        assert f"kernels/{file}" in told.out
        assert (ROOT / "kernels" / file).read_text().splitlines()[0] in told.out
    for test in topic.tests:
        assert test in told.out
    assert "1.5e-09 <= 1e-06" in told.out
    assert told.out.rstrip().splitlines()[-1].startswith(f"Again: python -m nstcore check {name}")
    assert "\x1b" not in told.out


def test_without_a_name_every_topic_is_listed_with_its_title(say):
    told = say()
    assert told.code == 0
    for name, topic in TOPICS.items():
        assert f"{name} " in told.out
        assert topic.title in told.out


def test_a_check_that_fails_is_told_and_is_exit_code_1(say, checks):
    checks.append(SimpleNamespace(what="db", error=2.0, bound=1e-6, seconds=0.0, passed=False))
    told = say("bias")
    assert told.code == 1
    assert [line.split()[-1] for line in told.out.splitlines() if "<=" in line][-2:] == ["pass", "FAIL"]


# -- which kernel ------------------------------------------------------------------------------------------------------


def test_the_kernel_is_what_the_engine_launches_in_float32():
    assert explain.chosen("conv")[0] == f"cuda/conv3x3/{conv.PRODUCTION['float32']}.cu"
    assert explain.chosen("winograd") == ["cuda/conv3x3/04_winograd.cu"], "launched by nobody, but the only one"
    assert explain.chosen("covariance") == []


@pytest.mark.parametrize("rung", ["02", "2", "02_shared_tile", "conv3x3/02_shared_tile"])
def test_a_rung_is_taken_by_number_and_by_name(say, rung):
    told = say("conv", "--rung", rung)
    assert told.code == 0
    assert "// op:        conv3x3 forward, backward            rung: 02_shared_tile" in told.out
    assert "rung: 03_register_tile" not in told.out
    assert "Other rungs: conv3x3/01_naive, conv3x3/03_register_tile" in told.out


def test_all_rungs_and_the_cpus_kernels_can_be_seen(say):
    told = say("gram", "--rung", "all")
    assert [told.out.count(f"rung: {n}") for n in ("01_naive", "02_shared_tile", "03_tensor_core")] == [1, 1, 1]
    assert "launches in tf32, float16, bfloat16" in told.out
    told = say("gram", "--kernel", "cpu")
    assert "kernels/cpu/gram.c\n" in told.out
    assert "// op: " not in told.out


def test_kernels_of_an_installed_package_are_read_from_where_it_has_them(say, tmp_path, monkeypatch):
    home = tmp_path / "nstcore" / "_kernels"
    shutil.copytree(ROOT / "kernels", home)
    marked = home / "cuda" / "pool" / "02_vector.cu"
    marked.write_text(f"// of the wheel\n{marked.read_text()}")
    monkeypatch.setattr(source, "folder", lambda: home / "cuda")
    assert "// of the wheel" in say("pool").out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["winogard"], ["did you mean winograd", "preprocess, conv"]),
        (["conv", "--rung", "02_shared_tiles"], ["did you mean 02_shared_tile", "conv3x3/01_naive", "all"]),
        (["conv", "--rung", "19"], ["conv3x3/01_naive"]),
        (["covariance", "--rung", "01"], ["covariance has no CUDA kernels"]),
        (["conv", "--kernel", "cpu", "--rung", "01"], ["leave out --kernel cpu"]),
        (["block-mean", "--kernel", "cpu"], ["block-mean has no kernels for cpu"]),
        (["--rung", "01"], ["expected a NAME"]),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_refused_in_one_line(say, arguments, parts):
    told = say(*arguments)
    assert (told.code, told.out) == (2, "")
    assert told.err.count("\n") == 1
    for part in parts:
        assert part in told.err


def test_names_may_have_underscores_and_capitals(say):
    assert say("Mean_Std").out == say("mean-std").out


# -- terminals, pagers, pipes ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Of a terminal that has colours, and of a person who has set nothing."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "LESS", "PAGER"):
        monkeypatch.delenv(name, raising=False)


def test_headings_are_bold_on_a_terminal_only(say, monkeypatch):
    assert "\x1b[1mTHE KERNEL\x1b[0m" in say("relu", "--no-pager", terminal=True).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in say("relu", "--no-pager", terminal=True).out


def test_on_a_terminal_the_pager_gets_it_all(say, monkeypatch, tmp_path):
    path, before = tmp_path / "paged.txt", signal.getsignal(signal.SIGINT)
    code = f"import os, sys; open({str(path)!r}, 'w').write(os.environ['LESS'] + sys.stdin.read())"
    monkeypatch.setenv("PAGER", f'{sys.executable} -c "{code}"')
    told = say("relu", terminal=True)
    assert (told.code, told.out) == (0, "")
    assert path.read_text().startswith("FRX\n\x1b[1mReLU")
    assert "Again: python -m nstcore check relu" in path.read_text()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_pager_that_is_left_at_once_ends_it_quietly(say, monkeypatch):
    monkeypatch.setenv("PAGER", f'{sys.executable} -c ""')
    told = say("objective", terminal=True)
    assert (told.code, told.out, told.err) == (0, "", "")


@pytest.mark.parametrize("wanted", ["no-such-pager -R", "'half a quotation", ""])
def test_without_a_pager_that_can_be_found_all_is_printed(say, monkeypatch, wanted):
    monkeypatch.setenv("PAGER", wanted)
    monkeypatch.setattr(explain.shutil, "which", lambda name: None)
    told = say("relu", terminal=True)
    assert (told.code, told.err) == (0, "")
    assert "THE BOOK" in told.out


def test_less_is_asked_to_show_bold_as_bold(monkeypatch):
    monkeypatch.setattr(explain.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("PAGER", "less -S")
    assert explain._pager_command() == ["/bin/less", "-S", "-R"]
    monkeypatch.setenv("PAGER", "most")
    assert explain._pager_command() == ["/bin/most"]
    monkeypatch.delenv("PAGER")
    assert explain._pager_command() == ["/bin/less", "-R"]


def test_the_program_explains_and_proves():
    done = subprocess.run([*PROGRAM, "relu"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    proofs = [line.split() for line in done.stdout.splitlines() if " <= " in line and line.endswith("pass")]
    assert proofs, done.stdout[-500:]


def test_a_reader_that_goes_early_does_no_harm():
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*PROGRAM, "conv"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
