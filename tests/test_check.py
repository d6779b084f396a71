"""`check`: the gradient proof itself: it covers everything, it passes, and it fails where something is wrong."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from nstcore import cli, ops
from nstcore.checks import CHECKS, broken, engine_layers, run, run_engines
from nstcore.checks.engines import available, checks_of
from nstcore.checks.flips import FLIPS
from nstcore.engines import create
from nstcore.engines.cpu.network import NumpyNetwork
from nstcore.engines.cuda import gpu
from nstcore.engines.operations import BookOperations
from nstcore.errors import DeviceError, OptionError
from nstcore.topics import TOPICS

HEAD = "topic           what                                     error bound   time"


def numpy_engine():
    """The one that is on every machine."""
    return next(machine for machine in available(["cpu"]) if machine.kernels == "numpy")


@pytest.fixture
def check(capsys):
    """Run the command; exit code, lines of standard output, standard error."""

    def go(*arguments):
        code = cli.main(["check", *arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return go


def test_every_topic_has_a_check_and_a_sign_to_flip():
    assert set(CHECKS) == set(FLIPS) == set(TOPICS)


@pytest.mark.parametrize("topic", CHECKS)
def test_a_topic_is_proved_its_flipped_sign_is_found_and_put_right_again(topic):
    some = 1 if topic == "objective" else None  # all of them: see the test of the whole command
    with broken(topic) as what:
        assert FLIPS[topic].name in what
        assert any(not c.passed for c in run(topic))
    found = list(itertools.islice(run(topic), some))
    assert found
    assert all(c.topic == topic and c.passed and c.error >= 0 and c.seconds > 0 for c in found), found


def test_other_numbers_prove_it_too_and_differ():
    for topic in ("pool", "w2", "lbfgs"):
        first, second = list(run(topic)), list(run(topic, seed=1))
        assert all(c.passed for c in second)
        assert [c.error for c in first] != [c.error for c in second]


def held():
    """Every function of the package, by the module that holds it and its name."""
    modules = [(key, m) for key, m in sys.modules.items() if key.split(".")[0] == "nstcore"]
    return {(key, name): f for key, m in modules for name, f in vars(m).items() if callable(f)}


def test_a_sign_is_flipped_wherever_the_function_is_held_and_put_right_after_an_error():
    before = held()
    with suppress(ZeroDivisionError), broken("covariance"):
        changed = {place for place, f in held().items() if before.get(place) is not f}
        modules = {f"nstcore.ops{module}" for module in ("", ".covariance", ".style_centred", ".style_w2")}
        assert changed == {(module, "covariance_backward") for module in modules}
        raise ZeroDivisionError
    assert held() == before


def test_a_sign_flipped_in_the_book_shows_in_the_whole_objective():
    with broken("conv"):
        assert not next(run("objective")).passed


@pytest.mark.parametrize("name", ["gram_forward", "gram_backward"])
def test_nan_never_passes(monkeypatch, check, name):
    right = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda *a: np.nan * right(*a))
    code, lines, err = check("gram", "relu")
    assert code == 1
    assert [line.split()[-1] for line in lines[1:-1]] == ["FAIL", "pass"]
    assert "inf" in lines[1]
    assert lines[-1].startswith("2 checks, 1 failed, in ")
    assert err == "nstcore: 1 of 2 checks failed: gram (gram_backward)\n"


@pytest.mark.parametrize(("factor", "error"), [(np.nan, math.inf), (1.001, 1e-3)])
def test_an_engine_that_computes_something_else_is_found(monkeypatch, factor, error):
    right = NumpyNetwork.backward
    monkeypatch.setattr(NumpyNetwork, "backward", lambda self, gradients: factor * right(self, gradients))
    *others, gradient = itertools.islice(checks_of(numpy_engine(), seed=0), 4)
    assert all(c.passed for c in others)
    assert gradient.what.endswith(": gradient")
    assert not gradient.passed
    assert gradient.error == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize(
    ("method", "topics"),
    [
        ("conv", {"conv", "relu6", "linear", "sigmoid"}),
        ("depthwise", {"depthwise"}),
        ("global_average", {"global-average"}),
        ("instance_norm", {"instance-norm"}),
        ("resize_nearest", {"resize"}),
    ],
)
def test_a_layer_of_an_engine_that_computes_something_else_is_found(monkeypatch, method, topics):
    right, factor = getattr(BookOperations, method), {"float32": 1.001, "float64": 1}  # the engine, and what judges it
    monkeypatch.setattr(
        BookOperations,
        method,
        lambda self, *a, **k: self.dtype.type(factor[self.dtype.name]) * right(self, *a, **k),
    )
    proofs = engine_layers.proofs(create("reference"), seed=0)
    assert {topic for topic, proof in proofs if proof.error() > proof.bound} == topics


def test_a_device_that_is_not_there_is_refused_before_any_work():
    with pytest.raises(DeviceError, match="expected one of reference, cpu, cuda, cuda-on-cpu, got 'tpu'"):
        run_engines(["reference", "tpu"])
    with pytest.raises(OptionError, match="expected one of preprocess, conv"):
        run("gramm")
    with pytest.raises(OptionError, match="expected one of preprocess, conv"), broken("gramm"):
        pass


def test_the_command_prints_a_line_for_every_proof(check):
    code, lines, err = check("block_mean", "adam")
    assert (code, err) == (0, "")
    assert lines[0] == HEAD
    for line, topic in zip(lines[1:-1], ["block-mean", "block-mean", "adam", "adam"], strict=True):
        assert line.startswith(f"{topic:<16}")
        assert line.endswith("s pass")
        assert len(line) <= 80
    assert lines[-1].startswith("4 checks, all passed, in ")


def test_break_names_the_function_first_and_then_the_check_fails(check):
    code, lines, err = check("relu", "--break", "total_variation")
    assert code == 1
    assert lines[0].startswith("--break total-variation: the sign of its result is flipped in nstcore.ops.total_")
    assert [line.split()[0] for line in lines[2:-1] if line.endswith("FAIL")] == ["total-variation"] * 2
    assert [line.split()[0] for line in lines[2:-1] if line.endswith("pass")] == ["relu"]
    assert "2 of 3 checks failed: total-variation (total_variation_backward), " in err


def test_a_flipped_sign_that_nothing_finds_is_an_error_of_the_check(monkeypatch, check):
    monkeypatch.setitem(FLIPS, "relu", replace(FLIPS["relu"], wrong=lambda right: lambda *a: right(*a)))
    code, _, err = check("--break", "relu")
    assert code == 1
    assert err.endswith("no check found it: the check itself is wrong\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gramm"], "there is none called 'gramm'; did you mean gram?"),
        (["--break", "lbgfs"], "did you mean lbfgs?"),
        (["--device", "tpu"], "device: expected one of reference, cpu, cuda, cuda-on-cpu, got 'tpu'"),
        (["--seed", "-1"], "--seed: expected 0 or more, got -1"),
        pytest.param(
            ["conv", "--device", "cuda"],
            "",
            marks=pytest.mark.skipif(gpu.problem() is None, reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(check, arguments, message):
    code, lines, err = check(*arguments)
    assert (code, lines) == (2, [])
    assert message in err
    assert err.count("\n") == 1


def test_colours_are_for_terminals_that_want_them(monkeypatch, check):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[32mpass\033[0m" in "".join(check("relu")[1])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in "".join(check("relu")[1])


@pytest.mark.slow
def test_the_whole_command_passes_in_a_minute_and_names_every_engine_that_is_here():
    begin = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "nstcore", "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - begin < 60
    head, *rows = done.stdout.splitlines()
    rows = [row for row in rows if row.endswith(" pass")]
    assert head == HEAD
    assert max(map(len, rows)) <= 80
    assert list(dict.fromkeys(row.split()[0] for row in rows)) == list(CHECKS)
    engines = [row[16:].split(": ")[0] for row in rows if ": features" in row]
    assert engines == [machine.name for machine in available()]
    assert f"{len(rows)} checks, all passed, in " in done.stdout
    assert ("not checked: cuda" in done.stdout) == (gpu.problem() is not None)
