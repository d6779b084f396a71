"""Kernels are compiled for the CPU once, safely, and what fails is said in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cuda_on_cpu import BUGS, HERE, VOCABULARY, launch, needs_compiler

from nstcore.engines.cuda import cache, on_cpu, on_cpu_build, source
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.precision import FLOAT32
from nstcore.errors import DeviceError


@pytest.fixture(scope="module")
def emulations(tmp_path_factory) -> list[Path]:
    """The emulation for two kinds of build."""
    if on_cpu.problem() is None:
        for build in ("debug", "fast"):
            on_cpu_build._emulation(build, tmp_path_factory.mktemp(build))
    return [*cache.folder().glob("emulation_*.o")]


@pytest.fixture
def home(tmp_path, monkeypatch, emulations) -> Path:
    """A cache that holds no kernel, but the emulation, as after the first one."""
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "home"))
    cache.folder().mkdir(parents=True)
    for path in emulations:
        shutil.copy2(path, cache.folder())
    return cache.folder()


def small(folder: Path, body: str = "y[threadIdx.x] = 1.f;", head: str = "") -> source.Rung:
    path = folder / "small.cu"
    path.write_text(f'{head}\nextern "C" __global__ void small(float* y) {{\n  {body}\n}}\n')
    return source.parse(path, "small")


@needs_compiler
def test_a_kernel_is_compiled_once(home, tmp_path, monkeypatch):
    first = on_cpu_build.library(small(tmp_path), {"A": "1"}, "debug")
    assert list(home.glob("*.so")) == [first]
    compiled = []
    monkeypatch.setattr(on_cpu_build, "_compile", lambda *_: compiled.append(1) or sys.exit("compiled again"))
    assert on_cpu_build.library(small(tmp_path), {"A": "1"}, "debug") == first
    others = ((small(tmp_path), {"A": "2"}, "debug"), (small(tmp_path), {"A": "1"}, "fast"))
    for rung, defines, build in (*others, (small(tmp_path, "y[1] = 1.f;"), {"A": "1"}, "debug")):
        with pytest.raises(SystemExit):
            on_cpu_build.library(rung, defines, build)
    assert len(compiled) == 3


@needs_compiler
def test_a_changed_header_is_compiled_anew(home, tmp_path):
    (tmp_path / "other.cuh").write_text("#define ONE 1.f\n")
    head, body = '#include "other.cuh"', "y[threadIdx.x] = ONE;"
    first = on_cpu_build.library(small(tmp_path, body, head), {}, "debug")
    (tmp_path / "other.cuh").write_text("#define ONE 1.0f\n")
    assert on_cpu_build.library(small(tmp_path, body, head), {}, "debug") != first


@needs_compiler
def test_two_may_compile_the_same_at_the_same_time(home, tmp_path):
    small(tmp_path)
    code = f"""
from pathlib import Path
from nstcore.engines.cuda import on_cpu_build, source
print(on_cpu_build.library(source.parse(Path({str(tmp_path / "small.cu")!r}), "small"), {{}}, "debug"))
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert [str(p) for p in home.glob("*.so")] == [outputs[0].strip()]
    assert {p.name.split("_")[0] for p in home.iterdir()} == {"emulation", "small"}


@needs_compiler
def test_the_emulation_is_compiled_once_for_each_kind_of_build(home, tmp_path, monkeypatch):
    for path in home.iterdir():
        path.unlink()
    compiled = []
    monkeypatch.setattr(
        on_cpu_build, "_run", lambda name, command: compiled.append(name) or Path(command[-1]).write_text("")
    )
    for build in on_cpu_build.BUILDS:
        for body, expected in (("", ["the emulation", "small"]), ("y[0] = 1.f;", ["small"])):
            del compiled[:]
            on_cpu_build.library(small(tmp_path, body), {}, build)
            assert compiled == expected
    assert len(list(home.glob("emulation_*.o"))) == len(on_cpu_build.BUILDS)


@needs_compiler
def test_kernels_have_shared_memory_of_their_own(tmp_path):
    """Of 100 and of 1000 bytes; of one layout, the second would begin behind the first."""
    found = []
    for size in (100, 1000):
        body = f"__shared__ char a[{size}]; y[0] = (long)a - (long)cuda_on_cpu::here().block->shared.variable(0);"
        device, kernel = OnCpuDevice(), small(tmp_path, body)
        y = device.empty(1, "float32")
        device.kernel(kernel, "small")(1, 1, y)
        found.append(device.to_host(y)[0])
    assert found == [0, 0]


@needs_compiler
@pytest.mark.parametrize("links", [True, False])
def test_what_another_process_prunes_meanwhile_is_still_linked(home, tmp_path, monkeypatch, links):
    def without_links(*_):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(on_cpu_build.os, "link", without_links)
    compiled = on_cpu_build._run

    def run(name, command):
        for path in home.glob("emulation_*.o"):
            path.unlink()
        compiled(name, command)

    monkeypatch.setattr(on_cpu_build, "_run", run)
    assert on_cpu_build.library(small(tmp_path), {}, "debug").is_file()
    assert not list(home.glob("emulation_*.o"))


@needs_compiler
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y[0] = undefined_name;", r"small\.cu:3:\d+: error: .*undefined_name"),
        ("float large[20000]; for (int i = 0; i < 20000; ++i) large[i] = y[i]; y[0] = large[(int)y[1]];", "frame size"),
    ],
)
def test_what_does_not_compile_is_said_in_one_line(home, tmp_path, body, message):
    with pytest.raises(DeviceError, match=message) as e:
        OnCpuDevice().kernel(small(tmp_path, body), "small")
    assert "\n" not in str(e.value)
    assert str(e.value).startswith("small: ")
    assert not [p.name for p in home.iterdir() if not p.name.startswith("emulation_")]


def test_a_compiler_that_is_missing_or_fails_is_said_in_one_line(home, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O")
    assert on_cpu.problem() == (
        "the kernels cannot run on the CPU: no C++ compiler (no-such-compiler -O) found; install g++"
    )
    with pytest.raises(DeviceError, match="install g"):
        OnCpuDevice()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(DeviceError, match=r"false cannot compile it for the CPU: exit code 1$"):
        OnCpuDevice().kernel(small(tmp_path), "small", FLOAT32)


@needs_compiler
@pytest.mark.slow
def test_where_the_cache_cannot_be_written_it_is_compiled_for_this_process(home, tmp_path):
    shutil.rmtree(home.parent)
    home.parent.write_text("a file")
    path = on_cpu_build.library(small(tmp_path), {}, "debug")
    assert path.is_file()
    assert on_cpu_build.library(small(tmp_path), {}, "debug") == path


@needs_compiler
@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_a_sanitizer_must_be_loaded_first(build):
    with pytest.raises(DeviceError, match=rf"LD_PRELOAD=.*lib{build}\.so\) python"):
        OnCpuDevice(build=build)


def test_translation_keeps_every_line_where_it_is():
    for text in (BUGS.text, VOCABULARY.text, *BUGS.headers.values(), *(source.read(r).text for r in source.rungs())):
        translated = on_cpu_build.translate(text)
        assert translated.count("\n") == text.count("\n")
        assert "__shared__" not in translated
        assert "#pragma unroll" not in translated


@needs_compiler
@pytest.mark.slow
def test_a_build_for_the_debugger_gives_the_same():
    fast, debug = (launch(OnCpuDevice(build=b), "missing_second_barrier", 0, numbers=(4,)) for b in ("fast", "debug"))
    assert fast.tobytes() == debug.tobytes()


@pytest.mark.slow
@needs_compiler
def test_without_a_stack_switch_of_our_own_it_is_the_same(home, monkeypatch):
    expected = launch(OnCpuDevice(), "missing_second_barrier", 0, numbers=(4,))
    monkeypatch.setenv("CXX", f"{on_cpu_build.compiler()[0]} -DCUDA_ON_CPU_UCONTEXT")
    found = launch(OnCpuDevice("random"), "missing_second_barrier", 0, numbers=(4,))
    assert found.tobytes() == expected.tobytes()
    with pytest.raises(KernelError, match="never reached"):
        launch(OnCpuDevice(), "early_exit", 1, numbers=(50,))
