"""The real CuPy on a CPU (tools/cupy_on_cpu): a broken rule ends the program by its name; what is right runs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from cupy_on_cpu import device

from nstcore.engines.cuda import nvrtc, on_cpu
from nstcore.errors import DeviceError

TOOL = ROOT / "tools" / "cupy_on_cpu"


def missing() -> str | None:
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    try:
        nvrtc.find(13)
    except DeviceError as error:
        return str(error)
    return on_cpu.problem()


with_cupy = pytest.mark.skipif(missing() is not None, reason=str(missing()))

START = """
import numpy as np
from nstcore.engines.cuda.gpu import GpuDevice
device = GpuDevice()
x = device.to_device(np.arange(64, dtype=np.float32))
page, runtime = np.zeros(64, np.float32), device.cupy.cuda.runtime
"""
BROKEN = {
    "a wait": ("with device.capture(): device.stream.synchronize()", "streamSynchronize: a wait for a stream"),
    "an event": (
        "e = device.cupy.cuda.Event()\nwith device.capture(): e.record(device.stream); e.synchronize()",
        "eventSynchronize: a wait for an event that was captured",
    ),
    "a page": (
        "with device.capture(): runtime.memcpyAsync(page.ctypes.data, x.data.ptr, 256, 2, device.stream.ptr)",
        "memcpyAsync: a copy of pageable memory in a capture",
    ),
    "a branch": (
        (
            "other, e = device.cupy.cuda.Stream(), device.cupy.cuda.Event()\nwith device.capture(): "
            "e.record(device.stream); other.wait_event(e)"
        ),
        "streamEndCapture: 1 streams joined the capture and did not come back",
    ),
    "the legacy stream": (
        "with device.capture(): runtime.memsetAsync(x.data.ptr, 0, 4, 0)",
        "memsetAsync: the legacy stream, while a blocking stream is captured",
    ),
    "new memory": (
        "device.stream.begin_capture(runtime.streamCaptureModeGlobal); device._pool.malloc(1 << 20)",
        "malloc: while a stream is captured in the mode global",
    ),
    "another's memory": (
        "runtime.memsetAsync(x.data.ptr + 64, 0, 1 << 20, device.stream.ptr)",
        "memsetAsync: 1048576 bytes at 0x",
    ),
    "shared memory": (
        (
            "k = device.kernel('block_mean/01_direct', 'block_mean_forward'); k._allowed = 1 << 20\n"
            "k(1, 32, x, x, *([1] * (len(k.parameters) - 2)), shared=1 << 16)"
        ),
        "block_mean_forward: 65536 bytes of dynamic shared memory, 49152 are allowed",
    ),
    "nothing of ours": ("runtime.deviceGetLimit(0)", "deviceGetLimit: not played here"),
}
ENGINE = """
from dataclasses import asdict
from nstcore import Objective
from nstcore.checks.samples import random_weights, smooth_picture
from nstcore.engines.cuda import CudaEngine
weights = random_weights(deepest="conv2_1")
layers = {"content_layers": {"relu2_1": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 0.5}}
def objective(precision):
    engine = CudaEngine(device, precision)
    return Objective(weights, smooth_picture(32, 36, 7), smooth_picture(40, 34, 8), engine=engine, **layers)
def evaluated(of, seed):
    picture = np.ascontiguousarray(smooth_picture(32, 36, seed).transpose(2, 0, 1), np.float32)
    terms, gradient = of(of.engine.array(picture))
    return asdict(terms), of.engine.numpy(gradient).tobytes()
for precision in ("float32", "tf32"):
    recorded, plain = objective(precision), objective(precision)
    plain._repeated = lambda evaluate, x: evaluate(x)
    for seed in (0, 1, 2, 1):
        assert evaluated(recorded, seed) == evaluated(plain, seed), (precision, seed)
    assert recorded._repeated._graph is not None
"""


def tool(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    there = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, str(TOOL), *words], capture_output=True, text=True, env=there)


def test_without_cupy_one_line_says_so(tmp_path):
    package = tmp_path / "cupy_backends"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('there is none')\n")
    done = tool("-c", "print(1)", PYTHONPATH=f"{tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("CuPy: expected CuPy 14 for CUDA 13, got there is none; pip install cupy-cuda13x==14.2.0\n")


@pytest.mark.parametrize(("offered", "said"), [([], "launchKernel"), (sorted(device.played), "got one for CUDA 12")])
def test_another_cupy_is_refused_by_what_is_other(tmp_path, offered, said):
    package = tmp_path / "cupy_backends" / "cuda" / "api"
    package.mkdir(parents=True)
    for file in (package.parent.parent / "__init__.py", package.parent / "__init__.py", package / "__init__.py"):
        file.touch()
    for name in ("runtime", "driver"):
        text = f"__pyx_capi__ = dict.fromkeys({offered})\ndef get_build_version(): return 12090\n"
        (package / f"{name}.py").write_text(text)
    done = tool("-c", "print(1)", PYTHONPATH=f"{tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_program_it_says_what_it_is():
    done = tool()
    assert done.returncode == 2
    assert "VIOLATION" in done.stdout


@with_cupy
@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_that_is_broken_ends_the_program_by_its_name(rule):
    code, line = BROKEN[rule]
    done = tool("-c", f"{START}{code}\nprint('after')")
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("VIOLATION: ")
    assert line in done.stderr.splitlines()[-1]


@with_cupy
def test_what_is_not_waited_for_is_not_there():
    code = """
    r = device.reading(x); r.begin()
    assert np.isnan(r._host).all()
    assert r.end().tolist() == list(range(64))
    """
    done = tool("-c", START + code.replace("\n    ", "\n"))
    assert done.returncode == 0, done.stderr
    assert "no rule was broken" in done.stderr


@with_cupy
@pytest.mark.slow
def test_a_recorded_step_gives_the_bits_of_its_launches():
    done = tool("-c", START + ENGINE)
    assert done.returncode == 0, done.stderr
    assert "graphLaunch 6" in done.stderr


@with_cupy
def test_a_python_that_the_program_starts_comes_under_it():
    code = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-I', '-c', {!r}]).returncode)"
    done = tool(
        "-c",
        code.format(
            f"import sys; sys.path.append({str(ROOT)!r}){START}device.stream.begin_capture()\n"
            "device.stream.synchronize()"
        ),
    )
    assert done.returncode == 3
    assert done.stderr.count("VIOLATION") == 1
