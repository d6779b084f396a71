"""Compiling CUDA kernels without a GPU: the compiler, the cache and the tool."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import compile_kernels
import pytest

from nstcore.engines.cuda import compile as compiling
from nstcore.engines.cuda import nvrtc, source, variants
from nstcore.engines.cuda.compile import OPTIONS, compile_rung
from nstcore.engines.cuda.precision import FLOAT16, FLOAT32, TF32
from nstcore.errors import DeviceError

TEXT = """// op:        tests                      rung: 01_rung
// requires:  nothing
// napkin:    256 floats, read and written once
#include "common.cuh"
extern "C" __global__ void mirrored(float* x) {
  __shared__ float all[256];
  all[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = all[255 - threadIdx.x];
}
extern "C" __global__ void crowded(const float* x, float* y, int n) {
  float kept[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) kept[i] = x[i * n];
#pragma unroll
  for (int i = 0; i < 96; ++i) y[i] = kept[95 - i] * kept[i];
}
"""
needs_nvrtc = pytest.mark.skipif(nvrtc.problem() is not None, reason=str(nvrtc.problem()))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def rung_of(tmp_path):
    def make(text=TEXT, name="tests/01_rung", **headers):
        path = tmp_path / "01_rung.cu"
        path.write_text(text)
        for header, content in headers.items():
            (tmp_path / f"{header}.cuh").write_text(content)
        return source.parse(path, name)

    return make


def compiled(rung, architecture=80, precision=FLOAT32, **defines):
    return compile_rung(rung, architecture, variants.options(precision, defines))


# -- NVRTC -------------------------------------------------------------------------------------------------------------


@needs_nvrtc
def test_a_kernel_compiles_without_a_gpu_and_its_resources_are_told(rung_of, home):
    done = compiled(rung_of())
    assert done.cubin.startswith(b"\x7fELF")
    assert done.path.read_bytes() == done.cubin
    assert set(done.resources) == {"mirrored", "crowded"}
    mirrored = done.resources["mirrored"]
    assert mirrored.shared == 256 * 4
    assert 1 <= mirrored.registers <= 32
    assert (mirrored.stack, mirrored.spill_stores, mirrored.spill_loads) == (0, 0, 0)
    assert done.resources["crowded"].registers > mirrored.registers


@needs_nvrtc
def test_registers_that_do_not_fit_are_told():
    options = [*OPTIONS, "--maxrregcount=32", "--define-macro=PRECISION=FLOAT32"]
    headers = {"common.cuh": (source.folder() / "common.cuh").read_text()}
    _, log = nvrtc.find().compile(TEXT, "tests.cu", headers, 80, options)
    crowded = nvrtc.resources(log)["crowded"]
    assert crowded.registers <= 32
    assert crowded.spill_stores > 0
    assert crowded.spill_loads > 0
    assert crowded.stack > 0


def test_a_log_without_registers_is_not_taken_for_a_kernel_without_any():
    with pytest.raises(ValueError, match="expected the registers of a kernel"):
        nvrtc.resources("ptxas info : Compiling entry function 'f' for 'sm_80'\nsomething else\n")


@needs_nvrtc
def test_an_error_names_the_file_and_the_line(rung_of, home):
    with pytest.raises(nvrtc.CompileError) as error:
        compiled(rung_of(TEXT.replace("255 - threadIdx.x", "255 - threadIdx.x + nobody")))
    assert str(error.value) == 'tests/01_rung.cu:9: identifier "nobody" is undefined'
    assert "nobody" in error.value.log


@needs_nvrtc
def test_an_error_in_a_header_names_the_header(rung_of, home):
    with pytest.raises(nvrtc.CompileError, match=r"^own\.cuh:2: .*nothing"):
        compiled(rung_of('#include "own.cuh"\n', own="\nstatic __device__ int f() { return nothing; }\n"))


@needs_nvrtc
def test_an_option_that_the_compiler_does_not_know_is_an_error_too(rung_of, home):
    with pytest.raises(nvrtc.CompileError, match=r"^tests/01_rung\.cu: .*gpu-architecture"):
        compiled(rung_of(), architecture=12)


def test_without_nvrtc_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(nvrtc, "places", lambda major: ["/nowhere/libnvrtc.so"])
    assert nvrtc.problem() == (
        "NVRTC, which compiles the CUDA kernels, was not found (libnvrtc.so); pip install nvidia-cuda-nvrtc"
    )
    with pytest.raises(DeviceError, match=r"pip install nvidia-cuda-nvrtc-cu12$"):
        nvrtc.find(12)


def test_the_compiler_of_the_drivers_cuda_is_looked_for_first(monkeypatch):
    monkeypatch.setattr(nvrtc, "places", lambda major: [f"libnvrtc.so.{major}"])
    monkeypatch.setattr(nvrtc, "_load", lambda path: path)
    assert nvrtc.find() == "libnvrtc.so.13"
    assert nvrtc.find(12) == "libnvrtc.so.12"
    monkeypatch.setattr(nvrtc, "_load", lambda path: path if path.endswith("12") else None)
    assert nvrtc.find(13) == "libnvrtc.so.12"


def test_packages_come_before_a_toolkit_and_that_before_the_system(monkeypatch):
    monkeypatch.setenv("CUDA_PATH", "/opt/toolkit")
    found = [str(place) for place in nvrtc.places(13)]
    assert found[-1] == "libnvrtc.so.13"
    assert found.index("/opt/toolkit/lib64/libnvrtc.so.13") < found.index("/usr/local/cuda/lib64/libnvrtc.so.13")
    packages = [i for i, place in enumerate(found) if "/nvidia/" in place]
    assert all(i < found.index("/opt/toolkit/lib64/libnvrtc.so.13") for i in packages)


def test_what_is_no_library_is_passed_over(tmp_path):
    path = tmp_path / "libnvrtc.so.13"
    path.write_bytes(b"\x7fELF")
    assert nvrtc._load(str(path)) is None


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often the compiler ran."""
    runs = []
    real = nvrtc.Nvrtc.compile
    monkeypatch.setattr(nvrtc.Nvrtc, "compile", lambda *a: runs.append(a) or real(*a))
    return runs


@needs_nvrtc
def test_a_rung_is_compiled_once(rung_of, home, counted):
    first, second = compiled(rung_of()), compiled(rung_of())
    assert first == second
    assert len(counted) == 1
    assert first.path.parent == home / "kernels"


@pytest.mark.slow
@needs_nvrtc
def test_everything_that_matters_makes_another_cubin(rung_of, home, counted, monkeypatch):
    text = '#include "own.cuh"\n' + TEXT
    paths = [
        compiled(rung_of()).path,
        compiled(rung_of(), architecture=90).path,
        compiled(rung_of(), precision=TF32).path,
        compiled(rung_of(), TILE=1).path,
        compiled(rung_of(), TILE=2).path,
        compiled(rung_of(TEXT + "\n")).path,
        compiled(rung_of(text, own="#define OWN 1\n")).path,
        compiled(rung_of(text, own="#define OWN 2\n")).path,
    ]
    monkeypatch.setattr(compiling, "OPTIONS", (*OPTIONS, "--maxrregcount=64"))
    paths.append(compiled(rung_of()).path)
    monkeypatch.setattr(nvrtc.Nvrtc, "__str__", lambda self: "NVRTC 99.0")
    paths.append(compiled(rung_of()).path)
    assert len(set(paths)) == len(paths) == len(counted)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def other_kernel(path):
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"resources": {"f": {"registers": 1}}}))


@needs_nvrtc
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".cubin", cut),
        (".cubin", lambda path: path.write_bytes(b"")),
        (".cubin", lambda path: path.unlink()),
        (".json", cut),
        (".json", lambda path: path.write_text("[]")),
        (".json", lambda path: path.write_bytes(b"\xff\xfe")),
        (".json", other_kernel),
        (".json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_entry_of_the_cache_is_made_again(rung_of, home, counted, suffix, damage):
    whole = compiled(rung_of())
    damage(whole.path.with_name(whole.path.name.removesuffix(".cubin") + suffix))
    assert compiled(rung_of()) == whole
    assert whole.path.read_bytes() == whole.cubin
    assert len(counted) == 2
    assert compiled(rung_of()) == whole
    assert len(counted) == 2


@needs_nvrtc
def test_where_nothing_can_be_kept_kernels_are_compiled_all_the_same(rung_of, home):
    home.write_text("a file where a folder should be")
    done = compiled(rung_of())
    assert done.path.read_bytes() == done.cubin
    assert home.is_file()


@needs_nvrtc
def test_threads_may_compile_the_same_rung_at_once(rung_of, home):
    rung = rung_of()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: compiled(rung, precision=FLOAT16), range(8)))
    assert all(d == done[0] for d in done)
    assert sorted(p.suffix for p in (home / "kernels").iterdir()) == [".cubin", ".json"]


# -- the tool ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_rung(rung_of, monkeypatch, home):
    """A ladder of a single rung with two forms."""

    def make(text=TEXT, production=True):
        made = rung_of(text)
        monkeypatch.setattr(source, "read", lambda name: made)
        found = [
            variants.Variant("tests/01_rung", FLOAT32, {"TILE": 2}, 1024, production),
            variants.Variant("tests/01_rung", TF32, {"TILE": 2}, 1024, production),
        ]
        monkeypatch.setattr(compile_kernels, "all_variants", lambda: found)
        return found

    return make


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "README.md"
    tables = "".join(f"<!-- kernels:{name} -->\nold\n<!-- /kernels:{name} -->\n\n" for name in ("ladder", "compile"))
    path.write_text(f"Before.\n\n{tables}After.\n")
    return path


@pytest.mark.slow
@needs_nvrtc
def test_the_tool_writes_a_table_that_it_then_finds_fresh(one_rung, document, capsys):
    one_rung()
    assert compile_kernels.main(["--write", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "| tests | 256 floats, read and written once | nothing |" in text
    assert "| **tests/01_rung** | mirrored | float32, tf32 | 2 |" in text
    assert "| 1024 | 1024 | 0 |" in text
    assert compile_kernels.main(["--check", str(document)]) == 0
    document.write_text(text.replace("| 1024 | 1024 |", "| 1024 | 1025 |"))
    assert compile_kernels.main(["--check", str(document)]) == 1
    assert "stale" in capsys.readouterr().err
    # of another compiler's table only the names must be these
    other = text.replace(str(nvrtc.find()), "NVRTC 1.0").replace("| 1024 | 1024 |", "| 1024 | 1025 |")
    document.write_text(other)
    assert compile_kernels.main(["--check", str(document)]) == 0
    document.write_text(other.replace("float32, tf32 | 2 |", "float32, tf32 | 3 |"))
    assert compile_kernels.main(["--check", str(document)]) == 1


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("production", [True, False])
def test_only_a_production_rung_must_not_spill(one_rung, document, capsys, production):
    spilling = TEXT.replace("void crowded", "void __launch_bounds__(1024, 2) crowded")
    one_rung(spilling, production)
    assert compile_kernels.main(["--write", str(document)]) == int(production)
    said = capsys.readouterr().err
    assert ("crowded" in said and "spill stores" in said) == production
    assert re.search(r"crowded .*\| sm_80 [1-9]\d*\+[1-9]\d*, sm_90 ", document.read_text())


@needs_nvrtc
def test_the_tool_refuses_what_is_not_there_and_a_table_of_a_part(one_rung, document, capsys):
    one_rung()
    assert compile_kernels.main(["conv9x9"]) == 2
    assert compile_kernels.main(["--architectures", "80", "--write", str(document)]) == 2
    assert compile_kernels.main(["--forms", "--check", str(document)]) == 2
    one_rung(TEXT + "int wrong = nobody;")
    assert compile_kernels.main([]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert "tests/01_rung.cu:" in said[3]


@needs_nvrtc
def test_the_tool_prints_what_was_asked_for(one_rung, capsys):
    one_rung()
    assert compile_kernels.main(["tests/01", "--architectures", "80,sm_90"]) == 0
    printed = capsys.readouterr().out
    assert "for sm_80, sm_90 (" in " ".join(printed.split())
    assert "| **tests/01_rung** | mirrored | float32, tf32 | 2 |" in printed
    assert compile_kernels.main(["tests/01", "--architectures", "75,80", "--forms"]) == 0
    printed = capsys.readouterr().out
    registers = r"\d+( \d+)?"
    assert re.search(rf"\| mirrored \| float32 \| TILE=2 \| {registers} \| 1024 \| 1024 \| 0 \|", printed)
    assert re.search(r"\| mirrored \| tf32 \| TILE=2 \| - \d+ \| 1024 \| 1024 \| 0 \|", printed)
