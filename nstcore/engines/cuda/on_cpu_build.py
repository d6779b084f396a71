"""Kernels for the CPU: a .cu file, and the headers of tools/cuda_on_cpu before it, compiled by g++ into a library.

The text of the .cu file stays as it is, but for what no macro could express: declarations of shared memory, and
`#pragma unroll`. Its lines keep their numbers, so that whatever the compiler, a sanitizer or the emulation has to say
names the line of the .cu file. What kernels only call, the emulation, is compiled once for each kind of build and is
part of every library, which so has a state of its own. All is kept in a cache, by everything that it depends on.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ...errors import DeviceError
from . import cache, source

COMMON = [
    *("-std=c++17", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden"),
    *("-fno-strict-aliasing", "-ffp-contract=fast", "-fno-math-errno"),  # as CUDA's compiler does
    "-Werror=frame-larger-than=40000",  # of the 65536 bytes of a fiber's stack
]
BUILDS = {
    "fast": ["-O2", "-march=native"],
    "debug": ["-O0", "-g"],
    "asan": ["-O0", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-O0", "-g1", "-fno-omit-frame-pointer", "-fsanitize=thread"],
}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\([^)]*\)\s*)?([\w\s:]+?)\s+(\w+)\s*\[\s*\]\s*;")
_STATIC = re.compile(r"__shared__\s+(?:__align__\s*\(([^)]*)\)\s*)?([\w\s:]+?)\s+(\w+\s*(?:\[[^;]*\])?\s*(?:,[^;]*)?);")
_DECLARATOR = re.compile(r"\s*(\w+)\s*((?:\[[^\]]*\]\s*)*)(?:,|$)")
_UNROLL = re.compile(r"#pragma\s+unroll\b[ \t]*\(?(\d*).*")
_UNROLL_OPERATOR = re.compile(r'_Pragma\s*\(\s*"unroll(?:\s+(\d+))?"\s*\)')
_BOUNDS = r'extern "C" __global__ void\s+__launch_bounds__\(([^),]*)[^)]*\)\s+{}\s*\('


def headers() -> Path:
    """Where a wheel puts tools/cuda_on_cpu, or tools/cuda_on_cpu of a checkout."""
    inside = source.PACKAGE / "_cuda_on_cpu"
    return inside if inside.is_dir() else source.PACKAGE.parent / "tools" / "cuda_on_cpu"


def compiler() -> list[str]:
    """How the C++ compiler is called: what CXX says, else g++ or c++; nothing if there is none."""
    words = shlex.split(os.environ.get("CXX", ""))
    found = shutil.which(words[0]) if words else shutil.which("g++") or shutil.which("c++")
    return [found, *words[1:]] if found else []


def problem() -> str | None:
    """Why nothing can be compiled, in one line; None if it can."""
    if sys.platform not in ("linux", "darwin"):
        return f"the kernels cannot run on the CPU: expected Linux or macOS, got {sys.platform}"
    name = os.environ.get("CXX") or "g++"
    return None if compiler() else f"the kernels cannot run on the CPU: no C++ compiler ({name}) found; install g++"


def translate(text: str) -> str:
    """A .cu file, or one that it includes, as C++; without comments, but every line stays where it is."""
    text = _COMMENT.sub(lambda m: _ends(m[0]), text)
    text = _DYNAMIC.sub(lambda m: f"{m[1]}* {m[2]} = cuda_on_cpu::shared_dynamic<{m[1]}>();" + _ends(m[0]), text)
    text = _STATIC.sub(_static, text)
    text = _UNROLL.sub(lambda m: f"#pragma GCC unroll {m[1] or 64}", text)
    return _UNROLL_OPERATOR.sub(lambda m: f'_Pragma("GCC unroll {m[1] or 64}")', text)


def _static(declaration: re.Match) -> str:
    alignment, kind, rest = declaration.groups()
    options = f", {alignment}" if alignment else ""
    each = (
        f"auto& {name} = cuda_on_cpu::shared_variable<{kind}{sizes.strip()}{options}>([] {{}});"
        for name, sizes in _DECLARATOR.findall(rest)
    )
    return " ".join(each).replace("\n", " ") + _ends(declaration[0])


def _ends(text: str) -> str:
    return "\n" * text.count("\n")


def library(rung: source.Rung, defines: Mapping[str, str], build: str) -> Path:
    """The library of a rung's kernels, from the cache if it is there.

    Raises
    ------
    DeviceError
        If there is no compiler, or it refuses the file: with its first error.
    """
    if reason := problem():
        raise DeviceError(reason)
    macros = "".join(f"#define {name} {value}\n" for name, value in defines.items())
    name = f"{rung.name.replace('/', '_')}_{build}"
    return _kept(name, ".so", build, (rung.digest, str(rung.path), macros), partial(_compile, rung, macros, build))


def _kept(name: str, suffix: str, build: str, parts: tuple[str, ...], make: Callable[[Path], Path]) -> Path:
    """The file of this name and these parts from the cache; if it is not there, what `make` makes in a folder."""
    key = hashlib.sha256()
    for part in (*parts, _digest(headers()), _version(compiler()[0]), _processor(), *_command(build)):
        key.update(part.encode() + b"\0")
    path = cache.folder() / f"{name}_{key.hexdigest()[:20]}{suffix}"
    if path.is_file():
        cache.use(path)
        return path
    try:
        _make(path, make)
    except OSError:  # a home that cannot be written: once for each process
        path = cache.own_folder() / path.name
        if not path.is_file():
            _make(path, make)
    return path


def _make(path: Path, make: Callable[[Path], Path]) -> None:
    """All of it or nothing, even if several do it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="part-") as scratch:
        os.replace(make(Path(scratch)), path)
    cache.prune()


def _command(build: str) -> list[str]:
    return [*compiler(), *COMMON, *BUILDS[build], "-DCUDA_ON_CPU"]


def _emulation(build: str, scratch: Path) -> Path:
    """What kernels call, compiled: in `scratch`, where no other process prunes it while it is linked."""

    def compiled(folder: Path) -> Path:
        unit, result = folder / "emulation.cpp", folder / "emulation.o"
        unit.write_text('#include "emulation.h"\n')
        _run("the emulation", [*_command(build), "-c", f"-I{headers()}", str(unit), "-o", str(result)])
        return result

    kept, here = _kept(f"emulation_{build}", ".o", build, (), compiled), scratch / "emulation.o"
    try:
        os.link(kept, here)
    except OSError:  # a file system without links
        shutil.copyfile(kept, here)
    return here


def _compile(rung: source.Rung, macros: str, build: str, scratch: Path) -> Path:
    for name, text in rung.headers.items():
        beside = rung.path.parent / name
        original = beside if beside.is_file() else source.folder() / name
        (scratch / name).write_text(f'#line 1 "{original}"\n{translate(text)}')
    exports = "".join(f"CUDA_ON_CPU_KERNEL({name}, {_bound(rung.text, name)})\n" for name in rung.kernels)
    unit, result = scratch / "kernels.cpp", scratch / "kernels.so"
    # The macros after the headers, which use short names too
    unit.write_text(f'#include "cuda_on_cpu.h"\n{macros}#line 1 "{rung.path}"\n{translate(rung.text)}\n{exports}')
    emulation = _emulation(build, scratch)
    folders = [f"-I{scratch}", f"-I{headers()}"]
    _run(rung.name, [*_command(build), *folders, str(unit), str(emulation), "-o", str(result)])
    return result


def _run(name: str, arguments: list[str]) -> None:
    # Without a sanitizer's library, under which this process may run: the compiler would be twice as slow
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise DeviceError(f"{name}: {arguments[0]} cannot compile it for the CPU: {first.strip()}")


def _bound(text: str, name: str) -> str:
    found = re.search(_BOUNDS.format(name), text)
    return found[1] if found else "1024"


@functools.cache
def _digest(folder: Path) -> str:
    """Of the headers, and of what is done to the text here."""
    found = hashlib.sha256()
    for path in (Path(__file__), *sorted(folder.glob("*.h"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


@functools.cache
def _version(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True).stdout


@functools.cache
def _processor() -> str:
    """What -march=native means here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(next((x for x in lines if x.startswith(name)), "") for name in ("model name", "flags"))
